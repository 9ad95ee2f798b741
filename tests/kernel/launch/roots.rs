//! Root file systems made of layers, by each backend: they show the same, and the layers
//! stay as they are.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bulkhead::launch::Engine;
use bulkhead::provisioner::backend::{Backend, Made, Place};
use isolators::plan::LinuxNamespaceType as Kind;
use kernel::layers::OPAQUE;

use crate::{Fixture, busybox_root, require, root_at};

static GOING: AtomicBool = AtomicBool::new(false);

fn text(path: &Path) -> CString {
    CString::new(path.to_str().expect("text")).expect("no NUL")
}

/// A whiteout, as the store writes it.
fn whiteout(path: &Path) {
    // SAFETY: a path and numbers.
    let made = unsafe { libc::mknod(text(path).as_ptr(), libc::S_IFCHR, libc::makedev(0, 0)) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
}

fn opaque(dir: &Path) {
    let dir = fs::File::open(dir).expect("open");
    kernel::xattr::set(&dir, OPAQUE, b"y").expect("set an attribute");
}

/// Two layers with everything that is awkward; bottom first.
fn layers(fixture: &Fixture) -> [PathBuf; 2] {
    let [base, top] = ["base", "top"].map(|name| fixture.path(name));
    busybox_root(&base);
    for dir in ["gone", "kept", "hidden", "becomes-link", "link-to"] {
        fs::create_dir(base.join(dir)).expect("mkdir");
        fs::write(base.join(dir).join("file"), dir).expect("write");
    }
    symlink("link-to", base.join("was-link")).expect("link");
    fs::write(base.join("replaced"), "old").expect("write");
    fs::write(base.join("removed"), "x").expect("write");

    fs::create_dir(&top).expect("mkdir");
    whiteout(&top.join("gone"));
    whiteout(&top.join("removed"));
    whiteout(&top.join("never-there"));
    fs::create_dir(top.join("kept")).expect("mkdir");
    fs::write(top.join("kept/more"), "more").expect("write");
    whiteout(&top.join("kept/file"));
    fs::create_dir(top.join("hidden")).expect("mkdir");
    opaque(&top.join("hidden"));
    fs::write(top.join("hidden/new"), "new").expect("write");
    symlink("/etc/../kept", top.join("becomes-link")).expect("link");
    // What is a link below is not followed.
    fs::create_dir(top.join("was-link")).expect("mkdir");
    fs::write(top.join("was-link/own"), "own").expect("write");
    fs::write(top.join("replaced"), "newer").expect("write");
    chown(top.join("replaced"), Some(1001), Some(1002)).expect("chown");
    fs::set_permissions(top.join("replaced"), fs::Permissions::from_mode(0o6750)).expect("chmod");
    fs::hard_link(top.join("replaced"), top.join("twin")).expect("link");
    // SAFETY: a path and a mode.
    assert_eq!(unsafe { libc::mkfifo(text(&top.join("pipe")).as_ptr(), 0o640) }, 0);
    fs::set_permissions(&top, fs::Permissions::from_mode(0o751)).expect("chmod");
    for name in ["replaced", "becomes-link", "hidden"] {
        let old = libc::timespec { tv_sec: 981_173_106, tv_nsec: 5 };
        let (path, flags) = (text(&top.join(name)), libc::AT_SYMLINK_NOFOLLOW);
        // SAFETY: a path, and two times.
        let set =
            unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), [old; 2].as_ptr(), flags) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
    [base, top]
}

/// Everything below a directory: type, mode, owner, time, links, content.
fn listing(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("list").flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).expect("look");
            let content = match meta.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).expect("a link").into_os_string(),
                kind if kind.is_file() && meta.len() < 100 => {
                    String::from_utf8(fs::read(&path).expect("read")).expect("text").into()
                }
                kind if kind.is_dir() => {
                    open.push(path.clone());
                    "".into()
                }
                _ => "".into(),
            };
            let name = path.strip_prefix(root).expect("below").display();
            let times = if meta.mtime() < 1_000_000_000 { meta.mtime() } else { 0 };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            all.push(format!(
                "{name} {:o} {}:{} {links} {times} {content:?}",
                meta.mode(),
                meta.uid(),
                meta.gid()
            ));
        }
    }
    all.sort();
    all
}

fn made(backend: Backend, place: &Place, layers: &[PathBuf]) -> Made {
    backend.make(place, layers, &GOING).unwrap_or_else(|e| panic!("{}", kernel::chain(&e)))
}

