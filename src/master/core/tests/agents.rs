//! Agents come, stay, are lost, come back.

use super::*;

const FRAMEWORK: &str = "stream-1";

#[test]
fn a_registration_is_stored_first_and_answered_once_stored() {
    let mut world = World::new();
    let id = world.register(AGENT, "cpus:4;mem:4096");
    assert_eq!(id, "M-S0");
    let order: Vec<&str> = world
        .done
        .iter()
        .filter_map(|e| match e {
            Effect::Store(_, Change::Admit(_)) => Some("store"),
            Effect::Link(_) => Some("link"),
            Effect::Send { name, .. } => name.rsplit('.').next(),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["store", "link", "SlaveRegisteredMessage", "PingSlaveMessage"]);
    // A retry is answered again, with the same id.
    assert_eq!(world.register(AGENT, "cpus:4;mem:4096"), "M-S0");
    assert_eq!(world.core.cluster().agents.len(), 1);
}

#[test]
fn what_may_not_register_does_not() {
    let mut world = World::new();
    let good = registration("cpus:1");
    let mut old = good.clone();
    old.version = Some("0.28.2".into());
    let mut broken = good.clone();
    broken.slave.resources[0].scalar = Some(mesos::value::Scalar { value: -1.0 });
    let mut checkpointed = good;
    checkpointed.slave.checkpoint = Some(false);
    checkpointed.checkpointed_resources = parse("cpus:1").to_protos();
    for message in [old, broken, checkpointed] {
        world.message(AGENT, &message);
    }
    assert!(world.core.cluster().agents.is_empty());
}

#[test]
fn an_agent_that_does_not_answer_becomes_unreachable_and_its_tasks_with_it() {
    let mut world = World::new();
    let agent = world.register(AGENT, "cpus:4;mem:4096");
    let framework = world.subscribe(FRAMEWORK, info("f", "web"));
    world.launch(FRAMEWORK, &framework, &["t"]);
    world.wait(Duration::from_secs(74));
    assert_eq!(world.core.cluster().agents.len(), 1);
    world.wait(Duration::from_secs(20));
    assert!(world.core.cluster().agents.is_empty());
    assert!(world.core.cluster().unreachable.contains_key(&AgentId::from(agent.as_str())));
    let update = world.updates(FRAMEWORK).pop().expect("an update");
    assert_eq!(update.state(), TaskState::TaskUnreachable);
    assert!(update.unreachable_time.is_some());
    let lost = world.events(FRAMEWORK).pop().expect("an event");
    assert_eq!(lost.failure.and_then(|f| f.slave_id).map(|s| s.value), Some(agent));
}

#[test]
fn pongs_keep_an_agent() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    for _ in 0..30 {
        world.wait(Duration::from_secs(10));
        world.message_to("slave-observer(1)", AGENT, &m::PongSlaveMessage {});
    }
    assert_eq!(world.core.cluster().agents.len(), 1);
    // Pongs of strangers to observers that do not exist are nothing.
    world.message_to("slave-observer(99)", AGENT, &m::PongSlaveMessage {});
    world.message_to("slave-observer(x)", AGENT, &m::PongSlaveMessage {});
}

fn reregistration(agent: &str, framework: &str, tasks: &[&str]) -> m::ReregisterSlaveMessage {
    let first = registration("cpus:4;mem:4096");
    let mut slave = first.slave;
    slave.id = Some(mesos::SlaveId { value: agent.into() });
    let id = mesos::FrameworkId { value: framework.into() };
    let task = |task: &&str| mesos::Task {
        name: (*task).into(),
        task_id: mesos::TaskId { value: (*task).into() },
        framework_id: id.clone(),
        slave_id: mesos::SlaveId { value: agent.into() },
        state: TaskState::TaskRunning as i32,
        resources: parse("cpus:0.5;mem:64").to_protos(),
        ..mesos::Task::default()
    };
    m::ReregisterSlaveMessage {
        slave,
        tasks: tasks.iter().map(task).collect(),
        frameworks: vec![mesos::FrameworkInfo { id: Some(id.clone()), ..info("f", "web") }],
        version: first.version,
        agent_capabilities: first.agent_capabilities,
        resource_version_uuid: first.resource_version_uuid,
        ..m::ReregisterSlaveMessage::default()
    }
}

