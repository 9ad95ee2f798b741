//! Queues that are full: what is refused, and who is cut off.

use std::collections::BTreeSet;

use mesos::internal::Registry;

use super::*;
use crate::daemon::api::Common;
use crate::daemon::files::Files;
use crate::daemon::flags::{Flags, master as table};
use crate::daemon::logging::Logging;
use crate::master::api::{Api, Door};
use crate::master::core::config::Config;
use crate::master::registrar::{self, InMemory};
use crate::wire::http::{HeaderMap, Method, Request, Service as _};

/// A driver that does not run yet.
fn master(limits: Limits) -> (Driver, Handle) {
    let started = Instant::now();
    let core = Core::new(
        Config::default(),
        mesos::MasterInfo::default(),
        &Registry::default(),
        now(started),
    );
    let (exits, exited) = mpsc::unbounded_channel();
    let (changes, stored) = registrar::start(Box::<InMemory>::default(), &Metrics::new());
    let hands = Hands {
        post: Post::new("127.0.0.1:1".parse().expect("an address"), exits),
        exited,
        changes,
        stored,
        meters: Meters::new(&Metrics::new()),
        max_watchers: 10,
        limits,
    };
    Driver::new(core, started, Arc::default(), hands)
}

fn api(handle: &Handle) -> Door {
    let flags = Flags::parse(table::FLAGS, [], []).expect("the defaults fit");
    let common = Common {
        files: Files::new(),
        metrics: Metrics::new(),
        logging: Logging::silent(),
        flags: Arc::new(flags),
    };
    Door(Api::new(handle.clone(), common))
}

async fn post(door: &Door, path: &str, body: &str) -> (u16, String) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().expect("a header"));
    headers.insert("accept", "application/json".parse().expect("a header"));
    let uri = path.parse().expect("a path");
    let response = door.call(Request::new(Method::POST, &uri, headers, body.to_owned())).await;
    let body = response.whole_body().cloned().unwrap_or_default();
    (response.code().as_u16(), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_full_mailbox_is_answered_with_503() {
    // Nobody empties the mailbox: the driver does not run yet.
    let (driver, handle) = master(Limits { mailbox: 1, stream: 8 });
    let door = api(&handle);
    let first = handle.clone();
    let waiting = tokio::spawn(async move { first.watch().await.is_ok() });
    while handle.inputs.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    let subscribe = r#"{"type":"SUBSCRIBE","subscribe":{"framework_info":
        {"user":"u","name":"n"}}}"#;
    for (path, body) in [
        ("/api/v1/scheduler", subscribe),
        ("/api/v1", r#"{"type":"SUBSCRIBE"}"#),
        ("/api/v1", r#"{"type":"TEARDOWN","teardown":{"framework_id":{"value":"f"}}}"#),
    ] {
        let answer = post(&door, path, body).await;
        assert_eq!(answer, (503, "Master is overloaded".to_owned()), "{body}");
    }
    // What reads does not wait for the owner.
    assert_eq!(post(&door, "/master/state", "").await.0, 200);
    tokio::spawn(driver.run());
    assert!(waiting.await.expect("no panic"), "what waited is answered");
    let (status, _) = post(&door, "/api/v1", r#"{"type":"GET_HEALTH"}"#).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn streams_that_are_too_far_behind_are_cut_off() {
    let (driver, handle) = master(Limits { mailbox: 100, stream: 4 });
    tokio::spawn(driver.run());
    let (_, mut watcher) = handle.watch().await.expect("room");
    let subscribe = |name: &str| {
        let info = mesos::FrameworkInfo {
            user: "u".into(),
            name: name.into(),
            ..mesos::FrameworkInfo::default()
        };
        mesos::scheduler::call::Subscribe { framework_info: info, ..Default::default() }
    };
    let mut streams = Vec::new();
    for n in 0..6 {
        let stream = StreamId::from(format!("s{n}").as_str());
        streams.push(handle.subscribe(stream, subscribe(&format!("f{n}"))).expect("room"));
    }
    // Six frameworks were added; four events fit.
    let mut told = 0;
    while let Some(event) = watcher.recv().await {
        assert!(matches!(event, OperatorEvent::FrameworkAdded(_)));
        told += 1;
    }
    assert_eq!(told, 4);

    // SUBSCRIBED and HEARTBEAT are there; of five answers two fit.
    let mut slow = streams.remove(0);
    let framework = loop {
        let snapshot = handle.snapshot();
        let found = snapshot.cluster.frameworks.values().find(|f| f.info.name == "f0");
        if let Some(framework) = found {
            break framework.id.message();
        }
        tokio::task::yield_now().await;
    };
    let task = mesos::scheduler::call::reconcile::Task {
        task_id: mesos::TaskId { value: "t".into() },
        slave_id: None,
    };
    for _ in 0..5 {
        let call = mesos::scheduler::Call {
            r#type: Some(mesos::scheduler::call::Type::Reconcile as i32),
            framework_id: Some(framework.clone()),
            reconcile: Some(mesos::scheduler::call::Reconcile { tasks: vec![task.clone()] }),
            ..Default::default()
        };
        handle.call(call, Some("s0".into())).await.expect("room").expect("a known stream");
    }
    let mut kinds = BTreeSet::new();
    let mut told = 0;
    while let Some(event) = slow.recv().await {
        kinds.insert(event.r#type().as_str_name());
        told += 1;
    }
    assert_eq!((told, kinds), (4, BTreeSet::from(["SUBSCRIBED", "HEARTBEAT", "UPDATE"])));
    // The others are as they were.
    let mut other = streams.remove(0);
    assert!(other.recv().await.is_some());
    assert!(!other.is_closed());
}
