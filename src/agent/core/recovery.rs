//! Taking up where the last agent process left.
//!
//! Checkpoints say what was; the containerizer says what lives. Played command
//! tasks are taken over at once. Executors of frameworks are given
//! `--executor_reregistration_timeout` to come back; recovery ends as soon as the
//! last of them did.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesos::internal::StatusUpdate;
use mesos::secrets::Secretive;
use mesos::{ContainerId, ContainerStatus, SlaveInfo, TaskState, task_status, value};
use thiserror::Error;

use super::event::{Effect, Timer};
use super::progress::first_look;
use super::state::{
    Executor, ExecutorSink, ExecutorState, Framework, FrameworkState, Played, is_terminal,
};
use super::{AgentState, Core, Time, names};
use crate::agent::config::{ReconfigurationPolicy, RecoverMode};
use crate::agent::updates::Key;
use crate::checkpoint::{
    Garbage, Recovered, RecoveredExecutor, RecoveredFramework, RecoveredRun, RecoveredTask,
};
use crate::containerizer::Termination;

/// Wait status of what was killed before it ran.
const SIGKILL: i32 = 9;

/// Why an agent cannot carry on with what it finds.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// `--reconfiguration_policy` forbids the change.
    #[error(
        "incompatible agent info detected: {detail}\n\
         old: {old:?}\nnew: {new:?}\n\
         to keep the old agent's tasks, start with its former settings; to give them up, remove {remedy}"
    )]
    Incompatible {
        /// What changed.
        detail: String,
        /// As checkpointed.
        old: Box<SlaveInfo>,
        /// As configured.
        new: Box<SlaveInfo>,
        /// The link to be removed by the operator.
        remedy: String,
    },
    /// `--resources` has no room for what was reserved and created here.
    #[error(
        "{detail}\nstart with --resources that hold them, or let the frameworks unreserve them first"
    )]
    Resources {
        /// What does not fit.
        detail: String,
    },
}

impl Core {
    /// First step, before the containerizer recovers: takes the checkpoints over.
    /// Frameworks, executors, tasks and update streams exist afterwards; nothing
    /// is sent yet.
    pub fn recover(&mut self, recovered: Recovered) -> Result<(), RecoveryError> {
        self.counters.recovery_errors = recovered.errors.len() as u64;
        self.recover_resources(&recovered.resources.resources)
            .map_err(|detail| RecoveryError::Resources { detail })?;
        self.rebooted = recovered.rebooted;
        let garbage = recovered.garbage;
        let operations = recovered.resources.operations;
        let Some(old) = recovered.agent else {
            self.drop_operations(&operations);
            self.recover_garbage(garbage);
            return Ok(());
        };
        if let Err(detail) = compatible(&old, &self.info, self.config.reconfiguration) {
            if recovered.rebooted {
                tracing::warn!(detail, "agent info changed over a reboot: starting as a new agent");
                self.drop_operations(&operations);
                self.recover_garbage(garbage);
                if let Some(id) = old.id {
                    self.discard_later(Garbage::Agent(id.value), "");
                }
                self.persist(crate::checkpoint::Record::ForgetAgent);
                return Ok(());
            }
            return Err(RecoveryError::Incompatible {
                detail,
                new: Box::new((*self.info).clone()),
                remedy: self.config.work_dir.latest_agent().display().to_string(),
                old: Box::new(old),
            });
        }
        Arc::make_mut(&mut self.info).id.clone_from(&old.id);
        self.info_changed = *self.info != old;
        self.drain = recovered.drain.map(|config| super::drain::Drain { config, since: self.now });
        for framework in recovered.frameworks {
            self.recover_framework(framework, recovered.rebooted);
        }
        self.recover_operations(operations, &recovered.operations);
        self.recover_garbage(garbage);
        Ok(())
    }

