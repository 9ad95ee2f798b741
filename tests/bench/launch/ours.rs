//! The same container through `bulkhead::launch`, as the containerizer does it.

use std::fs::File;
use std::path::Path;

use bulkhead::launch::{Launcher, Running};
use isolators::plan::{CgroupJoin, LaunchPlan, LinuxNamespaceType as Kind, Overlay, Spec, Stdio};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespace, Mount, Process};

use crate::scene::{DEVICES, Instance, MASKED, PROTECTED, Scene};

/// Runs one container to its end.
pub async fn run(scene: &Scene, launcher: &Launcher) {
    let instance = scene.create();
    let running = start(launcher, &instance).await;
    let end = running.wait().await.expect("a readable record");
    assert_eq!(end.status(), Some(0), "our container failed");
    instance.remove();
}

async fn start(launcher: &Launcher, instance: &Instance) -> Running {
    let plan = plan(instance);
    let launching = launcher.launch(&plan, &instance.record()).await.expect("launch");
    launching.release().await.expect("release")
}

fn mount(kind: &str, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_source(Some(Path::new(kind).to_owned()))
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn plan(instance: &Instance) -> LaunchPlan {
    let mut process = Process::default();
    process
        .set_args(Some(vec!["/bin/busybox".to_owned(), "true".to_owned()]))
        .set_env(Some(vec!["PATH=/bin".to_owned()]))
        .set_cwd("/".into())
        .set_capabilities(None)
        .set_rlimits(None);
    let kinds = [Kind::Pid, Kind::Mount, Kind::Ipc, Kind::Uts].map(|kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    });
    let device = |(path, minor): &(&str, u32)| {
        let mut device = LinuxDevice::default();
        device.set_path(path.into()).set_typ(LinuxDeviceType::C).set_major(1);
        device.set_minor(i64::from(*minor));
        device
    };
    let strings = |list: &[&str]| Some(list.iter().map(|path| (*path).to_owned()).collect());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(kinds.into()))
        .set_devices(Some(DEVICES.iter().map(device).collect()))
        .set_masked_paths(strings(&MASKED))
        .set_readonly_paths(strings(&PROTECTED))
        .set_resources(None);
    let mut spec = Spec::default();
    spec.set_process(Some(process)).set_root(None).set_linux(Some(linux));
    spec.set_hostname(None).set_mounts(Some(vec![
        mount("proc", "/proc", &["nosuid", "nodev", "noexec"]),
        mount("tmpfs", "/dev", &["nosuid", "mode=755"]),
        mount("devpts", "/dev/pts", &["nosuid", "newinstance", "ptmxmode=0666"]),
        mount("tmpfs", "/dev/shm", &["nosuid", "mode=1777"]),
        mount("sysfs", "/sys", &["nosuid", "nodev", "noexec", "ro"]),
    ]));
    let null = || File::options().read(true).write(true).open("/dev/null").expect("null").into();
    LaunchPlan {
        spec,
        executable: None,
        ready: None,
        overlay: Some(Overlay {
            lower: vec![instance.lower.clone()],
            upper: instance.upper.clone(),
            work: instance.work.clone(),
        }),
        cgroups: instance.cgroups.iter().cloned().map(CgroupJoin::V1).collect(),
        file_operations: Vec::new(),
        wild: Vec::new(),
        system_calls: None,
        oom_score_adj: None,
        stdio: Stdio { stdin: null(), stdout: null(), stderr: null() },
        wait_for: Vec::new(),
    }
}
