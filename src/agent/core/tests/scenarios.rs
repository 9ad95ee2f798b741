//! Single stories with a known end.

use mesos::internal as m;
use mesos::{
    ExecutorId, FrameworkId, SlaveId, TaskId, TaskState as S, TaskStatus, Uuid, task_status,
};

use super::world::{AGENT_ID, Container, MASTER, World, command_task, executor_task, framework};
use crate::agent::AgentState;
use crate::agent::core::event::{CallId, Command, Event, Inbound, Refusal, Timer};
use crate::agent::core::state::{ExecutorState, StreamId};
use crate::checks::Outcome;

const EXECUTOR: &str = "executor(1)@127.0.0.1:4000";

fn status(task: &str, state: S, uuid: u8) -> m::StatusUpdateMessage {
    m::StatusUpdateMessage {
        update: m::StatusUpdate {
            framework_id: FrameworkId { value: "F".into() },
            executor_id: Some(ExecutorId { value: "E".into() }),
            slave_id: Some(SlaveId { value: AGENT_ID.into() }),
            status: TaskStatus {
                task_id: TaskId { value: task.into() },
                state: state as i32,
                slave_id: Some(SlaveId { value: AGENT_ID.into() }),
                ..TaskStatus::default()
            },
            timestamp: 1.0,
            uuid: Some(vec![uuid; 16]),
            latest_state: None,
        },
        pid: Some(EXECUTOR.into()),
    }
}

fn register() -> m::RegisterExecutorMessage {
    m::RegisterExecutorMessage {
        framework_id: FrameworkId { value: "F".into() },
        executor_id: ExecutorId { value: "E".into() },
    }
}

/// A registered V0 executor with one running task.
fn with_executor() -> World {
    let mut world = World::registered();
    world.run_task(executor_task("t", "E"), true);
    world.settle();
    world.tell_as_executor(EXECUTOR, &register());
    world.settle();
    world.tell_as_executor(EXECUTOR, &status("t", S::TaskRunning, 1));
    world.settle();
    world
}

#[test]
fn a_command_task_starts_runs_and_finishes() {
    let mut world = World::registered();
    world.run_task(command_task("t"), true);
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskRunning]);
    let (.., running) = world.seen.last().unwrap();
    assert_eq!(running.source(), task_status::Source::Executor);
    let container = running.container_status.as_ref().unwrap();
    assert_eq!(container.network_infos[0].ip_addresses[0].ip_address(), "127.0.0.1");
    let id = world.running().pop().unwrap();
    world.exit_container(&id, 0);
    world.settle();
    assert_eq!(world.states_of("t").last(), Some(&S::TaskFinished));
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.message(), "Command exited with status 0");
    assert_eq!(world.forgotten, [id], "the exit record goes once all is acknowledged");
    let snapshot = world.core.snapshot();
    assert!(snapshot.frameworks.is_empty());
    assert_eq!(snapshot.completed_frameworks[0].completed[0].completed.len(), 1);
    assert!(world.sent_to::<m::ExitedExecutorMessage>(MASTER).is_empty());
}

#[test]
fn exits_are_told_as_mesos_command_executor_does() {
    for (exit, state, message) in [
        (3 << 8, S::TaskFailed, "Command exited with status 3"),
        (9, S::TaskFailed, "Command terminated with signal Killed"),
    ] {
        let mut world = World::registered();
        world.run_task(command_task("t"), true);
        world.settle();
        let id = world.running().pop().unwrap();
        world.exit_container(&id, exit);
        world.settle();
        let (_, last, _, status) = world.seen.last().unwrap().clone();
        assert_eq!((last, status.message()), (state, message));
    }
}

#[test]
fn a_kill_is_sigterm_with_killing_and_killed() {
    let mut world = World::registered();
    world.run_task(command_task("t"), true);
    world.settle();
    world.kill_task("t");
    world.settle();
    assert_eq!(
        world.states_of("t"),
        [S::TaskStarting, S::TaskRunning, S::TaskKilling, S::TaskKilled]
    );
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.message(), "Command terminated with signal Terminated");
}

