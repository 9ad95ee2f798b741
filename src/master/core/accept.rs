//! ACCEPT: operations in order against what the offers hold.
//!
//! Each operation takes from the remaining resources or turns them into others,
//! so RESERVE, CREATE, LAUNCH in one call work on each other's results. What is
//! left at the end is declined with the call's filters.

use std::sync::Arc;

use mesos::internal::{RunTaskGroupMessage, RunTaskMessage};
use mesos::offer::Operation;
use mesos::offer::operation::Type as Kind;
use mesos::resource::AllocationInfo;
use mesos::scheduler::call;
use mesos::slave_info::capability::Type as Capability;
use mesos::task_status::Reason;
use mesos::{HealthCheck, Resource, TaskInfo, TaskState, health_check};

use super::cluster::{Agent, Framework};
use super::offers::{OpenOffer, refuse_for};
use super::tasks::{Verdict, task_of};
use super::validate::task::Scene;
use super::{Core, validate};
use crate::master::Resources;
use crate::master::ids::{AgentId, FrameworkId, OfferId, Pid};

/// An ACCEPT being worked on.
pub(super) struct Accepting {
    pub framework: FrameworkId,
    pub agent: AgentId,
    pub role: String,
    /// What the offers held.
    pub offered: Resources,
    /// What is left of it, converted or not.
    pub remaining: Resources,
}

/// The tasks an operation launches.
fn tasks_of(operation: &Operation) -> &[TaskInfo] {
    match operation.r#type() {
        Kind::Launch => operation.launch.as_ref().map_or(&[], |l| &l.task_infos),
        Kind::LaunchGroup => operation.launch_group.as_ref().map_or(&[], |l| &l.task_group.tasks),
        _ => &[],
    }
}

fn is_launch(operation: &Operation) -> bool {
    matches!(operation.r#type(), Kind::Launch | Kind::LaunchGroup)
}

/// All resources that an operation names.
fn resources_of(operation: &mut Operation) -> Vec<&mut Vec<Resource>> {
    let mut lists: Vec<&mut Vec<Resource>> = Vec::new();
    if let Some(launch) = &mut operation.launch {
        for task in &mut launch.task_infos {
            lists.push(&mut task.resources);
            if let Some(executor) = &mut task.executor {
                lists.push(&mut executor.resources);
            }
        }
    }
    if let Some(group) = &mut operation.launch_group {
        lists.push(&mut group.executor.resources);
        for task in &mut group.task_group.tasks {
            lists.push(&mut task.resources);
            if let Some(executor) = &mut task.executor {
                lists.push(&mut executor.resources);
            }
        }
    }
    if let Some(reserve) = &mut operation.reserve {
        lists.push(&mut reserve.resources);
        lists.push(&mut reserve.source);
    }
    if let Some(unreserve) = &mut operation.unreserve {
        lists.push(&mut unreserve.resources);
    }
    if let Some(create) = &mut operation.create {
        lists.push(&mut create.volumes);
    }
    if let Some(destroy) = &mut operation.destroy {
        lists.push(&mut destroy.volumes);
    }
    lists
}

/// Checks and upgrades the resources of an operation, and allocates them to the
/// offer's role where the framework did not say.
fn prepare(operation: &mut Operation, role: &str) -> Result<(), String> {
    for list in resources_of(operation) {
        mesos::resources::validate_all(list).map_err(|e| e.to_string())?;
        mesos::resources::upgrade_all(list);
        for resource in list {
            resource
                .allocation_info
                .get_or_insert_with(|| AllocationInfo { role: Some(role.to_owned()) });
        }
    }
    Ok(())
}

/// A health check of the old form says by its contents what it is.
fn infer_type(check: &mut HealthCheck) {
    if check.r#type.is_none() {
        check.r#type = match (&check.command, &check.http) {
            (Some(_), None) => Some(health_check::Type::Command as i32),
            (None, Some(_)) => Some(health_check::Type::Http as i32),
            _ => None,
        };
    }
}

/// Fills in what frameworks may leave out of launches.
fn complete(operation: &mut Operation, framework: &FrameworkId) {
    let fill = |executor: &mut mesos::ExecutorInfo| {
        executor.framework_id.get_or_insert_with(|| framework.message());
    };
    if let Some(launch) = &mut operation.launch {
        for task in &mut launch.task_infos {
            task.executor.as_mut().map(fill);
            task.health_check.as_mut().map(infer_type);
        }
    }
    if let Some(group) = &mut operation.launch_group {
        fill(&mut group.executor);
        for task in &mut group.task_group.tasks {
            match &mut task.executor {
                Some(executor) => fill(executor),
                None => task.executor = Some(group.executor.clone()),
            }
            task.health_check.as_mut().map(infer_type);
        }
    }
}

