//! `disk/du`: counts as `du` does, ends what exceeds its quota, stays cheap.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use isolators::api::Isolator;
use isolators::disk::DiskDu;
use isolators::quantity::scalar;
use isolators::suite::context;
use mesos::task_status::Reason;
use mesos::{ContainerId, TaskState};

use crate::{Place, destroy, end, figures, require, top};

/// What `du` says, in bytes.
fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-x", "-B1"]).arg(path).output().expect("du");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split('\t').next().and_then(|n| n.parse().ok()).expect("a number")
}

#[tokio::test]
async fn what_is_counted_is_what_du_counts() {
    require!(root, cgroup);
    let place = Place::new("ducount", "disk/du");
    let native = place.start();
    let script = "mkdir -p a/b; dd if=/dev/zero of=a/b/f bs=1M count=3 2>/dev/null; \
                  ln a/b/f again; ln -s /usr usr; truncate -s 1T sparse; \
                  for i in $(seq 200); do echo $i > a/$i; done; echo done; sleep 1000";
    native.launch(place.shell("a", 64.0, script)).await.expect("launch");
    place.wait_output("a", "done").await;
    let wanted = du(&place.sandbox("a"));
    assert!(wanted > 3 << 20 && wanted < 8 << 20, "{wanted}");
    let found = figures(&native, "a", |s| s.disk_used_bytes == Some(wanted)).await;
    assert_eq!(found.disk_limit_bytes, Some(64 << 20));
    assert_eq!(found.disk_statistics.len(), 1);
    // More resources come, as with every task that an executor gets.
    let more = vec![scalar("cpus", 0.1), scalar("mem", 64.0), scalar("disk", 100.0)];
    native.update(&top("a"), more, Default::default()).await.expect("update");
    figures(&native, "a", |s| s.disk_limit_bytes == Some(100 << 20)).await;
    destroy(&native, "a").await;
}

#[tokio::test]
async fn a_sandbox_over_its_quota_ends_the_container() {
    require!(root, cgroup);
    let mut place = Place::new("duquota", "disk/du");
    let write = "dd if=/dev/zero of=f bs=1M count=8 2>/dev/null; echo written; sleep 1000";
    let native = place.start();
    native.launch(place.shell("free", 4.0, write)).await.expect("launch");
    figures(&native, "free", |s| s.disk_used_bytes > Some(8 << 20)).await;
    destroy(&native, "free").await;

    place.config.isolators.disk.enforce = true;
    let native = place.start();
    native.launch(place.shell("a", 4.0, write)).await.expect("launch");
    let ended = end(&native, "a").await;
    assert_eq!(ended.state, Some(TaskState::TaskFailed), "{ended:?}");
    assert_eq!(ended.reasons, [Reason::ContainerLimitationDisk]);
    assert_eq!(ended.limited_resources, [scalar("disk", 4.0)]);
    let message = ended.message.expect("a message");
    assert!(message.starts_with("Disk usage ("), "{message}");
    assert!(message.ends_with(") exceeds quota (4MB)"), "{message}");

    // A nested container's sandbox lies in its parent's: it counts there.
    native.launch(place.shell("parent", 4.0, "sleep 1000")).await.expect("launch");
    let mut nested = place.shell("parent/containers/child", 1.0, write);
    nested.id = ContainerId { value: "child".into(), parent: Some(Box::new(top("parent"))) };
    native.launch(nested).await.expect("launch");
    let ended = end(&native, "parent").await;
    assert_eq!(ended.reasons, [Reason::ContainerLimitationDisk], "{ended:?}");
}

/// Processor time of the walking threads of this process, in clock ticks.
fn walking_ticks() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
    let stats = threads.filter_map(|t| std::fs::read_to_string(t.path().join("stat")).ok());
    let mine = stats.filter(|stat| stat.contains("(disk-du)"));
    mine.map(|stat| {
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        number(11) + number(12)
    })
    .sum()
}

/// A thousand sandboxes with a hundred thousand files, measured without rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sandboxes_cost_less_than_a_twentieth() {
    require!(real_speed);
    let place = Place::new("dumany", "disk/du");
    for n in 0..1000 {
        let sandbox = place.sandbox(&format!("c{n}"));
        std::fs::create_dir_all(&sandbox).expect("a sandbox");
        for file in 0..100 {
            std::fs::File::create(sandbox.join(format!("f{file}"))).expect("a file");
        }
    }
    let config = isolators::disk::Config {
        watch_interval: Duration::from_millis(1),
        ..place.config.isolators.disk.clone()
    };
    let before = walking_ticks();
    let isolator = DiskDu::new(config).expect("a thread");
    let start = Instant::now();
    let mut handles = Vec::new();
    for n in 0..1000 {
        let id = format!("c{n}");
        let requests = vec![scalar("disk", 1.0)];
        let of = isolators::api::ContainerContext {
            sandbox: place.sandbox(&id),
            requests,
            ..context(&id)
        };
        let mut handle = isolator.attach(&Arc::new(of));
        handle.prepare().await.expect("prepare");
        handles.push(handle);
    }
    let mut probes: Vec<_> = handles.iter_mut().flat_map(|handle| handle.probes()).collect();
    let mut measured = 0;
    while start.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let known = probes.iter_mut().map(|probe| {
            let mut figures = mesos::ResourceStatistics::default();
            probe.sample(&mut Vec::new(), &mut figures).expect("a sample");
            usize::from(figures.disk_used_bytes > Some(0))
        });
        measured = known.sum();
    }
    let used = walking_ticks() - before;
    #[allow(clippy::cast_precision_loss)]
    let share = used as f64 / kernel::proctree::ticks_per_second() / start.elapsed().as_secs_f64();
    println!("disk accounting: {:.2} % of a cpu, {measured} of 1000 measured", share * 100.0);
    // Slower machines measure fewer, none uses more; the other tests of this
    // program walk a little too.
    assert!(share < 0.05, "{share}");
    assert!(measured > 20, "{measured} of 1000 were measured");
    for mut handle in handles {
        handle.cleanup().await.expect("cleanup");
    }
}
