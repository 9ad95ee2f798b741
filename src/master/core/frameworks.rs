//! Frameworks: subscribe, fail over, lose their connection, leave.
//!
//! The same rules for schedulers over HTTP (an event stream) and for drivers
//! (a libprocess address); [`Door`] is the only difference.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesos::FrameworkInfo;
use mesos::internal::{
    FrameworkErrorMessage, FrameworkReregisteredMessage, ShutdownFrameworkMessage,
    UpdateFrameworkMessage,
};
use mesos::scheduler::{OfferConstraints, call, event};
use mesos::task_status::Reason;

use super::cluster::{Framework, FrameworkState, roles_of};
use super::config::HEARTBEAT_INTERVAL;
use super::send::event_of;
use super::tasks::{Verdict, push_bounded};
use super::timers::Timer;
use super::{Core, Effect, OperatorEvent, Refusal, Scope, StreamId, validate};
use crate::master::allocator::FrameworkOptions;
use crate::master::ids::{ExecutorId, FrameworkId, OfferId, Pid, TaskId};
use crate::master::shared::SharedMap;

/// Where a framework's events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// The event stream of an HTTP scheduler.
    Http(StreamId),
    /// The process of a driver.
    Driver(Pid),
}

/// What a subscription asks for, checked.
struct Wanted {
    info: FrameworkInfo,
    suppressed: BTreeSet<String>,
    constraints: Option<Arc<OfferConstraints>>,
}

impl Core {
    pub(super) fn subscribe_http(&mut self, stream: StreamId, subscribe: call::Subscribe) {
        self.subscribe(&Door::Http(stream), subscribe);
    }

    pub(super) fn subscribe_driver(&mut self, from: &Pid, subscribe: call::Subscribe) {
        self.subscribe(&Door::Driver(from.clone()), subscribe);
    }

    fn subscribe(&mut self, door: &Door, subscribe: call::Subscribe) {
        let force = subscribe.force();
        let id = subscribe.framework_info.id.as_ref().filter(|id| !id.value.is_empty());
        let id = id.map(FrameworkId::from);
        self.count(match id {
            None => "messages_register_framework",
            Some(_) => "messages_reregister_framework",
        });
        let wanted = match self.wanted(subscribe) {
            Ok(wanted) => wanted,
            Err(why) => return self.refuse(door, &why),
        };
        match id {
            None => self.subscribe_new(door, wanted),
            Some(id) => self.subscribe_again(door, &id, wanted, force),
        }
    }

    fn refuse(&mut self, door: &Door, why: &str) {
        match door {
            Door::Http(stream) => self.refuse_stream(stream, why),
            Door::Driver(pid) => self.refuse_driver(pid, why),
        }
    }

    fn wanted(&self, subscribe: call::Subscribe) -> Result<Wanted, String> {
        let info = subscribe.framework_info;
        validate::framework::info(&info)?;
        let roles = roles_of(&info);
        if let Some(known) = &self.config.roles
            && let Some(unknown) = roles.iter().find(|role| !known.contains(*role))
        {
            return Err(format!("Role '{unknown}' is not present in the master's --roles"));
        }
        if info.user == "root" && !self.config.root_submissions {
            return Err(
                "User 'root' is not allowed to run frameworks without --root_submissions set"
                    .into(),
            );
        }
        if info.id.as_ref().is_some_and(|id| self.frameworks.completed.contains(&id.into())) {
            return Err("Framework has been removed".into());
        }
        let suppressed: BTreeSet<String> = subscribe.suppressed_roles.into_iter().collect();
        let constraints = subscribe.offer_constraints.filter(|c| !c.role_constraints.is_empty());
        validate::framework::options(&roles, &suppressed, constraints.as_ref())?;
        Ok(Wanted { info, suppressed, constraints: constraints.map(Arc::new) })
    }

