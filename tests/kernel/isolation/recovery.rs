//! The agent dies, its containers do not: a new containerizer finds them.

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, KnownContainer, LaunchRequest};
use mesos::ContainerId;
use mesos::task_status::Reason;

use crate::{ALL, PATIENCE, Place, have_probe, require, resources, top};

/// Runs `work` on a runtime that then vanishes with all its tasks, as if killed.
pub(crate) fn in_a_life<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

pub(crate) fn known(request: &LaunchRequest, pid: Option<u32>) -> KnownContainer {
    KnownContainer { request: request.clone(), pid }
}

async fn end(native: &Native, id: &ContainerId) -> bulkhead::containerizer::Termination {
    let end = tokio::time::timeout(PATIENCE, native.wait(id)).await.expect("ends in time");
    end.expect("a known container")
}

#[test]
fn running_ended_and_orphaned_are_found() {
    require!(root, cgroup);
    let place = Place::new("recovery", ALL);
    let running =
        place.shell("running", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done");
    let ending =
        place.shell("ending", "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 7");
    let ended = place.shell("ended", "exit 6");
    let orphan = place.shell("orphan", "sleep 1000");
    let mut nested = place.shell("nested", "sleep 1000");
    nested.id = ContainerId { value: "nested".into(), parent: Some(Box::new(top("running"))) };
    let pid = in_a_life(async {
        let native = place.start();
        let pid = native.launch(running.clone()).await.expect("launch").pid.expect("a pid");
        for request in [&ending, &ended, &orphan] {
            native.launch(request.clone()).await.expect("launch");
        }
        place.wait_output("running", "ready").await;
        native.launch(nested.clone()).await.expect("launch");
        end(&native, &top("ended")).await;
        pid
    });
    std::fs::write(place.path("sandbox-ending").join("go"), "").expect("go");
    std::thread::sleep(std::time::Duration::from_millis(300));
    in_a_life(async {
        let native = place.start();
        let absent = place.shell("absent", "true");
        // The agent knows the pid of some, and not of those it had no time to store.
        let all = [(&running, Some(pid)), (&ending, None), (&ended, None), (&absent, Some(1))];
        let all = all.into_iter().map(|(request, pid)| known(request, pid)).collect();
        native.recover(all).await.expect("recover");

        assert_eq!(end(&native, &top("ended")).await.status, Some(6 << 8));
        assert_eq!(end(&native, &top("ending")).await.status, Some(7 << 8));
        let absent = end(&native, &top("absent")).await;
        assert!(absent.message.is_some_and(|m| m.contains("lost")));

        let status = native.status(&top("running")).await.expect("running");
        assert_eq!(status.executor_pid, Some(pid));
        let statistics = native.statistics().await;
        assert_eq!(statistics.len(), 1, "{statistics:?}");
        assert!(statistics[0].1.mem_total_bytes.is_some());
        native
            .update(&top("running"), resources(0.2, 128.0), Default::default())
            .await
            .expect("update");
        let destroyed = native.destroy(&nested.id, None).await.expect("nested is known");
        assert_eq!(destroyed.status, Some(9));
        assert!(native.kill(&top("running"), libc::SIGUSR1).await);
        assert_eq!(end(&native, &top("running")).await.status, Some(5 << 8));

        // The orphan goes in the background.
        let start = std::time::Instant::now();
        while !place.cgroups("orphan").is_empty() {
            assert!(start.elapsed() < PATIENCE, "the orphan stays");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    // Nothing was forgotten: the next life gets the same answers.
    in_a_life(async {
        let native = place.start();
        let all = [&running, &ending, &ended].map(|request| known(request, None));
        native.recover(all.to_vec()).await.expect("recover");
        for (id, status) in [("running", 5), ("ending", 7), ("ended", 6)] {
            assert_eq!(end(&native, &top(id)).await.status, Some(status << 8), "{id}");
            native.forget(&top(id)).await;
        }
        assert!(native.containers().is_empty());
    });
}

/// An executor that was there all the time may ask for a nested container at once.
#[test]
fn what_is_found_running_takes_nested_containers_at_once() {
    require!(root, cgroup);
    let place = Place::new("nested-at-once", ALL);
    let outer = place.shell("outer", "echo ready; exec sleep 1000");
    let pid = in_a_life(async {
        let native = place.start();
        let pid = native.launch(outer.clone()).await.expect("launch").pid;
        place.wait_output("outer", "ready").await;
        pid
    });
    // Its task has not even begun: there is one thread, and that is ours.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let native = place.start();
        native.recover(vec![known(&outer, pid)]).await.expect("recover");
        let mut nested = place.shell("nested", "exit 3");
        nested.id = ContainerId { value: "nested".into(), parent: Some(Box::new(top("outer"))) };
        nested.requests = Vec::new();
        native.launch(nested.clone()).await.expect("its parent runs");
        assert_eq!(end(&native, &nested.id).await.status, Some(3 << 8));
        native.destroy(&top("outer"), None).await.expect("destroyed");
    });
}

/// The limit is hit while nobody watches: the kernel remembers.
#[test]
fn limits_hold_across_lives() {
    require!(root, cgroup);
    if !have_probe("recovery::limits_hold_across_lives") {
        return;
    }
    let place = Place::new("rewatch", ALL);
    let program = crate::probe().display().to_string();
    let mut request = place.shell(
        "a",
        &format!(
            "echo ready; while [ ! -e go ]; do sleep 0.02; done; {program} memhog 256; sleep 1000"
        ),
    );
    request.requests = resources(0.5, 64.0);
    in_a_life(async {
        let native = place.start();
        native.launch(request.clone()).await.expect("launch");
        place.wait_output("a", "ready").await;
    });
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&request, None)]).await.expect("recover");
        std::fs::write(place.path("sandbox-a").join("go"), "").expect("go");
        let end = end(&native, &top("a")).await;
        assert_eq!(end.reasons, [Reason::ContainerLimitationMemory], "{end:?}");
        native.forget(&top("a")).await;
    });
}
