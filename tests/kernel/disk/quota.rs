//! `disk/xfs` on real XFS and ext4 with project quotas (in the VM): writes hit
//! EDQUOT, containers are ended, ids come back, a restart finds them again.

use std::os::unix::fs::chown;
use std::path::PathBuf;

use bulkhead::containerizer::{Containerizer, KnownContainer};
use isolators::quantity::scalar;
use kernel::quota::{Quotas, project_of};
use mesos::task_status::Reason;

use crate::{Place, destroy, end, figures, require, top};

/// A place on the file system that the VM provides, removed with the test.
struct OnDisk {
    place: Place,
    directory: PathBuf,
}

impl OnDisk {
    fn new(name: &str, variable: &str) -> OnDisk {
        let mount = PathBuf::from(std::env::var_os(variable).expect("require! has looked"));
        let directory = mount.join(format!("bulkhead-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut place = Place::new(name, "disk/xfs");
        place.work = directory.join("work");
        std::fs::create_dir_all(&place.work).expect("a work directory");
        place.config.isolators.disk.work_dir = place.work.clone();
        place.config.isolators.disk.enforce = true;
        OnDisk { place, directory }
    }

    /// A request of a user whom the limits hold: on ext4 they do not hold root.
    fn shell(&self, id: &str, disk: f64, script: &str) -> bulkhead::containerizer::LaunchRequest {
        const NOBODY: u32 = 65534;
        let mut request = self.place.shell(id, disk, script);
        request.user = Some("nobody".into());
        chown(&request.sandbox, Some(NOBODY), None).expect("chown");
        request
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Writes ten megabytes. Its output lies in the sandbox too: it needs some room.
const WRITE: &str = "head -c 300000 /dev/zero >spare; \
                     out=$(dd if=/dev/zero of=f bs=64k count=160 2>&1); \
                     rm spare; echo \"$out\"; echo done; sleep 1000";

async fn writes_fail(variable: &str, error: &str) {
    let on = OnDisk::new("edquot", variable);
    let native = on.place.start();
    native.launch(on.shell("a", 4.0, WRITE)).await.expect("launch");
    on.place.wait_output("a", "done").await;
    let output = on.place.output("a");
    assert!(output.to_lowercase().contains(error), "{output}");
    let written = std::fs::metadata(on.place.sandbox("a").join("f")).expect("the file").len();
    assert!((3 << 20..=4 << 20).contains(&written), "{written}");
    let s = figures(&native, "a", |s| s.disk_used_bytes > Some(3 << 20)).await;
    assert_eq!(s.disk_limit_bytes, Some(4 << 20));
    assert!(s.disk_used_bytes <= Some(4 << 20), "{s:?}");
    // More is given: the running container may write on.
    let more = vec![scalar("cpus", 0.1), scalar("mem", 64.0), scalar("disk", 16.0)];
    native.update(&top("a"), more, Default::default()).await.expect("update");
    let quotas = Quotas::open(&on.place.work).expect("quotas");
    let id = project_of(&on.place.sandbox("a")).expect("a project");
    assert_eq!(quotas.usage(id).expect("usage").hard, 16 << 20);
    destroy(&native, "a").await;
}

#[tokio::test]
async fn writes_over_the_quota_fail_on_xfs() {
    require!(root, cgroup, xfs);
    // XFS tells a full project as a full disk.
    writes_fail("BULKHEAD_XFS", "no space left on device").await;
}

#[tokio::test]
async fn writes_over_the_quota_fail_on_ext4() {
    require!(root, cgroup, ext4);
    writes_fail("BULKHEAD_EXT4", "quota exceeded").await;
}

#[tokio::test]
async fn containers_over_the_quota_are_ended() {
    require!(root, cgroup, xfs);
    let mut on = OnDisk::new("quotakill", "BULKHEAD_XFS");
    on.place.config.isolators.disk.xfs_kill_containers = true;
    let native = on.place.start();
    native.launch(on.shell("a", 4.0, WRITE)).await.expect("launch");
    let ended = end(&native, "a").await;
    assert_eq!(ended.reasons, [Reason::ContainerLimitationDisk], "{ended:?}");
    let message = ended.message.expect("a message");
    assert!(message.ends_with(") exceeds quota (4MB)"), "{message}");
    // Without enforcement the kernel counts and nothing else happens.
    on.place.config.isolators.disk.enforce = false;
    let native = on.place.start();
    native.launch(on.shell("b", 4.0, WRITE)).await.expect("launch");
    figures(&native, "b", |s| s.disk_used_bytes > Some(10 << 20)).await;
    destroy(&native, "b").await;
}

#[tokio::test]
async fn ids_run_out_and_come_back() {
    require!(root, cgroup, xfs);
    let mut on = OnDisk::new("quotaids", "BULKHEAD_XFS");
    on.place.config.isolators.disk.xfs_project_range = "[81000-81001]".into();
    let native = on.place.start();
    for id in ["a", "b"] {
        native.launch(on.shell(id, 4.0, "sleep 1000")).await.expect("launch");
    }
    let ids = ["a", "b"].map(|id| project_of(&on.place.sandbox(id)).expect("a project"));
    assert_eq!(ids, [81000, 81001]);
    let error = native.launch(on.shell("c", 4.0, "true")).await.expect_err("exhausted");
    assert!(error.to_string().contains("--xfs_project_range=[81000-81001]"), "{error}");
    // The container has ended, its sandbox still carries the id.
    destroy(&native, "a").await;
    native.launch(on.shell("c", 4.0, "true")).await.expect_err("still exhausted");
    std::fs::remove_dir_all(on.place.sandbox("a")).expect("remove");
    // XFS frees inodes a moment later.
    let start = std::time::Instant::now();
    while let Err(error) = native.launch(on.shell("d", 4.0, "sleep 1000")).await {
        assert!(start.elapsed() < crate::PATIENCE, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(project_of(&on.place.sandbox("d")).expect("a project"), 81000);
    for id in ["b", "d"] {
        destroy(&native, id).await;
    }
}

#[tokio::test]
async fn a_restart_knows_the_projects() {
    require!(root, cgroup, xfs);
    let mut on = OnDisk::new("quotaagain", "BULKHEAD_XFS");
    on.place.config.isolators.disk.xfs_project_range = "[82000-82001]".into();
    let request = on.shell("a", 4.0, "sleep 1000");
    // A sandbox of a container that is forgotten, as gc will find it.
    std::fs::create_dir_all(on.place.sandbox("old")).expect("a sandbox");
    kernel::quota::assign(&on.place.sandbox("old"), 82000).expect("mark");
    let native = on.place.start();
    native.recover(Vec::new()).await.expect("recover");
    native.launch(request.clone()).await.expect("launch");
    assert_eq!(project_of(&on.place.sandbox("a")).expect("a project"), 82001, "82000 is in use");

    let native = on.place.start();
    let known = KnownContainer { request, pid: None };
    native.recover(vec![known]).await.expect("recover");
    figures(&native, "a", |s| s.disk_limit_bytes == Some(4 << 20)).await;
    native.launch(on.shell("b", 4.0, "true")).await.expect_err("both ids are taken");
    destroy(&native, "a").await;
}
