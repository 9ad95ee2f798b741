//! `--userns_remap`: root in a container is nobody on the host, files keep their
//! owners, ids are given once and found again, and ways out lead nowhere.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Class, Containerizer, KnownContainer, LaunchRequest, Output};
use bulkhead::launch::Engine;
use isolators::ids::IdRange;
use mesos::volume::source::sandbox_path::Type as SandboxType;
use mesos::volume::source::{HostPath, SandboxPath, Type};
use mesos::volume::{Mode, Source};
use mesos::{ContainerId, LinuxInfo, Volume};

use crate::process::as_nobody;
use crate::recovery::in_a_life;
use crate::{ALL, Place, end, mesos_container, require, run, top};

/// The first ids of two containers.
const BASES: [u32; 2] = [400_000, 465_536];

/// Room for two containers at a time.
fn remapped(name: &str, isolation: &str) -> Place {
    let mut place = Place::new(name, isolation);
    place.config.isolators.userns_remap = Some(IdRange::parse("[400000-531071]").expect("a range"));
    place.config.isolators.disk.work_dir = place.path("");
    std::fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o755)).expect("chmod");
    place
}

fn users(pid: u32) -> (u32, u32) {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map");
    let numbers: Vec<u32> = map.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    assert_eq!((numbers[0], numbers.len()), (0, 3), "{map}");
    (numbers[1], numbers[2])
}

fn owner(path: &Path) -> (u32, u32) {
    let data = std::fs::symlink_metadata(path).expect("it is there");
    (data.uid(), data.gid())
}

fn volume(container_path: &str, source: Source) -> Volume {
    let container_path = container_path.to_owned();
    Volume { mode: Mode::Rw as i32, container_path, source: Some(source), ..Volume::default() }
}

fn host(path: &Path) -> Source {
    Source {
        r#type: Some(Type::HostPath as i32),
        host_path: Some(HostPath { path: path.display().to_string(), mount_propagation: None }),
        ..Source::default()
    }
}