    fn subscribe_new(&mut self, door: &Door, mut wanted: Wanted) {
        if let Door::Driver(pid) = door
            && let Some(id) = self.frameworks.by_pid.get(pid).cloned()
        {
            return self.tell_subscribed(&id); // A retry of the driver.
        }
        let id = format!("{}-{:04}", self.master.id, self.next.framework);
        self.next.framework += 1;
        let id = FrameworkId::from(id.as_str());
        wanted.info.id = Some(id.message());
        self.install_framework(&id, wanted, FrameworkState::Active);
        self.open(&id, door);
        self.tally_call(&id, call::Type::Subscribe);
        self.tell_subscribed(&id);
        self.announce_framework(&id, true);
    }

    fn subscribe_again(&mut self, door: &Door, id: &FrameworkId, mut wanted: Wanted, force: bool) {
        if let Door::Driver(pid) = door
            && self.frameworks.by_pid.get(pid).is_some_and(|other| other != id)
        {
            tracing::error!(driver = %pid, "another framework is connected at this address");
            return;
        }
        self.recover_framework(&wanted.info);
        let Some(known) = self.framework(id).cloned() else { return };
        validate::framework::preserve(&known.info, &mut wanted.info);
        if let Err(why) = validate::framework::update(&known.info, &wanted.info) {
            return self.refuse(door, &why);
        }
        let same_driver = matches!(door, Door::Driver(pid) if known.pid.as_ref() == Some(pid));
        if matches!(door, Door::Driver(_)) && !known.recovered() && !same_driver && !force {
            return self.refuse(door, "Framework failed over");
        }
        self.change_framework(id, wanted);
        self.tally_call(id, call::Type::Subscribe);
        if known.recovered() {
            let wall = self.now.wall;
            if let Some(framework) = self.framework_mut(id) {
                framework.registered = wall;
            }
            self.open(id, door);
            self.activate(id);
            self.tell_subscribed(id);
        } else if same_driver && !force {
            self.resubscribe_driver(id, door);
        } else {
            self.fail_over(id, door, &known);
        }
        self.broadcast_framework(id);
    }

    /// The same driver again: it lost our answer, or its connection.
    fn resubscribe_driver(&mut self, id: &FrameworkId, door: &Door) {
        for offer in self.offers_of_framework(id) {
            self.rescind(&offer);
        }
        self.open(id, door);
        self.activate(id);
        let message = FrameworkReregisteredMessage {
            framework_id: id.message(),
            master_info: self.master.clone(),
        };
        if let Door::Driver(pid) = door {
            self.tally_event(id, event::Type::Subscribed);
            self.send(pid, &message);
        }
    }

    fn fail_over(&mut self, id: &FrameworkId, door: &Door, known: &Framework) {
        tracing::info!(framework = %id, "framework failed over");
        let same_driver = matches!(door, Door::Driver(pid) if known.pid.as_ref() == Some(pid));
        if known.connected() && !same_driver {
            let mut error = event_of(event::Type::Error);
            error.error = Some(event::Error { message: "Framework failed over".into() });
            self.notify(id, error);
        }
        self.open(id, door);
        // The new scheduler does not know the offers of the old one.
        for offer in self.offers_of_framework(id) {
            self.discard(&offer, None);
        }
        self.activate(id);
        self.tell_subscribed(id);
    }

    /// Puts a framework with nothing on it into memory and the allocator.
    fn install_framework(&mut self, id: &FrameworkId, wanted: Wanted, state: FrameworkState) {
        let info = Arc::new(wanted.info);
        let options = FrameworkOptions {
            info: info.clone(),
            suppressed: wanted.suppressed.clone(),
            constraints: wanted.constraints.clone(),
        };
        tracing::info!(framework = %id, name = info.name, "adding framework");
        let framework = Framework {
            id: id.clone(),
            roles: Arc::new(roles_of(&info)),
            info,
            suppressed: Arc::new(wanted.suppressed),
            constraints: wanted.constraints,
            pid: None,
            state,
            registered: self.now.wall,
            reregistered: None,
            unregistered: None,
            tasks: SharedMap::new(),
            unreachable_tasks: Arc::default(),
            completed_tasks: Arc::default(),
            executors: SharedMap::new(),
            offers: SharedMap::new(),
            used: SharedMap::new(),
            total_used: crate::master::Resources::new(),
            total_offered: crate::master::Resources::new(),
            tally: Arc::default(),
        };
        self.cluster.frameworks.insert(id.clone(), Arc::new(framework));
        let active = state == FrameworkState::Active;
        self.allocator.add_framework(id, options, active);
        if active {
            self.trigger(Scope::All);
        }
    }