#[test]
fn a_kill_before_the_launch_ends_the_task_at_once() {
    let mut world = World::registered();
    world.run_task(command_task("t"), true);
    world.step_inbox();
    world.kill_task("t");
    world.step_inbox();
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskKilled]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::TaskKilledDuringLaunch);
    assert!(world.running().is_empty());
    assert!(world.core.snapshot().frameworks.is_empty());
}

#[test]
fn out_of_time_is_a_failure_with_its_own_reason() {
    let mut world = World::registered();
    let mut task = command_task("t");
    task.max_completion_time = Some(mesos::DurationInfo { nanoseconds: 1_000_000_000 });
    world.run_task(task, true);
    world.settle();
    world.fire_if(|t| matches!(t, Timer::MaxCompletion { .. }));
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskRunning, S::TaskFailed]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::MaxCompletionTimeReached);
}

#[test]
fn a_failed_launch_says_why() {
    let mut world = World::registered();
    world.run_task(command_task("t"), true);
    for _ in 0..8 {
        world.step_storage();
        world.step_inbox();
    }
    let container = world.core.snapshot().executors().next().unwrap().1.container_id.value.clone();
    world.pending.clear();
    world.handle(Event::Launched { container, result: Err("no such user".into()) });
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskFailed]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::ContainerLaunchFailed);
    assert_eq!(last.message(), "Failed to launch container: no such user");
    assert_eq!(last.source(), task_status::Source::Slave);
    assert!(last.container_status.is_none());
}

#[test]
fn tasks_with_a_stale_resource_version_are_dropped() {
    let mut world = World::registered();
    let message = m::RunTaskMessage {
        framework: framework(true),
        task: command_task("t"),
        launch_executor: Some(true),
        resource_version_uuids: vec![m::ResourceVersionUuid {
            uuid: Uuid { value: vec![9; 16] },
            ..Default::default()
        }],
        ..Default::default()
    };
    world.tell_agent(Inbound::RunTask(Box::new(message)));
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskDropped]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::InvalidOffers);
    assert_eq!(world.sent_to::<m::ExitedExecutorMessage>(MASTER).len(), 1);
    assert!(world.core.snapshot().frameworks.is_empty());
}

#[test]
fn strangers_cannot_play_master() {
    let mut world = World::registered();
    let message = m::ShutdownMessage { message: Some("go away".into()) };
    world.inbox.push_back(("master@10.6.6.6:5050".into(), Inbound::Shutdown(message)));
    world.settle();
    assert!(world.exit.is_none());
}

#[test]
fn a_v0_executor_gets_its_tasks_after_registering_and_answers_flow_back() {
    let mut world = World::registered();
    world.run_task(executor_task("t", "E"), true);
    world.settle();
    assert!(world.states_of("t").is_empty());
    world.tell_as_executor(EXECUTOR, &register());
    world.settle();
    assert_eq!(world.sent_to::<m::ExecutorRegisteredMessage>(EXECUTOR).len(), 1);
    let run = world.sent_to::<m::RunTaskMessage>(EXECUTOR);
    assert_eq!(run[0].task.task_id.value, "t");
    assert_eq!(run[0].pid.as_deref(), Some("@0.0.0.0:0"));
    world.tell_as_executor(EXECUTOR, &status("t", S::TaskRunning, 1));
    world.step_inbox();
    let acks = |w: &World| w.sent_to::<m::StatusUpdateAcknowledgementMessage>(EXECUTOR).len();
    assert_eq!(acks(&world), 0, "nothing is promised before it is stored");
    world.settle();
    assert_eq!(acks(&world), 1);
    assert_eq!(world.states_of("t"), [S::TaskRunning]);
    // Again, because the acknowledgement was lost: acknowledged, not forwarded.
    world.tell_as_executor(EXECUTOR, &status("t", S::TaskRunning, 1));
    world.settle();
    assert_eq!(acks(&world), 2);
    assert_eq!(world.states_of("t"), [S::TaskRunning]);
}

#[test]
fn an_executor_that_dies_takes_its_tasks_along() {
    let mut world = with_executor();
    let id = world.running().pop().unwrap();
    world.exit_container(&id, 9);
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskRunning, S::TaskFailed]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::ExecutorTerminated);
    assert_eq!(last.message(), "Executor terminated");
    let exited = world.sent_to::<m::ExitedExecutorMessage>(MASTER);
    assert_eq!(exited[0].status, 9);
}

