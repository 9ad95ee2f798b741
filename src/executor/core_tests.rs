//! Tests of the state machine: one agent, played by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use mesos::{CommandInfo, ExecutorId, FrameworkId, TaskId};

use super::*;

fn countable() -> uuid::Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    uuid::Uuid::from_u128(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn settings(checkpoint: bool) -> Settings {
    Settings {
        framework_id: FrameworkId { value: "f".into() },
        executor_id: ExecutorId { value: "e".into() },
        agent: "127.0.0.1:5051".parse().expect("an address"),
        agent_id: "slave(1)".into(),
        sandbox: "/sandbox".into(),
        container_ip: "10.0.0.1".into(),
        recovery_timeout: checkpoint.then_some(Duration::from_secs(900)),
        subscription_backoff: Duration::from_secs(2),
        shutdown_grace: Duration::from_secs(5),
        token: None,
    }
}

/// An executor under test with what it did.
struct World {
    core: Core,
    now: f64,
}

impl World {
    fn new(checkpoint: bool) -> Self {
        let mut world = World { core: Core::new(settings(checkpoint), countable), now: 100.0 };
        world.subscribe(&[]);
        world
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.now += 1.0;
        self.core.handle(self.now, event)
    }

    fn agent(&mut self, kind: event::Type, fill: impl FnOnce(&mut AgentEvent)) -> Vec<Effect> {
        let mut event = AgentEvent { r#type: Some(kind as i32), ..Default::default() };
        fill(&mut event);
        self.handle(Event::Agent(Box::new(event)))
    }

    fn subscribe(&mut self, capabilities: &[framework_info::capability::Type]) -> Vec<Effect> {
        let framework_info = FrameworkInfo {
            capabilities: capabilities
                .iter()
                .map(|c| framework_info::Capability { r#type: Some(*c as i32) })
                .collect(),
            ..Default::default()
        };
        self.agent(event::Type::Subscribed, |e| {
            e.subscribed = Some(event::Subscribed {
                framework_info,
                container_id: Some(ContainerId { value: "parent".into(), parent: None }),
                ..Default::default()
            });
        })
    }

    fn launch(&mut self, tasks: &[&str]) -> Vec<ContainerId> {
        let tasks = tasks.iter().map(|t| task(t)).collect();
        let effects = self.launch_tasks(tasks);
        launches(&effects).into_iter().map(|l| l.container_id).collect()
    }

    fn launch_tasks(&mut self, tasks: Vec<TaskInfo>) -> Vec<Effect> {
        self.agent(event::Type::LaunchGroup, |e| {
            e.launch_group = Some(event::LaunchGroup { task_group: TaskGroupInfo { tasks } });
        })
    }

    fn run(&mut self, tasks: &[&str]) -> Vec<ContainerId> {
        let containers = self.launch(tasks);
        for container in &containers {
            self.handle(Event::Launched(container.clone(), Ok(())));
        }
        containers
    }

    fn exited(&mut self, container: &ContainerId, status: i32) -> Vec<Effect> {
        let generation = self.core.generation;
        let answer = WaitNestedContainer { exit_status: Some(status), ..Default::default() };
        self.handle(Event::Waited {
            container: container.clone(),
            generation,
            outcome: Waited::Ended(Box::new(answer)),
        })
    }

    fn acknowledge_all(&mut self) -> Vec<Effect> {
        let statuses = self.core.unacknowledged.clone();
        let mut effects = Vec::new();
        for status in statuses {
            effects.extend(self.agent(event::Type::Acknowledged, |e| {
                e.acknowledged = Some(event::Acknowledged {
                    task_id: status.task_id,
                    uuid: status.uuid.expect("every status has one"),
                });
            }));
        }
        effects
    }
}

fn task(id: &str) -> TaskInfo {
    TaskInfo {
        name: id.into(),
        task_id: TaskId { value: id.into() },
        command: Some(CommandInfo { value: Some("sleep 1".into()), ..Default::default() }),
        ..Default::default()
    }
}

fn launches(effects: &[Effect]) -> Vec<agent::call::LaunchContainer> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Launch(l) = e { Some((**l).clone()) } else { None })
        .collect()
}

fn states(effects: &[Effect]) -> Vec<(String, TaskState)> {
    effects
        .iter()
        .filter_map(|e| {
            let Effect::Send(call) = e else { return None };
            let status = &call.update.as_ref()?.status;
            Some((status.task_id.value.clone(), status.state()))
        })
        .collect()
}

fn kills(effects: &[Effect]) -> Vec<(ContainerId, i32)> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Kill(c, s) = e { Some((c.clone(), *s)) } else { None })
        .collect()
}

