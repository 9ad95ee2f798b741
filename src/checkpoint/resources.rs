//! `meta/resources`: what is reserved and created on this agent, its operations,
//! and the directories of its persistent volumes, which follow it.
//!
//! ```text
//! write *.target -> make and remove volumes -> rename over resources.info and *.state
//! ```
//!
//! Whoever finds a target at its start goes on from there: each step can be done
//! twice. `resources_and_operations.*` counts; `resources.*` is what older agents of
//! Mesos read. Called by the storage task and by recovery.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kernel::{failpoint, remove};
use mesos::Resource;
use mesos::internal::slave::ResourceState;
use mesos::resource::disk_info::source;
use mesos::resources::{Format, convert, upgrade_all};
use thiserror::Error;

use super::files::{self, StorageError, framed};
use super::paths::names;
use super::{WorkDir, discard};

type Result<T> = std::result::Result<T, StorageError>;

/// Why a volume's data is still there.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum VolumeError {
    #[error("failed to move it to '{place}'")]
    Move { place: PathBuf, source: io::Error },
    #[error("failed to read it")]
    Read(#[source] io::Error),
    #[error("failed to delete its files")]
    Delete(#[source] remove::RemoveError),
}

/// Makes `state` what is checkpointed, volumes included. All of it is on the disk
/// afterwards if `sync`. What is to be deleted now comes back.
///
/// # Errors
/// What could not be written, made or removed; the next call begins again.
pub(super) fn commit(work: &WorkDir, state: &ResourceState, sync: bool) -> Result<Vec<PathBuf>> {
    let dir = work.resources();
    let now = match read(&dir.join(names::RESOURCE_STATE), &dir.join(names::RESOURCES)) {
        // Recovery has skipped it: no volume is known to be gone.
        Err(StorageError::Damaged { .. }) => ResourceState::default(),
        now => now?,
    };
    let target = dir.join(names::RESOURCE_STATE_TARGET);
    flush(&target, files::replace(&target, &framed(state), sync)?, sync)?;
    let old = dir.join(names::RESOURCES_TARGET);
    flush(&old, files::replace(&old, &listed(&state.resources), sync)?, sync)?;
    failpoint!("resources.target");
    let removed = follow(work, &now.resources, &state.resources, sync)?;
    failpoint!("resources.volumes");
    settle(work, sync)?;
    Ok(removed)
}

/// What is checkpointed; a target that a dying agent left is one if it is whole.
/// With `repair` its volumes are put in order, and it takes its place.
///
/// # Errors
/// A file that is damaged; a volume that cannot be made or removed.
pub(super) fn recover(work: &WorkDir, repair: bool) -> Result<ResourceState> {
    let dir = work.resources();
    let now = read(&dir.join(names::RESOURCE_STATE), &dir.join(names::RESOURCES))?;
    let place = dir.join(names::RESOURCE_STATE_TARGET);
    let old = dir.join(names::RESOURCES_TARGET);
    // Of an agent without operations only the older file is there.
    let older = !dir.join(names::RESOURCE_STATE).exists() && old.exists();
    if !place.exists() && !older {
        return Ok(now);
    }
    let target = read(&place, &old)?;
    if repair {
        tracing::info!("finishing a change of reservations and volumes");
        // What is in the trash is found there.
        follow(work, &now.resources, &target.resources, true)?;
        settle(work, true)?;
    }
    Ok(target)
}

/// The state in `path`, or the resources in `old` if there is none.
fn read(path: &Path, old: &Path) -> Result<ResourceState> {
    let mut state = match files::message::<ResourceState>(path)? {
        Some(state) => state,
        None => ResourceState {
            resources: files::records::<Resource>(old, false)?.records,
            ..ResourceState::default()
        },
    };
    upgrade_all(&mut state.resources);
    Ok(state)
}

/// The older file: one record for each resource, in the older format where it fits.
fn listed(resources: &[Resource]) -> Vec<u8> {
    let mut old = resources.to_vec();
    let _ = convert(&mut old, Format::Pre);
    old.iter().flat_map(framed).collect()
}

fn flush(path: &Path, file: File, sync: bool) -> Result<()> {
    if !sync {
        return Ok(());
    }
    file.sync_data().map_err(|source| StorageError::Flush { path: path.to_owned(), source })
}

/// Targets take their places, the one that counts last.
fn settle(work: &WorkDir, sync: bool) -> Result<()> {
    let dir = work.resources();
    let rename = |from: &str, to: &str| {
        let path = dir.join(to);
        match fs::rename(dir.join(from), &path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::Rename { path, source })
            }
            _ => Ok(()),
        }
    };
    rename(names::RESOURCES_TARGET, names::RESOURCES)?;
    failpoint!("resources.half");
    rename(names::RESOURCE_STATE_TARGET, names::RESOURCE_STATE)?;
    let opened = |source| StorageError::Read { path: dir.clone(), source };
    flush(&dir, File::open(&dir).map_err(opened)?, sync)
}

