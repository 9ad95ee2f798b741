//! Plans of containers made by hand, and the ends of these, for tests of launching.
//!
//! Included with `#[path]`, as `mod.rs` beside it.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead::launch::{End, Running};
use isolators::plan::{LaunchPlan, LinuxNamespaceType, Spec, Stdio};
use oci_spec::runtime::{Linux, LinuxNamespace, Process};

/// Runs `args`, what they write at the end of the file `stdout`.
pub fn by_hand(args: &[&str], linux: Option<Linux>, stdout: &Path) -> LaunchPlan {
    let mut process = Process::default();
    process
        .set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()))
        .set_env(Some(vec!["PATH=/usr/bin:/bin:/usr/sbin:/sbin".to_owned()]))
        .set_cwd(PathBuf::from("/"))
        .set_no_new_privileges(None)
        .set_capabilities(None)
        .set_rlimits(None);
    let mut spec = Spec::default();
    spec.set_process(Some(process))
        .set_root(None)
        .set_mounts(None)
        .set_hostname(None)
        .set_linux(linux);
    let output = || File::options().create(true).append(true).open(stdout);
    LaunchPlan {
        spec,
        executable: None,
        overlay: None,
        ready: None,
        cgroups: Vec::new(),
        file_operations: Vec::new(),
        wild: Vec::new(),
        system_calls: None,
        oom_score_adj: None,
        stdio: Stdio {
            stdin: File::open("/dev/null").expect("null").into(),
            stdout: output().expect("stdout").into(),
            stderr: output().expect("stderr").into(),
        },
        wait_for: Vec::new(),
    }
}

/// New namespaces of these kinds, and nothing else.
pub fn namespaces(kinds: &[LinuxNamespaceType]) -> Linux {
    let mut linux = empty_linux();
    linux.set_namespaces(Some(kinds.iter().map(|kind| namespace(*kind, None)).collect()));
    linux
}

/// Without what the specification has for a default.
pub fn empty_linux() -> Linux {
    let mut linux = Linux::default();
    linux
        .set_namespaces(None)
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_resources(None)
        .set_devices(None);
    linux
}

/// A new one, or the one at `path`.
pub fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// The end of a container, within a time that no test needs.
pub async fn end_of(running: &Running) -> End {
    let end = tokio::time::timeout(Duration::from_secs(20), running.wait());
    end.await.expect("ends in time").expect("a readable record")
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}