    /// A framework that an agent or a scheduler tells us about.
    pub(super) fn recover_framework(&mut self, info: &FrameworkInfo) {
        let Some(id) = info.id.as_ref().map(FrameworkId::from) else { return };
        if self.framework(&id).is_some() || self.frameworks.completed.contains(&id) {
            return;
        }
        let wanted = Wanted { info: info.clone(), suppressed: BTreeSet::new(), constraints: None };
        self.install_framework(&id, wanted, FrameworkState::Recovered);
        self.announce_framework(&id, true);
    }

    fn change_framework(&mut self, id: &FrameworkId, wanted: Wanted) {
        let info = Arc::new(wanted.info);
        let roles = Arc::new(roles_of(&info));
        self.allocator.update_framework(
            id,
            FrameworkOptions {
                info: info.clone(),
                suppressed: wanted.suppressed.clone(),
                constraints: wanted.constraints.clone(),
            },
        );
        for offer in self.offers_of_framework(id) {
            if self.offers.get(&offer).is_some_and(|o| !roles.contains(&o.role)) {
                self.rescind(&offer);
            }
        }
        if let Some(framework) = self.framework_mut(id) {
            framework.info = info;
            framework.roles = roles;
            framework.suppressed = Arc::new(wanted.suppressed);
            framework.constraints = wanted.constraints;
        }
    }

    /// Connects a framework to a door; the old one, if any, is closed.
    fn open(&mut self, id: &FrameworkId, door: &Door) {
        self.close(id);
        if let Some(timer) = self.frameworks.failover_timer.remove(id) {
            self.timers.cancel(timer);
        }
        let pid = match door {
            Door::Http(stream) => {
                self.frameworks.by_stream.insert(stream.clone(), id.clone());
                self.frameworks.streams.insert(id.clone(), stream.clone());
                None
            }
            Door::Driver(pid) => {
                self.frameworks.by_pid.insert(pid.clone(), id.clone());
                self.out.push(Effect::Link(pid.clone()));
                Some(pid.clone())
            }
        };
        if let Some(framework) = self.framework_mut(id) {
            framework.pid = pid;
        }
    }

    /// Forgets how to reach a framework; a stream is ended.
    fn close(&mut self, id: &FrameworkId) {
        if let Some(stream) = self.frameworks.streams.remove(id) {
            self.frameworks.by_stream.remove(&stream);
            self.out.push(Effect::Close(stream));
        }
        if let Some(timer) = self.frameworks.heartbeat_timer.remove(id) {
            self.timers.cancel(timer);
        }
        if let Some(pid) = self.framework(id).and_then(|f| f.pid.clone())
            && self.frameworks.by_pid.get(&pid) == Some(id)
        {
            self.frameworks.by_pid.remove(&pid);
            self.out.push(Effect::Unlink(pid));
        }
    }

    fn activate(&mut self, id: &FrameworkId) {
        let wall = self.now.wall;
        let Some(framework) = self.framework_mut(id) else { return };
        let was_active = framework.active();
        framework.state = FrameworkState::Active;
        framework.reregistered = Some(wall);
        if !was_active {
            self.allocator.activate_framework(id);
            self.trigger(Scope::All);
        }
    }

    fn tell_subscribed(&mut self, id: &FrameworkId) {
        let mut event = event_of(event::Type::Subscribed);
        event.subscribed = Some(event::Subscribed {
            framework_id: id.message(),
            heartbeat_interval_seconds: Some(HEARTBEAT_INTERVAL.as_secs_f64()),
            master_info: Some(self.master.clone()),
        });
        self.notify(id, event);
        if let Some(stream) = self.frameworks.streams.get(id).cloned() {
            self.heartbeat_due(id, &stream);
        }
    }