/// Makes the directories of volumes that are new, removes those that are gone.
fn follow(work: &WorkDir, now: &[Resource], then: &[Resource], sync: bool) -> Result<Vec<PathBuf>> {
    let places = |resources: &[Resource]| -> BTreeMap<PathBuf, Resource> {
        resources.iter().filter_map(|r| Some((work.volume(r)?, r.clone()))).collect()
    };
    let (now, then) = (places(now), places(then));
    // What is there already stays as it is: it may be a mount point, or data that is
    // to be taken over.
    for path in then.keys().filter(|path| !now.contains_key(*path)) {
        tracing::info!(path = %path.display(), "creating a persistent volume");
        files::create_dir(path)?;
        flush_above(path, sync)?;
    }
    let mut removed = Vec::new();
    for (path, volume) in now.iter().filter(|(path, _)| !then.contains_key(*path)) {
        tracing::info!(path = %path.display(), "deleting a persistent volume");
        let gone = delete(work, path, is_mount(volume));
        removed.extend(gone.map_err(|source| StorageError::Volume { path: path.clone(), source })?);
        flush_above(path, sync)?;
    }
    Ok(removed)
}

/// Flushes the directories that name a volume: its role's, `roles`, `volumes`, and the
/// one that these are in. A disk of its own has fewer.
fn flush_above(path: &Path, sync: bool) -> Result<()> {
    for dir in path.ancestors().skip(1).take(4) {
        match File::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StorageError::Read { path: dir.to_owned(), source }),
            Ok(file) => flush(dir, file, sync)?,
        }
    }
    Ok(())
}

fn is_mount(volume: &Resource) -> bool {
    let source = volume.disk.as_ref().and_then(|disk| disk.source.as_ref());
    source.is_some_and(|source| source.r#type() == source::Type::Mount)
}

/// Takes a volume away: into the trash, where it is deleted later. On another file
/// system it is deleted where it is, except for the mount point itself.
fn delete(
    work: &WorkDir,
    path: &Path,
    is_mount: bool,
) -> std::result::Result<Option<PathBuf>, VolumeError> {
    let whole = |path: &Path| match remove::tree(path, &mut |_| true) {
        Ok(_) => Ok(()),
        Err(error) => Err(VolumeError::Delete(error)),
    };
    if is_mount {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(VolumeError::Read)?,
        };
        for entry in entries {
            whole(&entry.map_err(VolumeError::Read)?.path())?;
        }
        return Ok(None);
    }
    let place = work.trash().join(uuid::Uuid::new_v4().to_string());
    match fs::create_dir_all(work.trash()).and_then(|()| fs::rename(path, &place)) {
        Ok(()) => Ok(Some(place)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "the persistent volume was gone already");
            Ok(None)
        }
        Err(error) if discard::in_place(error.kind()) => whole(path).map(|()| None),
        Err(source) => Err(VolumeError::Move { place, source }),
    }
}

#[cfg(test)]
mod tests {
    use mesos::resource::disk_info::{Persistence, Source};
    use mesos::resource::{DiskInfo, ReservationInfo};