#[test]
fn an_executor_that_never_registers_is_destroyed() {
    let mut world = World::registered();
    world.run_task(executor_task("t", "E"), true);
    world.settle();
    world.fire_if(|t| matches!(t, Timer::ExecutorRegistration { .. }));
    world.settle();
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::ExecutorRegistrationTimeout);
    assert_eq!(last.message(), "Executor did not register within 1mins");
}

#[test]
fn tasks_of_an_executor_that_never_ran_are_dropped() {
    let mut world = World::registered();
    world.slow = true;
    world.run_task(executor_task("t", "E"), true);
    world.settle();
    world.crash();
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskDropped]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::SlaveRestarted);
}

#[test]
fn an_unexpected_executor_is_shut_down() {
    let mut world = World::registered();
    world.tell_as_executor(EXECUTOR, &register());
    world.settle();
    assert_eq!(world.sent_to::<m::ShutdownExecutorMessage>(EXECUTOR).len(), 1);
}

#[test]
fn a_restart_keeps_a_v0_executor_that_answers() {
    let mut world = with_executor();
    world.crash();
    assert_eq!(world.sent_to::<m::ReconnectExecutorMessage>(EXECUTOR).len(), 1);
    assert_eq!(world.core.snapshot().state, AgentState::Recovering);
    let message = m::ReregisterExecutorMessage {
        executor_id: ExecutorId { value: "E".into() },
        framework_id: FrameworkId { value: "F".into() },
        tasks: Vec::new(),
        updates: vec![status("t", S::TaskFinished, 2).update],
    };
    world.tell_as_executor(EXECUTOR, &message);
    world.settle();
    assert_eq!(world.core.snapshot().state, AgentState::Running);
    assert_eq!(world.states_of("t"), [S::TaskRunning, S::TaskFinished]);
    assert_eq!(world.sent_to::<m::ExecutorReregisteredMessage>(EXECUTOR).len(), 1);
}

#[test]
fn a_restart_gives_up_an_executor_that_is_silent() {
    let mut world = with_executor();
    world.crash();
    world.fire_if(|t| matches!(t, Timer::ExecutorReregistration));
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskRunning, S::TaskGone]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::ExecutorReregistrationTimeout);
    assert_eq!(last.message(), "Executor did not reregister within 2secs");
}

#[test]
fn a_restart_takes_command_tasks_over_without_waiting() {
    let mut world = World::registered();
    for task in ["runs", "ended", "killing"] {
        world.run_task(command_task(task), true);
        world.settle();
    }
    let container = |world: &mut World, task: &str| {
        let snapshot = world.core.snapshot();
        let found = snapshot.executors().find(|(_, e)| e.id() == task);
        found.unwrap().1.container_id.value.clone()
    };
    let (ended, killing) = (container(&mut world, "ended"), container(&mut world, "killing"));
    world.kill_task("killing");
    world.step_inbox();
    while world.step_storage() {}
    world.pending.clear(); // The agent dies before the signal goes out.
    world.exit_container(&ended, 0);
    world.crash();
    world.settle();
    assert_eq!(world.states_of("ended").last(), Some(&S::TaskFinished));
    assert_eq!(world.states_of("runs").last(), Some(&S::TaskRunning));
    assert_eq!(world.states_of("killing").last(), Some(&S::TaskKilled));
    assert_eq!(world.containers.get(&killing), None);
    let reregistered = world.sent_to::<m::ReregisterSlaveMessage>(MASTER);
    let tasks = &reregistered.last().unwrap().tasks;
    assert!(tasks.iter().any(|t| t.task_id.value == "runs" && t.state() == S::TaskRunning));
    assert!(reregistered.last().unwrap().executor_infos.is_empty());
}