    pub(super) fn heartbeat_due(&mut self, id: &FrameworkId, stream: &StreamId) {
        if self.frameworks.streams.get(id) != Some(stream) {
            return;
        }
        self.tally_event(id, event::Type::Heartbeat);
        self.out.push(Effect::Event(stream.clone(), Arc::new(event_of(event::Type::Heartbeat))));
        let timer = Timer::Heartbeat(id.clone(), stream.clone());
        let timer = self.set_timer(HEARTBEAT_INTERVAL, timer);
        self.frameworks.heartbeat_timer.insert(id.clone(), timer);
    }

    fn announce_framework(&mut self, id: &FrameworkId, new: bool) {
        if let Some(framework) = self.framework(id).cloned() {
            self.tell_operators(if new {
                OperatorEvent::FrameworkAdded(framework)
            } else {
                OperatorEvent::FrameworkUpdated(framework)
            });
        }
    }

    /// Every agent and operator hears of a framework's new data.
    fn broadcast_framework(&mut self, id: &FrameworkId) {
        self.announce_framework(id, false);
        let Some(framework) = self.framework(id).cloned() else { return };
        self.broadcast(&UpdateFrameworkMessage {
            framework_id: id.message(),
            pid: Some(framework.pid.as_ref().map_or(Pid::NONE, Pid::as_str).to_owned()),
            framework_info: Some((*framework.info).clone()),
        });
    }

    pub(super) fn offers_of_framework(&self, id: &FrameworkId) -> Vec<OfferId> {
        self.framework(id).into_iter().flat_map(|f| f.offers.keys().cloned()).collect()
    }

    /// No more offers for a framework; it stays connected.
    pub(super) fn deactivate_framework(&mut self, id: &FrameworkId) {
        let Some(framework) = self.framework_mut(id).filter(|f| f.active()) else { return };
        framework.state = FrameworkState::Inactive;
        self.allocator.deactivate_framework(id);
        for offer in self.offers_of_framework(id) {
            self.rescind(&offer);
        }
    }

    pub(super) fn stream_closed(&mut self, stream: &StreamId) {
        if let Some(id) = self.frameworks.by_stream.get(stream).cloned() {
            self.disconnect_framework(&id);
        }
    }

    /// The connection is gone; the framework has its failover timeout to return.
    pub(super) fn disconnect_framework(&mut self, id: &FrameworkId) {
        let Some(framework) = self.framework(id).cloned() else { return };
        if !framework.connected() {
            return;
        }
        tracing::info!(framework = %id, "framework disconnected");
        self.deactivate_framework(id);
        let driver = framework.pid.clone();
        self.close(id);
        if let Some(framework) = self.framework_mut(id) {
            framework.state = FrameworkState::Disconnected;
            framework.pid = driver; // Shown until it comes back, as in Mesos.
        }
        let timeout = framework.info.failover_timeout();
        // compat: a negative timeout counts as none, an absurd one as very long.
        let timeout = Duration::try_from_secs_f64(timeout.max(0.0))
            .unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
        let timer = self.set_timer(timeout, Timer::Failover(id.clone()));
        self.frameworks.failover_timer.insert(id.clone(), timer);
    }

    pub(super) fn failover_due(&mut self, id: &FrameworkId) {
        self.frameworks.failover_timer.remove(id);
        if self.framework(id).is_some_and(|f| f.state == FrameworkState::Disconnected) {
            tracing::info!(framework = %id, "framework did not come back within its failover timeout");
            self.remove_framework(id);
        }
    }

