//! Persistent volumes of containers that run already.

use std::path::Path;

use bulkhead::containerizer::Containerizer;
use isolators::quantity::scalar;
use mesos::resource::DiskInfo;
use mesos::resource::disk_info::Persistence;
use mesos::volume::Mode;
use mesos::{Resource, Volume};

use crate::{ALL, Place, end, require, top};

fn volume(id: &str, path: &str, mode: Mode) -> Resource {
    let volume = Volume { mode: mode as i32, container_path: path.into(), ..Volume::default() };
    let disk = DiskInfo {
        persistence: Some(Persistence { id: id.into(), principal: None }),
        volume: Some(volume),
        source: None,
    };
    Resource { disk: Some(disk), ..scalar("disk", 8.0) }
}

fn place(name: &str) -> Place {
    let mut place = Place::new(name, ALL);
    for id in ["a", "b"] {
        let dir = place.path("volumes").join(id);
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("f"), id).expect("a file");
    }
    place.config.isolators.disk.work_dir = place.path("volumes");
    place.config.isolators.disk.volume = |work_dir: &Path, resource: &Resource| {
        Some(work_dir.join(&resource.disk.as_ref()?.persistence.as_ref()?.id))
    };
    place
}

#[tokio::test]
async fn volumes_of_a_running_container_come_and_go() {
    require!(root, cgroup);
    let place = place("volumes");
    let native = place.start();
    let script = "until test -e deep/b/f; do sleep 0.02; done; cat data/f deep/b/f; \
                  touch data/x deep/b/x 2>/dev/null; ls data deep/b | grep -c x; \
                  while test -e data/f; do sleep 0.02; done; echo gone; \
                  until test -e data/f; do sleep 0.02; done; echo back; sleep 1000";
    let mut request = place.shell("a", script);
    let plain = request.requests.clone();
    let with = |volumes: &[Resource]| [&plain[..], volumes].concat();
    request.requests = with(&[volume("a", "data", Mode::Rw)]);
    native.launch(request.clone()).await.expect("launch");
    let more = with(&[volume("a", "data", Mode::Rw), volume("b", "deep/b", Mode::Ro)]);
    native.update(&top("a"), more.clone(), Default::default()).await.expect("one more");
    // Both are seen, one of them can be written to.
    place.wait_output("a", "ab1").await;
    let data = request.sandbox.join("data");
    assert_eq!(std::fs::read_dir(&data).expect("a mount point").count(), 0, "not on the host");
    let less = with(&[volume("b", "deep/b", Mode::Ro)]);
    native.update(&top("a"), less, Default::default()).await.expect("one less");
    place.wait_output("a", "gone").await;
    assert!(!data.exists() && place.path("volumes/a/f").exists());
    native.update(&top("a"), more, Default::default()).await.expect("again");
    place.wait_output("a", "back").await;
    native.destroy(&top("a"), None).await;
    end(&native, "a").await;
    assert_eq!(std::fs::read(place.path("volumes/a/f")).expect("kept"), b"a");
}

#[tokio::test]
async fn a_volume_is_not_mounted_through_a_link() {
    require!(root, cgroup);
    let place = place("linked");
    let native = place.start();
    let request = place.shell("a", "mkdir real; ln -s real deep; echo ready; sleep 1000");
    let mut requests = request.requests.clone();
    native.launch(request).await.expect("launch");
    place.wait_output("a", "ready").await;
    requests.push(volume("a", "deep/a", Mode::Rw));
    let refused = native.update(&top("a"), requests, Default::default()).await;
    assert!(refused.is_err(), "it was mounted through a link");
    native.destroy(&top("a"), None).await;
    end(&native, "a").await;
}