#[test]
fn a_copy_is_what_an_overlay_shows() {
    require!(root, busybox, overlay);
    let fixture = Fixture::new("roots", Engine::Linux);
    let layers = layers(&fixture);
    let before = listing(&layers[0]);
    let mut seen = Vec::new();
    for backend in [Backend::Overlay, Backend::Copy] {
        let place = Place::new(&fixture.path("container"), backend, "n", true);
        made(backend, &place, &layers);
        seen.push(listing(&place.root));
        let mode = fs::metadata(&place.root).expect("a root").mode() & 0o777;
        assert_eq!(mode, 0o751, "{backend}");
        fs::write(place.root.join("written"), "x").expect("write");
        place.clear().expect("unmount");
    }
    let names: Vec<&str> = seen[1].iter().filter_map(|line| line.split(' ').next()).collect();
    for name in ["kept/more", "hidden/new", "was-link/own", "becomes-link", "twin", "pipe"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    for name in ["gone", "removed", "never-there", "kept/file", "hidden/file", "was-link/file"] {
        assert!(!names.contains(&name), "{name}: {names:?}");
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(listing(&layers[0]), before, "the layers are as they were");
    let mounts = kernel::mounts::table().expect("mounts");
    let left = kernel::mounts::below(&mounts, &fixture.path("container"));
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn containers_live_in_what_backends_make() {
    require!(root, busybox, overlay);
    let fixture = Fixture::new("backends", Engine::Linux);
    let layers = layers(&fixture);
    let script = "cat /kept/more /hidden/*; echo; cat /replaced; echo; echo x > /written; echo $?";
    for backend in [Backend::Overlay, Backend::Copy, Backend::Bind] {
        let layers = if backend == Backend::Bind { &layers[1..] } else { &layers[..] };
        let place = Place::new(&fixture.path("own"), backend, backend.name(), false);
        if backend == Backend::Bind {
            let error = backend.make(&place, &[layers[0].clone(), layers[0].clone()], &GOING);
            assert!(error.expect_err("two layers").to_string().contains("this one has 2"));
            // Its only layer has to have everything.
            busybox_root(&layers[0]);
        }
        let Made { overlay, ephemeral } = made(backend, &place, layers);
        let mut plan = fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", script]);
        plan.spec.set_root(Some(root_at(&place.root)));
        plan.overlay = overlay;
        fs::write(fixture.path("stdout"), "").expect("write");
        let (status, output) = fixture.run(&plan).await;
        let written = if backend == Backend::Bind { "1" } else { "0" };
        let lines: Vec<&str> = output.lines().filter(|line| !line.contains("Read-only")).collect();
        assert_eq!(lines, ["morenew", "newer", written], "{backend}: {output}");
        assert_eq!(status, Some(0), "{backend}");
        let kept = ephemeral.iter().any(|dir| dir.join("written").exists());
        assert_eq!(kept, backend != Backend::Bind, "{backend}");
        assert!(!layers[0].join("written").exists(), "{backend}");
        place.clear().expect("unmount");
    }
}

#[test]
fn a_backend_is_chosen_by_trying() {
    require!(root, overlay);
    let fixture = Fixture::new("choice", Engine::Linux);
    let (store, scratch) = (fixture.path("store"), fixture.path("scratch"));
    fs::create_dir(&store).expect("mkdir");
    let choose = |name: Option<&str>| Backend::choose(name, &store, &scratch);
    assert_eq!(choose(None).expect("overlay works here"), Backend::Overlay);
    assert_eq!(choose(Some("copy")).expect("a name"), Backend::Copy);
    assert_eq!(choose(Some("overlay")).expect("a name"), Backend::Overlay);
    // Nothing can be written above procfs.
    let odd = Backend::choose(Some("overlay"), &store, Path::new("/proc/self/none"));
    assert!(odd.is_err());
    for dir in [&store, &scratch] {
        assert_eq!(fs::read_dir(dir).expect("list").count(), 0, "{}", dir.display());
    }
}

#[test]
fn a_copy_nobody_waits_for_ends() {
    require!(root, busybox);
    let fixture = Fixture::new("cancelled", Engine::Linux);
    let layers = layers(&fixture);
    let place = Place::new(&fixture.path("c"), Backend::Copy, "n", false);
    let error = Backend::Copy.make(&place, &layers, &AtomicBool::new(true)).expect_err("ended");
    assert!(kernel::chain(&error).contains("failed to copy"), "{}", kernel::chain(&error));
    assert_eq!(fs::read_dir(&place.root).expect("list").count(), 0);
}
