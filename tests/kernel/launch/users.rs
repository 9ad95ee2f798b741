//! User namespaces: ids are others outside, files keep their owners.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use bulkhead::launch::{Engine, Step};
use isolators::plan::{LaunchPlan, LinuxNamespaceType as Kind, Overlay};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::files::mount;
use crate::{Fixture, busybox_root, end_of, namespace, require, root_at};

/// The first id outside.
pub(crate) const BASE: u32 = 300_000;

fn mapping(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
    let builder = LinuxIdMappingBuilder::default().container_id(inside).host_id(outside);
    builder.size(size).build().expect("complete")
}

/// Gives the container users of its own.
pub(crate) fn remap(plan: &mut LaunchPlan) {
    let linux = plan.spec.linux_mut().as_mut().expect("set");
    let mut all = linux.namespaces().clone().unwrap_or_default();
    all.push(namespace(Kind::User, None));
    let ids = vec![mapping(0, BASE, 65536)];
    linux.set_namespaces(Some(all)).set_uid_mappings(Some(ids.clone())).set_gid_mappings(Some(ids));
}

pub(crate) fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).expect("chmod");
}

fn owner(path: &Path) -> (u32, u32) {
    let data = std::fs::symlink_metadata(path).expect("it is there");
    (data.uid(), data.gid())
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    require!(root);
    let fixture = Fixture::new("users", Engine::Linux);
    open_to_all(&fixture.path(""));
    let secret = fixture.path("secret");
    std::fs::write(&secret, "SECRET").expect("write");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("chmod");
    let script = format!(
        "id -u; id -g; grep CapEff /proc/self/status; cat /proc/self/uid_map; cat {}; \
         mknod /tmp/node c 1 3; mount -t tmpfs none /mnt; kill -0 {}; echo ready; sleep 1000",
        secret.display(),
        std::process::id(),
    );
    let mut plan =
        fixture.plan_in(&[Kind::Mount, Kind::Ipc], &["sh", "-c", &format!("{{ {script}; }} 2>&1")]);
    remap(&mut plan);
    let running = fixture.launch(&plan).await.expect("launch");
    crate::until("ready", || fixture.output().contains("ready")).await;
    let output = fixture.output();
    assert!(output.starts_with("0\n0\nCapEff:"), "{output}");
    assert!(output.contains(&format!("0     {BASE}      65536")), "{output}");
    assert!(!output.contains("SECRET"), "{output}");
    for word in ["Permission denied", "mknod", "mount:", "kill"] {
        assert!(output.contains(word), "{word}: {output}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid()));
    let status = status.expect("its status");
    for field in ["Uid", "Gid"] {
        assert!(status.contains(&format!("{field}:\t{BASE}\t{BASE}\t{BASE}\t{BASE}")), "{status}");
    }
    running.signal(libc::SIGKILL).expect("signal");
    end_of(&running).await;
}

#[tokio::test]
async fn files_of_mapped_mounts_keep_their_owners() {
    require!(root);
    let fixture = Fixture::new("mapped", Engine::Linux);
    open_to_all(&fixture.path(""));
    let (mine, theirs) = (fixture.path("mine"), fixture.path("theirs"));
    for dir in [&mine, &theirs] {
        std::fs::create_dir(dir).expect("mkdir");
        std::fs::write(dir.join("file"), "x").expect("write");
        chown(dir, Some(1000), Some(1001)).expect("chown");
        chown(dir.join("file"), Some(1000), Some(1001)).expect("chown");
    }
    let inside = fixture.path("inside");
    std::fs::create_dir(&inside).expect("mkdir");
    let script = format!(
        "stat -c '%u %g' {0}/file {1}/file; echo new > {0}/new; echo new > {1}/new; \
         cd {0} && echo here > here && chown 7:8 new && mkdir dir",
        inside.display(),
        theirs.display(),
    );
    let mut plan = fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", &script]);
    remap(&mut plan);
    plan.spec.process_mut().as_mut().expect("set").user_mut().set_uid(1000).set_gid(1001);
    let target = inside.display().to_string();
    plan.spec.set_mounts(Some(vec![mount(&mine, &target, "bind", &["rbind", "ridmap"])]));
    let (_, output) = fixture.run(&plan).await;
    // What is not mapped belongs to nobody, and is closed to the user of that number.
    assert!(output.starts_with("1000 1001\n65534 65534\n"), "{output}");
    assert_eq!(output.matches("Permission denied").count(), 1, "{output}");
    assert!(!theirs.join("new").exists());
    assert_eq!(owner(&mine.join("here")), (1000, 1001));
    assert_eq!(owner(&mine.join("new")), (1000, 1001), "only root may give files away");
    assert_eq!(owner(&inside), (0, 0), "the host's own mount is as it was");
    // Root may, within its ids.
    plan.spec.process_mut().as_mut().expect("set").user_mut().set_uid(0).set_gid(0);
    let (status, output) = fixture.run(&plan).await;
    assert_eq!(status, Some(0), "{output}");
    assert_eq!(owner(&mine.join("new")), (7, 8));
    assert_eq!(owner(&mine.join("dir")), (0, 0));
}

/// What the container's root file system shows and takes, as a directory and as an
/// overlay.
#[tokio::test]
async fn an_image_belongs_to_the_containers_root() {
    require!(root, busybox, overlay);
    let fixture = Fixture::new("image", Engine::Linux);
    open_to_all(&fixture.path(""));
    let (lower, upper, work) =
        (fixture.path("root"), fixture.path("layers/upper"), fixture.path("layers/work"));
    busybox_root(&lower);
    std::fs::create_dir(lower.join("etc")).expect("mkdir");
    std::fs::write(lower.join("etc/shadow"), "own secret\n").expect("write");
    let mode = PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(lower.join("etc/shadow"), mode).expect("chmod");
    for dir in [&upper, &work] {
        std::fs::create_dir_all(dir).expect("mkdir");
    }
    for overlaid in [false, true] {
        let script = "stat -c '%u %g' / /etc/shadow /dev /dev/null /volume; cat /etc/shadow; \
            echo x > /made; echo y >> /etc/shadow; echo z > /dev/null && echo z > /dev/made";
        let mut plan = fixture.plan_in_root(&["sh", "-c", script]);
        let volume = fixture.path("volume");
        std::fs::create_dir_all(&volume).expect("mkdir");
        plan.spec.set_mounts(Some(vec![
            mount(Path::new("tmpfs"), "/dev", "tmpfs", &["mode=755"]),
            mount(&volume, "/volume", "bind", &["rbind", "ridmap"]),
        ]));
        let mut null = oci_spec::runtime::LinuxDevice::default();
        null.set_path("/dev/null".into()).set_major(1).set_minor(3);
        null.set_typ(oci_spec::runtime::LinuxDeviceType::C).set_file_mode(Some(0o666));
        plan.spec.linux_mut().as_mut().expect("set").set_devices(Some(vec![null]));
        remap(&mut plan);
        if overlaid {
            plan.overlay = Some(Overlay {
                lower: vec![lower.clone()],
                upper: upper.clone(),
                work: work.clone(),
            });
            std::fs::create_dir(fixture.path("mnt")).expect("mkdir");
            plan.spec.set_root(Some(root_at(&fixture.path("mnt"))));
        }
        let (status, output) = fixture.run(&plan).await;
        let text = format!("overlay: {overlaid}: {output}");
        assert_eq!(status, Some(0), "{text}");
        let wanted = if overlaid { "own secret\ny\n" } else { "own secret\n" };
        assert_eq!(output, format!("{}{wanted}", "0 0\n".repeat(5)), "{text}");
        let made = if overlaid { upper.join("made") } else { lower.join("made") };
        assert_eq!(owner(&made), (0, 0), "{text}");
        std::fs::remove_file(fixture.path("stdout")).expect("remove");
    }
}

#[tokio::test]
async fn what_cannot_be_mapped_is_named() {
    require!(root);
    let fixture = Fixture::new("unmapped", Engine::Linux);
    let inside = fixture.path("inside").display().to_string();
    let mut plan = fixture.plan_in(&[Kind::Mount], &["true"]);
    remap(&mut plan);
    plan.spec.set_mounts(Some(vec![mount(
        Path::new("/proc"),
        &inside,
        "bind",
        &["bind", "idmap"],
    )]));
    let error = fixture.launch(&plan).await.expect_err("procfs has no owners");
    assert_eq!(error.step(), Some(Step::MapIds));
    assert_eq!(error.to_string(), "failed to map the ids of /proc");
    plan.spec.linux_mut().as_mut().expect("set").set_uid_mappings(None);
    let error = fixture.launch(&plan).await.expect_err("no ids");
    assert_eq!(error.to_string(), "bad launch plan: a user namespace without ids");
    let mut plan = fixture.plan_in(&[Kind::Mount], &["true"]);
    plan.spec.set_mounts(Some(vec![mount(Path::new("/tmp"), &inside, "bind", &["bind", "idmap"])]));
    let error = fixture.launch(&plan).await.expect_err("no namespace").to_string();
    assert_eq!(error, format!("bad launch plan: mapped ids of {inside} without ids"));
}
