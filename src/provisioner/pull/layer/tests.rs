//! Layers that are what they say, and layers that are not. The marks of what is gone need
//! root.

use std::os::unix::fs::MetadataExt;

use ::tar::{Builder, EntryType, Header};

use super::*;

fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if link {
            header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
        }
        if let Some((major, minor)) = content.split_once(':').filter(|_| !link) {
            header.set_device_major(major.parse().unwrap_or(9)).expect("GNU");
            header.set_device_minor(minor.parse().unwrap_or(9)).expect("GNU");
        }
        let content = if *kind == EntryType::Regular { *content } else { "" };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let dir = std::env::temp_dir().join(format!("pull-layer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("tree")).expect("mkdir");
        Temp(dir)
    }

    fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unpack_as(bytes: &[u8], plain: &[u8], temp: &Temp) -> Result<Applied, String> {
    let left = AtomicU64::new(1 << 40);
    let budget = Budget { image: &left, archive: bytes.len() as u64 };
    let mut source = bytes;
    let applied = apply(&mut source, &temp.tree(), Digest::of(plain), &budget);
    applied.map_err(|error| kernel::chain(&error))
}

fn unpack(bytes: &[u8], temp: &Temp) -> Result<Applied, String> {
    unpack_as(bytes, bytes, temp)
}

fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

#[test]
fn every_compression_is_known_by_its_content() {
    if !root() {
        return;
    }
    let plain = tar(&[("a/b", EntryType::Regular, "hello"), ("a/l", EntryType::Symlink, "/b")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("in memory");
    let gzip = gzip.finish().expect("in memory");
    let zstd = ruzstd::encoding::compress_to_vec(
        plain.as_slice(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    // Two members, as pigz and others write them.
    let half = plain.len() / 2;
    let mut members = Vec::new();
    for part in [&plain[..half], &plain[half..]] {
        let mut one = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        one.write_all(part).expect("in memory");
        members.extend(one.finish().expect("in memory"));
    }
    for (name, bytes) in
        [("plain", &plain), ("gzip", &gzip), ("zstd", &zstd), ("members", &members)]
    {
        let temp = Temp::new(name);
        let applied = unpack_as(bytes, &plain, &temp).expect(name);
        assert_eq!(applied, Applied { bytes: 5, hides: false }, "{name}");
        assert_eq!(std::fs::read(temp.tree().join("a/b")).expect(name), b"hello");
        let error =
            unpack_as(&bytes[..bytes.len() - 9], &plain, &Temp::new("cut")).expect_err(name);
        assert!(error.contains("read") || error.contains("its content is"), "{name}: {error}");
        let error = unpack_as(bytes, b"x", &Temp::new("other")).expect_err(name);
        assert!(error.contains("its content is sha256:"), "{name}: {error}");
    }
}

#[test]
fn what_is_gone_is_marked_for_overlay() {
    if !root() {
        return;
    }
    let temp = Temp::new("gone");
    let bytes = tar(&[
        ("etc/.wh.passwd", EntryType::Regular, ""),
        ("var/.wh..wh..opq", EntryType::Regular, ""),
        ("var/new", EntryType::Regular, "x"),
        (".wh..wh.plnk", EntryType::Directory, ""),
        ("etc/shadow", EntryType::Char, "0:0"),
        ("dev/null", EntryType::Char, "1:3"),
        ("dev/sda", EntryType::Block, "8:0"),
    ]);
    assert!(!unpack(&bytes, &temp).expect("a layer").hides);
    for gone in ["etc/passwd", "etc/shadow"] {
        let data = temp.tree().join(gone).symlink_metadata().expect(gone);
        assert_eq!((data.mode() & 0o170_000, data.rdev()), (0o020_000, 0), "{gone}");
    }
    let var = File::open(temp.tree().join("var")).expect("there");
    let opaque = kernel::xattr::get(&var, "trusted.overlay.opaque");
    assert_eq!(opaque.expect("read").as_deref(), Some(&b"y"[..]));
    assert!(!temp.tree().join("dev").exists(), "devices of /dev are left out");
    assert!(!temp.tree().join("etc/.wh.passwd").exists());
    let all = tar(&[(".wh..wh..opq", EntryType::Regular, "")]);
    assert!(unpack(&all, &Temp::new("all")).expect("a layer").hides);
}

#[test]
fn hostile_layers_are_refused_and_nothing_is_outside() {
    if !root() {
        return;
    }
    use EntryType as T;
    type Row<'a> = (&'a str, &'a [(&'a str, EntryType, &'a str)], &'a str);
    let rows: [Row<'_>; 17] = [
        ("up", &[("../evil", T::Regular, "x")], "'../evil' in it would leave the image"),
        ("inner", &[("a/../../evil", T::Regular, "x")], "would leave the image"),
        (
            "absolute",
            &[("l", T::Symlink, "/tmp"), ("l/evil", T::Regular, "x")],
            "'l/evil' in it would",
        ),
        (
            "relative",
            &[("l", T::Symlink, "../.."), ("l/evil", T::Regular, "x")],
            "'l/evil' in it would",
        ),
        (
            "dangling",
            &[("l", T::Symlink, "none"), ("l/evil", T::Regular, "x")],
            "'l/evil' in it would",
        ),
        (
            "chain",
            &[("a", T::Symlink, "b"), ("b", T::Symlink, ".."), ("a/evil", T::Regular, "x")],
            "'a/evil' in it",
        ),
        ("hard", &[("h", T::Link, "/etc/passwd")], "which is not in this layer"),
        ("hard up", &[("h", T::Link, "../../etc/passwd")], "'../../etc/passwd' in it would leave"),
        (
            "hard through",
            &[("l", T::Symlink, "/etc"), ("h", T::Link, "l/passwd")],
            "'h' in it would leave",
        ),
        ("hard dir", &[("d", T::Directory, ""), ("h", T::Link, "d")], "failed to write 'h'"),
        (
            "device",
            &[("etc/mem", T::Char, "1:1")],
            "'etc/mem' in it is refused: it is a device (1:1)",
        ),
        ("block", &[("sda", T::Block, "8:0")], "it is a device (8:0) outside of /dev"),
        ("whiteout up", &[("a/.wh...", T::Regular, "")], "it says that nothing is gone"),
        ("whiteout none", &[(".wh.", T::Regular, "")], "it says that nothing is gone"),
        (
            "whiteout through",
            &[("l", T::Symlink, "/etc"), ("l/.wh.passwd", T::Regular, "")],
            "would leave",
        ),
        (
            "opaque through",
            &[("l", T::Symlink, "/etc"), ("l/.wh..wh..opq", T::Regular, "")],
            "would leave",
        ),
        ("top", &[("./", T::Symlink, "/etc")], "must be a directory"),
    ];
    for (name, entries, expected) in rows {
        let temp = Temp::new("hostile");
        let error = unpack(&tar(entries), &temp).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
        assert!(
            !temp.0.join("evil").exists() && !temp.0.parent().expect("tmp").join("evil").exists()
        );
        assert!(!std::path::Path::new("/tmp/evil").exists(), "{name}");
    }
}

#[test]
fn bombs_and_depths() {
    if !root() {
        return;
    }
    // 10 GB of zeros in 10 MB: it ends at the limit for its archive, in holes.
    let temp = Temp::new("zeros");
    let mut header = Header::new_gnu();
    header.set_path("zeros").expect("short");
    header.set_size(10 << 30);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let error = unpack(header.as_bytes(), &temp).expect_err("too large");
    assert!(error.contains("too much for the size of its archive"), "{error}");
    // What is left for the image.
    let bytes = tar(&[("a", EntryType::Regular, "0123456789")]);
    let left = AtomicU64::new(9);
    let budget = Budget { image: &left, archive: 1000 };
    let applied =
        apply(&mut bytes.as_slice(), &Temp::new("left").tree(), Digest::of(&bytes), &budget);
    let error = kernel::chain(&applied.expect_err("too large"));
    assert!(
        error.contains("larger than 9 bytes") && error.contains("--docker_image_size_limit"),
        "{error}"
    );
    // A path that the kernel does not take is an error, and what is there can be removed.
    let temp = Temp::new("deep");
    let deep = format!("{}x", "d/".repeat(3000));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, &deep, &b"x"[..]).expect("in memory");
    let bytes = builder.into_inner().expect("in memory");
    let error = unpack(&bytes, &temp).expect_err("too deep");
    assert!(error.contains("File name too long"), "{error}");
}

#[test]
fn attributes_of_overlay_are_refused() {
    let attribute = |name: &str| vec![(name.as_bytes().to_vec(), b"y".to_vec())];
    let path = Path::new("p");
    for name in ["trusted.overlay.redirect", "user.overlay.opaque"] {
        let error = kept(path, attribute(name)).expect_err(name).to_string();
        assert!(error.contains("overlay's own"), "{error}");
    }
    for (name, stays) in [
        ("security.capability", true),
        ("user.x", true),
        ("security.selinux", false),
        ("trusted.x", false),
    ] {
        assert_eq!(kept(path, attribute(name)).expect(name).len(), usize::from(stays), "{name}");
    }
}
