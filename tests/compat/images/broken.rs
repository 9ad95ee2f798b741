//! Connections that break, processes that die, people who lose interest.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead::provisioner::{Digest, Options, Reference, Store};

use super::{PATIENCE, Place, read, settings, until};
use crate::registry::{Answer, Layer, Parcel, Shelf, file, ranged, tar};
use crate::require;
use crate::support::TempDir;

/// What does not compress.
fn noise(length: usize, mut state: u32) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Two layers, the second large.
fn parcel() -> Parcel {
    let (first, second) = (noise(1000, 1), noise(2_000_000, 2));
    let layers = [("first", first), ("second", second)];
    Parcel::new(layers.map(|(name, bytes)| Layer::gzip(tar(&[file(name, &bytes)]))).to_vec())
}

fn path_of(parcel: &Parcel, layer: usize) -> String {
    format!("/v2/x/blobs/{}", Digest::of(&parcel.layers[layer].packed))
}

/// A shelf with `parcel` that answers the first requests for its second layer as told.
fn odd(
    parcel: &Parcel,
    answer: impl Fn(usize, &[u8]) -> Option<Answer> + Send + Sync + 'static,
) -> Shelf {
    let (files, target) = (parcel.shelved("x", "latest"), path_of(parcel, 1));
    let count = AtomicUsize::new(0);
    Shelf::start(move |path, head| {
        let special = if path == target {
            answer(count.fetch_add(1, Ordering::SeqCst), &files[path])
        } else {
            None
        };
        special.unwrap_or_else(|| ranged(&files, path, head))
    })
}

