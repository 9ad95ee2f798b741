//! What a container sees: namespaces, volumes, environment, rlimits, users.

use std::os::unix::fs::MetadataExt;

use bulkhead::containerizer::{Containerizer, ContainerizerError};
use bulkhead::launch::Engine;
use mesos::linux_info::IpcMode;
use mesos::r_limit_info::{RLimit, r_limit};
use mesos::volume::source::sandbox_path::Type as SandboxType;
use mesos::volume::source::{HostPath, SandboxPath, Type};
use mesos::volume::{Mode, Source};
use mesos::{ContainerId, LinuxInfo, RLimitInfo, Volume};

use crate::{ALL, Place, end, mesos_container, require, run, top};

fn own_namespace(name: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
    link.display().to_string()
}

#[tokio::test]
async fn pids_and_ipc_are_its_own() {
    require!(root, cgroup);
    let place = Place::new("namespaces", ALL);
    let native = place.start();
    let look = "readlink /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/mnt; ls -d /proc/[0-9]* | wc -l";
    let (status, output) = run(&place, &native, place.shell("a", look)).await;
    assert_eq!(status, Some(0), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    for (line, name) in lines.iter().zip(["pid", "ipc", "mnt"]) {
        assert_ne!(*line, own_namespace(name), "{name}");
    }
    // The shim, the shell and what it runs.
    let seen: u32 = lines[3].trim().parse().expect("a number");
    assert!(seen <= 6, "it sees {seen} processes");

    let mut shared = place.shell("b", look);
    let share = LinuxInfo {
        share_pid_namespace: Some(true),
        ipc_mode: Some(IpcMode::ShareParent as i32),
        ..LinuxInfo::default()
    };
    shared.container = Some(mesos_container(Some(share)));
    let (_, output) = run(&place, &native, shared).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], [own_namespace("pid"), own_namespace("ipc")]);

    let mut private =
        place.shell("c", "df -k /dev/shm | tail -1; touch /dev/shm/bulkhead-test && echo ok");
    let linux = LinuxInfo {
        ipc_mode: Some(IpcMode::Private as i32),
        shm_size: Some(8),
        ..LinuxInfo::default()
    };
    private.container = Some(mesos_container(Some(linux)));
    let (_, output) = run(&place, &native, private).await;
    assert!(output.contains(" 8192 ") && output.ends_with("ok\n"), "{output}");
    assert!(!std::path::Path::new("/dev/shm/bulkhead-test").exists());
}

#[tokio::test]
async fn cgroup_root_and_host_name_are_its_own() {
    require!(root, cgroup);
    let place = Place::new("uts", &format!("{ALL},namespaces/cgroup,namespaces/uts"));
    let native = place.start();
    let mut request = place.shell(
        "a",
        "hostname; hostname inside && hostname; readlink /proc/self/ns/cgroup; cat /proc/self/cgroup",
    );
    let mut container = mesos_container(None);
    container.hostname = Some("box".into());
    request.container = Some(container);
    let (_, output) = run(&place, &native, request).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["box", "inside"]);
    assert_ne!(lines[2], own_namespace("cgroup"));
    assert!(!output.contains(&place.config.isolators.cgroups_root), "the path is hidden: {output}");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert!(host.trim() != "box" && host.trim() != "inside");
}

fn volume(container_path: &str, source: Source, mode: Mode) -> Volume {
    Volume {
        mode: mode as i32,
        container_path: container_path.into(),
        source: Some(source),
        ..Volume::default()
    }
}

fn host(path: &std::path::Path) -> Source {
    Source {
        r#type: Some(Type::HostPath as i32),
        host_path: Some(HostPath { path: path.display().to_string(), mount_propagation: None }),
        ..Source::default()
    }
}