#[test]
fn a_restarted_agent_is_reconciled_with_what_the_master_knows() {
    let mut world = World::new();
    let agent = world.register(AGENT, "cpus:4;mem:4096");
    let framework = world.subscribe(FRAMEWORK, info("f", "web"));
    world.launch(FRAMEWORK, &framework, &["kept", "lost"]);
    world.event(Event::Exited(AGENT.into()));
    assert!(!world.core.cluster().agents.values().any(|a| a.connected || a.active));
    world.message(AGENT, &reregistration(&agent, &framework, &["kept"]));
    let answer = world.sent::<m::SlaveReregisteredMessage>("SlaveReregisteredMessage");
    let [answer] = answer.as_slice() else { panic!("one answer, got {answer:?}") };
    let [missing] = answer.reconciliations.as_slice() else { panic!("{answer:?}") };
    assert_eq!(missing.statuses.len(), 1);
    assert_eq!(missing.statuses[0].task_id.value, "lost");
    assert!(world.core.cluster().agents.values().all(|a| a.connected && a.active));
}

#[test]
fn after_a_master_restart_agents_bring_frameworks_and_tasks_back() {
    let mut first = World::new();
    let agent = first.register(AGENT, "cpus:4;mem:4096");
    let framework = first.subscribe(FRAMEWORK, info("f", "web"));
    let mut registry = Registry::default();
    for effect in &first.done {
        if let Effect::Store(_, change) = effect {
            apply(&mut registry, change);
        }
    }
    let mut second = World::with(Config::default(), &registry);
    let id = AgentId::from(agent.as_str());
    assert!(second.core.cluster().recovered.contains_key(&id));
    // While the agent may come back, nothing is said about unknown tasks.
    let info = mesos::FrameworkInfo {
        id: Some(mesos::FrameworkId { value: framework.clone() }),
        ..info("f", "web")
    };
    second.subscribe(FRAMEWORK, info);
    let task =
        call::reconcile::Task { task_id: mesos::TaskId { value: "t".into() }, slave_id: None };
    let reconcile = Call {
        reconcile: Some(call::Reconcile { tasks: vec![task] }),
        ..bare(call::Type::Reconcile)
    };
    second.call(FRAMEWORK, &framework, reconcile.clone()).expect("taken");
    assert!(second.updates(FRAMEWORK).is_empty());
    second.message(AGENT, &reregistration(&agent, &framework, &["t"]));
    assert!(second.core.cluster().recovered.is_empty());
    second.call(FRAMEWORK, &framework, reconcile).expect("taken");
    assert_eq!(second.updates(FRAMEWORK)[0].state(), TaskState::TaskRunning);
}

#[test]
fn recovered_agents_that_stay_away_are_unreachable_in_the_end() {
    let mut registry = Registry::default();
    let mut info = registration("cpus:1").slave;
    info.id = Some(mesos::SlaveId { value: "old-S0".into() });
    apply(&mut registry, &Change::Admit(Arc::new(info)));
    let mut world = World::with(Config::default(), &registry);
    world.wait(Duration::from_secs(599));
    assert_eq!(world.core.cluster().recovered.len(), 1);
    world.wait(Duration::from_secs(2));
    assert!(world.core.cluster().recovered.is_empty());
    assert_eq!(world.core.cluster().unreachable.len(), 1);
}

#[test]
fn gone_agents_stay_gone() {
    let mut world = World::new();
    let agent = world.register(AGENT, "cpus:4;mem:4096");
    let id = AgentId::from(agent.as_str());
    assert_eq!(world.command(Command::MarkAgentGone(id.clone())), Ok(()));
    assert_eq!(world.command(Command::MarkAgentGone(id)), Ok(()));
    let shutdowns = world.sent::<m::ShutdownMessage>("ShutdownMessage").len();
    world.message(AGENT, &reregistration(&agent, "f", &[]));
    assert_eq!(world.sent::<m::ShutdownMessage>("ShutdownMessage").len(), shutdowns + 1);
    assert!(world.core.cluster().agents.is_empty());
    let unknown = world.command(Command::MarkAgentGone("nope-S1".into()));
    assert_eq!(unknown, Err(Refusal::NotFound("Agent 'nope-S1' not found".into())));
}