fn cut(bytes: &[u8], at: usize, pause: Duration) -> Answer {
    Answer { cut: Some(at), pause, ..Answer::ok(bytes.to_vec()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_is_taken_up_where_it_broke() {
    require!(root);
    let parcel = parcel();
    let shelf = odd(&parcel, |nth, bytes| match nth {
        0 => Some(cut(bytes, 1_000_000, Duration::ZERO)),
        1 => Some(Answer::status("503 Service Unavailable")),
        _ => None,
    });
    let place = Place::new(&format!("http://{}", shelf.host));
    place.get("x").await.expect("pulled");
    // What the helper had not read when the connection was gone comes again.
    assert_eq!(shelf.asked("Range: bytes="), 2);
    assert_eq!(shelf.asked(&path_of(&parcel, 0)), 1);

    // A server that begins anew each time, and one that falls silent.
    let anew: fn(usize, &[u8]) -> Option<Answer> = |nth, bytes| {
        Some(if nth == 0 {
            cut(bytes, 500_000, Duration::ZERO)
        } else {
            Answer::ok(bytes.to_vec())
        })
    };
    let silent: fn(usize, &[u8]) -> Option<Answer> =
        |nth, bytes| (nth == 0).then(|| cut(bytes, 500_000, Duration::from_secs(30)));
    for answer in [anew, silent] {
        let shelf = odd(&parcel, answer);
        let place = Place::with(&format!("http://{}", shelf.host), |settings| {
            settings.stall = Duration::from_secs(1);
        });
        let lease = place.get("x").await.expect("pulled");
        let second = super::find(&lease, "second");
        assert_eq!(std::fs::read(second).expect("read"), noise(2_000_000, 2));
        place.settle().await;
    }
}

/// Processes that have files of the store open, this one excepted.
fn helpers(store: &Path) -> Vec<i32> {
    let inside = |pid: i32| {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links.filter_map(|link| link.path().read_link().ok()).any(|path| path.starts_with(store))
    };
    let pids = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = i32::try_from(std::process::id()).expect("a pid");
    pids.filter(|pid| *pid != own && inside(*pid)).collect()
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// A shelf on which the second layer stands still, as often as `times` says.
fn still(parcel: &Parcel, times: usize) -> Shelf {
    odd(parcel, move |nth, bytes| {
        (nth < times).then(|| cut(bytes, 1_000_000, Duration::from_secs(120)))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_with_its_helper_and_when_nobody_waits() {
    require!(root);
    let parcel = parcel();
    let shelf = still(&parcel, 2);
    let place = Arc::new(Place::new(&format!("http://{}", shelf.host)));
    let store = place.dir.path().join("store").canonicalize().expect("there");
    let waiting = {
        let place = Arc::clone(&place);
        tokio::spawn(async move { place.refused("x").await })
    };
    let at_work = || place.names("layers").len() == 1 && helpers(&store).len() == 1;
    until("the first layer to be there", at_work).await;
    kill(helpers(&store)[0]);
    let error = waiting.await.expect("an error");
    assert!(error.contains("the helper process ended with signal: 9"), "{error}");

    // Two wait; one loses interest, then the other.
    let wait = || {
        let store = place.store.clone();
        let name = Reference::parse("x").expect("a name");
        tokio::spawn(async move { store.get(&name, Options::default()).await.map(drop) })
    };
    let (one, two) = (wait(), wait());
    until("the second pull to be at work", || helpers(&store).len() == 1).await;
    let pid = helpers(&store)[0];
    one.abort();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(helpers(&store), [pid], "somebody waits");
    two.abort();
    until("the helper to end", || helpers(&store).is_empty()).await;
    // Whoever comes later gets it, and the layer that was there is not asked for again.
    place.get("x").await.expect("pulled");
    assert_eq!(shelf.asked(&path_of(&parcel, 0)), 1);
    place.settle().await;
}

const CHILD: &str = "BULKHEAD_TEST_IMAGES";

/// No test: what [`agent`] runs as a process of its own, to be killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests"]
async fn child() {
    let Ok(line) = std::env::var(CHILD) else { return };
    let (dir, registry) = line.split_once(' ').expect("two words");
    let store = Store::open(settings(Path::new(dir), registry)).expect("a store");
    let name = Reference::parse("x").expect("a name");
    let _ = store.get(&name, Options::default()).await;
}

/// Something like an agent that pulls one image.
fn agent(dir: &Path, registry: &str) -> std::process::Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "images::broken::child"])
        .env(CHILD, format!("{} {registry}", dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run this program")
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_of_the_agent_what_was_whole_is_there_and_nothing_else() {
    require!(root);
    let parcel = parcel();
    let shelf = still(&parcel, 1);
    let (dir, registry) = (TempDir::new("images-kill"), format!("http://{}", shelf.host));
    let mut child = agent(dir.path(), &registry);
    let store = dir.path().join("store");
    let names = |part: &str| {
        std::fs::read_dir(store.join(part)).map_or(0, |entries| entries.flatten().count())
    };
    until("the first layer to be there", || names("layers") == 1 && names("staging") == 1).await;
    // Another agent does not get the store meanwhile.
    let error = Store::open(settings(dir.path(), &registry)).expect_err("in use").to_string();
    assert!(error.contains("is used by another agent (--docker_store_dir)"), "{error}");
    child.kill().expect("kill");
    child.wait().expect("reaped");
    let real = store.canonicalize().expect("there");
    until("its helper to die with it", || helpers(&real).is_empty()).await;

    let place = Place { store: Store::open(settings(dir.path(), &registry)).expect("open"), dir };
    assert_eq!((names("staging"), names("locks"), names("layers")), (0, 0, 1));
    assert!(place.store.list().is_empty());
    place.get("x").await.expect("pulled");
    assert_eq!(shelf.asked(&path_of(&parcel, 0)), 1, "the first layer came once");
}

/// Killed again and again, wherever it happens to be.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_time() {
    require!(root);
    let contents: BTreeMap<String, Vec<u8>> =
        (0..6).map(|n| (format!("file{n}"), noise(400_000, n))).collect();
    let layers = contents.iter().map(|(name, bytes)| Layer::gzip(tar(&[file(name, bytes)])));
    let shelf = Shelf::of(Parcel::new(layers.collect()).shelved("x", "latest"));
    let (dir, registry) = (TempDir::new("images-kills"), format!("http://{}", shelf.host));
    let real = dir.path().canonicalize().expect("there").join("store");
    for round in 0..12 {
        let mut child = agent(dir.path(), &registry);
        tokio::time::sleep(Duration::from_millis(15 * round)).await;
        let _ = child.kill();
        child.wait().expect("reaped");
        until("its helper to die with it", || helpers(&real).is_empty()).await;
    }
    let place = Place { store: Store::open(settings(dir.path(), &registry)).expect("open"), dir };
    let lease = tokio::time::timeout(PATIENCE, place.get("x")).await.expect("in time");
    let lease = lease.expect("pulled");
    for (name, bytes) in &contents {
        assert!(std::fs::read(super::find(&lease, name)).expect(name) == *bytes, "{name}");
    }
    place.settle().await;
}

/// A machine that lost power: what was not on the disk is known by its boot.
#[tokio::test(flavor = "multi_thread")]
async fn layers_of_another_boot_that_were_not_flushed_are_pulled_again() {
    require!(root);
    let parcel = Parcel::small("content");
    let shelf = Shelf::of(parcel.shelved("x", "latest"));
    let place = Place::new(&format!("http://{}", shelf.host));
    drop(place.get("x").await.expect("pulled"));
    let Place { store, dir } = place;
    let layer = Digest::of(&parcel.layers[0].plain).hex();
    let record = dir.path().join("store/layers").join(&layer).join("layer.json");
    let boot = || std::fs::read_to_string(&record).expect("a record").contains("boot");
    until("the layer to be flushed", || !boot()).await;
    drop(store);
    let mut again = None;
    let reopen = || Store::open(settings(dir.path(), &format!("http://{}", shelf.host)));
    until("the store to be free", || {
        again = reopen().ok();
        again.is_some()
    })
    .await;
    let store = again.take().expect("open");
    assert_eq!(store.list().len(), 1);
    drop(store);
    let other = r#"{"bytes":7,"hides":false,"boot":"00000000000000000000000000000001"}"#;
    std::fs::write(&record, other).expect("write");
    let place = Place { store: reopen().expect("open"), dir };
    assert!(place.store.list().is_empty() && place.names("layers").is_empty());
    assert_eq!(read(&place.get("x").await.expect("pulled"), "file"), "content");
    assert_eq!(shelf.asked(&path_of(&parcel, 0)), 2);
}
