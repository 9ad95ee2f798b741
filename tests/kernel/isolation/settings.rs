//! Clocks, kernel settings, and mounts that are seen on the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::containerizer::{Containerizer, LaunchRequest};
use mesos::mount_propagation::Mode as Propagation;
use mesos::volume::source::{HostPath, Type};
use mesos::volume::{Mode, Source};
use mesos::{LinuxInfo, MountPropagation, Volume};

use crate::{ALL, Place, labelled, mesos_container, require, run};

fn labelled_shell(place: &Place, id: &str, script: &str, label: (&str, &str)) -> LaunchRequest {
    let mut request = place.shell(id, script);
    request.task = labelled(label.0, label.1);
    request
}

fn uptime() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("readable");
    text.split('.').next().expect("seconds").parse().expect("a number")
}

#[tokio::test]
async fn clocks_are_its_own() {
    require!(root, cgroup);
    if !kernel::namespaces::Namespace::Time.supported() {
        return crate::support::skip("clocks_are_its_own", "time namespaces");
    }
    let place = Place::new("clocks", &format!("{ALL},namespaces/time"));
    let native = place.start();
    let look = "cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time";
    let own = std::fs::read_link("/proc/self/ns/time").expect("a namespace");
    let before = uptime();
    let (_, output) = run(&place, &native, place.shell("a", look)).await;
    let lines: Vec<&str> = output.lines().collect();
    let seen: u64 = lines[0].parse().expect("a number");
    assert!((before..=uptime()).contains(&seen), "as the host's: {output}");
    assert_ne!(lines[1], own.to_string_lossy());
    let label = ("time_offsets", "boottime=500000;monotonic=7");
    let (_, output) = run(&place, &native, labelled_shell(&place, "b", look, label)).await;
    let seen: u64 = output.lines().next().expect("a line").parse().expect("a number");
    assert!((before + 500_000..=uptime() + 500_000).contains(&seen), "{output}");
    let bad = labelled_shell(&place, "c", look, ("time_offsets", "realtime=5"));
    let error = native.launch(bad).await.expect_err("no such clock").to_string();
    assert!(error.contains("the clocks are 'boottime' and 'monotonic'"), "{error}");
}

#[tokio::test]
async fn settings_are_the_containers_own_or_refused_by_name() {
    require!(root, cgroup);
    let mut place = Place::new("sysctl", &format!("{ALL},linux/sysctl"));
    let flag = "kernel.msgmax=11111;kernel.msgmnb=22222;net.core.somaxconn=33";
    place.config.isolators.container_sysctls =
        isolators::linux::sysctl::parse(flag).expect("settings");
    let native = place.start();
    let look = "cat /proc/sys/kernel/msgmax /proc/sys/kernel/msgmnb";
    let host = Command::new("sh").args(["-c", look]).output().expect("sh").stdout;
    let host = String::from_utf8(host).expect("text");
    // There is no network of its own, so that part of the flag is not for it.
    let (_, output) = run(&place, &native, place.shell("a", look)).await;
    assert_eq!(output, "11111\n22222\n");
    let request = labelled_shell(&place, "b", look, ("sysctls", "kernel.msgmax=4444"));
    let (_, output) = run(&place, &native, request).await;
    assert_eq!(output, "4444\n22222\n");
    let mut shared = place.shell("c", look);
    let share = LinuxInfo {
        ipc_mode: Some(mesos::linux_info::IpcMode::ShareParent as i32),
        ..LinuxInfo::default()
    };
    shared.container = Some(mesos_container(Some(share.clone())));
    let (_, output) = run(&place, &native, shared.clone()).await;
    assert_eq!(output, host);
    let rows = [
        ("vm.swappiness=1", "'vm.swappiness' is the host's"),
        ("net.core.somaxconn=5", "'net.core.somaxconn' of the container: the container has no net"),
        ("kernel.msgmax=many", "failed to set sysctl kernel.msgmax to 'many'"),
    ];
    for (label, wanted) in rows {
        let request = labelled_shell(&place, "d", look, ("sysctls", label));
        let error = native.launch(request).await.expect_err("must fail").to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let after = Command::new("sh").args(["-c", look]).output().expect("sh").stdout;
    assert_eq!(String::from_utf8(after).expect("text"), host);
}

/// A tmpfs of this test, unmounted with all on it.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf) -> Mounted {
        std::fs::create_dir(&at).expect("mkdir");
        mount(&["-t", "tmpfs", "bulkhead-test"], &at);
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let table = kernel::mounts::table().expect("the mount table");
        for mount in kernel::mounts::below(&table, &self.0) {
            let _ = Command::new("umount").arg("-l").arg(&mount.target).status();
        }
    }
}

fn mount(arguments: &[&str], at: &Path) {
    let status = Command::new("mount").args(arguments).arg(at).status().expect("mount");
    assert!(status.success(), "mount {arguments:?} {}", at.display());
}

