//! `--docker_registry=/directory`: archives of docker and OCI layouts.

use std::io::Write;
use std::path::Path;

use bulkhead::provisioner::Digest;
use serde_json::{Value, json};
use tar::EntryType;

use super::{Place, read};
use crate::registry::{Layer, Parcel, file, link, tar};
use crate::require;
use crate::support::TempDir;

fn parcel(content: &str) -> Parcel {
    let layers = [("base", "below"), ("file", content)];
    let layers = layers.map(|(name, text)| Layer::plain(tar(&[file(name, text.as_bytes())])));
    Parcel::new(layers.to_vec())
}

/// An archive as `docker save` writes it: the second image's first layer is a link to
/// that of the first.
fn saved(images: &[(&Parcel, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |name: &str, kind: EntryType, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(if kind == EntryType::Regular { content.len() as u64 } else { 0 });
        if kind == EntryType::Regular {
            builder.append_data(&mut header, name, content).expect("in memory");
        } else {
            let target = std::str::from_utf8(content).expect("text");
            builder.append_link(&mut header, name, target).expect("in memory");
        }
    };
    let (mut manifest, mut first) = (Vec::new(), None);
    for (parcel, tag) in images {
        let mut names = Vec::new();
        for (n, layer) in parcel.layers.iter().enumerate() {
            let name = format!("{}-{n}/layer.tar", parcel.id().hex());
            match (&first, n) {
                (Some(target), 0) => {
                    put(&name, EntryType::Symlink, format!("../{target}").as_bytes());
                }
                _ => put(&name, EntryType::Regular, &layer.plain),
            }
            if n == 0 && first.is_none() {
                first = Some(name.clone());
            }
            names.push(name);
        }
        let config = format!("{}.json", parcel.id().hex());
        put(&config, EntryType::Regular, &parcel.config);
        manifest.push(json!({ "Config": config, "RepoTags": [tag], "Layers": names }));
    }
    put("manifest.json", EntryType::Regular, Value::from(manifest).to_string().as_bytes());
    builder.into_inner().expect("in memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// Writes an OCI layout.
fn layout(dir: &Path, images: &[(&Parcel, &str)]) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("mkdir");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
    let mut manifests = Vec::new();
    for (parcel, tag) in images {
        let layers = parcel.layers.iter().map(|layer| &layer.packed);
        for bytes in layers.chain([&parcel.config, &parcel.manifest]) {
            std::fs::write(blobs.join(Digest::of(bytes).hex()), bytes).expect("write");
        }
        manifests.push(json!({
            "digest": Digest::of(&parcel.manifest), "size": parcel.manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("write");
}

fn place(dir: &TempDir) -> Place {
    Place::new(&dir.path().display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_docker() {
    require!(root);
    let dir = TempDir::new("archives");
    let (one, two) = (parcel("one"), parcel("two"));
    let write = |name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(dir.path().join("team")).expect("mkdir");
        std::fs::write(dir.path().join(name), bytes).expect("write");
    };
    write("one:1.tar", &saved(&[(&one, "one:1")]));
    // Mesos' own form has no tag.
    write("two.tar", &saved(&[(&two, "whatever:2")]));
    write("team/packed:3.tar.gz", &gzip(&saved(&[(&one, "x:1")])));
    let both = saved(&[(&one, "both:1"), (&two, "both:2")]);
    write("both:2.tar", &both);
    write("both:3.tar", &both);
    let place = place(&dir);
    for (name, content) in
        [("one:1", "one"), ("two", "two"), ("team/packed:3", "one"), ("both:2", "two")]
    {
        let lease = place.get(name).await.expect(name);
        assert_eq!(
            (read(&lease, "file").as_str(), read(&lease, "base").as_str()),
            (content, "below")
        );
        assert_eq!(
            (lease.manifest, lease.reference.to_string()),
            (None, if name == "two" { "two:latest".into() } else { name.to_owned() })
        );
    }
    // Both have the same lower layer, which is there once.
    assert_eq!(place.names("layers").len(), 3);
    let error = place.refused("both:3").await;
    assert!(error.contains("has no image 'both:3'; it has: both:1, both:2"), "{error}");
    let error = place.refused("none:4").await;
    assert!(error.contains("there is none in") && error.contains("'none:4.tar'"), "{error}");
    place.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_of_oci() {
    require!(root);
    let dir = TempDir::new("layouts");
    let zipped = Parcel::new(vec![
        Layer::gzip(tar(&[file("base", b"below")])),
        Layer::zstd(tar(&[file("file", b"zipped")])),
    ]);
    let other = parcel("other");
    layout(&dir.path().join("plain:1"), &[(&zipped, "1"), (&other, "2")]);
    layout(&dir.path().join("plain:2"), &[(&zipped, "1"), (&other, "2")]);
    let packed = dir.path().join("packed:1.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&packed).expect("create"));
    builder.append_dir_all(".", dir.path().join("plain:1")).expect("packed");
    builder.into_inner().expect("written");
    let place = place(&dir);
    let lease = place.get("plain:1").await.expect("plain:1");
    assert_eq!(
        (read(&lease, "file").as_str(), lease.manifest),
        ("zipped", Some(Digest::of(&zipped.manifest)))
    );
    assert_eq!(read(&place.get("plain:2").await.expect("plain:2"), "file"), "other");
    assert_eq!(place.get("packed:1").await.expect("packed:1").id, zipped.id());

    // A blob that is not what its name says, and a link out of the layout.
    layout(&dir.path().join("bad:1"), &[(&other, "1")]);
    let blob = |parcel: &Parcel| Digest::of(&parcel.layers[1].packed).hex();
    let path = dir.path().join("bad:1/blobs/sha256").join(blob(&other));
    std::fs::write(&path, &parcel("wrong").layers[1].packed).expect("write");
    place.store.prune(&[]).await.expect("pruned");
    drop(lease);
    let fresh = Place::new(&dir.path().display().to_string());
    let error = fresh.refused("bad:1").await;
    assert!(error.contains("its content is sha256:") || error.contains("were promised"), "{error}");
    std::fs::remove_file(&path).expect("remove");
    std::os::unix::fs::symlink("/etc/passwd", &path).expect("link");
    let error = fresh.refused("bad:1").await;
    assert!(error.contains("of the layout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_is_said_by_name() {
    require!(root);
    let dir = TempDir::new("no-archives");
    let broken = json!([{ "Config": "../../etc/passwd", "Layers": [] }]).to_string();
    let lost = json!([{ "Config": "none.json", "Layers": [] }]).to_string();
    let looped = tar(&[
        link("manifest.json", EntryType::Symlink, "other.json"),
        link("other.json", EntryType::Symlink, "manifest.json"),
    ]);
    let rows: [(&str, Vec<u8>, &str); 6] = [
        ("text", b"hello, I am no archive, not even a short one".to_vec(), "failed to read"),
        ("empty", tar(&[file("readme", b"x")]), "it has no 'manifest.json' or 'index.json'"),
        (
            "json",
            tar(&[file("manifest.json", b"x")]),
            "failed to read 'manifest.json' of the archive",
        ),
        (
            "climbs",
            tar(&[file("manifest.json", broken.as_bytes())]),
            "'../../etc/passwd' is no name within an archive",
        ),
        ("lost", tar(&[file("manifest.json", lost.as_bytes())]), "it has no 'none.json'"),
        ("loop", looped, "is no name within an archive"),
    ];
    let place = place(&dir);
    for (name, bytes, expected) in rows {
        std::fs::write(dir.path().join(format!("{name}.tar")), bytes).expect("write");
        let error = place.refused(name).await;
        assert!(error.contains(expected), "{name}: {error}");
    }
    place.settle().await;
}