fn of_parent(path: &str) -> Source {
    let r#type = Some(SandboxType::Parent as i32);
    Source {
        r#type: Some(Type::SandboxPath as i32),
        sandbox_path: Some(SandboxPath { r#type, path: path.into() }),
        ..Source::default()
    }
}

async fn destroy(native: &Native, id: &str) {
    native.destroy(&top(id), None).await.expect("known");
    end(native, id).await;
}

#[tokio::test]
async fn ids_are_others_outside_and_given_once() {
    require!(root, cgroup);
    let place = remapped("remap", ALL);
    let native = place.start();
    let mut bases = Vec::new();
    for id in ["a", "b"] {
        let pid =
            native.launch(place.shell(id, "sleep 1000")).await.expect("launch").pid.expect("a pid");
        let (base, count) = users(pid);
        assert_eq!(count, 65536);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        for field in ["Uid", "Gid"] {
            let line = format!("{field}:\t{base}\t{base}\t{base}\t{base}");
            assert!(status.contains(&line), "{status}");
        }
        bases.push(base);
    }
    assert_eq!(bases, BASES);
    let error = native.launch(place.shell("c", "true")).await.expect_err("no ids are left");
    assert!(error.to_string().contains("every block of --userns_remap is in use"), "{error}");
    destroy(&native, "a").await;
    let pid =
        native.launch(place.shell("d", "sleep 1000")).await.expect("launch").pid.expect("a pid");
    assert_eq!(users(pid).0, BASES[0]);
    destroy(&native, "b").await;
    destroy(&native, "d").await;
}

#[tokio::test]
async fn files_in_sandbox_and_volumes_keep_their_owners() {
    require!(root, cgroup);
    let place = remapped("owners", ALL);
    let native = place.start();
    let data = place.path("data");
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::write(data.join("file"), "data\n").expect("write");
    chown(&data, Some(1234), Some(1235)).expect("chown");
    chown(data.join("file"), Some(1234), Some(1235)).expect("chown");
    let secret = place.path("secret");
    std::fs::write(&secret, "SECRET").expect("write");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("chmod");
    let script = format!(
        "id -u; stat -c '%u %g' . volume/file {0}; echo made > made; echo new > volume/new; \
         chown 55:56 volume/new; mkdir -p dir/deep; cat {0} || echo refused",
        secret.display()
    );
    let mut request = place.shell("a", &script);
    let mut container = mesos_container(None);
    container.volumes = vec![volume("volume", host(&data))];
    request.container = Some(container);
    let sandbox = request.sandbox.clone();
    let (status, output) = run(&place, &native, request).await;
    assert_eq!(status, Some(0), "{output}");
    // What is the host's and not mapped is nobody's.
    assert_eq!(output, "0\n0 0\n1234 1235\n65534 65534\nrefused\n");
    assert_eq!(owner(&sandbox.join("made")), (0, 0));
    assert_eq!(owner(&sandbox.join("dir/deep")), (0, 0));
    assert_eq!(owner(&data.join("new")), (55, 56));

    // By name as well as by descriptor, and at the end of what is there.
    let script = "id -u; echo made > made; stat -c %u made stdout; echo again > /dev/stdout";
    let request = as_nobody(place.shell("b", script));
    let sandbox = request.sandbox.clone();
    let (status, output) = run(&place, &native, request).await;
    assert_eq!((status, output.as_str()), (Some(0), "again\n"), "a shell truncates");
    let script = "id -u; stat -c %u made stdout; echo again >> /dev/stdout";
    let (status, output) = run(&place, &native, as_nobody(place.shell("b", script))).await;
    assert_eq!((status, output.as_str()), (Some(0), "again\n65534\n65534\n65534\nagain\n"));
    assert_eq!(owner(&sandbox.join("made")).0, 65534);
    assert_eq!(owner(&sandbox.join("stdout")).0, 65534);
}

#[tokio::test]
async fn nested_containers_and_guests_are_in_their_parents_ids() {
    require!(root, cgroup);
    let place = remapped("family", &format!("{ALL},namespaces/time"));
    let native = place.start();
    let mut parent = place.shell("p", "echo shm > /dev/shm/word; echo ready; sleep 1000");
    let linux = LinuxInfo {
        ipc_mode: Some(mesos::linux_info::IpcMode::Private as i32),
        ..LinuxInfo::default()
    };
    parent.container = Some(mesos_container(Some(linux)));
    let pid = native.launch(parent).await.expect("launch").pid.expect("a pid");
    place.wait_output("p", "ready").await;
    let namespaces = ["user", "ipc", "time"];
    let links: Vec<String> = namespaces
        .iter()
        .map(|name| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace"))
        .map(|link| link.display().to_string())
        .collect();
    let look = "cd /proc/self/ns && readlink user ipc time; cat /dev/shm/word";
    let inside = |id: &str, command: &str| {
        let mut request = place.shell(id, command);
        request.id = ContainerId { value: id.into(), parent: Some(Box::new(top("p"))) };
        request
    };
    let wanted = format!("{}\nshm\n", links.join("\n"));

    let mut nested = inside("n", &format!("{look}; echo hi > $MESOS_SANDBOX/seen/file"));
    let mut container = mesos_container(None);
    container.volumes = vec![volume("seen", of_parent("shared"))];
    nested.container = Some(container);
    let id = nested.id.clone();
    native.launch(nested).await.expect("launch");
    assert_eq!(native.wait(&id).await.expect("known").status, Some(0), "{}", place.output("n"));
    assert_eq!(place.output("n"), wanted);
    assert_eq!(owner(&place.path("sandbox-p").join("shared/file")), (0, 0));
    native.forget(&id).await;

    let (read, write) = std::io::pipe().expect("a pipe");
    let null = std::fs::File::open("/dev/null").expect("null");
    let pipes: [std::os::fd::OwnedFd; 3] =
        [null.into(), write.try_clone().expect("a copy").into(), write.into()];
    let mut guest = inside("g", &format!("{look}; id -u"));
    guest.class = Class::Debug(Output::Pipes(Arc::new(pipes)));
    let id = guest.id.clone();
    native.launch(guest).await.expect("launch");
    assert_eq!(native.wait(&id).await.expect("known").status, Some(0));
    native.forget(&id).await;
    assert_eq!(std::io::read_to_string(read).expect("readable"), format!("{wanted}0\n"));
    destroy(&native, "p").await;
}

#[test]
fn ids_in_use_are_found_again() {
    require!(root, cgroup);
    let place = remapped("again", ALL);
    let request = place.shell("a", "sleep 1000");
    in_a_life(async {
        let native = place.start();
        let pid = native.launch(request.clone()).await.expect("launch").pid.expect("a pid");
        assert_eq!(users(pid).0, BASES[0]);
    });
    in_a_life(async {
        let native = place.start();
        let known = KnownContainer { request: request.clone(), pid: None };
        native.recover(vec![known]).await.expect("recover");
        let pid = native
            .launch(place.shell("b", "sleep 1000"))
            .await
            .expect("launch")
            .pid
            .expect("a pid");
        assert_eq!(users(pid).0, BASES[1], "the first block is taken");
        let error = native.launch(place.shell("c", "true")).await.expect_err("both are");
        assert!(error.to_string().contains("--userns_remap"), "{error}");
        destroy(&native, "a").await;
        let pid = native
            .launch(place.shell("d", "sleep 1000"))
            .await
            .expect("launch")
            .pid
            .expect("a pid");
        assert_eq!(users(pid).0, BASES[0]);
        destroy(&native, "b").await;
        destroy(&native, "d").await;
    });
}

/// The agent dies at any moment of a launch: the ids come back with the next one.
#[test]
fn interrupted_launches_give_their_ids_back() {
    require!(root, cgroup);
    let place = remapped("interrupted", ALL);
    for moment in 0..12u64 {
        let id = format!("a{moment}");
        let request = place.shell(&id, "sleep 1000");
        in_a_life(async {
            let native = place.start();
            let wait = tokio::time::sleep(std::time::Duration::from_micros(moment * moment * 250));
            tokio::select! {
                launched = native.launch(request) => { launched.expect("launch"); }
                () = wait => {}
            }
        });
        in_a_life(async {
            let native = place.start();
            native.recover(Vec::new()).await.expect("recover");
            let start = std::time::Instant::now();
            // Destroyed in the background: nobody knows them.
            while !native.containers().is_empty() {
                assert!(start.elapsed() < crate::PATIENCE, "the orphan stays");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            for id in ["x", "y"] {
                native.launch(place.shell(id, "sleep 1000")).await.expect("both blocks are free");
            }
            destroy(&native, "x").await;
            destroy(&native, "y").await;
        });
        place.check_clean();
    }
}

#[tokio::test]
async fn root_of_a_remapped_container_gets_nowhere() {
    require!(root, cgroup);
    let place = remapped("nowhere", ALL);
    let native = place.start();
    native.launch(place.shell("victim", "sleep 1000")).await.expect("launch");
    let secret = place.path("secret");
    std::fs::write(&secret, "SECRET").expect("write");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("chmod");
    let (pid, secret) = (std::process::id(), secret.display().to_string());
    let mut attempts: Vec<String> = [
        "mknod null c 1 3",
        "mount -t tmpfs none /mnt",
        "mount --bind / /mnt",
        "umount -l /proc",
        "hostname other",
        "unshare -m umount /proc",
        "nsenter -t 1 -m true",
        "echo 1 > /proc/sys/kernel/panic",
        ": >> /proc/sysrq-trigger",
        ": >> /proc/sys/kernel/core_pattern",
        ": >> /sys/kernel/uevent_helper",
        "mkdir /bulkhead-was-here",
        "chown 0 /tmp",
        "chmod 700 /tmp",
        "touch /etc/passwd",
        "dmesg -C",
        "renice -n -20 $$",
    ]
    .map(str::to_owned)
    .into();
    attempts.push(format!("cat {secret}"));
    attempts.push(format!("chown 0 {secret}"));
    attempts.push(format!("ln {secret} link && cat link"));
    for dir in place.cgroups("victim").iter().chain(&place.cgroup_roots()) {
        let dir = dir.display();
        attempts.push(format!("echo $$ > {dir}/cgroup.procs"));
        attempts.push(format!("mkdir {dir}/child"));
    }
    let script: Vec<String> = attempts
        .iter()
        .map(|line| format!("( {line} ) > /dev/null 2>&1 && echo 'ESCAPED: {line}'"))
        .collect();
    let script = format!("{}\necho over", script.join("\n"));
    let (_, output) = run(&place, &native, place.shell("a", &script)).await;
    assert_eq!(output, "over\n");

    // In the host's pid namespace the host's processes are seen, but not to be touched.
    let script = format!(
        "kill -0 {pid} && echo kill; ( : >> /proc/{pid}/mem ) && echo mem
         ls /proc/{pid}/root/ > /dev/null && echo root; cat /proc/{pid}/environ && echo environ
         echo over"
    );
    let mut request = place.shell("b", &format!("{{ {script}; }} 2> /dev/null"));
    let share = LinuxInfo { share_pid_namespace: Some(true), ..LinuxInfo::default() };
    request.container = Some(mesos_container(Some(share)));
    destroy(&native, "victim").await;
    let (_, output) = run(&place, &native, request).await;
    assert_eq!(output, "over\n");
    assert!(!Path::new("/bulkhead-was-here").exists());

    // A set-user-id file of the host's root gives nothing: that user is not there.
    let copy = place.path("id");
    std::fs::copy("/usr/bin/id", &copy).expect("copy");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o6755)).expect("chmod");
    let request = as_nobody(place.shell("c", &format!("{} -u", copy.display())));
    let (_, output) = run(&place, &native, request).await;
    assert_eq!(output, "65534\n");
}

fn refused(change: impl FnOnce(&mut Place)) -> String {
    let mut place = remapped("refused", ALL);
    change(&mut place);
    match Native::new(place.config.clone()) {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_remapped_is_said_at_start() {
    require!(root, cgroup);
    let error = refused(|place| place.config.isolators.disk.work_dir = "/proc/sys".into());
    let wanted = "the file system of the work dir '/proc/sys' cannot map ids (Linux 5.12";
    assert!(error.contains(wanted), "{error}");
    let error = refused(|place| place.config.isolation = "cgroups/cpu".into());
    assert!(error.contains("without 'filesystem/linux'"), "{error}");
    let error = refused(|place| place.config.launcher = Engine::Posix);
    assert!(error.contains("--userns_remap needs --launcher=linux, not posix"), "{error}");
    let error = refused(|place| {
        place.config.isolators.userns_remap = None;
        place.config.isolation.push_str(",namespaces/user");
    });
    assert!(error.contains("without --userns_remap"), "{error}");
}

#[tokio::test]
async fn a_volume_that_cannot_be_mapped_fails_its_launch_only() {
    require!(root, cgroup);
    let place = remapped("unmapped", ALL);
    let native = place.start();
    let mut request: LaunchRequest = place.shell("a", "true");
    let mut container = mesos_container(None);
    container.volumes = vec![volume("x", host("/proc/sys".as_ref()))];
    request.container = Some(container);
    let error = native.launch(request).await.expect_err("procfs has no owners").to_string();
    assert!(error.contains("failed to map the ids of /proc/sys"), "{error}");
    place.check_clean();
    let (status, _) = run(&place, &native, place.shell("b", "true")).await;
    assert_eq!(status, Some(0));
}
