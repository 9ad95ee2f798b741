//! Launches, updates, kills, reconciliation, operations.

use super::*;

#[test]
fn a_task_from_launch_to_acknowledged_end() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096;disk:1000");
    let id = world.subscribe("s", info("f", "web"));
    let offer = world.launch("s", &id, &["t"]);
    let run = world.sent::<m::RunTaskMessage>("RunTaskMessage").pop().expect("sent");
    assert_eq!(run.pid.as_deref(), Some("@0.0.0.0:0"));
    assert_eq!(run.resource_version_uuids.len(), 1);
    assert_eq!(run.task.resources[0].allocation_info.as_ref().map(|a| a.role()), Some("web"));
    assert!(world.core.cluster().offers.is_empty());
    // The rest comes back in the next cycle; the used offer does not.
    world.wait(Duration::from_secs(2));
    let next = world.offers("s").pop().expect("an offer");
    assert_ne!(next.id, offer.id);
    assert_eq!(Resources::from_valid(&next.resources).cpus(), Some(3.5));
    world.report(&run, TaskState::TaskRunning, 1);
    world.acknowledge("s", &run, 1);
    world.report(&run, TaskState::TaskFinished, 2);
    let agent = world.core.cluster().agents.values().next().expect("one").clone();
    assert!(agent.used.is_empty() && agent.tasks.len() == 1);
    world.acknowledge("s", &run, 2);
    let framework = world.core.cluster().frameworks.values().next().expect("one").clone();
    assert!(framework.tasks.is_empty());
    assert_eq!(framework.completed_tasks[0].statuses.len(), 2);
    assert_eq!(world.core.cluster().counters.get("tasks_finished"), 1);
    let acks = "StatusUpdateAcknowledgementMessage";
    assert_eq!(world.sent::<m::StatusUpdateAcknowledgementMessage>(acks).len(), 2);
}

#[test]
fn a_used_offer_cannot_be_used_again() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    let id = world.subscribe("s", info("f", "web"));
    let offer = world.launch("s", &id, &["t"]);
    let again = accept(&offer, vec![launch(vec![task("u", &offer)])]);
    world.call("s", &id, again).expect("taken");
    let update = world.updates("s").pop().expect("an update");
    assert_eq!(update.state(), TaskState::TaskDropped);
    assert_eq!(update.reason(), mesos::task_status::Reason::InvalidOffers);
    assert_eq!(
        update.message(),
        format!("Task launched with invalid offers: Offer {} is no longer valid", offer.id.value)
    );
}

#[test]
fn offers_of_others_are_safe() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    let owner = world.subscribe("s", info("f", "web"));
    let thief = world.subscribe("t", info("g", "web"));
    let offer = world.offers("s").pop().expect("an offer");
    let steal = accept(&offer, vec![launch(vec![task("u", &offer)])]);
    world.call("t", &thief, steal).expect("taken");
    assert_eq!(world.updates("t").len(), 1);
    let decline = Call {
        decline: Some(call::Decline { offer_ids: vec![offer.id.clone()], filters: None }),
        ..bare(call::Type::Decline)
    };
    world.call("t", &thief, decline).expect("taken");
    world.call("s", &owner, accept(&offer, vec![launch(vec![task("u", &offer)])])).expect("taken");
    assert_eq!(world.sent::<m::RunTaskMessage>("RunTaskMessage").len(), 1);
}

