//! What may be written and what may not. The marks need root; the rest does not, but for
//! owners other than ours.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let dir = std::env::temp_dir().join(format!("kernel-layer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("in")).expect("temp dir");
        Temp(dir.canonicalize().expect("exists"))
    }

    fn layer(&self) -> Layer {
        Layer::open(&self.root()).expect("open")
    }

    fn root(&self) -> PathBuf {
        self.0.join("in")
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ours(mode: u32) -> Attributes<'static> {
    let uid = Uid::current().as_raw();
    Attributes { uid, gid: Gid::current().as_raw(), mode, time: (1_000_000_000, 5), xattrs: &[] }
}

fn write(layer: &mut Layer, path: &str, text: &str) -> Result<(), BeneathError> {
    let mut file = layer.file(Path::new(path))?;
    file.write_all(text.as_bytes()).expect("write");
    layer.finish_file(Path::new(path), &file, &ours(0o644))
}

#[test]
fn what_belongs_to_files_is_kept() {
    let temp = Temp::new("kept");
    let mut layer = temp.layer();
    let p = Path::new;
    layer.directory(p("a"), &ours(0o750)).expect("a directory");
    write(&mut layer, "a/b/file", "one").expect("a file");
    layer.symlink(p("a/link"), p("/nowhere"), &ours(0o777)).expect("a link");
    layer.hard_link(p("a/same"), p("a/b/file")).expect("a hard link");
    layer.pipe(p("a/pipe"), &ours(0o622)).expect("a pipe");
    let xattrs = [(b"user.mood".to_vec(), b"a\nb".to_vec())];
    let file = layer.file(p("a/marked")).expect("a file");
    let with = Attributes { xattrs: &xattrs, ..ours(0o4755) };
    layer.finish_file(p("a/marked"), &file, &with).expect("finished");
    layer.finish().expect("finished");

    let at = |path: &str| temp.root().join(path).symlink_metadata().expect("there");
    assert_eq!((at("a").mode() & 0o7777, at("a").mtime()), (0o750, 1_000_000_000));
    assert_eq!((at("a/b/file").mode() & 0o7777, at("a/b/file").mtime_nsec()), (0o644, 5));
    assert_eq!(at("a/same").ino(), at("a/b/file").ino());
    assert_eq!((at("a/link").mtime(), at("a/pipe").mode() & 0o7777), (1_000_000_000, 0o622));
    assert_eq!(at("a/marked").mode() & 0o7777, 0o4755);
    let mood = crate::xattr::get(&file, "user.mood").expect("read");
    assert!(mood.is_none_or(|value| value == b"a\nb"), "where the file system has any");
}

#[test]
fn nothing_leaves() {
    let temp = Temp::new("leaves");
    std::fs::write(temp.0.join("secret"), "outside").expect("write");
    std::fs::create_dir(temp.root().join("dir")).expect("mkdir");
    for (link, target) in [
        ("up", ".."),
        ("absolute", "/tmp"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("inside", "dir"),
        ("secret", "../secret"),
    ] {
        symlink(target, temp.root().join(link)).expect(link);
    }
    let mut layer = temp.layer();
    let p = Path::new;
    for path in ["up/x", "../x", "absolute/x", "dangling/x", "loop/x", "a/../../x", "/x", "up/x/y"]
    {
        let error = write(&mut layer, path, "evil").expect_err(path);
        assert!(matches!(error, BeneathError::Escapes { .. }), "{path}: {error}");
        layer.whiteout(p(path)).expect_err(path);
        layer.hard_link(p("stolen"), p(path)).expect_err(path);
    }
    layer.directory(p("up/x"), &ours(0o755)).expect_err("a directory");
    layer.opaque(p("up")).expect_err("opaque");
    layer.hard_link(p("stolen"), p("../secret")).expect_err("from outside");
    layer.hard_link(p("stolen"), p("up/secret")).expect_err("from outside");
    layer.hard_link(p("stolen"), p("dir")).expect_err("a directory");
    layer.hard_link(p("stolen"), p("none")).expect_err("nothing");
    write(&mut layer, "inside/x", "fine").expect("a link that stays");
    layer.directory(p("inside"), &ours(0o755)).expect("a link is replaced by a directory");
    assert!(temp.root().join("inside").symlink_metadata().expect("there").is_dir());
    write(&mut layer, "secret", "mine").expect("a link is replaced");
    write(&mut layer, "inside/y", "fine").expect("in the new directory");
    write(&mut layer, "dir", "no").expect_err("a directory that holds something stays");
    layer.finish().expect("finished");
    assert_eq!(std::fs::read(temp.0.join("secret")).expect("kept"), b"outside");
    assert!(temp.root().join("dir/x").exists() && !temp.root().join("dir/y").exists());
    assert!(!temp.0.join("x").exists() && !temp.root().join("stolen").exists());
}

#[test]
fn a_name_that_was_marked_as_gone_is_used_again() {
    if !Uid::effective().is_root() {
        return;
    }
    let temp = Temp::new("marks");
    let mut layer = temp.layer();
    let p = Path::new;
    for gone in ["file", "dir", "deep", "d/e"] {
        layer.whiteout(p(gone)).expect(gone);
        layer.whiteout(p(gone)).expect("again");
    }
    let kind = |path: &str| temp.root().join(path).symlink_metadata().expect(path);
    assert_eq!((kind("file").mode() & 0o170_000, kind("file").rdev()), (0o020_000, 0));
    write(&mut layer, "file", "new").expect("a file");
    layer.directory(p("dir"), &ours(0o700)).expect("a directory");
    write(&mut layer, "deep/x/y", "new").expect("below");
    layer.directory(p("other"), &ours(0o700)).expect("a directory");
    layer.whiteout(p("other")).expect("what is here stays and hides");
    layer.opaque(p("")).expect("the top");
    layer.opaque(p("made")).expect("made and marked");
    layer.finish().expect("finished");
    let opaque = |path: &str| {
        let dir = File::open(temp.root().join(path)).expect(path);
        crate::xattr::get(&dir, OPAQUE).expect(path).as_deref() == Some(b"y")
    };
    for (path, expected) in [
        ("dir", true),
        ("deep", true),
        ("deep/x", false),
        ("other", true),
        ("", true),
        ("d", false),
    ] {
        assert_eq!(opaque(path), expected, "{path}");
    }
    assert!(opaque("made") && kind("file").is_file());
}
