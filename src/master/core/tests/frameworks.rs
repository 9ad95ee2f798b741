//! Frameworks subscribe, fail over, leave.

use super::*;

#[test]
fn a_second_subscription_takes_over() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    let id = world.subscribe("one", info("f", "web"));
    assert_eq!(id, "M-0000");
    assert_eq!(world.offers("one").len(), 1);
    let with_id = mesos::FrameworkInfo {
        id: Some(mesos::FrameworkId { value: id.clone() }),
        ..info("renamed", "web")
    };
    assert_eq!(world.subscribe("two", with_id), id);
    let last = world.events("one").pop().and_then(|e| e.error).expect("an error");
    assert_eq!(last.message, "Framework failed over");
    let closed = |e: &Effect| matches!(e, Effect::Close(s) if s.as_str() == "one");
    assert!(world.done.iter().any(closed));
    // The old stream's calls are refused, its end is nobody's.
    let refused = world.call("one", &id, bare(call::Type::Revive)).expect_err("refused");
    assert!(refused.to_string().starts_with("The stream ID 'one' included in this request"));
    world.event(Event::StreamClosed("one".into()));
    assert!(world.core.cluster().frameworks.values().all(|f| f.active()));
    let names: Vec<String> =
        world.core.cluster().frameworks.values().map(|f| f.info.name.clone()).collect();
    assert_eq!(names, ["renamed"]);
    world.wait(Duration::from_secs(2));
    assert_eq!(world.offers("two").len(), 1);
}

#[test]
fn a_framework_that_stays_away_is_removed_after_its_timeout() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    let id = world.subscribe("one", info("f", "web"));
    world.launch("one", &id, &["t"]);
    world.event(Event::StreamClosed("one".into()));
    world.wait(Duration::from_secs(59));
    assert_eq!(world.core.cluster().frameworks.len(), 1);
    world.wait(Duration::from_secs(2));
    assert!(world.core.cluster().frameworks.is_empty());
    assert_eq!(world.sent::<m::ShutdownFrameworkMessage>("ShutdownFrameworkMessage").len(), 1);
    let completed = &world.core.cluster().completed_frameworks[0];
    assert_eq!(completed.completed_tasks[0].state(), TaskState::TaskKilled);
    assert!(completed.total_used.is_empty());
    // Its id is used up.
    let again =
        mesos::FrameworkInfo { id: Some(mesos::FrameworkId { value: id }), ..info("f", "web") };
    world.subscribe("two", again);
    let error = world.events("two").pop().and_then(|e| e.error).expect("an error");
    assert_eq!(error.message, "Framework has been removed");
}

#[test]
fn bad_subscriptions_get_an_error_and_nothing_else() {
    let mut world = World::new();
    let web = info("f", "web");
    let rows: [(mesos::FrameworkInfo, &str); 4] = [
        (
            mesos::FrameworkInfo { roles: vec!["a b".into()], ..web.clone() },
            "'FrameworkInfo.roles' contains invalid role: Role component 'a b' is invalid because \
             it contains backspace or whitespace",
        ),
        (
            mesos::FrameworkInfo { roles: vec!["a".into(), "a".into()], ..web.clone() },
            "'FrameworkInfo.roles' contains duplicate items: { a }",
        ),
        (
            mesos::FrameworkInfo { failover_timeout: Some(1e300), ..web.clone() },
            "The framework failover_timeout (1",
        ),
        (
            mesos::FrameworkInfo { id: Some(mesos::FrameworkId { value: "../x".into() }), ..web },
            "'../x' contains invalid characters",
        ),
    ];
    for (n, (info, wanted)) in rows.into_iter().enumerate() {
        let stream = format!("s{n}");
        world.subscribe(&stream, info);
        let events = world.events(&stream);
        let [event] = events.as_slice() else { panic!("one event, got {events:?}") };
        let error = event.error.clone().expect("an error").message;
        assert!(error.starts_with(wanted), "{error}");
    }
    assert!(world.core.cluster().frameworks.is_empty());
}

#[test]
fn drivers_speak_messages() {
    const DRIVER: &str = "scheduler-1@10.0.0.9:4000";
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    let framework = mesos::FrameworkInfo {
        roles: Vec::new(),
        role: Some("web".into()),
        capabilities: Vec::new(),
        ..info("old", "web")
    };
    let register = m::RegisterFrameworkMessage { framework };
    world.message(DRIVER, &register);
    world.message(DRIVER, &register);
    world.wait(Duration::ZERO);
    let registered = world.sent::<m::FrameworkRegisteredMessage>("FrameworkRegisteredMessage");
    assert_eq!(registered.len(), 2);
    assert_eq!(registered[0].framework_id, registered[1].framework_id);
    let offers = world.sent::<m::ResourceOffersMessage>("ResourceOffersMessage");
    let [offers] = offers.as_slice() else { panic!("one message, got {offers:?}") };
    assert_eq!(offers.pids, [AGENT]);
    let offer = &offers.offers[0];
    assert!(offer.allocation_info.is_none());
    assert!(offer.resources.iter().all(|r| r.allocation_info.is_none() && r.role() == "*"));
    let launch = m::LaunchTasksMessage {
        framework_id: registered[0].framework_id.clone(),
        tasks: vec![task("t", offer)],
        filters: mesos::Filters::default(),
        offer_ids: vec![offer.id.clone()],
    };
    // Only the framework's own process may.
    world.message("scheduler-2@10.0.0.9:4001", &launch);
    assert!(world.sent::<m::RunTaskMessage>("RunTaskMessage").is_empty());
    world.message(DRIVER, &launch);
    let runs = world.sent::<m::RunTaskMessage>("RunTaskMessage");
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].pid.as_deref(), Some(DRIVER));
    world.report(&runs[0], TaskState::TaskRunning, 1);
    let update = world.sent::<m::StatusUpdateMessage>("StatusUpdateMessage").pop().expect("one");
    assert_eq!(
        (update.pid.as_deref(), update.update.status.state()),
        (Some(AGENT), TaskState::TaskRunning)
    );
    world.event(Event::Exited(DRIVER.into()));
    let error = world.sent::<m::FrameworkErrorMessage>("FrameworkErrorMessage").pop();
    assert_eq!(error.map(|e| e.message), Some("Framework disconnected".into()));
}

#[test]
fn weights_are_checked_and_change_offers() {
    let mut world = World::new();
    world.register(AGENT, "cpus:4;mem:4096");
    world.subscribe("one", info("f", "web"));
    let weight = |role: &str, weight: f64| {
        Command::UpdateWeights(vec![mesos::WeightInfo { weight, role: Some(role.into()) }])
    };
    let refused = world.command(weight("web", -1.0)).expect_err("refused").to_string();
    assert!(refused.ends_with("for role 'web': Invalid weight '-1': Weights must be positive"));
    assert_eq!(world.command(weight("web", 2.5)), Ok(()));
    assert_eq!(world.core.cluster().weights.get("web"), Some(&2.5));
    let rescinded = world.events("one").pop().and_then(|e| e.rescind);
    assert!(rescinded.is_some());
}

#[test]
fn offers_are_taken_back_when_nobody_answers() {
    let config = Config { offer_timeout: Some(Duration::from_secs(5)), ..Config::default() };
    let mut world = World::with(config, &Registry::default());
    world.register(AGENT, "cpus:4;mem:4096");
    world.subscribe("one", info("f", "web"));
    world.wait(Duration::from_millis(5500));
    let events = world.events("one");
    assert!(events.iter().any(|e| e.rescind.is_some()));
    world.wait(Duration::from_secs(2));
    assert_eq!(world.offers("one").len(), 2);
}