#[test]
fn task_groups_launch_whole_or_not_at_all() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096;disk:1000");
    let id = world.subscribe("s", info("f", "web"));
    let offer = world.offers("s").pop().expect("an offer");
    let group = |mem: &str, ids: [&str; 2]| mesos::offer::Operation {
        r#type: Some(mesos::offer::operation::Type::LaunchGroup as i32),
        launch_group: Some(mesos::offer::operation::LaunchGroup {
            executor: mesos::ExecutorInfo {
                r#type: Some(mesos::executor_info::Type::Default as i32),
                executor_id: mesos::ExecutorId { value: "e".into() },
                resources: parse(&format!("cpus:0.1;mem:{mem};disk:32")).to_protos(),
                ..mesos::ExecutorInfo::default()
            },
            task_group: mesos::TaskGroupInfo {
                tasks: ids.iter().map(|id| task(id, &offer)).collect(),
            },
        }),
        ..Default::default()
    };
    let call = accept(&offer, vec![group("8", ["a", "b"]), group("32", ["c", "d"])]);
    world.call("s", &id, call).expect("taken");
    let updates = world.updates("s");
    assert_eq!(updates.len(), 2);
    assert!(updates[0].message().contains("uses less memory (8MB)"), "{}", updates[0].message());
    let run = world.sent::<m::RunTaskGroupMessage>("RunTaskGroupMessage");
    let [run] = run.as_slice() else { panic!("one group, got {run:?}") };
    assert!(run.task_group.tasks.iter().all(|t| t.executor.as_ref() == Some(&run.executor)));
    assert_eq!(run.launch_executor, Some(true));
    let agent = world.core.cluster().agents.values().next().expect("one").clone();
    assert_eq!(agent.total_used().cpus(), Some(1.1));
}

#[test]
fn kills_reach_the_agent_and_unknown_tasks_are_reconciled() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    let id = world.subscribe("s", info("f", "web"));
    world.launch("s", &id, &["t"]);
    let kill = |task: &str| Call {
        kill: Some(call::Kill {
            task_id: mesos::TaskId { value: task.into() },
            ..call::Kill::default()
        }),
        ..bare(call::Type::Kill)
    };
    world.call("s", &id, kill("t")).expect("taken");
    assert_eq!(world.sent::<m::KillTaskMessage>("KillTaskMessage").len(), 1);
    world.call("s", &id, kill("unknown")).expect("taken");
    let update = world.updates("s").pop().expect("an update");
    assert_eq!(update.state(), TaskState::TaskUnknown);
    assert_eq!(update.message(), "Reconciliation: Task is unknown");
}

#[test]
fn operations_are_learnt_and_lost_ones_asked_for() {
    use mesos::offer::operation::{self as op, Type};
    use mesos::{OperationState as O, OperationStatus};
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096;disk:1000");
    let id = world.subscribe("s", info("f", "web"));
    let offer = world.offers("s").pop().expect("an offer");
    let agent = offer.slave_id.clone();
    let reservation = mesos::resource::ReservationInfo {
        r#type: Some(mesos::resource::reservation_info::Type::Dynamic as i32),
        role: Some("web".into()),
        ..Default::default()
    };
    let resources = parse("disk:64").push_reservation(&reservation).expect("reserved").to_protos();
    let reserve = mesos::offer::Operation {
        r#type: Some(Type::Reserve as i32),
        reserve: Some(op::Reserve { source: Vec::new(), resources }),
        ..Default::default()
    };
    world.call("s", &id, accept(&offer, vec![reserve.clone()])).expect("taken");
    let applied = world.sent::<m::ApplyOperationMessage>("ApplyOperationMessage").remove(0);
    // The agent knows of another one, of an earlier master, and not of this.
    let status = OperationStatus {
        state: O::OperationFinished as i32,
        uuid: Some(mesos::Uuid { value: vec![2; 16] }),
        ..Default::default()
    };
    let id_of = |value: &str| Some(mesos::OperationId { value: value.into() });
    let other = |framework: &str| mesos::Operation {
        framework_id: Some(mesos::FrameworkId { value: framework.into() }),
        slave_id: Some(agent.clone()),
        info: mesos::offer::Operation { id: id_of("old"), ..reserve.clone() },
        latest_status: status.clone(),
        statuses: Vec::new(),
        uuid: mesos::Uuid { value: vec![1; 16] },
    };
    let update = m::UpdateSlaveMessage {
        slave_id: agent.clone(),
        operations: Some(m::update_slave_message::Operations { operations: vec![other(&id)] }),
        ..Default::default()
    };
    world.message(AGENT, &update);
    let asked = world.sent::<m::ReconcileOperationsMessage>("ReconcileOperationsMessage").remove(0);
    assert_eq!(asked.operations.len(), 1);
    assert_eq!(asked.operations[0].operation_uuid.as_ref(), Some(&applied.operation_uuid));
    let known = world.core.cluster().agents.values().next().expect("one").operations.clone();
    assert_eq!(known.len(), 2);
    // What the agent then says of both: one is forwarded, the other forgotten.
    let say = |uuid: &mesos::Uuid, status: OperationStatus| m::UpdateOperationStatusMessage {
        framework_id: None,
        slave_id: Some(agent.clone()),
        latest_status: Some(status.clone()),
        status,
        operation_uuid: Some(uuid.clone()),
    };
    world.message(AGENT, &say(&mesos::Uuid { value: vec![1; 16] }, status.clone()));
    let dropped =
        OperationStatus { state: O::OperationDropped as i32, ..OperationStatus::default() };
    world.message(AGENT, &say(&applied.operation_uuid, dropped));
    let told: Vec<_> = world
        .events("s")
        .into_iter()
        .filter_map(|event| event.update_operation_status)
        .map(|update| (update.status.operation_id, update.status.uuid.is_some()))
        .collect();
    assert_eq!(told, [(id_of("old"), true)]);
    let known = world.core.cluster().agents.values().next().expect("one").operations.clone();
    assert_eq!(known.len(), 1, "it waits for the framework's acknowledgement");
}