    /// Ends a framework and everything it runs.
    pub(super) fn remove_framework(&mut self, id: &FrameworkId) {
        if self.framework(id).is_none() {
            return;
        }
        tracing::info!(framework = %id, "removing framework");
        if self.framework(id).is_some_and(|f| f.active()) {
            self.allocator.deactivate_framework(id);
        }
        for offer in self.offers_of_framework(id) {
            self.discard(&offer, None);
        }
        self.broadcast(&ShutdownFrameworkMessage { framework_id: id.message() });
        self.end_tasks_of_removed(id);
        let executors: Vec<(crate::master::ids::AgentId, ExecutorId)> =
            self.framework(id).into_iter().flat_map(|f| f.executors.keys().cloned()).collect();
        for (agent, executor) in executors {
            self.remove_executor(&agent, id, &executor);
        }
        self.close(id);
        if let Some(timer) = self.frameworks.failover_timer.remove(id) {
            self.timers.cancel(timer);
        }
        self.allocator.remove_framework(id);
        let Some(framework) = self.cluster.frameworks.remove(id) else { return };
        let mut framework = Arc::unwrap_or_clone(framework);
        framework.state = FrameworkState::Disconnected;
        framework.unregistered = Some(self.now.wall);
        let info = framework.info.clone();
        self.keep_completed(framework);
        if let Some(principal) = &info.principal {
            let mut left = self.cluster.frameworks.values();
            if !left.any(|f| f.info.principal.as_ref() == Some(principal)) {
                drop(left);
                self.counters().forget_messages(principal);
            }
        }
        self.tell_operators(OperatorEvent::FrameworkRemoved(info));
    }

    fn end_tasks_of_removed(&mut self, id: &FrameworkId) {
        let verdict = Verdict {
            state: mesos::TaskState::TaskKilled,
            reason: Reason::FrameworkRemoved,
            message: format!("Framework {id} removed"),
        };
        let tasks: Vec<TaskId> =
            self.framework(id).into_iter().flat_map(|f| f.tasks.keys().cloned()).collect();
        for task in tasks {
            let agent = self.task(id, &task).map(|t| (&t.slave_id).into());
            let mut update = self.own_update(id, agent.as_ref(), &task, &verdict);
            // compat: only operators see this one, and Mesos names no executor in it.
            update.executor_id = None;
            update.status.executor_id = None;
            self.update_task(id, &task, &update);
            self.remove_task(id, &task, false);
            if let Some(agent) = agent {
                self.check_drained(&agent);
            }
        }
        let max = self.config.max_completed_tasks;
        let Some(framework) = self.framework_mut(id) else { return };
        for task in std::mem::take(&mut framework.unreachable_tasks).iter() {
            let mut task = Arc::unwrap_or_clone(task.clone());
            task.state = verdict.state as i32;
            push_bounded(&mut framework.completed_tasks, Arc::new(task), max);
        }
    }

    fn keep_completed(&mut self, framework: Framework) {
        let max = self.config.max_completed_frameworks;
        self.frameworks.completed.insert(framework.id.clone());
        let list = Arc::make_mut(&mut self.cluster.completed_frameworks);
        list.push_back(Arc::new(framework));
        while list.len() > max {
            if let Some(old) = list.pop_front() {
                self.frameworks.completed.remove(&old.id);
            }
        }
    }

    /// UPDATE_FRAMEWORK.
    pub(super) fn update_framework_call(
        &mut self,
        id: &FrameworkId,
        call: call::UpdateFramework,
    ) -> Result<(), Refusal> {
        let invalid = |text: String| Refusal::Invalid(text);
        let Some(known) = self.framework(id).cloned() else {
            return Err(invalid("Framework cannot be found".into()));
        };
        let wanted = self
            .wanted(call::Subscribe {
                framework_info: call.framework_info,
                force: None,
                suppressed_roles: call.suppressed_roles,
                offer_constraints: call.offer_constraints,
            })
            .map_err(|e| invalid(format!("Supplied FrameworkInfo is not valid: {e}")))?;
        validate::framework::update(&known.info, &wanted.info)
            .map_err(|e| invalid(format!("FrameworkInfo update is not valid: {e}")))?;
        let same = *known.info == wanted.info;
        self.change_framework(id, wanted);
        if !same {
            self.broadcast_framework(id);
        }
        self.trigger(Scope::All);
        Ok(())
    }

    /// A driver that is disconnected as far as we know still talks to us.
    pub(super) fn tell_disconnected(&mut self, pid: &Pid) {
        self.send(pid, &FrameworkErrorMessage { message: "Framework disconnected".into() });
    }
}
