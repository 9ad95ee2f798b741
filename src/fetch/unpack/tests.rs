//! Archives of every kind, good and hostile, made by the programs people use and by
//! hand.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 100 };

/// A directory with `in` to unpack into, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("unpack-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("in")).expect("temp dir");
        Place(dir)
    }

    fn unpack(&self, name: &str, bytes: &[u8]) -> Result<Unpacked, UnpackError> {
        let file = self.0.join(name);
        std::fs::write(&file, bytes).expect("write the archive");
        let root = Root::open(&self.0.join("in")).expect("open");
        let (kind, _) = kind(name).expect("an archive's name");
        unpack(kind, File::open(file).expect("open"), name, &root, LIMITS)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.join("in").join(path)).unwrap_or_else(|e| e.to_string())
    }

    fn mode(&self, path: &str) -> u32 {
        let data = std::fs::symlink_metadata(self.0.join("in").join(path)).expect("there");
        data.permissions().mode() & 0o7777
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One entry of a tar archive.
fn entry(kind: ::tar::EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut header = ::tar::Header::new_gnu();
    // Set by hand: the crate refuses the paths that matter here.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend([0; 1024]);
    bytes
}

fn file(path: &str, data: &str) -> Vec<u8> {
    entry(::tar::EntryType::Regular, path, "", 0o644, data.as_bytes())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn names_say_whether() {
    let rows = [
        ("a.tar.gz", Some((Kind::Archive, true))),
        ("a.zip", Some((Kind::Archive, true))),
        ("a.tar.zst", Some((Kind::Archive, false))),
        ("a.gz", Some((Kind::Single(".gz"), true))),
        ("a.xz", Some((Kind::Single(".xz"), false))),
        ("a.txt", None),
        ("tar", None),
        ("a.tgz?x=y", None),
    ];
    for (name, expected) in rows {
        assert_eq!(kind(name), expected, "{name}");
    }
}

#[test]
fn files_directories_links_and_permissions() {
    let place = Place::new("plain");
    let bytes = archive(&[
        entry(::tar::EntryType::Directory, "./d/", "", 0o700, b""),
        entry(::tar::EntryType::Regular, "d/run", "", 0o4755, b"#!"),
        file("/abs/file", "cut"),
        entry(::tar::EntryType::Symlink, "d/out", "/etc", 0o777, b""),
        entry(::tar::EntryType::Link, "same", "d/run", 0o644, b""),
        entry(::tar::EntryType::Char, "null", "", 0o666, b""),
        entry(::tar::EntryType::Fifo, "pipe", "", 0o666, b""),
        file("twice", "first"),
        file("twice", "second"),
    ]);
    let unpacked = place.unpack("a.tar", &bytes).expect("unpacked");
    assert_eq!((unpacked.entries, unpacked.left_out.len()), (7, 2), "{unpacked:?}");
    assert_eq!((place.read("abs/file"), place.read("same")), ("cut".into(), "#!".into()));
    assert_eq!(place.read("twice"), "second");
    // Nothing runs as somebody else, and nothing is what it could not be at first.
    assert_eq!((place.mode("d/run"), place.mode("d")), (0o755, 0o700));
    assert!(std::fs::read_link(place.0.join("in/d/out")).expect("a link").ends_with("etc"));
    assert!(!place.0.join("in/null").exists() && !place.0.join("in/pipe").exists());
    let time = std::fs::metadata(place.0.join("in/twice")).expect("there").modified();
    let since = time.expect("a time").duration_since(std::time::SystemTime::UNIX_EPOCH);
    assert_eq!(since.expect("after").as_secs(), 1_000_000_000);
}

#[test]
fn nothing_leaves_the_root() {
    let place = Place::new("escape");
    std::fs::write(place.0.join("secret"), "kept").expect("write");
    let up = entry(::tar::EntryType::Symlink, "up", "..", 0o777, b"");
    let hostile: [(&str, Vec<u8>); 6] = [
        ("..", archive(&[file("../secret", "stolen")])),
        ("inner ..", archive(&[file("a/../../secret", "stolen")])),
        ("through a link", archive(&[up.clone(), file("up/secret", "stolen")])),
        (
            "a directory",
            archive(&[up.clone(), entry(::tar::EntryType::Directory, "up/d", "", 0o777, b"")]),
        ),
        ("a hard link", archive(&[entry(::tar::EntryType::Link, "x", "../secret", 0o644, b"")])),
        ("both", archive(&[up, entry(::tar::EntryType::Link, "x", "up/secret", 0o644, b"")])),
    ];
    for (what, bytes) in hostile {
        let error = place.unpack("a.tar", &bytes).expect_err(what);
        assert!(matches!(error, UnpackError::Escapes { .. }), "{what}: {error}");
        assert!(kernel::chain(&error).contains("would leave the sandbox"), "{error}");
    }
    assert_eq!(std::fs::read(place.0.join("secret")).expect("there"), b"kept");
    assert!(!place.0.join("d").exists());
    // A link that was there before is no way out either.
    symlink(&place.0, place.0.join("in/there")).expect("link");
    place.unpack("a.tar", &archive(&[file("there/secret", "stolen")])).expect_err("out");
    assert_eq!(std::fs::read(place.0.join("secret")).expect("there"), b"kept");
}

#[test]
fn bombs_are_stopped_and_swept() {
    let place = Place::new("bomb");
    let zeros = vec![0; 2 << 20];
    let large = entry(::tar::EntryType::Regular, "large", "", 0o644, &zeros);
    let bomb = gzip(&archive(&[file("small", "x"), large]));
    assert!(bomb.len() < zeros.len() / 20);
    let error = place.unpack("a.tgz", &bomb).expect_err("too large");
    assert!(error.to_string().contains("limit of 1048576 bytes"), "{error}");
    let error = place.unpack("b.gz", &gzip(&zeros)).expect_err("too large");
    assert!(matches!(error, UnpackError::TooLarge { .. }));
    let many: Vec<Vec<u8>> = (0..101).map(|i| file(&format!("f{i}"), "")).collect();
    let error = place.unpack("a.tar", &archive(&many)).expect_err("too many");
    assert_eq!(error.to_string(), "it has more than 100 entries");
    assert_eq!(std::fs::read_dir(place.0.join("in")).expect("there").count(), 0);
}

#[test]
fn broken_archives_are_told() {
    let place = Place::new("broken");
    let good = gzip(&archive(&[file("a", &"text ".repeat(1000))]));
    let rows: [(&str, &[u8], &str); 6] = [
        ("a.tar.gz", &good[..good.len() / 2], "failed to read the archive"),
        ("a.zip", b"This is not a zip file", "failed to read the archive"),
        ("b.zip", b"PK\x03\x04 nor is this", "failed to read the archive"),
        ("a.gz", b"plain", "it is not compressed as its name says"),
        ("a.xz", b"\xfd7zXZ\0 broken", "'a' cannot be unpacked"),
        ("a.zst", b"\x28\xb5\x2f\xfd broken", "'a' cannot be unpacked"),
    ];
    for (name, bytes, expected) in rows {
        let error = place.unpack(name, bytes).expect_err(name);
        let text = kernel::chain(&error);
        // Half an archive may break inside an entry.
        let half = name == "a.tar.gz" && text.contains("cannot be unpacked");
        assert!(text.starts_with(expected) || half, "{name}: {text}");
    }
    assert_eq!(std::fs::read_dir(place.0.join("in")).expect("there").count(), 0);
}

/// Runs a program that packs `in.txt` (and directories) in the place.
fn pack(place: &Place, program: &str, arguments: &[&str]) -> bool {
    let run = Command::new(program).args(arguments).current_dir(&place.0).output();
    run.is_ok_and(|output| output.status.success())
}

#[test]
fn what_common_programs_pack_is_unpacked() {
    let place = Place::new("programs");
    let text = "line of text\n".repeat(5000);
    std::fs::create_dir_all(place.0.join("src/deep")).expect("mkdir");
    std::fs::write(place.0.join("src/deep/in.txt"), &text).expect("write");
    let zip = "import zipfile; z = zipfile.ZipFile('p.zip', 'w', zipfile.ZIP_DEFLATED); \
               z.write('src/deep/in.txt'); z.writestr('stored', 'x', zipfile.ZIP_STORED); \
               i = zipfile.ZipInfo('link'); i.external_attr = 0o120777 << 16; \
               z.writestr(i, 'stored'); z.close()";
    let python = |algorithm: &str, name: &str| {
        format!(
            "import tarfile; t = tarfile.open('{name}', 'w:{algorithm}'); t.add('src'); t.close()"
        )
    };
    let rows = [
        ("p.tar", "tar", vec!["cf".to_owned(), "p.tar".into(), "src".into()]),
        ("p.zip", "python3", vec!["-c".into(), zip.into()]),
        ("p.tgz", "python3", vec!["-c".into(), python("gz", "p.tgz")]),
        ("p.tar.bz2", "python3", vec!["-c".into(), python("bz2", "p.tar.bz2")]),
        ("p.tar.xz", "python3", vec!["-c".into(), python("xz", "p.tar.xz")]),
    ];
    for (name, program, arguments) in rows {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert!(pack(&place, program, &arguments), "{program} packs {name}");
        let bytes = std::fs::read(place.0.join(name)).expect("packed");
        place.unpack(name, &bytes).expect(name);
        assert_eq!(place.read("src/deep/in.txt"), text, "{name}");
        // Whatever the suffix says.
        place.unpack("other.tar", &bytes).expect(name);
        std::fs::remove_dir_all(place.0.join("in/src")).expect("unpacked");
    }
    assert_eq!(place.read("link"), "x");
}

#[test]
fn zstd_frames_follow_each_other() {
    let place = Place::new("zstd");
    // Raw blocks, by hand: magic, single segment of 5 bytes, last block, raw, 5 bytes.
    let frame = b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello";
    place.unpack("a.zst", &[frame.as_slice(), frame].concat()).expect("unpacked");
    assert_eq!(place.read("a"), "hellohello");
    place.unpack("b.gz", &[gzip(b"one "), gzip(b"two")].concat()).expect("unpacked");
    assert_eq!(place.read("b"), "one two");
    assert!(Path::new(&place.0).exists());
}
