//! Images that go: by hand, and when the disk fills.

use std::time::{Duration, SystemTime};

use bulkhead::provisioner::{Reference, Store};

use super::{Place, settings, until};
use crate::registry::{Layer, Parcel, Shelf, file, tar};
use crate::require;

fn name(text: &str) -> Reference {
    Reference::parse(text).expect(text)
}

/// Three images on a common layer.
fn shelf() -> Shelf {
    let base = Layer::gzip(tar(&[file("base", &[b'b'; 5000])]));
    let mut files = std::collections::BTreeMap::new();
    for image in ["a", "b", "c"] {
        let own = Layer::gzip(tar(&[file("own", image.as_bytes())]));
        files.extend(Parcel::new(vec![base.clone(), own]).shelved(image, "latest"));
    }
    Shelf::of(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_or_excluded_stays() {
    require!(root);
    let shelf = shelf();
    let place = Place::new(&format!("http://{}", shelf.host));
    let a = place.get("a").await.expect("a");
    for other in ["b", "c"] {
        drop(place.get(other).await.expect(other));
    }
    assert_eq!(place.names("layers").len(), 4);
    let again = a.clone();
    drop(a);
    let pruned = place.store.prune(&[name("c:latest")]).await.expect("pruned");
    let host = &shelf.host;
    assert_eq!(pruned.images, [name(&format!("{host}/b:latest"))]);
    assert_eq!((pruned.layers, pruned.bytes), (1, 1));
    assert!(again.layers.iter().all(|layer| layer.is_dir()));
    drop(again);
    let pruned = place.store.prune(&[]).await.expect("pruned");
    assert_eq!((pruned.images.len(), pruned.layers, pruned.bytes), (2, 3, 5002));
    for part in ["layers", "images", "references"] {
        assert!(place.names(part).is_empty(), "{part}");
    }
    place.settle().await;
    // It comes back.
    place.get("a").await.expect("a");
}

/// A pull that fails leaves the layers that were fine, for the next; they go like others.
#[tokio::test(flavor = "multi_thread")]
async fn layers_of_failed_pulls_go_too() {
    require!(root);
    let fine = Layer::plain(tar(&[file("fine", b"12345")]));
    let bad = Layer::plain(tar(&[file("../bad", b"x")]));
    let shelf = Shelf::of(Parcel::new(vec![fine, bad]).shelved("x", "latest"));
    let place = Place::new(&format!("http://{}", shelf.host));
    let mut rounds = 0;
    // The layer that is refused may be so before the other is there.
    while place.names("layers").is_empty() {
        place.refused("x").await;
        rounds += 1;
        assert!(rounds < 200, "the fine layer never came");
    }
    let pruned = place.store.prune(&[]).await.expect("pruned");
    assert_eq!((pruned.images.len(), pruned.layers, pruned.bytes), (0, 1, 5));
    assert!(place.names("layers").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_are_known_after_a_restart() {
    require!(root);
    let shelf = shelf();
    let registry = format!("http://{}", shelf.host);
    let place = Place::new(&registry);
    let mut leases = Vec::new();
    for image in ["a", "b", "c"] {
        leases.push(place.get(image).await.expect(image));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let held = leases[1].id;
    let uses = |store: &Store| -> Vec<(Reference, SystemTime)> {
        store.list().into_iter().map(|image| (image.reference, image.used)).collect()
    };
    let begun = uses(&place.store);
    // The end of a use is a use, unless it is the same second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(leases.remove(0));
    drop(leases);
    let before = uses(&place.store);
    assert!(begun.iter().zip(&before).all(|(begun, ended)| begun.1 < ended.1));
    let Place { store, dir } = place;
    drop(store);
    let mut found = None;
    until("the store to be free", || {
        found = Store::open(settings(dir.path(), &registry)).ok();
        found.is_some()
    })
    .await;
    let place = Place { store: found.expect("open"), dir };
    for (image, (reference, used)) in place.store.list().iter().zip(&before) {
        let apart = used.duration_since(image.used).or_else(|_| image.used.duration_since(*used));
        assert!(image.reference == *reference && apart.expect("apart") < Duration::from_millis(5));
    }
    // What a container still uses is told by whoever knows the containers.
    let lease = place.store.keep(&held).expect("there");
    let pruned = place.store.prune(&[]).await.expect("pruned");
    assert_eq!(pruned.images.len(), 2);
    assert_eq!(place.store.list()[0].id, lease.id);
    assert_eq!(shelf.asked("GET /v2/a/manifests"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_made_when_the_disk_fills() {
    require!(root);
    let shelf = shelf();
    let place = Place::new(&format!("http://{}", shelf.host));
    drop(place.get("a").await.expect("a"));
    let kept = place.get("b").await.expect("b");
    let none = place.store.make_room(0.0, &[]).await.expect("looked");
    assert!(none.images.is_empty() && place.store.list().len() == 2);
    // More than this disk has: all that may goes.
    let pruned = place.store.make_room(1.0, &[]).await.expect("made room");
    assert_eq!((pruned.images.len(), place.store.list().len()), (1, 1));
    let (id, layers) = (kept.id, kept.layers.clone());
    drop(kept);
    assert_eq!(place.store.list()[0].id, id);
    assert!(layers.iter().all(|layer| layer.is_dir()));
}