impl Core {
    pub(super) fn accept(&mut self, framework: &FrameworkId, call: call::Accept) {
        for operation in call.operations.iter().filter(|o| o.r#type() == Kind::Launch) {
            let launches = !tasks_of(operation).is_empty();
            self.count(if launches { "messages_launch_tasks" } else { "messages_decline_offers" });
        }
        let ids: Vec<OfferId> = call.offer_ids.iter().map(OfferId::from).collect();
        if let Err(why) = self.check_offers(framework, &ids) {
            return self.refuse_accept(framework, &ids, &call.operations, &why);
        }
        let open: Vec<OpenOffer> = ids.iter().filter_map(|id| self.close_offer(id)).collect();
        let Some(first) = open.first() else { return };
        self.tally(framework, |t| {
            t.offers_accepted += open.len() as u64;
            for operation in &call.operations {
                *t.operations.entry(operation.r#type()).or_default() += 1;
            }
        });
        let mut offered = Resources::new();
        for offer in &open {
            offered += &offer.resources;
        }
        let mut work = Accepting {
            framework: framework.clone(),
            agent: first.agent.clone(),
            role: first.role.clone(),
            remaining: offered.clone(),
            offered,
        };
        for operation in call.operations {
            self.operate(&mut work, operation);
        }
        self.settle(&work, call.filters.as_ref());
    }

    /// Offers must exist, be of this framework, and be of one role and agent.
    fn check_offers(&self, framework: &FrameworkId, ids: &[OfferId]) -> Result<(), String> {
        if ids.is_empty() {
            return Err("No offers specified".into());
        }
        for (n, id) in ids.iter().enumerate() {
            if ids[..n].contains(id) {
                return Err(format!("Duplicate offer {id} in offer list"));
            }
        }
        let mut first: Option<&OpenOffer> = None;
        for id in ids {
            let Some(open) = self.offers.get(id) else {
                return Err(format!("Offer {id} is no longer valid"));
            };
            if open.framework != *framework {
                return Err(format!(
                    "Offer {id} has invalid framework {} while framework {framework} is expected",
                    open.framework
                ));
            }
            let first = *first.get_or_insert(open);
            if open.role != first.role {
                return Err(format!(
                    "Aggregated offers must be allocated to the same role. Offer {id} uses role \
                     '{}' but another is using role '{}'",
                    open.role, first.role
                ));
            }
            if open.agent != first.agent {
                return Err(format!(
                    "Aggregated offers must belong to one single agent. Offer {id} uses agent {} \
                     and agent {}",
                    open.agent, first.agent
                ));
            }
        }
        Ok(())
    }

    fn refuse_accept(
        &mut self,
        framework: &FrameworkId,
        ids: &[OfferId],
        operations: &[Operation],
        why: &str,
    ) {
        tracing::warn!(framework = %framework, "ACCEPT call used invalid offers: {why}");
        for id in ids {
            // Offers of others are not theirs to give back.
            if self.offers.get(id).is_some_and(|o| o.framework == *framework) {
                self.discard(id, None);
            }
        }
        let state = if self.partition_aware(framework) {
            TaskState::TaskDropped
        } else {
            TaskState::TaskLost
        };
        for operation in operations {
            if !is_launch(operation) {
                let text = format!("Operation attempted with invalid offers: {why}");
                self.drop_operation(framework, operation, &text);
            }
            for task in tasks_of(operation) {
                let verdict = Verdict {
                    state,
                    reason: Reason::InvalidOffers,
                    message: format!("Task launched with invalid offers: {why}"),
                };
                self.refuse_task(framework, task, &verdict);
            }
        }
    }

    fn operate(&mut self, work: &mut Accepting, mut operation: Operation) {
        let mut checked = prepare(&mut operation, &work.role);
        if checked.is_ok() && operation.id.is_some() && is_launch(&operation) {
            let kind = operation.r#type().as_str_name();
            checked = Err(format!("The `id` field cannot be set on {kind} operations"));
        }
        if let Err(why) = checked {
            if is_launch(&operation) {
                return self.refuse_launch(work, &operation, why);
            }
            let text = format!("Operation attempted with invalid resources: {why}");
            return self.drop_operation(&work.framework.clone(), &operation, &text);
        }
        complete(&mut operation, &work.framework);
        match operation.r#type() {
            Kind::Launch => {
                for task in operation.launch.unwrap_or_default().task_infos {
                    self.launch(work, task);
                }
            }
            Kind::LaunchGroup => self.launch_group(work, operation),
            Kind::Unknown => {
                tracing::warn!(framework = %work.framework, "ignoring unknown operation")
            }
            _ => self.operation(work, operation),
        }
    }