    fn recover_framework(&mut self, recovered: RecoveredFramework, rebooted: bool) {
        let Some(id) = recovered.info.id.as_ref().map(|id| id.value.clone()) else { return };
        let framework = Framework {
            info: recovered.info,
            pid: recovered.pid,
            state: FrameworkState::Running,
            executors: BTreeMap::new(),
            completed: VecDeque::new(),
        };
        self.frameworks.insert(id.clone(), Arc::new(framework));
        for executor in recovered.executors {
            self.recover_executor(&id, executor, rebooted);
        }
        let f = &self.frameworks[&id];
        if f.executors.is_empty()
            && !self.updates.has_framework(&id)
            && let Some(f) = self.frameworks.remove(&id)
        {
            self.completed.push_back(f);
        }
    }

    fn recover_executor(&mut self, framework: &str, recovered: RecoveredExecutor, rebooted: bool) {
        let id = recovered.info.executor_id.value.clone();
        let generated = recovered.generated;
        if recovered.begun().is_none() {
            return;
        }
        let Some(mut run) = recovered.run else { return };
        if rebooted {
            run.forked_pid = None;
            run.libprocess_pid = None;
        }
        let completed = run.completed;
        let key = run.key.clone();
        let tasks = std::mem::take(&mut run.tasks);
        let mut executor = self.executor_from(framework, recovered.info, run, &tasks);
        executor.generated = generated;
        for task in tasks {
            self.recover_task(&mut executor, task);
        }
        let executor = Arc::new(executor);
        let Some(f) = self.frameworks.get_mut(framework).map(Arc::make_mut) else { return };
        if completed {
            f.completed.push_back(executor);
        } else {
            f.executors.insert(id.clone(), executor);
            self.containers.insert(key.container, (framework.to_owned(), id));
        }
    }

    fn executor_from(
        &self,
        framework: &str,
        info: mesos::ExecutorInfo,
        run: RecoveredRun,
        tasks: &[RecoveredTask],
    ) -> Executor {
        let played = tasks.iter().find_map(|t| t.launch.clone()).map(Played::new);
        let command_user = match &played {
            Some(played) => played.task.command.as_ref().and_then(|c| c.user.clone()),
            None => info.command.as_ref().and_then(|c| c.user.clone()),
        };
        let framework_user = self.frameworks.get(framework).map(|f| f.info.user.clone());
        let directory = self.config.work_dir.sandbox(&run.key).to_string_lossy().into_owned();
        Executor {
            user: command_user
                .or(framework_user)
                .filter(|u| !u.is_empty())
                .filter(|_| self.config.switch_user),
            checkpoint: true,
            state: if run.completed {
                ExecutorState::Terminated
            } else {
                ExecutorState::Registering
            },
            sink: run.libprocess_pid.filter(|_| !run.http).map(ExecutorSink::Pid),
            pid: run.forked_pid,
            ..Executor::new(run.key, info, directory, played)
        }
    }

    fn recover_task(&mut self, executor: &mut Executor, recovered: RecoveredTask) {
        let id = recovered.task.task_id.value.clone();
        executor.launched.insert(id.clone(), recovered.task);
        let mut acknowledged = None;
        for update in &recovered.updates {
            executor.note(&update.status);
            if update.uuid.as_ref().is_some_and(|u| recovered.acknowledged.contains(u)) {
                acknowledged = Some(update);
            }
        }
        if let Some(update) = acknowledged
            && let Some(task) =
                executor.launched.get_mut(&id).or_else(|| executor.terminated.get_mut(&id))
        {
            task.status_update_state = Some(update.status.state);
            task.status_update_uuid = update.uuid.clone();
        }
        if let Some(played) = &mut executor.played {
            let running = |u: &&StatusUpdate| u.status.state() == TaskState::TaskRunning;
            let mut runs = recovered.updates.iter().filter(running);
            played.running_since = runs.next().and_then(|update| update.status.timestamp);
            if recovered.killed {
                played.kill = Some(super::state::KillProgress { generation: 0 });
                let last = recovered.updates.iter().rev().find(running);
                played.unhealthy = last.is_some_and(|update| update.status.healthy == Some(false));
            }
        }
        let key = Key { framework: executor.run.framework.clone(), task: id.clone() };
        let ended = self.updates.recover(
            key,
            executor.run.clone(),
            &recovered.updates,
            &recovered.acknowledged,
        );
        if ended {
            executor.complete(&id);
        }
    }

