//! Roots that are ready before their containers, and what of them a container can take.

use std::fmt::Debug;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kernel::mounts::options;
use kernel::parked::Parked;
use kernel::root::Fixture;
use oci_spec::runtime::{LinuxDevice, LinuxNamespaceType, Mount, Spec};

use super::FileOperation;

/// A mount namespace that has the container's overlay as its root, with fixtures in it.
#[derive(Debug)]
pub struct ReadyRoot {
    /// Nobody is in it.
    pub namespace: OwnedFd,
    /// What is in it.
    pub fixtures: Arc<Fixtures>,
    /// The container's shim, if it is there already, with a pid namespace of its own; what
    /// shows processes is in the root then.
    pub shim: Mutex<Option<Parked>>,
}

impl ReadyRoot {
    /// The shim, if it is there and alive.
    #[must_use]
    pub fn take_shim(&self) -> Option<Parked> {
        let shim = self.shim.lock().unwrap_or_else(PoisonError::into_inner).take();
        shim.filter(Parked::is_alive)
    }
}

/// Starts shims ahead of their containers.
pub trait Park: Debug + Send + Sync {
    /// One that makes what shows its processes in the root of this mount namespace, and
    /// waits for a container. Blocks.
    ///
    /// # Errors
    /// What it could not do.
    fn park(&self, namespace: BorrowedFd<'_>, fixtures: &Fixtures) -> io::Result<Parked>;
}

/// What containers have in a root of their own and nothing about them decides.
#[derive(Debug, Clone, Default)]
pub struct Fixtures {
    /// File systems of the kernel.
    pub mounts: Vec<Mount>,
    /// Character devices.
    pub devices: Vec<LinuxDevice>,
    /// Links.
    pub links: Vec<FileOperation>,
    /// Paths that are not to be seen; those that do not show processes are directories.
    pub hidden: Vec<PathBuf>,
    /// Paths that are not to be written to; they show processes.
    pub protected: Vec<PathBuf>,
}

/// What a container takes of the fixtures, by the directories that hold them.
#[derive(Debug)]
pub struct Taken<'a> {
    fixtures: &'a Fixtures,
    as_they_are: Vec<&'a Path>,
    /// Where there is something else in the container than in the ready root.
    pub others: Vec<&'a Path>,
}

impl Taken<'_> {
    fn is_in(&self, path: &Path) -> bool {
        self.as_they_are.iter().any(|top| path.starts_with(top))
    }

    /// Whether this mount is there.
    #[must_use]
    pub fn mount(&self, entry: &Mount) -> bool {
        self.is_in(entry.destination()) && self.fixtures.mounts.contains(entry)
    }

    /// Whether this device is there.
    #[must_use]
    pub fn device(&self, device: &LinuxDevice) -> bool {
        self.is_in(device.path()) && self.fixtures.devices.contains(device)
    }

    /// Whether this link is there.
    #[must_use]
    pub fn link(&self, operation: &FileOperation) -> bool {
        place(operation).is_some_and(|link| self.is_in(link))
            && self.fixtures.links.contains(operation)
    }

    /// Whether this path is hidden.
    #[must_use]
    pub fn hides(&self, path: &Path) -> bool {
        self.is_in(path) && self.fixtures.hidden.iter().any(|hidden| hidden == path)
    }

    /// Whether this path cannot be written to.
    #[must_use]
    pub fn protects(&self, path: &Path) -> bool {
        self.is_in(path) && self.fixtures.protected.iter().any(|protected| protected == path)
    }

    /// A directory that is hidden: it is empty.
    #[must_use]
    pub fn empty(&self) -> Option<&Path> {
        self.fixtures.empty().filter(|path| self.is_in(path))
    }
}

fn place(operation: &FileOperation) -> Option<&Path> {
    match operation {
        FileOperation::Symlink { link, .. } => Some(link),
        _ => None,
    }
}

impl Fixtures {
    /// Whether what is there shows processes: those of whoever mounts it.
    #[must_use]
    pub fn shows_processes(&self, path: &Path) -> bool {
        let proc = self.mounts.iter().filter(|entry| entry.typ().as_deref() == Some("proc"));
        proc.into_iter().any(|entry| path.starts_with(entry.destination()))
    }

    /// A directory that is hidden and does not show processes: it is empty.
    #[must_use]
    pub fn empty(&self) -> Option<&Path> {
        self.hidden.iter().map(PathBuf::as_path).find(|path| !self.shows_processes(path))
    }

