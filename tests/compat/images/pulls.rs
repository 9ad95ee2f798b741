//! Pulls that go well.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bulkhead::provisioner::{Digest, Options, Progress, Reference};
use tar::EntryType;

use super::{Place, find, read};
use crate::registry::{
    DOCKER_MANIFEST, Entry, Guard, INDEX, Layer, Parcel, Registry, Shelf, file, index, link, tar,
};
use crate::require;

/// An image of all compressions, with all that files have.
fn rich() -> Parcel {
    let base = tar(&[
        Entry { mode: 0o755, kind: EntryType::Directory, ..file("etc", b"") },
        file("etc/passwd", b"root"),
        file("etc/motd", b"below"),
        Entry { mode: 0o4755, ..file("bin/su", b"program") },
        link("bin/sh", EntryType::Symlink, "/bin/su"),
        link("bin/same", EntryType::Link, "bin/su"),
        Entry { owner: 70_000, ..file("home/x", b"mine") },
    ]);
    let top = tar(&[file("etc/.wh.motd", b""), file("var/.wh..wh..opq", b""), file("new", b"top")]);
    let middle = tar(&[file("middle", &vec![b'm'; 300_000])]);
    Parcel::new(vec![Layer::gzip(base), Layer::zstd(middle), Layer::plain(top)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_once_for_all_with_all_that_files_have() {
    require!(root, docker_registry, curl, openssl);
    let registry = Registry::start(Guard::Open);
    let parcel = rich();
    registry.push("a/rich", "1", &parcel);
    let place = Place::new("https://registry-1.docker.io");
    let name = format!("{}/a/rich:1", registry.host);
    let (a, b, c) = tokio::join!(place.get(&name), place.get(&name), place.get(&name));
    let (a, b, c) = (a.expect("pulled"), b.expect("pulled"), c.expect("pulled"));
    assert_eq!((a.id, a.layers.len(), &a.layers), (parcel.id(), 3, &b.layers));
    assert_eq!(a.manifest, Some(Digest::of(&parcel.manifest)));
    assert_eq!((a.config.user.as_str(), a.config.cmd[0].as_str()), ("7", "/bin/sh"));
    assert_eq!(c.reference.to_string(), name);
    for layer in &parcel.layers {
        let digest = Digest::of(&layer.packed).to_string();
        assert_eq!(registry.asked(&digest), 1, "{}", registry.log());
    }

    let data = |name: &str| find(&a, name).symlink_metadata().expect(name);
    assert_eq!(read(&a, "new"), "top");
    assert_eq!(data("middle").len(), 300_000);
    assert_eq!((data("bin/su").mode() & 0o7777, data("bin/su").mtime()), (0o4755, 1_000_000_000));
    assert_eq!(data("bin/same").ino(), data("bin/su").ino());
    assert_eq!(
        std::fs::read_link(find(&a, "bin/sh")).expect("a link"),
        std::path::Path::new("/bin/su")
    );
    assert_eq!((data("home/x").uid(), data("home/x").gid()), (70_000, 70_000));
    // Gone, in the form that overlay reads.
    assert_eq!((data("etc/motd").mode() & 0o170_000, data("etc/motd").rdev()), (0o020_000, 0));
    let var = std::fs::File::open(find(&a, "var")).expect("there");
    let opaque = kernel::xattr::get(&var, "trusted.overlay.opaque");
    assert_eq!(opaque.expect("read").as_deref(), Some(&b"y"[..]));
    let store = std::fs::metadata(place.dir.path().join("store/layers")).expect("there");
    assert_eq!(store.mode() & 0o777, 0o700, "programs of images are nobody else's");
    place.settle().await;

    // Another one that shares layers gets only what it lacks.
    let mut layers = parcel.layers.clone();
    layers.push(Layer::gzip(tar(&[file("more", b"x")])));
    let other = Parcel::new(layers);
    registry.push("b/other", "latest", &other);
    let other = place.get(&format!("{}/b/other", registry.host)).await.expect("pulled");
    assert_eq!(&other.layers[..3], &a.layers[..]);
    let shared = Digest::of(&parcel.layers[0].packed).to_string();
    assert_eq!(registry.asked(&shared), 1, "{}", registry.log());
    assert!(place.store.list().iter().all(|image| image.in_use) && place.store.list().len() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_for_this_machine_is_chosen_and_tags_may_move() {
    require!(root, docker_registry, curl, openssl);
    let registry = Registry::start(Guard::Open);
    let (mine, other, newer) =
        (Parcel::small("mine"), Parcel::small("windows"), Parcel::small("newer"));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let list = index(&[(&other, "windows", architecture), (&mine, "linux", architecture)]);
    for (parcel, tag) in [(&mine, "mine"), (&other, "other"), (&newer, "newer")] {
        registry.push("multi", tag, parcel);
    }
    registry.put_manifest("multi", "latest", INDEX, &list);
    // The agent's own registry: the image need not name it.
    let place = Place::new(&format!("http://{}", registry.host));
    let lease = place.get("multi").await.expect("pulled");
    assert_eq!(read(&lease, "file"), "mine");
    assert_eq!(lease.manifest, Some(Digest::of(&list)));
    // Pinned: the list, or the image.
    for digest in [Digest::of(&list), Digest::of(&mine.manifest)] {
        let lease = place.get(&format!("multi@{digest}")).await.expect("pulled");
        assert_eq!(lease.id, mine.id());
    }
    let error = place.refused(&format!("multi@{}", Digest::of(b"none"))).await;
    assert!(error.contains("answered 404") && error.contains("manifest unknown"), "{error}");
    let windows = index(&[(&other, "windows", "amd64")]);
    registry.put_manifest("multi", "windows", INDEX, &windows);
    let error = place.refused("multi:windows").await;
    assert!(
        error.contains("there is no image for linux/") && error.contains("windows/amd64"),
        "{error}"
    );

    // The tag means another image now, known only to those who ask.
    registry.push("multi", "latest", &newer);
    assert_eq!(place.get("multi").await.expect("cached").id, mine.id());
    let options = Options { force_pull: true, ..Options::default() };
    let name = Reference::parse("multi").expect("a name");
    let forced = place.store.get(&name, options).await.expect("pulled");
    assert_eq!((forced.id, read(&forced, "file")), (newer.id(), "newer".to_owned()));
    assert_eq!(read(&lease, "file"), "mine", "who has it keeps it");
    let docker = String::from_utf8(mine.manifest.clone()).expect("text");
    let docker = docker
        .replace("application/vnd.oci.image.manifest.v1+json", DOCKER_MANIFEST)
        .replace(
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
        )
        .replace(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        );
    registry.put_manifest("multi", "docker", DOCKER_MANIFEST, docker.as_bytes());
    assert_eq!(place.get("multi:docker").await.expect("pulled").id, mine.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_need_not_have_it() {
    require!(root);
    let parcel = Parcel::small("mirrored");
    let (empty, full) = (Shelf::of(Default::default()), Shelf::of(parcel.shelved("x", "latest")));
    let registry = Shelf::of(parcel.shelved("x", "2"));
    let place = Place::with(&format!("http://{}", registry.host), |settings| {
        let urls = [&empty, &full].map(|shelf| format!("http://{}", shelf.host));
        settings.mirrors.insert(registry.host.clone(), urls.to_vec());
    });
    assert_eq!(read(&place.get("x").await.expect("pulled"), "file"), "mirrored");
    assert_eq!((empty.asked("/v2/x"), registry.asked("/v2/x")), (1, 0));
    place.get("x:2").await.expect("from the registry itself");
    assert_eq!((full.asked("manifests/2"), registry.asked("manifests/2")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told() {
    require!(root);
    // Not compressible.
    let mut state = 7_u32;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let parcel = Parcel::new(vec![Layer::gzip(tar(&[file("noise", &noise)]))]);
    let size = parcel.layers[0].packed.len() as u64;
    let shelf = Shelf::of(parcel.shelved("x", "latest"));
    let place = Place::new(&format!("http://{}", shelf.host));
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let calls = Arc::new(AtomicU64::new(0));
    let (sink, count) = (Arc::clone(&seen), Arc::clone(&calls));
    let options = Options {
        progress: Some(Arc::new(move |progress| {
            count.fetch_add(1, Ordering::Relaxed);
            sink.lock().expect("whole").push(progress);
        })),
        ..Options::default()
    };
    let name = Reference::parse("x").expect("a name");
    place.store.get(&name, options).await.expect("pulled");
    let seen = seen.lock().expect("whole");
    assert!(calls.load(Ordering::Relaxed) > 0, "at least that it began");
    assert!(seen.iter().all(|p| p.bytes <= size && (p.of == 0 || p.of == size)), "{seen:?}");
}