    /// Second step, after the containerizer recovered: what it found.
    pub fn resume(&mut self, now: Time, found: &FoundContainers) -> Vec<Effect> {
        self.now = now;
        let runs: Vec<(String, String, String)> = self
            .containers
            .iter()
            .map(|(container, (framework, executor))| {
                (container.clone(), framework.clone(), executor.clone())
            })
            .collect();
        for (container, framework, executor) in runs {
            if found.never_ran.contains(&container) {
                self.launch_again(&container, &framework, &executor);
                continue;
            }
            let id = ContainerId { value: container.clone(), parent: None };
            self.out.push(Effect::Watch { container: id });
            if let Some(status) = found.statuses.get(&container)
                && let Some(e) = self.executor_mut(&framework, &executor)
            {
                e.container_status = Some(status.clone());
            }
            if let Some(pid) = found.alive.get(&container) {
                self.take_over(&framework, &executor, *pid);
            }
        }
        self.reconnect_executors();
        if self.waits_for_executors() {
            self.out.push(Effect::Schedule {
                after: self.config.executor_reregistration_timeout,
                timer: Timer::ExecutorReregistration,
            });
        }
        self.recovery_progress();
        std::mem::take(&mut self.out)
    }

    /// The last agent stored a run and died before anything of it ran. A command
    /// task is launched as if nothing had happened, tasks of an executor were lost on
    /// the way, which only costs a retry. compat: Mesos reports that they failed.
    fn launch_again(&mut self, container: &str, framework: &str, executor: &str) {
        let rebooted = self.rebooted;
        let Some(e) = self.executor_mut(framework, executor) else { return };
        let killed = e.played.as_ref().is_some_and(|played| played.kill.is_some());
        if killed {
            let killed = Termination { status: Some(SIGKILL), ..Termination::default() };
            return self.terminated(container, Some(&killed));
        }
        let task = e.played.as_ref().filter(|_| !rebooted).map(|played| played.task.clone());
        // The values of its secrets are on no disk: it cannot be what was asked for.
        let task = task.filter(|task| !task.has_secret_values());
        let Some(task) = task.filter(|task| e.launched.contains_key(&task.task_id.value)) else {
            if !rebooted && !e.is_played() {
                self.drop_unseen(framework, executor, &[]);
            }
            return self.terminated(container, None);
        };
        tracing::info!(framework, task = task.task_id.value, "launching a task that never ran");
        // Its framework may have heard of it already: it stays among those handed over.
        if let Some(played) = &mut e.played {
            played.launching = true;
        }
        if let Some(spec) = self.launch_spec(framework, executor) {
            self.out.push(Effect::Launch(Box::new(spec)));
            self.out.extend(first_look(container, &task));
        }
    }

    /// A played task whose container lives on.
    fn take_over(&mut self, framework: &str, executor: &str, pid: Option<u32>) {
        let Some(e) = self.executor_mut(framework, executor) else { return };
        let known = e.pid;
        e.pid = pid.or(e.pid);
        let (run, forked) = (e.run.clone(), e.pid);
        let (container, launched) = (e.container_id.value.clone(), !e.launched.is_empty());
        let Some(played) = e.played.clone() else { return };
        if let Some(pid) = forked.filter(|_| known.is_none()) {
            self.persist(crate::checkpoint::Record::ForkedPid { run, pid });
        }
        let Some(e) = self.executor_mut(framework, executor).filter(|_| launched) else { return };
        e.state = ExecutorState::Running;
        let task = played.task.task_id.value.clone();
        let ran = played.running_since.is_some();
        if forked.is_some() {
            self.report_started(framework, executor, &task);
        }
        self.limit_time(framework, executor);
        if ran && played.kill.is_none() {
            self.take_over_checks(&container);
        } else {
            self.start_checks(&container);
        }
        if played.kill.is_some() {
            // The grace period starts again: nobody counted it while we were away.
            if let Some(e) = self.executor_mut(framework, executor)
                && let Some(played) = &mut e.played
            {
                played.kill = None;
            }
            self.kill_played(&container, None);
        }
    }

    fn waits_for_executors(&self) -> bool {
        self.frameworks
            .values()
            .flat_map(|f| f.executors.values())
            // Nobody waits for what is launched again.
            .any(|e| e.state == ExecutorState::Registering && !e.is_launching())
    }