    /// How they are made, but for what shows processes.
    #[must_use]
    pub fn steps(&self) -> Vec<Fixture> {
        let mounts = self.mounts.iter().filter(|entry| !self.shows_processes(entry.destination()));
        let mounts = mounts.map(|entry| {
            let kind = entry.typ().clone().unwrap_or_default();
            let words = entry.options().as_deref().unwrap_or_default();
            let options = options::parse(Some(&kind), words);
            let target = entry.destination().clone();
            Fixture::FileSystem { kind, target, flags: options.flags, data: options.data }
        });
        let devices = self.devices.iter().map(|device| Fixture::Device {
            path: device.path().clone(),
            number: (device.major() as u64, device.minor() as u64),
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        });
        let links = self.links.iter().filter_map(|link| match link {
            FileOperation::Symlink { target, link } => {
                Some(Fixture::Link { target: target.clone(), link: link.clone() })
            }
            _ => None,
        });
        let hidden = self.hidden.iter().filter(|path| !self.shows_processes(path));
        let hidden = hidden.map(|path| Fixture::Hidden(path.clone()));
        mounts.chain(devices).chain(links).chain(hidden).collect()
    }

    /// What of them is in the container of `spec` just as well when it is made first;
    /// `parked`: by its own shim, what shows processes.
    #[must_use]
    pub fn taken(&self, spec: &Spec, parked: bool) -> Taken<'_> {
        let tops = self.mounts.iter().map(|entry| entry.destination().as_path());
        let is_top = |path: &&Path| {
            let mut all = self.mounts.iter().map(Mount::destination);
            !all.any(|other| other != path && path.starts_with(other))
        };
        let (as_they_are, others) =
            tops.filter(is_top).partition(|top| self.suit(top, spec, parked));
        Taken { fixtures: self, as_they_are, others }
    }

    /// Whether the container has all that is at and below `top`, and nothing of its own
    /// that would be covered by it or covers it.
    fn suit(&self, top: &Path, spec: &Spec, parked: bool) -> bool {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let linux = spec.linux().as_ref();
        let ours: Vec<_> =
            self.mounts.iter().filter(|entry| entry.destination().starts_with(top)).collect();
        let last = mounts.iter().rposition(|entry| ours.contains(&entry)).unwrap_or(0);
        let in_the_way = |(at, entry): (usize, &Mount)| {
            let target = entry.destination();
            let covers =
                || self.paths().any(|path| path.starts_with(top) && path.starts_with(target));
            !ours.contains(&entry) && (covers() || at < last && target.starts_with(top))
        };
        let masked = linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
        let guarded = linux.and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default();
        let is_in = |list: &[String], path: &Path| list.iter().any(|one| Path::new(one) == path);
        let all_in = |ours: &[PathBuf], list: &[String]| {
            ours.iter().all(|path| !path.starts_with(top) || is_in(list, path))
        };
        let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        // It shows the network of whoever mounts it.
        let own_network = ours.iter().any(|entry| entry.typ().as_deref() == Some("sysfs"))
            && linux.and_then(|linux| linux.namespaces().as_ref()).is_some_and(|all| {
                all.iter().any(|space| space.typ() == LinuxNamespaceType::Network)
            });
        !own_network
            && (parked || !self.shows_processes(top))
            && ours.iter().all(|entry| mounts.contains(entry))
            && !mounts.iter().enumerate().any(in_the_way)
            && all_in(&self.hidden, masked)
            && all_in(&self.protected, guarded)
            && self.devices.iter().all(|one| !one.path().starts_with(top) || devices.contains(one))
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let mounts = self.mounts.iter().map(|entry| entry.destination().as_path());
        let devices = self.devices.iter().map(|device| device.path().as_path());
        let hidden = self.hidden.iter().chain(&self.protected).map(PathBuf::as_path);
        mounts.chain(devices).chain(self.links.iter().filter_map(place)).chain(hidden)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Linux;

    use super::*;
    use crate::mounts::{bind, file_system, new_namespace};

    fn fixtures() -> Fixtures {
        let mount = |kind, target| file_system(kind, target, &["nosuid", "mode=755"]);
        let link = FileOperation::Symlink { target: "pts/ptmx".into(), link: "/dev/ptmx".into() };
        Fixtures {
            mounts: vec![
                mount("sysfs", "/sys"),
                mount("tmpfs", "/dev"),
                mount("devpts", "/dev/pts"),
            ],
            devices: Vec::new(),
            links: vec![link],
            hidden: vec!["/sys/firmware".into()],
            protected: Vec::new(),
        }
    }

    fn spec(mounts: &[&Mount], linux: impl Fn(&mut Linux)) -> Spec {
        let mut own = Linux::default();
        own.set_namespaces(None).set_masked_paths(Some(vec!["/sys/firmware".into()]));
        linux(&mut own);
        let mut spec = Spec::default();
        spec.set_linux(Some(own));
        spec.set_mounts(Some(mounts.iter().map(|entry| (*entry).clone()).collect()));
        spec
    }

    #[test]
    fn they_are_taken_where_the_container_has_just_them() {
        let fixtures = fixtures();
        let [sys, dev, pts] = [0, 1, 2].map(|n| &fixtures.mounts[n]);
        let proc = &file_system("proc", "/proc", &[]);
        let on = |target: &str| bind(Path::new("/x"), Path::new(target), false);
        let others = |mounts: &[&Mount], linux: &dyn Fn(&mut Linux)| {
            let spec = spec(mounts, linux);
            let taken = fixtures.taken(&spec, false);
            assert_eq!(taken.as_they_are.len() + taken.others.len(), 2);
            taken.others.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let plain = &|_: &mut Linux| {};
        let all = [proc, sys, dev, pts, &on("/dev/shm"), &on("/data"), &on("/sys/fs/cgroup")];
        assert!(others(&all, plain).is_empty());
        assert_eq!(others(&[proc, sys, dev], plain), ["/dev"], "one is missing");
        let other = file_system("tmpfs", "/dev", &["mode=777"]);
        assert_eq!(others(&[sys, &other, pts], plain), ["/dev"], "one is different");
        for target in ["/dev", "/dev/ptmx"] {
            assert_eq!(others(&[sys, dev, pts, &on(target)], plain), ["/dev"], "{target}");
        }
        assert_eq!(others(&[sys, dev, pts, &on("/")], plain), ["/sys", "/dev"], "all is covered");
        assert_eq!(
            others(&[dev, &on("/dev/own"), pts, sys], plain),
            ["/dev"],
            "it would cover one"
        );
        let network = &|linux: &mut Linux| {
            linux.set_namespaces(Some(vec![new_namespace(LinuxNamespaceType::Network)]));
        };
        assert_eq!(others(&[sys, dev, pts], network), ["/sys"], "another network");
        let seen = &|linux: &mut Linux| {
            linux.set_masked_paths(None);
        };
        assert_eq!(others(&[sys, dev, pts], seen), ["/sys"], "nothing is hidden");
    }

    #[test]
    fn what_shows_processes_is_taken_with_its_shim() {
        let proc = file_system("proc", "/proc", &["nosuid"]);
        let fixtures = Fixtures {
            mounts: vec![proc.clone()],
            hidden: vec!["/proc/kcore".into()],
            protected: vec!["/proc/sys".into()],
            ..Fixtures::default()
        };
        assert!(fixtures.steps().is_empty() && fixtures.empty().is_none());
        let guarded = |hidden: &str| {
            spec(&[&proc], |linux| {
                linux.set_masked_paths(Some(vec![hidden.into()]));
                linux.set_readonly_paths(Some(vec!["/proc/sys".into()]));
            })
        };
        let (same, other) = (guarded("/proc/kcore"), guarded("/proc/keys"));
        let taken = fixtures.taken(&same, true);
        assert!(taken.mount(&proc) && taken.hides(Path::new("/proc/kcore")));
        assert!(taken.protects(Path::new("/proc/sys")) && !taken.protects(Path::new("/proc")));
        assert_eq!(fixtures.taken(&same, false).others, [Path::new("/proc")], "no shim");
        assert_eq!(fixtures.taken(&other, true).others, [Path::new("/proc")], "kcore is seen");
    }

    #[test]
    fn what_is_taken_is_known_by_what_it_is() {
        let fixtures = fixtures();
        let spec = spec(&[&fixtures.mounts[0], &fixtures.mounts[1]], |_| {});
        let taken = fixtures.taken(&spec, false);
        assert_eq!(taken.others, [Path::new("/dev")]);
        assert!(taken.mount(&fixtures.mounts[0]) && !taken.mount(&fixtures.mounts[1]));
        assert!(!taken.mount(&file_system("sysfs", "/sys", &["ro"])));
        assert!(!taken.link(&fixtures.links[0]));
        assert!(taken.hides(Path::new("/sys/firmware")) && !taken.hides(Path::new("/sys")));
        assert_eq!(taken.empty(), Some(Path::new("/sys/firmware")));
        let steps = fixtures.steps();
        assert_eq!(steps.len(), 5);
        let Fixture::FileSystem { kind, flags, data, .. } = &steps[1] else { panic!("{steps:?}") };
        assert_eq!((kind.as_str(), data.as_str()), ("tmpfs", "mode=755"));
        assert_ne!(*flags, 0);
    }
}