#[tokio::test]
async fn host_volumes_are_seen_and_read_only_where_asked() {
    require!(root, cgroup);
    let place = Place::new("volumes", ALL);
    let native = place.start();
    let data = place.path("data");
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::write(data.join("file"), "data\n").expect("write");
    std::fs::write(place.path("single"), "single\n").expect("write");
    let script = "cat rw/file ro/file one /opt/file; echo new > rw/new; echo no > ro/no; echo $?; echo no > one; echo $?";
    let mut request = place.shell("a", script);
    let mut container = mesos_container(None);
    container.volumes = vec![
        volume("rw", host(&data), Mode::Rw),
        volume("ro", host(&data), Mode::Ro),
        volume("one", host(&place.path("single")), Mode::Ro),
        volume("/opt", host(&data), Mode::Ro),
    ];
    request.container = Some(container);
    let (status, output) = run(&place, &native, request).await;
    assert_eq!(status, Some(0), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..4], ["data", "data", "single", "data"]);
    assert!(lines[4] != "0" && lines[5] != "0", "read-only is read-only: {output}");
    assert_eq!(std::fs::read_to_string(data.join("new")).expect("written through"), "new\n");
    assert!(!std::path::Path::new("/opt/file").exists(), "the host does not see it");
}

#[tokio::test]
async fn bad_volumes_are_refused_and_leave_nothing() {
    require!(root, cgroup);
    let place = Place::new("badvolumes", ALL);
    let native = place.start();
    let secret = Source { r#type: Some(Type::Secret as i32), ..Source::default() };
    let csi = Source { r#type: Some(Type::CsiVolume as i32), ..Source::default() };
    let docker = mesos::image::Docker { name: "alpine".into(), ..Default::default() };
    let image = mesos::Image { docker: Some(docker), ..Default::default() };
    let image = Volume { source: None, image: Some(image), ..volume("x", csi.clone(), Mode::Ro) };
    let rows = [
        (volume("x", host("/does/not/exist".as_ref()), Mode::Rw), "/does/not/exist"),
        (volume("/does/not/exist", host("/tmp".as_ref()), Mode::Rw), "must exist"),
        (volume("../x", host("/tmp".as_ref()), Mode::Rw), "'..' is not allowed"),
        (volume("x", secret, Mode::Rw), "is of type SECRET without 'secret'"),
        (volume("x", csi, Mode::Rw), "'volume/csi' is not supported yet"),
        (image, "image 'alpine' at volume 'x': no image provider is configured"),
    ];
    for (volume, wanted) in rows {
        let mut request = place.shell("a", "true");
        let mut container = mesos_container(None);
        container.volumes = vec![volume];
        request.container = Some(container);
        let error = native.launch(request).await.expect_err("must fail");
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(native.containers().is_empty() && native.wait(&top("a")).await.is_none());
        place.check_clean();
    }
}

#[tokio::test]
async fn a_nested_container_shares_what_it_should() {
    require!(root, cgroup);
    let place = Place::new("nested", ALL);
    let native = place.start();
    let parent =
        native.launch(place.shell("p", "sleep 1000")).await.expect("launch").pid.expect("a pid");
    let nested = |id: &str, command: &str, linux: Option<LinuxInfo>| {
        let mut request = place.shell(id, command);
        request.id = ContainerId { value: id.into(), parent: Some(Box::new(top("p"))) };
        let mut container = mesos_container(linux);
        let source = Source {
            r#type: Some(Type::SandboxPath as i32),
            sandbox_path: Some(SandboxPath {
                r#type: Some(SandboxType::Parent as i32),
                path: "shared".into(),
            }),
            ..Source::default()
        };
        container.volumes = vec![volume("seen", source, Mode::Rw)];
        request.container = Some(container);
        request
    };
    let script =
        "cat /proc/self/cgroup; readlink /proc/self/ns/pid /proc/self/ns/ipc; echo hi > seen/file";
    let share = LinuxInfo { share_pid_namespace: Some(true), ..LinuxInfo::default() };
    for (id, linux, same_pids) in [("c1", None, false), ("c2", Some(share), true)] {
        let request = nested(id, script, linux);
        let child = request.id.clone();
        native.launch(request).await.expect("launch");
        assert_eq!(native.wait(&child).await.expect("known").status, Some(0));
        let output = place.output(id);
        let of_parent = |name: &str| {
            let link =
                std::fs::read_link(format!("/proc/{parent}/ns/{name}")).expect("a namespace");
            link.display().to_string()
        };
        assert_eq!(output.contains(&of_parent("pid")), same_pids, "{output}");
        assert!(output.contains(&of_parent("ipc")), "{output}");
        assert!(output.contains(&format!("{}/p", place.config.isolators.cgroups_root)), "{output}");
        let shared = place.path("sandbox-p").join("shared/file");
        assert_eq!(std::fs::read_to_string(&shared).expect("shared"), "hi\n");
        assert!(native.wait(&child).await.is_some(), "kept until it is forgotten");
        native.forget(&child).await;
        assert!(native.wait(&child).await.is_none());
    }
    // The parent's end is its children's.
    let orphan = nested("c3", "sleep 1000", None);
    let child = orphan.id.clone();
    native.launch(orphan).await.expect("launch");
    native.destroy(&top("p"), None).await.expect("known");
    assert_eq!(native.wait(&child).await.expect("known").status, Some(9));
    native.forget(&top("p")).await;
    assert!(native.wait(&child).await.is_none());
    let late = nested("c4", "true", None);
    assert!(matches!(native.launch(late).await, Err(ContainerizerError::Unknown(_))));
}

#[tokio::test]
async fn environment_rlimits_and_user() {
    require!(root, cgroup);
    let place = Place::new("process", ALL);
    let native = place.start();
    let mut request = place.shell(
        "a",
        "echo $A $B $MESOS_SANDBOX; pwd; ulimit -n; id -u; cat /proc/self/oom_score_adj",
    );
    request.environment.insert("A".into(), "agent".into());
    request.environment.insert("B".into(), "agent".into());
    let variable = mesos::environment::Variable {
        name: "B".into(),
        value: Some("command".into()),
        ..Default::default()
    };
    request.command.environment = Some(mesos::Environment { variables: vec![variable] });
    let mut container = mesos_container(None);
    let nofile =
        RLimit { r#type: Some(r_limit::Type::RlmtNofile as i32), soft: Some(123), hard: Some(456) };
    container.rlimit_info = Some(RLimitInfo { rlimits: vec![nofile] });
    request.container = Some(container);
    request.user = Some("nobody".into());
    let sandbox = request.sandbox.clone();
    // The agent makes sandboxes that their users can enter.
    std::os::unix::fs::chown(&sandbox, Some(65534), None).expect("chown");
    let (status, output) = run(&place, &native, request).await;
    assert_eq!(status, Some(0), "{output}");
    let sandbox_text = sandbox.display();
    assert_eq!(output, format!("agent command {sandbox_text}\n{sandbox_text}\n123\n65534\n0\n"));
    assert_eq!(std::fs::metadata(sandbox.join("stdout")).expect("stdout").uid(), 65534);

    let mut unknown = place.shell("b", "true");
    unknown.user = Some("no-such-user".into());
    let error = native.launch(unknown).await.expect_err("must fail").to_string();
    assert!(error.contains("user 'no-such-user' does not exist"), "{error}");
}

#[tokio::test]
async fn posix_isolation_works_with_both_launchers() {
    require!(root, cgroup);
    for engine in [Engine::Linux, Engine::Posix] {
        let mut place = Place::new("posix", "posix/cpu,posix/mem");
        place.config.launcher = engine;
        let native = place.start();
        let request = place.shell("a", "sleep 1000 & sleep 1000 & echo ready; wait");
        native.launch(request).await.expect("launch");
        place.wait_output("a", "ready").await;
        let statistics = native.statistics().await;
        assert!(statistics[0].1.mem_rss_bytes.is_some_and(|rss| rss > 0), "{engine}");
        assert!(statistics[0].1.cpus_user_time_secs.is_some(), "{engine}");
        assert!(native.kill_all(&top("a"), libc::SIGTERM).await);
        let end = end(&native, "a").await;
        assert_eq!(end.status, Some(libc::SIGTERM), "{engine}: {end:?}");
        // A child that outlives the first process is found as well.
        native.launch(place.shell("b", "sleep 1000 & exit 3")).await.expect("launch");
        assert_eq!(crate::end(&native, "b").await.status, Some(3 << 8), "{engine}");
    }
}