    fn refuse_launch(&mut self, work: &Accepting, operation: &Operation, message: String) {
        let reason = if operation.r#type() == Kind::Launch {
            Reason::TaskInvalid
        } else {
            Reason::TaskGroupInvalid
        };
        let verdict = Verdict { state: TaskState::TaskError, reason, message };
        for task in tasks_of(operation) {
            self.refuse_task(&work.framework, task, &verdict);
        }
    }

    pub(super) fn scene(&self, work: &Accepting) -> Option<(Arc<Framework>, Arc<Agent>)> {
        Some((self.framework(&work.framework)?.clone(), self.agent(&work.agent)?.clone()))
    }

    fn launch(&mut self, work: &mut Accepting, task: TaskInfo) {
        let Some((framework, agent)) = self.scene(work) else { return };
        let scene = Scene { framework: &framework, agent: &agent };
        if let Err(message) = validate::task::launch(&task, scene, &work.remaining) {
            let verdict =
                Verdict { state: TaskState::TaskError, reason: Reason::TaskInvalid, message };
            return self.refuse_task(&work.framework, &task, &verdict);
        }
        let pid = framework.pid.as_ref().map_or(Pid::NONE, Pid::as_str).to_owned();
        let refined = agent.can(Capability::ReservationRefinement);
        let (to, versions) = (agent.pid.clone(), agent.versions());
        let info = framework.info.clone();
        // Holding on to either would make the changes below copy it whole.
        drop((framework, agent));
        let mut launch_executor = true;
        if let Some(executor) = &task.executor {
            launch_executor = self.must_launch(&work.agent, &work.framework, executor);
            if launch_executor {
                work.remaining -= &Resources::from_valid(&executor.resources);
            }
        }
        self.add_task(&work.agent, task_of(&task, &work.framework));
        work.remaining -= &Resources::from_valid(&task.resources);
        let mut message = RunTaskMessage {
            framework_id: None,
            framework: (*info).clone(),
            task,
            resource_version_uuids: versions,
            pid: Some(pid),
            launch_executor: Some(launch_executor),
        };
        tracing::info!(
            framework = %work.framework, agent = %work.agent,
            task = message.task.task_id.value, "launching task"
        );
        if !refined {
            downgrade(&mut message.task);
        }
        self.send(&to, &message);
    }

    fn launch_group(&mut self, work: &mut Accepting, operation: Operation) {
        let Some((framework, agent)) = self.scene(work) else { return };
        let Some(group) = &operation.launch_group else { return };
        let scene = Scene { framework: &framework, agent: &agent };
        let (executor, tasks) = (&group.executor, &group.task_group);
        if let Err(why) = validate::group::launch(tasks, executor, scene, &work.remaining) {
            return self.refuse_launch(work, &operation, why);
        }
        let launch_executor = self.must_launch(&work.agent, &work.framework, executor);
        if launch_executor {
            work.remaining -= &Resources::from_valid(&executor.resources);
        }
        for task in &tasks.tasks {
            self.add_task(&work.agent, task_of(task, &work.framework));
            work.remaining -= &Resources::from_valid(&task.resources);
        }
        tracing::info!(
            framework = %work.framework, agent = %work.agent, tasks = tasks.tasks.len(),
            "launching task group"
        );
        let mut message = RunTaskGroupMessage {
            framework: (*framework.info).clone(),
            executor: executor.clone(),
            task_group: tasks.clone(),
            resource_version_uuids: agent.versions(),
            launch_executor: Some(launch_executor),
        };
        if !agent.can(Capability::ReservationRefinement) {
            downgrade_list(&mut message.executor.resources);
            message.task_group.tasks.iter_mut().for_each(downgrade);
        }
        self.send(&agent.pid, &message);
    }

    /// What is left goes back: conversions at once, the rest with the filters.
    fn settle(&mut self, work: &Accepting, filters: Option<&mesos::Filters>) {
        let converted = &work.remaining - &work.offered;
        let declined = &work.remaining - &converted;
        let now = self.now.mono;
        if !converted.is_empty() {
            self.allocator.recover(now, &work.framework, &work.agent, &converted, None);
        }
        if !declined.is_empty() {
            let refuse = Some(refuse_for(filters));
            self.allocator.recover(now, &work.framework, &work.agent, &declined, refuse);
        }
    }
}

/// Old agents read reservations in the old format only.
fn downgrade(task: &mut TaskInfo) {
    downgrade_list(&mut task.resources);
    if let Some(executor) = &mut task.executor {
        downgrade_list(&mut executor.resources);
    }
}

fn downgrade_list(resources: &mut [Resource]) {
    // Refined reservations never reach such an agent: RESERVE refuses them.
    let _ = mesos::resources::convert(resources, mesos::resources::Format::Pre);
}