#[test]
fn a_group_starts_runs_finishes_and_ends_the_executor() {
    let mut world = World::new(true);
    let effects = world.launch_tasks(vec![task("a"), task("b")]);
    assert_eq!(
        states(&effects),
        [("a".into(), TaskState::TaskStarting), ("b".into(), TaskState::TaskStarting)]
    );
    let calls = launches(&effects);
    assert_eq!(calls.len(), 2);
    let variables = &calls[0].command.as_ref().expect("a command").environment;
    let variables = &variables.as_ref().expect("an environment").variables;
    assert_eq!(variables[0].name, "MESOS_CONTAINER_IP");
    assert_eq!(variables[0].value.as_deref(), Some("10.0.0.1"));
    assert_eq!(calls[0].container_id.parent.as_ref().expect("nested").value, "parent");

    for call in &calls {
        let effects = world.handle(Event::Launched(call.container_id.clone(), Ok(())));
        assert_eq!(states(&effects).len(), 1);
        assert!(matches!(effects.last(), Some(Effect::Wait(c, _)) if *c == call.container_id));
    }
    let effects = world.exited(&calls[0].container_id, 0);
    assert_eq!(states(&effects), [("a".into(), TaskState::TaskFinished)]);
    assert!(kills(&effects).is_empty(), "a finished task leaves its group alone");
    let effects = world.exited(&calls[1].container_id, 0);
    assert!(effects.contains(&Effect::Schedule(LINGER, Timer::Exit)));
    assert_eq!(world.acknowledge_all(), [Effect::Exit]);
}

#[test]
fn the_first_failure_kills_its_group_and_only_its_group() {
    let mut world = World::new(true);
    let group = world.run(&["a", "b", "c"]);
    let other = world.run(&["x"]);
    let effects = world.exited(&group[0], 256);
    assert_eq!(states(&effects), [("a".into(), TaskState::TaskFailed)]);
    assert_eq!(kills(&effects), [(group[1].clone(), 15), (group[2].clone(), 15)]);
    // Killed once: the second end does not signal the third again.
    let effects = world.exited(&group[1], 15);
    assert_eq!(states(&effects), [("b".into(), TaskState::TaskKilled)]);
    assert!(kills(&effects).is_empty());
    world.exited(&group[2], 15);
    assert_eq!(world.core.position(&other[0]), Some(0));
}

#[test]
fn a_kill_is_announced_escalated_and_retried() {
    let mut world = World::new(true);
    world.subscribe(&[framework_info::capability::Type::TaskKillingState]);
    let container = world.run(&["a"]).remove(0);
    let kill = |e: &mut AgentEvent| {
        e.kill = Some(event::Kill {
            task_id: TaskId { value: "a".into() },
            kill_policy: Some(mesos::KillPolicy {
                grace_period: Some(mesos::DurationInfo { nanoseconds: 1_000_000_000 }),
            }),
        });
    };
    let effects = world.agent(event::Type::Kill, kill);
    assert_eq!(states(&effects), [("a".into(), TaskState::TaskKilling)]);
    assert_eq!(kills(&effects), [(container.clone(), 15)]);
    let escalate = Timer::Escalate(container.clone());
    assert!(effects.contains(&Effect::Schedule(Duration::from_secs(1), escalate.clone())));
    assert!(world.agent(event::Type::Kill, kill).is_empty(), "the second kill changes nothing");

    assert_eq!(kills(&world.handle(Event::Timer(escalate.clone()))), [(container.clone(), 9)]);
    let effects = world.handle(Event::KillFailed(container.clone(), 9));
    assert_eq!(effects, [Effect::Schedule(RETRY, Timer::Escalate(container.clone()))]);
    let effects = world.exited(&container, 9);
    assert_eq!(states(&effects), [("a".into(), TaskState::TaskKilled)]);
    assert!(world.handle(Event::Timer(escalate)).is_empty());
}

