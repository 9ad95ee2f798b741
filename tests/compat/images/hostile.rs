//! Images that are not what they say: refused by name, and nothing of them is left.

use bulkhead::provisioner::Digest;
use serde_json::json;
use tar::EntryType;

use super::Place;
use crate::registry::{Answer, Entry, Layer, Parcel, Shelf, file, link, tar};
use crate::require;

/// An image of one layer with these entries.
fn image(entries: &[Entry<'_>]) -> Parcel {
    Parcel::new(vec![Layer::gzip(tar(&[file("fine", b"x")])), Layer::gzip(tar(entries))])
}

async fn refused(place: &Place, what: &str, expected: &[&str]) {
    let error = place.refused("x").await;
    for words in expected {
        assert!(error.contains(words), "{what}: expected '{words}': {error}");
    }
    assert!(error.starts_with("failed to pull image '") && error.contains("/x:latest"), "{error}");
    assert!(place.store.list().is_empty(), "{what}");
    place.settle().await;
    assert!(place.names("images").is_empty() && place.names("references").is_empty(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_want_out() {
    require!(root);
    let evil = || file("l/evil", b"x");
    let soft = |target| link("l", EntryType::Symlink, target);
    let rows: [(&str, Vec<Entry<'_>>, &str); 9] = [
        ("up", vec![file("../../evil", b"x")], "'../../evil' in it would leave the image"),
        ("absolute link", vec![soft("/tmp"), evil()], "'l/evil' in it would leave the image"),
        ("climbing link", vec![soft("../../.."), evil()], "'l/evil' in it would leave the image"),
        ("dangling link", vec![soft("nowhere"), evil()], "'l/evil' in it would leave the image"),
        (
            "hard link",
            vec![link("h", EntryType::Link, "/etc/passwd")],
            "'h' in it is refused: it is a hard link to '/etc/passwd'",
        ),
        (
            "hard link up",
            vec![link("h", EntryType::Link, "../../../etc/passwd")],
            "would leave the image",
        ),
        (
            "device",
            vec![link("mem", EntryType::Char, "")],
            "'mem' in it is refused: it is a device (1:1) outside of /dev",
        ),
        ("whiteout", vec![file("a/.wh...", b"")], "'a/.wh...' in it is refused"),
        (
            "whiteout through a link",
            vec![soft("/etc"), file("l/.wh.passwd", b"")],
            "would leave the image",
        ),
    ];
    for (what, entries, expected) in rows {
        let parcel = image(&entries);
        let digest = Digest::of(&parcel.layers[1].packed).to_string();
        let shelf = Shelf::of(parcel.shelved("x", "latest"));
        let place = Place::new(&format!("http://{}", shelf.host));
        refused(&place, what, &[expected, &format!("failed to unpack layer {digest}")]).await;
        // What was fine about it stays for the next: by its content, it cannot be wrong.
        assert!(place.names("layers").len() <= 1, "{what}");
    }
    assert!(!std::path::Path::new("/tmp/evil").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs() {
    require!(root);
    // 10 GB of zeros in 10 MB.
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("short");
    header.set_size(10 << 30);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, header.as_bytes()).expect("in memory");
    let zeros = vec![0; 1 << 20];
    // The rest is never read.
    for _ in 0..400 {
        std::io::Write::write_all(&mut encoder, &zeros).expect("in memory");
    }
    let packed = encoder.finish().expect("in memory");
    let bomb = Layer { plain: b"never seen".to_vec(), packed, ..Layer::gzip(Vec::new()) };
    let shelf = Shelf::of(Parcel::new(vec![bomb]).shelved("x", "latest"));
    let place = Place::with(&format!("http://{}", shelf.host), |s| s.size_limit = 1 << 40);
    refused(&place, "zeros", &["too much for the size of its archive"]).await;

    let parcel = image(&[file("large", &vec![b'x'; 3_000_000])]);
    let shelf = Shelf::of(parcel.shelved("x", "latest"));
    let place = Place::with(&format!("http://{}", shelf.host), |s| s.size_limit = 2_000_000);
    refused(&place, "limit", &["--docker_image_size_limit"]).await;
}

/// What a registry answers instead of the truth: to a path and a head, of an image.
type Lie = fn(&str, &str, &Parcel) -> Option<Answer>;
/// Lies and what is said of them.
const LIES: [(&str, Lie, &[&str]); 10] = [
    (
        "manifest of 10 MB",
        |path, _, _| path.contains("/manifests/").then(|| Answer::ok(vec![b' '; 10 << 20])),
        &["failed to get the manifest 'latest'", "larger than 4194304 bytes"],
    ),
    (
        "endless redirects",
        |path, _, _| {
            let again = format!("302 Found\r\nLocation: {path}x");
            path.contains("/manifests/").then(|| Answer::status(&again))
        },
        &["more than 20 redirects"],
    ),
    (
        "a page",
        |path, _, _| path.contains("/manifests/").then(|| Answer::ok(b"<html>".to_vec())),
        &["the manifest 'latest' is of no use", "it is no manifest"],
    ),
    (
        "an old manifest",
        |path, _, _| {
            let old = br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec();
            path.contains("/manifests/").then(|| Answer::ok(old))
        },
        &["manifests of schema version 1 are not supported"],
    ),
    (
        "another configuration",
        |path, _, parcel| {
            let config = parcel.id().to_string();
            path.ends_with(&config).then(|| Answer::ok(b"{}".to_vec()))
        },
        &["the digest of its configuration is sha256:"],
    ),
    (
        "another blob of the same size",
        |path, _, parcel| {
            let packed = &parcel.layers[1].packed;
            // The operating system of a gzip header: the content is the same.
            let mut other = packed.clone();
            other[9] ^= 1;
            path.ends_with(&Digest::of(packed).to_string()).then(|| Answer::ok(other))
        },
        &["failed to check layer sha256:", "the digest of its content is"],
    ),
    (
        "a short blob",
        |path, _, parcel| {
            let packed = &parcel.layers[1].packed;
            let short = packed[..packed.len() - 3].to_vec();
            path.ends_with(&Digest::of(packed).to_string()).then(|| Answer::ok(short))
        },
        &["its content ends after", "were promised"],
    ),
    (
        "a long blob",
        |path, _, parcel| {
            let packed = &parcel.layers[1].packed;
            let long = [packed.as_slice(), &[0; 100_000]].concat();
            path.ends_with(&Digest::of(packed).to_string()).then(|| Answer::ok(long))
        },
        &["its content has more than", "were promised"],
    ),
    (
        "a refusal with reasons",
        |path, _, _| {
            let body = json!({ "errors": [{ "code": "DENIED", "message": "go away" }] });
            let answer =
                Answer { head: "403 Forbidden".into(), ..Answer::ok(body.to_string().into()) };
            path.contains("/manifests/").then_some(answer)
        },
        &["answered 403: go away"],
    ),
    (
        "no way in",
        |_, _, _| Some(Answer::status("401 Unauthorized\r\nWWW-Authenticate: Negotiate")),
        &["in a way that is not supported (negotiate)"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_lie() {
    require!(root);
    for (what, lie, expected) in LIES {
        let parcel = image(&[file("more", b"y")]);
        let files = parcel.shelved("x", "latest");
        let shelf = Shelf::start(move |path, head| {
            lie(path, head, &parcel).unwrap_or_else(|| crate::registry::ranged(&files, path, head))
        });
        let place = Place::new(&format!("http://{}", shelf.host));
        refused(&place, what, expected).await;
    }
}

/// Content that is right but for what the configuration says of it.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_lie() {
    require!(root);
    let mut layer = Layer::gzip(tar(&[file("a", b"x")]));
    layer.plain = b"another".to_vec();
    let shelf = Shelf::of(Parcel::new(vec![layer]).shelved("x", "latest"));
    let place = Place::new(&format!("http://{}", shelf.host));
    refused(
        &place,
        "diff id",
        &["its content is sha256:", "as the configuration of the image says"],
    )
    .await;
    assert!(place.names("layers").is_empty());

    let mut parcel = image(&[file("a", b"x")]);
    let fewer = Parcel::new(parcel.layers[..1].to_vec());
    let text = String::from_utf8(parcel.manifest.clone()).expect("text");
    let text = text.replace(&parcel.id().to_string(), &fewer.id().to_string());
    parcel.manifest = text
        .replace(
            &format!("\"size\":{}", parcel.config.len()),
            &format!("\"size\":{}", fewer.config.len()),
        )
        .into();
    parcel.config = fewer.config;
    let shelf = Shelf::of(parcel.shelved("x", "latest"));
    let place = Place::new(&format!("http://{}", shelf.host));
    refused(&place, "fewer", &["the manifest has 2 layers, the configuration 1"]).await;
}