    /// Ends recovery once nobody is waited for. compat: Mesos always waits for
    /// the whole timeout.
    pub(super) fn recovery_progress(&mut self) {
        if self.state == AgentState::Recovering && !self.waits_for_executors() {
            self.recovered();
        }
    }

    pub(super) fn reregistration_timeout(&mut self) {
        if self.state != AgentState::Recovering {
            return;
        }
        let within = names::duration(self.config.executor_reregistration_timeout);
        let silent: Vec<String> = self
            .frameworks
            .values()
            .flat_map(|f| f.executors.values())
            // Of a played one the containerizer will say what became of it.
            .filter(|e| e.state == ExecutorState::Registering && !e.is_played())
            .map(|e| e.container_id.value.clone())
            .collect();
        for container in silent {
            let gone = self
                .containers
                .get(&container)
                .and_then(|(framework, _)| self.frameworks.get(framework))
                .map_or(TaskState::TaskLost, |f| f.gone());
            let Some(e) = self.run_in(&container) else { continue };
            e.state = ExecutorState::Terminating;
            e.pending_termination.get_or_insert_with(|| Termination {
                state: Some(gone),
                reasons: vec![task_status::Reason::ExecutorReregistrationTimeout],
                message: Some(format!("Executor did not reregister within {within}")),
                ..Termination::default()
            });
            let container = e.container_id.clone();
            self.out.push(Effect::Destroy { container, termination: None });
        }
        self.recovered();
    }

    fn recovered(&mut self) {
        self.recovery_secs = Some((self.now - self.recovery_started).max(0.0));
        tracing::info!(seconds = self.recovery_secs, "finished recovery");
        self.watch_disk(Duration::ZERO);
        if self.config.recover == RecoverMode::Cleanup {
            return self.terminate();
        }
        self.state = AgentState::Disconnected;
        if self.drain.is_some() {
            tracing::info!("draining goes on");
            self.drain_tasks();
            self.drain_progress();
        }
        self.out.push(Effect::Detect);
    }

    /// Containers that the checkpoints speak of, for the containerizer.
    pub fn known_runs(&self) -> Vec<KnownRun> {
        self.containers
            .values()
            .filter_map(|(framework, executor)| self.executor(framework, executor))
            .map(|e| {
                let (requests, limits) = self.allocation(e);
                KnownRun {
                    spec: super::event::LaunchSpec {
                        run: e.run.clone(),
                        container: e.container_id.clone(),
                        executor: e.info.clone(),
                        task: e.played.as_ref().map(|p| p.task.clone()),
                        requests,
                        limits,
                        user: e.user.clone(),
                        checkpoint: e.checkpoint,
                    },
                    pid: e.pid,
                    unfinished: unfinished(e),
                }
            })
            .collect()
    }
}

/// What the containerizer found at recovery.
#[derive(Debug, Default)]
pub struct FoundContainers {
    /// Those it knows, running or just ended, with their pids.
    pub alive: BTreeMap<String, Option<u32>>,
    /// What isolators say of them: addresses, cgroups.
    pub statuses: BTreeMap<String, ContainerStatus>,
    /// Those that never executed anything and may be launched.
    pub never_ran: BTreeSet<String>,
}

/// A run that may still have a container.
#[derive(Debug)]
pub struct KnownRun {
    /// As at launch.
    pub spec: super::event::LaunchSpec,
    /// The checkpointed pid.
    pub pid: Option<u32>,
    /// Tasks that have not ended by what is known so far.
    pub unfinished: BTreeSet<String>,
}

fn unfinished(e: &Executor) -> BTreeSet<String> {
    e.launched
        .values()
        .filter(|t| !is_terminal(t.state()))
        .map(|t| t.task_id.value.clone())
        .collect()
}