#[test]
fn a_kill_during_launch_is_not_lost() {
    let mut world = World::new(true);
    let container = world.launch(&["a"]).remove(0);
    let effects = world.agent(event::Type::Kill, |e| {
        e.kill = Some(event::Kill { task_id: TaskId { value: "a".into() }, kill_policy: None });
    });
    assert!(kills(&effects).is_empty());
    let effects = world.handle(Event::Launched(container.clone(), Ok(())));
    assert_eq!(kills(&effects), [(container, 15)]);
}

#[test]
fn a_refused_launch_fails_the_group_with_the_agents_words() {
    let mut world = World::new(true);
    let containers = world.launch(&["a", "b"]);
    world.handle(Event::Launched(containers[0].clone(), Ok(())));
    let effects = world.handle(Event::Launched(containers[1].clone(), Err("no such image".into())));
    let Some(Effect::Send(call)) = effects.iter().find(|e| matches!(e, Effect::Send(_))) else {
        panic!("no update in {effects:?}");
    };
    let status = &call.update.as_ref().expect("an update").status;
    assert_eq!(status.state(), TaskState::TaskFailed);
    assert_eq!(status.message.as_deref(), Some("no such image"));
    assert_eq!(kills(&effects), [(containers[0].clone(), 15)]);
}

#[test]
fn a_restarted_agent_hears_what_it_missed() {
    let mut world = World::new(true);
    let containers = world.run(&["a", "b"]);
    let effects = world.handle(Event::Disconnected);
    assert!(
        matches!(effects[..], [Effect::Schedule(d, Timer::Abandoned(_))] if d.as_secs() == 900)
    );
    // A stale answer of the dead agent's connection is dropped.
    let stale = Event::Waited {
        container: containers[0].clone(),
        generation: world.core.generation - 1,
        outcome: Waited::Unknown,
    };
    assert!(world.handle(stale).is_empty());

    let subscribe = world.core.subscribe().subscribe.expect("a subscription");
    assert_eq!(subscribe.unacknowledged_tasks.len(), 2);
    assert_eq!(subscribe.unacknowledged_updates.len(), 4, "two starting, two running");
    let effects = world.subscribe(&[]);
    let waits = effects.iter().filter(|e| matches!(e, Effect::Wait(..))).count();
    assert_eq!(waits, 2);
    world.acknowledge_all();
    let subscribe = world.core.subscribe().subscribe.expect("a subscription");
    assert!(subscribe.unacknowledged_tasks.is_empty());
    assert!(subscribe.unacknowledged_updates.is_empty());
    // The old timer does not end an executor that is connected again.
    assert!(world.handle(Event::Timer(Timer::Abandoned(1))).is_empty());
}

#[test]
fn a_launch_lost_with_the_agent_is_ended_and_failed() {
    let mut world = World::new(true);
    let container = world.launch(&["a"]).remove(0);
    world.handle(Event::Disconnected);
    assert!(world.handle(Event::LaunchLost(container.clone())).is_empty());
    let effects = world.subscribe(&[]);
    assert_eq!(kills(&effects), [(container.clone(), 9)]);
    let effects = world.exited(&container, 9);
    assert_eq!(states(&effects), [("a".into(), TaskState::TaskFailed)]);
}

#[test]
fn without_checkpoints_a_lost_agent_is_the_end() {
    let mut world = World::new(false);
    world.run(&["a"]);
    assert_eq!(world.handle(Event::Disconnected).last(), Some(&Effect::Exit));
}

#[test]
fn shutdown_kills_everything_within_its_grace() {
    let mut world = World::new(true);
    let containers = world.run(&["a", "b"]);
    let effects = world.agent(event::Type::Shutdown, |_| {});
    assert_eq!(kills(&effects), [(containers[0].clone(), 15), (containers[1].clone(), 15)]);
    assert_eq!(effects.last(), Some(&Effect::Schedule(Duration::from_secs(5), Timer::Exit)));
    for container in &containers {
        let effects = world.exited(container, 15);
        assert_eq!(states(&effects)[0].1, TaskState::TaskKilled);
    }
    assert_eq!(world.acknowledge_all(), [Effect::Exit]);
    let idle = World::new(true).agent(event::Type::Shutdown, |_| {});
    assert_eq!(idle, [Effect::Exit]);
}

