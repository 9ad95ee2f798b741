//! `cgroups/devices`: real device nodes, opened by real processes.

use std::path::{Path, PathBuf};
use std::process::Command;

use kernel::bpf::{self, device::Access, device::Kind, device::Rule};
use kernel::cgroup::{Cgroup, Hierarchies, Version};
use mesos::{Device, DeviceAccess, device_access};

use crate::{Place, have_controller, require, run};

/// Prints `r NAME` and `w NAME` for what can be opened.
const LOOK: &str = "for d in null zero random kmsg; do \
    (exec 3</dev/$d) 2>/dev/null && echo r $d; (exec 3>>/dev/$d) 2>/dev/null && echo w $d; done; true";

const DEFAULT: &str = "r null\nw null\nr zero\nw zero\nr random\nw random\n";

#[tokio::test]
async fn a_device_that_is_not_allowed_cannot_be_opened() {
    require!(root, cgroup);
    if !have_controller("devices::a_device_that_is_not_allowed_cannot_be_opened", "devices") {
        return;
    }
    let free = Place::new("devfree", "cgroups/cpu");
    let native = free.start();
    let (_, output) = run(&free, &native, free.shell("a", LOOK)).await;
    assert!(output.contains("r kmsg\nw kmsg"), "the machine itself refuses: {output}");

    let place = Place::new("devices", "cgroups/devices");
    let native = place.start();
    let (_, output) = run(&place, &native, place.shell("a", LOOK)).await;
    assert_eq!(output, DEFAULT);

    let mut place = Place::new("devallow", "cgroups/devices");
    place.config.isolators.cgroups.allowed_devices = vec![DeviceAccess {
        device: Device { path: Some("/dev/kmsg".into()), number: None },
        access: device_access::Access { read: Some(true), ..device_access::Access::default() },
    }];
    let native = place.start();
    let (_, output) = run(&place, &native, place.shell("a", LOOK)).await;
    assert_eq!(output, format!("{DEFAULT}r kmsg\n"));
    // Making a node is allowed, using it is not.
    let node = place.path("node");
    let make = format!("mknod {0} b 7 250 && echo made; (exec 3<{0}) 2>&1", node.display());
    let (_, output) = run(&place, &native, place.shell("b", &make)).await;
    assert!(output.starts_with("made") && output.contains("ermitted"), "{output}");
}

/// A cgroup of our own on v2, and what a shell in it says.
struct Scratch(Cgroup);

impl Scratch {
    fn new(mount: &Path) -> Scratch {
        let path = mount.join(format!("bulkhead-test-bpf-{}", std::process::id()));
        let group = Cgroup::new(Version::V2, path);
        group.create().expect("a cgroup");
        Scratch(group)
    }

    fn look(&self) -> String {
        let script = format!("echo $$ > {} && {LOOK}", self.0.file("cgroup.procs").display());
        let output = Command::new("sh").arg("-c").arg(script).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.remove(std::time::Duration::from_secs(5));
    }
}

/// The program is replaced, others' stay, and everything must agree.
#[test]
fn device_programs_are_replaced_and_those_of_others_stay() {
    require!(root);
    let found = Hierarchies::detect().expect("the mount table");
    let Some(mount): Option<PathBuf> = found.unified().map(|h| h.mount.clone()) else {
        crate::support::skip("devices::device_programs_are_replaced", "a cgroup2 mount");
        return;
    };
    let scratch = Scratch::new(&mount);
    let path = scratch.0.path();
    let rule = |minor, access| Rule::char(Some(1), Some(minor), access);
    let everything = Rule { kind: Kind::All, major: None, minor: None, access: Access::ALL };
    bpf::allow_as("somebody_else", path, &[everything]).expect("another program");
    bpf::allow(path, &[rule(3, Access::ALL)]).expect("a program");
    assert_eq!(bpf::names(path).expect("names"), ["somebody_else", bpf::NAME]);
    assert_eq!(scratch.look(), "r null\nw null\n");
    let read = Access { read: true, ..Access::default() };
    bpf::allow(path, &[rule(3, Access::ALL), rule(5, read)]).expect("again");
    assert_eq!(bpf::names(path).expect("names").len(), 2);
    assert_eq!(scratch.look(), "r null\nw null\nr zero\n");
    // The other one has its say too.
    bpf::allow_as("somebody_else", path, &[rule(3, Access::ALL)]).expect("another program");
    assert_eq!(scratch.look(), "r null\nw null\n");
    assert!(bpf::allow(Path::new("/proc"), &[]).is_err());
}
