//! The container's file system: roots, mounts, devices, masks.

use std::path::Path;

use bulkhead::launch::Engine;
use isolators::plan::{FileOperation, LinuxNamespaceType as Kind, Overlay};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use crate::{Fixture, busybox_root, empty_linux, namespace, require, root_at};

pub(crate) fn mount(source: &Path, target: &str, kind: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_source(Some(source.to_owned()))
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

#[tokio::test]
async fn a_directory_becomes_the_root() {
    require!(root, busybox);
    let fixture = Fixture::new("root", Engine::Linux);
    let mut plan = fixture.plan_in_root(&["sh", "-c", "ls /; cat /proc/mounts"]);
    plan.spec.set_mounts(Some(vec![mount(Path::new("proc"), "/proc", "proc", &["nosuid"])]));
    let (status, output) = fixture.run(&plan).await;
    assert_eq!(status, Some(0), "{output}");
    assert!(output.starts_with("bin\nproc\n"), "{output}");
    assert_eq!(output.lines().count(), 4, "only root and proc are mounted: {output}");
}

#[tokio::test]
async fn an_overlay_takes_writes_and_leaves_the_layers_alone() {
    require!(root, busybox, overlay);
    let fixture = Fixture::new("overlay", Engine::Linux);
    let (lower, top) = (fixture.path("lower,1"), fixture.path("top:2"));
    busybox_root(&lower);
    std::fs::create_dir_all(&top).expect("mkdir");
    std::fs::write(top.join("marker"), "top").expect("write");
    let (upper, work) = (fixture.path("upper"), fixture.path("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    for own_target in [true, false] {
        let script = "cat /marker; echo x > /written; ls /";
        let mut plan = fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", script]);
        if own_target {
            std::fs::create_dir(fixture.path("mnt")).expect("mkdir");
            plan.spec.set_root(Some(root_at(&fixture.path("mnt"))));
        }
        plan.overlay = Some(Overlay {
            lower: vec![top.clone(), lower.clone()],
            upper: upper.clone(),
            work: work.clone(),
        });
        let (status, output) = fixture.run(&plan).await;
        assert_eq!(status, Some(0), "{output}");
        assert!(output.ends_with("topbin\nmarker\nwritten\n"), "{output}");
        assert!(upper.join("written").exists() && !lower.join("written").exists());
        // `volatile` leaves a mark that forbids the second use of a work directory.
        std::fs::remove_dir_all(&work).expect("remove");
        std::fs::create_dir(&work).expect("mkdir");
    }
}

/// Many more than the one page of options that `mount` takes.
#[tokio::test]
async fn an_overlay_has_as_many_layers_as_an_image() {
    require!(root, busybox, overlay);
    let fixture = Fixture::new("layers", Engine::Linux);
    let mut lower: Vec<_> =
        (0..127).map(|n| fixture.path(&format!("layer-with-a-long-name-{n:03}"))).collect();
    for (n, layer) in lower.iter().enumerate() {
        std::fs::create_dir(layer).expect("mkdir");
        std::fs::write(layer.join("top"), n.to_string()).expect("write");
        std::fs::write(layer.join(format!("f{n}")), "").expect("write");
    }
    let base = fixture.path("base");
    busybox_root(&base);
    lower.push(base);
    let (upper, work) = (fixture.path("upper"), fixture.path("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    let script = "cat /top; echo; ls -d /f* | busybox wc -l; echo x > /written";
    let mut plan = fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", script]);
    plan.overlay = Some(Overlay { lower, upper: upper.clone(), work });
    let (status, output) = fixture.run(&plan).await;
    assert_eq!((status, output.as_str()), (Some(0), "0\n127\n"));
    assert!(upper.join("written").exists());
}

#[tokio::test]
async fn binds_devices_masks_and_operations() {
    require!(root, busybox);
    let fixture = Fixture::new("files", Engine::Linux);
    let volume = fixture.path("volume");
    std::fs::create_dir(&volume).expect("mkdir");
    std::fs::write(volume.join("file"), "data\n").expect("write");
    let script = "cat /deep/er/volume/file /one/file /link; touch /deep/er/volume/x; \
        echo $?; echo hidden > /secret 2>/dev/null; cat /secret; ls /secrets; \
        touch /kept/x; echo $?; stat -c '%F %a %t:%T' /dev/null";
    let mut plan = fixture.plan_in_root(&["sh", "-c", script]);
    let root = fixture.path("root");
    std::fs::write(root.join("secret"), "secret").expect("write");
    for dir in ["secrets", "kept"] {
        std::fs::create_dir(root.join(dir)).expect("mkdir");
    }
    std::fs::write(root.join("secrets/key"), "key").expect("write");
    plan.spec.set_mounts(Some(vec![
        mount(Path::new("tmpfs"), "/dev", "tmpfs", &["nosuid", "mode=755"]),
        mount(&volume, "/deep/er/volume", "bind", &["rbind", "ro"]),
        mount(&volume.join("file"), "/one/file", "bind", &[]),
    ]));
    let mut null = LinuxDevice::default();
    null.set_path("/dev/null".into()).set_typ(LinuxDeviceType::C).set_major(1).set_minor(3);
    let mut linux = empty_linux();
    linux
        .set_namespaces(Some(vec![namespace(Kind::Mount, None)]))
        .set_devices(Some(vec![null]))
        .set_masked_paths(Some(vec!["/secret".into(), "/secrets".into(), "/none".into()]))
        .set_readonly_paths(Some(vec!["/kept".into(), "/none".into()]));
    plan.spec.set_linux(Some(linux));
    plan.file_operations = vec![
        FileOperation::Mkdir { path: "/a/b".into(), mode: 0o700, recursive: true },
        FileOperation::Rename { from: "/a/b".into(), to: "/a/c".into() },
        FileOperation::Symlink { target: "/deep/er/volume/file".into(), link: "/link".into() },
    ];
    let (status, output) = fixture.run(&plan).await;
    let lines: Vec<&str> = output.lines().filter(|line| !line.contains("Read-only")).collect();
    let device = "character special file 666 1:3";
    assert_eq!(lines, ["data", "data", "data", "1", "1", device], "{output}");
    assert_eq!(status, Some(0));
    assert!(root.join("a/c").is_dir());
}

#[tokio::test]
async fn links_of_an_image_do_not_lead_out_of_it() {
    require!(root, busybox);
    let fixture = Fixture::new("links", Engine::Linux);
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    let mut plan = fixture.plan_in_root(&["ls", "/trap"]);
    std::os::unix::fs::symlink(&outside, fixture.path("root/trap")).expect("link");
    std::fs::create_dir_all(
        fixture.path("root").join(outside.strip_prefix("/").expect("absolute")),
    )
    .expect("mkdir");
    let volume = fixture.path("volume");
    std::fs::create_dir_all(volume.join("inside")).expect("mkdir");
    plan.spec.set_mounts(Some(vec![mount(&volume, "/trap", "bind", &[])]));
    plan.file_operations =
        vec![FileOperation::Mkdir { path: "/trap/made".into(), mode: 0o755, recursive: false }];
    let (status, output) = fixture.run(&plan).await;
    assert_eq!((status, output.as_str()), (Some(0), "inside\nmade\n"));
    assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 0);
}

#[tokio::test]
async fn nothing_mounted_inside_is_seen_outside() {
    require!(root);
    let fixture = Fixture::new("private", Engine::Linux);
    let target = fixture.path("target");
    std::fs::create_dir(&target).expect("mkdir");
    let script = format!("touch {}/inside", target.display());
    let mut plan = fixture.plan_in(&[Kind::Mount], &["sh", "-c", &script]);
    let entry = mount(Path::new("tmpfs"), target.to_str().expect("text"), "tmpfs", &[]);
    plan.spec.set_mounts(Some(vec![entry]));
    assert_eq!(fixture.run(&plan).await.0, Some(0));
    assert_eq!(std::fs::read_dir(&target).expect("list").count(), 0);
}