fn volume(path: &Path, mode: Propagation) -> Volume {
    let mount_propagation = Some(MountPropagation { mode: Some(mode as i32) });
    let path = path.display().to_string();
    let source = Source {
        r#type: Some(Type::HostPath as i32),
        host_path: Some(HostPath { path, mount_propagation }),
        ..Source::default()
    };
    Volume {
        mode: Mode::Rw as i32,
        container_path: "volume".into(),
        source: Some(source),
        ..Volume::default()
    }
}

fn is_mounted(at: &Path) -> bool {
    kernel::mounts::table().expect("the mount table").iter().any(|mount| mount.target == at)
}

#[tokio::test]
async fn mounts_in_bidirectional_volumes_are_seen_on_the_host() {
    require!(root, cgroup);
    let place = Place::new("bidirectional", ALL);
    let native = place.start();
    let shared = Mounted::new(place.path("shared"));
    mount(&["--make-shared"], &shared.0);
    let data = shared.0.join("data");
    std::fs::create_dir_all(data.join("inner")).expect("mkdir");
    let asking = |id: &str, path: &Path, mode: Propagation, script: &str| {
        let mut request = place.shell(id, script);
        let mut container = mesos_container(None);
        container.volumes = vec![volume(path, mode)];
        request.container = Some(container);
        request
    };
    let script = "mount -t tmpfs inside volume/inner && echo hi > volume/inner/file && echo ok";
    let request = asking("a", &data, Propagation::HostToContainer, script);
    let (_, output) = run(&place, &native, request).await;
    assert_eq!(output, "ok\n");
    assert!(!is_mounted(&data.join("inner")), "one way only");
    let request = asking("b", &data, Propagation::Bidirectional, script);
    let (_, output) = run(&place, &native, request).await;
    assert_eq!(output, "ok\n");
    // It was made for the host, and outlives its maker.
    assert!(is_mounted(&data.join("inner")));
    let text = std::fs::read_to_string(data.join("inner/file")).expect("seen");
    assert_eq!(text, "hi\n");
    let sandbox = place.path("sandbox-b").join("volume");
    assert!(!is_mounted(&sandbox), "the rest of the container's mounts is its own");

    // And the host's mounts are seen inside, as ever.
    std::fs::create_dir(data.join("late")).expect("mkdir");
    let script = "echo ready; while [ ! -e volume/late/file ]; do sleep 0.02; done; echo seen";
    native.launch(asking("c", &data, Propagation::Bidirectional, script)).await.expect("launch");
    place.wait_output("c", "ready").await;
    mount(&["-t", "tmpfs", "outside"], &data.join("late"));
    std::fs::write(data.join("late/file"), "").expect("write");
    assert_eq!(crate::end(&native, "c").await.status, Some(0));

    mount(&["--make-private"], &shared.0);
    let request = asking("d", &data, Propagation::Bidirectional, "true");
    let error = native.launch(request).await.expect_err("private").to_string();
    let wanted = format!("is on '{}', which is no shared mount", shared.0.display());
    assert!(error.contains(&wanted), "{error}");
    drop(shared);
}

#[tokio::test]
async fn a_nested_container_sees_the_shared_memory_of_its_parent() {
    require!(root, cgroup);
    let place = Place::new("shm", ALL);
    let native = place.start();
    let private = |size| LinuxInfo {
        ipc_mode: Some(mesos::linux_info::IpcMode::Private as i32),
        shm_size: size,
        ..LinuxInfo::default()
    };
    let mut parent = place.shell("p", "echo word > /dev/shm/file; echo ready; sleep 1000");
    parent.container = Some(mesos_container(Some(private(Some(4)))));
    native.launch(parent).await.expect("launch");
    place.wait_output("p", "ready").await;
    let rows = [
        ("joined", None, "word\n4096\n"),
        ("private", Some(private(Some(8))), "none\n8192\n"),
        ("default", Some(private(None)), "none\n"),
    ];
    for (id, linux, wanted) in rows {
        let look = "cat /dev/shm/file 2> /dev/null || echo none; \
            df -k /dev/shm | tail -1 | { read a b c; echo $b; }; echo x > /dev/shm/written";
        let mut request = place.shell(id, look);
        request.id =
            mesos::ContainerId { value: id.into(), parent: Some(Box::new(crate::top("p"))) };
        request.container = Some(mesos_container(linux));
        let child = request.id.clone();
        native.launch(request).await.expect("launch");
        assert_eq!(native.wait(&child).await.expect("known").status, Some(0), "{id}");
        native.forget(&child).await;
        assert!(place.output(id).starts_with(wanted), "{id}: {}", place.output(id));
        assert!(!Path::new("/dev/shm/written").exists());
    }
    native.destroy(&crate::top("p"), None).await.expect("known");
    crate::end(&native, "p").await;
}
