//! Ways out of a container, each tried from inside as root: all of them fail.
//!
//! The containers have what an operator gives to tasks that are not trusted:
//! namespaces, the capabilities that Docker leaves, no new privileges, the
//! built-in profile. They share the host's files, which is the hard case.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead::containerizer::{Containerizer, LaunchRequest};
use mesos::volume::source::sandbox_path::Type as SandboxType;
use mesos::volume::source::{SandboxPath, Type};
use mesos::volume::{Mode, Source};
use mesos::{ContainerId, LinuxInfo, Volume};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::process::{as_nobody, caps, with};
use crate::{ALL, Place, have_probe, mesos_container, require, run, top};

const DOCKER: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Untrusted tasks; `filter` is whether the profile is in force as well. Every
/// attempt must fail with the capabilities alone, too.
fn prison(name: &str, filter: bool) -> Place {
    let mut place = with(name, "linux/capabilities,linux/nnp,linux/seccomp");
    place.config.isolators.bounding_capabilities = Some(caps(&DOCKER));
    place.config.isolators.seccomp_profile_name = filter.then(|| "default".into());
    place
}

/// Runs each line in a shell of its own, in one container; none may succeed.
async fn all_fail(attempts: &[String]) {
    for filter in [false, true] {
        let place = prison("escape", filter);
        let native = place.start();
        let script: Vec<String> = attempts
            .iter()
            .map(|line| format!("( {line} ) > /dev/null 2>&1 && echo 'ESCAPED: {line}'"))
            .collect();
        let script = format!("{}; echo over", script.join("\n").replace('\n', ";\n"));
        let (_, output) = run(&place, &native, place.shell("a", &script)).await;
        assert_eq!(output, "over\n", "with filter: {filter}");
    }
}

fn lines(attempts: &[&str]) -> Vec<String> {
    attempts.iter().map(|line| (*line).to_owned()).collect()
}

#[tokio::test]
async fn the_hosts_mounts_and_root_are_out_of_reach() {
    require!(root, cgroup);
    all_fail(&lines(&[
        "mount -t tmpfs none /mnt",
        "mount --bind / /mnt",
        "mount -o remount,rw /sys",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount -l /proc",
        "unshare -m true",
        // A user namespace gives capabilities, but not over mounts from outside.
        "unshare -rm umount /proc/sys",
        "unshare -rm mount -o remount,bind,rw /proc/sys",
        "unshare -rm mount -o remount,bind,rw /sys",
        "nsenter -t 1 -m true",
        "nsenter --mount=/proc/1/ns/mnt true",
    ]))
    .await;
}

#[tokio::test]
async fn the_kernels_settings_are_read_only() {
    require!(root, cgroup);
    let files =
        ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger"];
    let before = std::fs::read_to_string(files[0]).expect("readable");
    let mut attempts: Vec<String> = files.iter().map(|file| format!(": >> {file}")).collect();
    attempts.extend(lines(&[
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/kernel/panic",
        ": >> /sys/kernel/uevent_helper",
        ": >> /sys/power/state",
        "head -c 1 /proc/kcore | grep -q .",
        "grep -q . /proc/keys",
    ]));
    all_fail(&attempts).await;
    assert_eq!(std::fs::read_to_string(files[0]).expect("readable"), before);
}

#[tokio::test]
async fn devices_cannot_be_made() {
    require!(root, cgroup);
    all_fail(&lines(&["mknod disk b 254 0", "mknod mem c 1 1", "mknod /dev/bulkhead b 254 0"]))
        .await;
    assert!(!Path::new("/dev/bulkhead").exists());
}

#[tokio::test]
async fn cgroups_cannot_be_written() {
    require!(root, cgroup);
    for filter in [false, true] {
        let place = prison("cgroups", filter);
        let native = place.start();
        native.launch(place.shell("a", "sleep 1000")).await.expect("launch");
        let own = place.cgroups("a");
        assert!(!own.is_empty());
        let attempts: Vec<String> = own
            .iter()
            .flat_map(|dir| {
                let dir = dir.display();
                [
                    format!("echo $$ > {dir}/cgroup.procs"),
                    format!("echo -1 > {dir}/memory.limit_in_bytes"),
                    format!("echo max > {dir}/pids.max"),
                    format!("echo max > {dir}/memory.max"),
                    format!("mkdir {dir}/child"),
                    format!("echo $$ > {dir}/../../cgroup.procs"),
                ]
            })
            .collect();
        let script: Vec<String> = attempts
            .iter()
            .map(|line| format!("( {line} ) 2> /dev/null && echo 'ESCAPED: {line}'"))
            .collect();
        let script = format!("{}\necho over", script.join("\n"));
        let (_, output) = run(&place, &native, place.shell("b", &script)).await;
        assert_eq!(output, "over\n");
        native.destroy(&top("a"), None).await.expect("known");
        crate::end(&native, "a").await;
    }
}