    use super::*;

    struct Fixture(WorkDir);

    impl Fixture {
        fn new(name: &str) -> Fixture {
            let root =
                std::env::temp_dir().join(format!("resources-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            Fixture(WorkDir::new(root))
        }

        fn commit(&self, volumes: &[Resource]) -> Vec<PathBuf> {
            let state = ResourceState { resources: volumes.to_vec(), ..Default::default() };
            commit(&self.0, &state, true).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.resources()).unwrap();
            let mut names: Vec<_> =
                entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.root());
        }
    }

    fn volume(id: &str) -> Resource {
        Resource {
            name: "disk".into(),
            scalar: Some(mesos::value::Scalar { value: 8.0 }),
            reservations: vec![ReservationInfo {
                role: Some("web".into()),
                r#type: Some(2),
                ..ReservationInfo::default()
            }],
            disk: Some(DiskInfo {
                persistence: Some(Persistence { id: id.into(), principal: None }),
                volume: Some(mesos::Volume { container_path: "data".into(), ..Default::default() }),
                source: None,
            }),
            ..Resource::default()
        }
    }

    #[test]
    fn volumes_follow_what_is_checkpointed() {
        let it = Fixture::new("follow");
        let (a, b) = (volume("a"), volume("b"));
        let place = |v| it.0.volume(v).unwrap();
        assert!(it.commit(&[a.clone(), b.clone()]).is_empty());
        assert!(place(&a).is_dir() && place(&b).is_dir());
        assert_eq!(it.names(), [names::RESOURCES, names::RESOURCE_STATE]);
        fs::write(place(&a).join("kept"), "x").unwrap();
        let gone = it.commit(std::slice::from_ref(&a));
        assert!(!place(&b).exists() && gone.len() == 1 && gone[0].is_dir());
        assert!(place(&a).join("kept").is_file());
        assert_eq!(recover(&it.0, true).unwrap().resources, [a]);
    }

    #[test]
    fn a_change_that_was_cut_short_is_finished() {
        let it = Fixture::new("finish");
        let (a, b) = (volume("a"), volume("b"));
        it.commit(std::slice::from_ref(&a));
        let state = ResourceState { resources: vec![b.clone()], ..Default::default() };
        let target = it.0.resources().join(names::RESOURCE_STATE_TARGET);
        files::replace(&target, &framed(&state), false).unwrap();
        assert_eq!(
            recover(&it.0, false).unwrap().resources,
            std::slice::from_ref(&b),
            "as an agent will"
        );
        assert!(target.exists() && it.0.volume(&a).unwrap().exists(), "looking changes nothing");
        assert_eq!(recover(&it.0, true).unwrap().resources, std::slice::from_ref(&b));
        assert!(it.0.volume(&b).unwrap().is_dir() && !it.0.volume(&a).unwrap().exists());
        assert_eq!(it.names(), [names::RESOURCES, names::RESOURCE_STATE]);
    }

    #[test]
    fn the_root_of_a_mount_disk_and_what_links_lead_to_stay() {
        let it = Fixture::new("mount");
        let outside = it.0.root().join("outside");
        let root = it.0.root().join("disk");
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(root.join("deep/er")).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("deep/link")).unwrap();
        let mut mount = volume("m");
        let mut source = Source {
            mount: Some(source::Mount { root: Some(root.to_string_lossy().into()) }),
            ..Source::default()
        };
        source.set_type(source::Type::Mount);
        mount.disk.as_mut().unwrap().source = Some(source);
        it.commit(&[mount]);
        it.commit(&[]);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert!(outside.join("kept").is_file());
    }

    #[test]
    fn what_an_older_agent_wrote_is_read() {
        let it = Fixture::new("older");
        fs::create_dir_all(it.0.resources()).unwrap();
        fs::write(it.0.resources().join(names::RESOURCES), listed(&[volume("a")])).unwrap();
        assert_eq!(recover(&it.0, true).unwrap().resources, [volume("a")]);
    }
}