/// What is on the disk of a task with secrets is not what was asked for.
#[test]
fn a_task_whose_secrets_are_lost_is_not_launched_again() {
    let mut world = World::registered();
    let mut secret = command_task("secret");
    let value = mesos::Secret {
        r#type: Some(mesos::secret::Type::Value as i32),
        value: Some(mesos::secret::Value { data: b"hush".to_vec() }),
        ..mesos::Secret::default()
    };
    let variable = mesos::environment::Variable {
        name: "S".into(),
        secret: Some(value),
        ..mesos::environment::Variable::default()
    };
    let environment = mesos::Environment { variables: vec![variable] };
    secret.command.get_or_insert_default().environment = Some(environment);
    world.run_task(command_task("plain"), true);
    world.run_task(secret, true);
    while world.step_inbox() || world.step_storage() {}
    world.pending.clear(); // The agent dies before anything is launched.
    world.crash();
    world.settle();
    assert_eq!(world.states_of("plain").last(), Some(&S::TaskRunning));
    let end = world.states_of("secret").last().copied();
    assert!(end.is_some_and(mesos::model::is_terminal), "{end:?}");
}

#[test]
fn unacknowledged_updates_are_sent_again_after_a_restart() {
    let mut world = World::registered();
    world.answers = false;
    world.run_task(command_task("t"), true);
    world.settle();
    assert!(world.seen.is_empty());
    world.answers = true;
    world.crash();
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskRunning]);
}

#[test]
fn tearing_a_framework_down_ends_everything_silently() {
    let mut world = with_executor();
    world.run_task(command_task("c"), true);
    world.settle();
    let before = world.seen.len();
    let message = m::ShutdownFrameworkMessage { framework_id: FrameworkId { value: "F".into() } };
    world.tell_agent(Inbound::ShutdownFramework(message));
    world.settle();
    assert_eq!(world.sent_to::<m::ShutdownExecutorMessage>(EXECUTOR).len(), 1);
    world.fire_if(|t| matches!(t, Timer::ExecutorShutdown { .. } | Timer::KillGrace { .. }));
    world.settle();
    assert!(world.running().is_empty());
    assert_eq!(world.seen.len(), before);
    assert!(world.core.snapshot().frameworks.is_empty());
    assert_eq!(world.core.snapshot().completed_frameworks[0].completed.len(), 2);
}

#[test]
fn a_shutdown_of_the_agent_ends_when_nothing_is_left() {
    let mut world = World::registered();
    world.run_task(command_task("t"), true);
    world.settle();
    world.tell_agent(Inbound::Shutdown(m::ShutdownMessage { message: None }));
    world.settle();
    assert!(world.running().is_empty());
    assert_eq!(world.exit.as_deref(), Some("agent shut down"));
}

#[test]
fn an_http_executor_subscribes_and_gets_its_group_as_a_whole() {
    let mut world = World::registered();
    let executor = executor_task("a", "E").executor.unwrap();
    let message = m::RunTaskGroupMessage {
        framework: framework(true),
        executor,
        task_group: mesos::TaskGroupInfo {
            tasks: vec![executor_task("a", "E"), executor_task("b", "E")],
        },
        ..Default::default()
    };
    world.tell_agent(Inbound::RunTaskGroup(Box::new(message)));
    world.settle();
    let subscribe = |executor: &str| Command::Subscribe {
        framework: FrameworkId { value: "F".into() },
        executor: ExecutorId { value: executor.into() },
        stream: StreamId(1),
        subscribe: Box::default(),
    };
    world.handle(Event::Call { id: CallId(1), command: subscribe("E") });
    world.settle();
    let snapshot = world.core.snapshot();
    let e = snapshot.executors().next().unwrap().1;
    assert_eq!(e.state, ExecutorState::Running);
    assert_eq!(e.launched.len(), 2);
    let refused = Command::Heartbeat {
        framework: FrameworkId { value: "F".into() },
        executor: ExecutorId { value: "nobody".into() },
    };
    let effects = world.core.handle(1.0, Event::Call { id: CallId(2), command: refused });
    assert!(effects.iter().any(|e| matches!(
        e,
        crate::agent::core::event::Effect::Reply { result: Err(Refusal::UnknownExecutor), .. }
    )));
}

#[test]
fn silence_of_the_master_leads_to_a_new_registration() {
    let mut world = World::registered();
    world.fire_if(|t| matches!(t, Timer::PingTimeout { .. }));
    world.settle();
    assert_eq!(world.sent_to::<m::ReregisterSlaveMessage>(MASTER).len(), 1);
    assert_eq!(world.core.snapshot().state, AgentState::Running);
}