#[test]
fn reserve_create_launch_destroy_unreserve() {
    use mesos::offer::operation::{self as op, Type};
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096;disk:1000");
    let id = world.subscribe("s", info("f", "web"));
    let offer = world.offers("s").pop().expect("an offer");
    let reservation = mesos::resource::ReservationInfo {
        r#type: Some(mesos::resource::reservation_info::Type::Dynamic as i32),
        role: Some("web".into()),
        ..Default::default()
    };
    let reserved = parse("disk:64").push_reservation(&reservation).expect("reserved").to_protos();
    let mut volume = reserved[0].clone();
    volume.disk = Some(mesos::resource::DiskInfo {
        persistence: Some(mesos::resource::disk_info::Persistence {
            id: "v".into(),
            principal: None,
        }),
        volume: Some(mesos::Volume {
            container_path: "data".into(),
            mode: mesos::volume::Mode::Rw as i32,
            ..mesos::Volume::default()
        }),
        source: None,
    });
    let operation =
        |kind: Type| mesos::offer::Operation { r#type: Some(kind as i32), ..Default::default() };
    let mut on_volume = task("t", &offer);
    on_volume.resources.push(volume.clone());
    let operations = vec![
        mesos::offer::Operation {
            reserve: Some(op::Reserve { source: Vec::new(), resources: reserved.clone() }),
            ..operation(Type::Reserve)
        },
        mesos::offer::Operation {
            create: Some(op::Create { volumes: vec![volume.clone()] }),
            ..operation(Type::Create)
        },
        launch(vec![on_volume]),
    ];
    world.call("s", &id, accept(&offer, operations)).expect("taken");
    assert_eq!(world.updates("s"), []);
    assert_eq!(world.sent::<m::ApplyOperationMessage>("ApplyOperationMessage").len(), 2);
    let run = world.sent::<m::RunTaskMessage>("RunTaskMessage").pop().expect("sent");
    world.report(&run, TaskState::TaskFinished, 1);
    world.acknowledge("s", &run, 1);
    world.wait(Duration::from_secs(2));
    let offer = world
        .offers("s")
        .into_iter()
        .rfind(|o| o.resources.iter().any(|r| r.disk.is_some()))
        .expect("the volume is offered");
    let operations = vec![
        mesos::offer::Operation {
            destroy: Some(op::Destroy { volumes: vec![volume] }),
            ..operation(Type::Destroy)
        },
        mesos::offer::Operation {
            unreserve: Some(op::Unreserve { resources: reserved }),
            ..operation(Type::Unreserve)
        },
    ];
    world.call("s", &id, accept(&offer, operations)).expect("taken");
    let agent = world.core.cluster().agents.values().next().expect("one").clone();
    assert_eq!(agent.total, parse("cpus:4;mem:4096;disk:1000"));
    assert!(agent.checkpointed.is_empty());
}