#[test]
fn overtime_is_a_failure_with_its_reason() {
    let mut world = World::new(true);
    let mut slow = task("a");
    slow.max_completion_time = Some(mesos::DurationInfo { nanoseconds: 5_000_000_000 });
    let effects = world.launch_tasks(vec![slow]);
    let container = launches(&effects).remove(0).container_id;
    let effects = world.handle(Event::Launched(container.clone(), Ok(())));
    let overtime = Timer::Overtime(container.clone());
    assert!(effects.contains(&Effect::Schedule(Duration::from_secs(5), overtime.clone())));
    let effects = world.handle(Event::Timer(overtime));
    assert!(
        effects.contains(&Effect::Schedule(Duration::ZERO, Timer::Escalate(container.clone())))
    );
    let effects = world.exited(&container, 9);
    let Effect::Send(call) = &effects[1] else { panic!("{effects:?}") };
    let status = &call.update.as_ref().expect("an update").status;
    assert_eq!(status.reason(), task_status::Reason::MaxCompletionTimeReached);
}

/// What the effects report: state, health, reason.
fn reports(effects: &[Effect]) -> Vec<(TaskState, Option<bool>, Option<i32>)> {
    let status = |effect: &Effect| {
        let Effect::Send(call) = effect else { return None };
        let status = &call.update.as_ref()?.status;
        Some((status.state(), status.healthy, status.reason))
    };
    effects.iter().filter_map(status).collect()
}

fn rounds(effects: &[Effect]) -> Vec<(Duration, Timer)> {
    let check = |effect: &Effect| match effect {
        Effect::Schedule(after, timer @ Timer::Check(..)) => Some((*after, timer.clone())),
        _ => None,
    };
    effects.iter().filter_map(check).collect()
}

#[test]
fn a_sick_task_takes_its_group_along() {
    let mut world = World::new(true);
    let mut sick = task("a");
    sick.health_check = Some(mesos::HealthCheck {
        r#type: Some(mesos::health_check::Type::Command as i32),
        command: Some(CommandInfo { value: Some("false".into()), ..Default::default() }),
        consecutive_failures: Some(1),
        grace_period_seconds: Some(0.0),
        delay_seconds: Some(3.0),
        ..Default::default()
    });
    let effects = world.launch_tasks(vec![sick, task("b")]);
    let [a, b] = &launches(&effects)[..] else { panic!("{effects:?}") };
    let (a, b) = (a.container_id.clone(), b.container_id.clone());
    world.handle(Event::Launched(b.clone(), Ok(())));
    let effects = world.handle(Event::Launched(a.clone(), Ok(())));
    let [(after, timer)] = &rounds(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*after, Duration::from_secs(3));
    let effects = world.handle(Event::Timer(timer.clone()));
    let [Effect::Probe(container, attempt)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*container, a);
    let failed = checks::Outcome::Exited(1);
    let answer = checks::Event::Done(attempt.kind, attempt.round, failed);
    let effects = world.handle(Event::Checked(a.clone(), answer));
    let reason = Some(task_status::Reason::TaskHealthCheckStatusUpdated as i32);
    assert_eq!(reports(&effects), [(TaskState::TaskRunning, Some(false), reason)]);
    assert_eq!(kills(&effects), [(a.clone(), 15)]);
    let effects = world.exited(&a, 15);
    assert_eq!(reports(&effects), [(TaskState::TaskKilled, Some(false), None)]);
    assert_eq!(kills(&effects), [(b, 15)]);
}

#[test]
fn nothing_is_checked_while_the_agent_is_away() {
    let mut world = World::new(true);
    let mut checked = task("a");
    checked.check = Some(mesos::CheckInfo {
        r#type: Some(mesos::check_info::Type::Tcp as i32),
        tcp: Some(mesos::check_info::Tcp { port: 80 }),
        ..Default::default()
    });
    let effects = world.launch_tasks(vec![checked]);
    let a = launches(&effects).remove(0).container_id;
    let effects = world.handle(Event::Launched(a, Ok(())));
    let [(_, timer)] = &rounds(&effects)[..] else { panic!("{effects:?}") };
    world.handle(Event::Disconnected);
    assert_eq!(world.handle(Event::Timer(timer.clone())), []);
    let effects = world.subscribe(&[]);
    let [(after, timer)] = &rounds(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(*after, Duration::ZERO);
    let effects = world.handle(Event::Timer(timer.clone()));
    assert!(matches!(effects[..], [Effect::Probe(..)]), "{effects:?}");
}