#[tokio::test]
async fn the_hosts_processes_cannot_be_traced() {
    require!(root, cgroup);
    if !have_probe("the_hosts_processes_cannot_be_traced") {
        return;
    }
    let victim = std::process::id();
    for filter in [false, true] {
        let place = prison("trace", filter);
        let native = place.start();
        // Not even there, in a pid namespace of its own.
        let (_, output) = run(
            &place,
            &native,
            place.shell("a", &format!("test -e /proc/{victim}/comm && grep -c . /proc/1/environ")),
        )
        .await;
        assert_eq!(output, "");
        // Seen, but not to be touched, in the host's.
        let share = LinuxInfo { share_pid_namespace: Some(true), ..LinuxInfo::default() };
        let shared = |mut request: LaunchRequest| {
            request.container = Some(mesos_container(Some(share.clone())));
            request
        };
        let pid = victim.to_string();
        let (_, output) = run(&place, &native, shared(place.probe("b", &["trace", &pid]))).await;
        assert_eq!(output, "errno 1\n");
        let script = format!(
            "( : >> /proc/{victim}/mem ) 2> /dev/null && echo mem
             ( ls /proc/{victim}/root/ ) > /dev/null 2>&1 && echo root
             ( cat /proc/{victim}/environ ) > /dev/null 2>&1 && echo environ
             echo over"
        );
        let (_, output) = run(&place, &native, shared(place.shell("c", &script))).await;
        assert_eq!(output, "over\n");
    }
}

#[tokio::test]
async fn file_capabilities_and_set_user_id_give_nothing() {
    require!(root, cgroup);
    let place = prison("setuid", true);
    let native = place.start();
    let request = as_nobody(place.shell("a", "./id -u; grep CapEff /proc/self/status"));
    let copy = request.sandbox.join("id");
    std::fs::copy("/usr/bin/id", &copy).expect("copy");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o6755);
    std::fs::set_permissions(&copy, mode).expect("chmod");
    let (_, output) = run(&place, &native, request).await;
    assert_eq!(output, "65534\nCapEff:\t0000000000000000\n");
}

fn of_parent(container_path: &str, path: &str) -> Volume {
    let source = Source {
        r#type: Some(Type::SandboxPath as i32),
        sandbox_path: Some(SandboxPath {
            r#type: Some(SandboxType::Parent as i32),
            path: path.into(),
        }),
        ..Source::default()
    };
    Volume {
        mode: Mode::Rw as i32,
        container_path: container_path.into(),
        source: Some(source),
        ..Volume::default()
    }
}

/// Swaps two names for as long as it lives.
struct Swapper(Option<std::thread::JoinHandle<()>>, std::sync::Arc<AtomicBool>);

impl Swapper {
    fn new(one: PathBuf, two: PathBuf) -> Swapper {
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let swap = move || {
            let exchange = || {
                renameat2(AT_FDCWD, &one, AT_FDCWD, &two, RenameFlags::RENAME_EXCHANGE)
                    .expect("exchange");
            };
            // The link for a moment, at ever other times: often enough a launch
            // sees it at some of its steps only, and some launches never do.
            for round in 0_u64.. {
                exchange();
                std::thread::sleep(Duration::from_micros(round * 37 % 200));
                exchange();
                std::thread::sleep(Duration::from_micros(round * 131 % 3000));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        Swapper(Some(std::thread::spawn(swap)), done)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.take().map(std::thread::JoinHandle::join);
    }
}

/// A task's executor swaps directories of its sandbox for links to the host's
/// while nested containers with volumes there are launched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_swapped_for_links_lead_nowhere() {
    require!(root, cgroup);
    let place = Place::new("swap", ALL);
    let native = place.start();
    native.launch(place.shell("p", "sleep 1000")).await.expect("launch");
    let sandbox = place.path("sandbox-p");
    let outside = place.path("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    std::fs::write(outside.join("secret"), "SECRET").expect("write");
    // The source of a volume, and the directory that holds its mount point.
    for name in ["data", "point"] {
        std::fs::create_dir(sandbox.join(name)).expect("mkdir");
        let link = sandbox.join(format!("{name}-link"));
        std::os::unix::fs::symlink(&outside, link).expect("link");
    }
    let (mut ran, mut refused) = (0, 0);
    {
        let _source = Swapper::new(sandbox.join("data"), sandbox.join("data-link"));
        let _target = Swapper::new(sandbox.join("point"), sandbox.join("point-link"));
        for i in 0..60 {
            let id = format!("c{i}");
            let script = "cat seen/secret point/*/secret; touch seen/mark; echo over";
            let mut request = place.shell(&id, script);
            // As with Mesos, the nested sandbox is in the parent's hands.
            request.sandbox.clone_from(&sandbox);
            request.id = ContainerId { value: id.clone(), parent: Some(Box::new(top("p"))) };
            let mut container = mesos_container(None);
            container.volumes =
                vec![of_parent("seen", "data"), of_parent(&format!("point/{i}"), "data")];
            request.container = Some(container);
            let child = request.id.clone();
            match native.launch(request).await {
                Ok(_) => {
                    native.wait(&child).await.expect("known");
                    native.forget(&child).await;
                    ran += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    native.destroy(&top("p"), None).await.expect("known");
    crate::end(&native, "p").await;
    let output = std::fs::read_to_string(sandbox.join("stdout")).unwrap_or_default();
    assert!(!output.contains("SECRET"), "{output}");
    let left: Vec<_> =
        std::fs::read_dir(&outside).expect("readable").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["secret"], "after {ran} launches and {refused} refusals");
    println!("{ran} launches, {refused} refusals");
    assert!(ran > 0, "some must have hit the directories");
}