#[test]
fn tasks_of_frameworks_without_checkpoints_end_with_the_agent() {
    let mut world = World::registered();
    world.run_task(command_task("t"), false);
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskRunning]);
    world.crash();
    world.settle();
    assert!(world.containers.values().all(|c| !matches!(c, Container::Running(_))));
    assert_eq!(world.states_of("t").last(), Some(&S::TaskDropped), "told on re-registration");
}

fn with_health_check(threshold: u32) -> mesos::TaskInfo {
    let check = mesos::HealthCheck {
        r#type: Some(mesos::health_check::Type::Tcp as i32),
        tcp: Some(mesos::health_check::TcpCheckInfo { port: 1, ..Default::default() }),
        consecutive_failures: Some(threshold),
        grace_period_seconds: Some(0.0),
        ..Default::default()
    };
    mesos::TaskInfo { health_check: Some(check), ..command_task("t") }
}

fn check_now(world: &mut World, answer: Outcome) {
    world.answers_to_checks.push_back(answer);
    world.fire_if(|t| matches!(t, Timer::Check { .. }));
    world.settle();
}

/// State, health and reason of each status the framework saw.
fn healths(world: &World) -> Vec<(S, Option<bool>, Option<i32>)> {
    world.seen.iter().map(|(_, state, _, status)| (*state, status.healthy, status.reason)).collect()
}

#[test]
fn a_sick_task_is_killed_and_its_health_is_told() {
    let mut world = World::registered();
    world.run_task(with_health_check(2), true);
    world.settle();
    for made in [true, true, false, false] {
        check_now(&mut world, Outcome::Connected(made));
    }
    let reason = Some(task_status::Reason::TaskHealthCheckStatusUpdated as i32);
    assert_eq!(
        healths(&world),
        [
            (S::TaskStarting, None, None),
            (S::TaskRunning, None, None),
            (S::TaskRunning, Some(true), reason),
            (S::TaskRunning, Some(false), reason),
            (S::TaskRunning, Some(false), reason),
            (S::TaskKilling, None, None),
            (S::TaskKilled, Some(false), None),
        ]
    );
    let why = "TCP health check failed 2 times: the connection failed";
    assert_eq!(world.seen[4].3.message(), why);
    // A task that is being killed is not asked any more.
    assert!(
        !world.timers.iter().any(|t| matches!(t, Timer::Check { .. })) || {
            let before = world.seen.len();
            check_now(&mut world, Outcome::Connected(true));
            world.seen.len() == before
        }
    );
}

#[test]
fn the_next_agent_goes_on_checking() {
    let mut world = World::registered();
    world.run_task(with_health_check(3), true);
    world.settle();
    check_now(&mut world, Outcome::Connected(true));
    check_now(&mut world, Outcome::Connected(false));
    let told = world.seen.len();
    world.crash();
    world.settle();
    // The failure before the crash counts: two more are enough.
    check_now(&mut world, Outcome::Connected(false));
    check_now(&mut world, Outcome::Connected(false));
    let states: Vec<_> = world.seen[told..].iter().map(|(_, s, ..)| *s).collect();
    assert_eq!(states, [S::TaskRunning, S::TaskRunning, S::TaskKilling, S::TaskKilled]);
    assert_eq!(world.seen.last().unwrap().3.healthy, Some(false));
}

#[test]
fn a_check_is_passed_on_when_it_changes() {
    let mut world = World::registered();
    let check = mesos::CheckInfo {
        r#type: Some(mesos::check_info::Type::Http as i32),
        http: Some(mesos::check_info::Http { port: 1, path: None }),
        ..Default::default()
    };
    world.run_task(mesos::TaskInfo { check: Some(check), ..command_task("t") }, true);
    world.settle();
    for status in [503, 503, 200] {
        check_now(&mut world, Outcome::Status(status));
    }
    let codes: Vec<Option<u32>> = world
        .seen
        .iter()
        .map(|(.., status)| status.check_status.unwrap().http.unwrap().status_code)
        .collect();
    assert_eq!(codes, [None, None, Some(503), Some(200)]);
    let reason = task_status::Reason::TaskCheckStatusUpdated;
    assert_eq!(world.seen.last().unwrap().3.reason(), reason);
}