/// Whether an agent may go on under its old id with a new description.
fn compatible(
    old: &SlaveInfo,
    new: &SlaveInfo,
    policy: ReconfigurationPolicy,
) -> Result<(), String> {
    let mut expected = old.clone();
    expected.id = None;
    let mut offered = new.clone();
    offered.id = None;
    if expected == offered {
        return Ok(());
    }
    if expected.hostname != offered.hostname {
        return Err("the hostname changed".to_owned());
    }
    if expected.port() != offered.port() {
        return Err("the port changed".to_owned());
    }
    match policy {
        ReconfigurationPolicy::Equal => {
            Err("resources, attributes or domain changed (see --reconfiguration_policy)".to_owned())
        }
        ReconfigurationPolicy::Additive => additive(&expected, &offered),
    }
}

fn additive(old: &SlaveInfo, new: &SlaveInfo) -> Result<(), String> {
    if old.domain.is_some() && old.domain != new.domain {
        return Err("the domain changed".to_owned());
    }
    for name in old.resources.iter().map(|r| r.name.as_str()).collect::<BTreeSet<_>>() {
        let had = super::wire::scalar(&old.resources, name);
        let has = super::wire::scalar(&new.resources, name);
        if has < had || !new.resources.iter().any(|r| r.name == name) {
            return Err(format!("there is less of resource '{name}'"));
        }
        let fits = |r: &mesos::Resource| {
            r.scalar.is_some() || new.resources.iter().any(|n| n.name == r.name && covers(n, r))
        };
        if !old.resources.iter().filter(|r| r.name == name).all(fits) {
            return Err(format!("resource '{name}' does not include what it had"));
        }
    }
    for attribute in &old.attributes {
        let Some(now) = new.attributes.iter().find(|a| a.name == attribute.name) else {
            return Err(format!("attribute '{}' is gone", attribute.name));
        };
        let grown = now.r#type == attribute.r#type
            && now.scalar == attribute.scalar
            && now.text == attribute.text
            && includes(now.ranges.as_ref(), attribute.ranges.as_ref())
            && holds(now.set.as_ref(), attribute.set.as_ref());
        if !grown {
            return Err(format!("attribute '{}' does not include what it had", attribute.name));
        }
    }
    Ok(())
}

fn covers(new: &mesos::Resource, old: &mesos::Resource) -> bool {
    includes(new.ranges.as_ref(), old.ranges.as_ref()) && holds(new.set.as_ref(), old.set.as_ref())
}

/// Whether every old range lies in a new one, ranges that touch being one.
fn includes(new: Option<&value::Ranges>, old: Option<&value::Ranges>) -> bool {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    let mut ranges: Vec<_> = new.iter().flat_map(|r| &r.range).map(|r| (r.begin, r.end)).collect();
    ranges.sort_unstable();
    for (begin, end) in ranges {
        match joined.last_mut() {
            Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => joined.push((begin, end)),
        }
    }
    let inside = |o: &value::Range| joined.iter().any(|n| n.0 <= o.begin && o.end <= n.1);
    old.iter().flat_map(|r| &r.range).all(inside)
}

fn holds(new: Option<&value::Set>, old: Option<&value::Set>) -> bool {
    let inside = |item| new.is_some_and(|set| set.item.contains(item));
    old.iter().flat_map(|set| &set.item).all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additive_lets_attributes_grow_and_never_shrink() {
        let info = |text: &str| SlaveInfo {
            attributes: mesos::attributes::parse(text).unwrap(),
            ..SlaveInfo::default()
        };
        for (old, new, fine) in [
            ("rack:abc", "rack:abc;zone:west", true),
            ("rack:abc", "zone:west", false),
            ("rack:abc", "rack:abd", false),
            ("level:10", "level:11", false),
            ("rack:abc", "rack:10", false),
            ("keys:[1000-1500]", "keys:[900-1200,1201-1500]", true),
            ("keys:[1000-1500]", "keys:[1000-1400]", false),
            ("keys:[1-2,5-6]", "keys:[1-10]", true),
        ] {
            assert_eq!(additive(&info(old), &info(new)).is_ok(), fine, "{old} -> {new}");
        }
        let set = |items: &[&str]| value::Set { item: items.iter().map(|i| (*i).into()).collect() };
        assert!(holds(Some(&set(&["a", "b"])), Some(&set(&["b"]))));
        assert!(!holds(Some(&set(&["a"])), Some(&set(&["b"]))));
    }
}
