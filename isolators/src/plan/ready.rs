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

/// What containers have in a root of their own and nothing about them decides, by the
/// directories that hold it.
#[derive(Debug, Clone, Default)]
pub struct Fixtures(Vec<Top>);

/// All that is at and below one mount point of a root.
#[derive(Debug, Clone, Default)]
pub struct Top {
    /// The mount point; none is below another.
    pub path: PathBuf,
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

/// What a container takes of the fixtures.
#[derive(Debug)]
pub struct Taken<'a> {
    as_they_are: Vec<&'a Top>,
    /// Where there is something else in the container than in the ready root.
    pub others: Vec<&'a Path>,
}

impl Taken<'_> {
    /// Whether this mount is there.
    #[must_use]
    pub fn mount(&self, entry: &Mount) -> bool {
        self.as_they_are.iter().any(|top| top.mounts.contains(entry))
    }

    /// Whether this device is there.
    #[must_use]
    pub fn device(&self, device: &LinuxDevice) -> bool {
        self.as_they_are.iter().any(|top| top.devices.contains(device))
    }

    /// Whether this link is there.
    #[must_use]
    pub fn link(&self, operation: &FileOperation) -> bool {
        self.as_they_are.iter().any(|top| top.links.contains(operation))
    }

    /// Whether this path is hidden.
    #[must_use]
    pub fn hides(&self, path: &str) -> bool {
        self.as_they_are.iter().any(|top| names(&top.hidden, path))
    }

    /// Whether this path cannot be written to.
    #[must_use]
    pub fn protects(&self, path: &str) -> bool {
        self.as_they_are.iter().any(|top| names(&top.protected, path))
    }

    /// A directory that is hidden: it is empty.
    #[must_use]
    pub fn empty(&self) -> Option<&Path> {
        self.as_they_are.iter().find_map(|top| top.empty())
    }
}

/// Whether a path, as it is written, is in the list.
fn names(list: &[PathBuf], path: &str) -> bool {
    list.iter().any(|one| one.as_os_str() == path)
}

fn place(operation: &FileOperation) -> Option<&Path> {
    match operation {
        FileOperation::Symlink { link, .. } => Some(link),
        _ => None,
    }
}

impl Fixtures {
    /// Of these mounts, and what is said to be at or below them.
    #[must_use]
    pub fn new(mounts: Vec<Mount>) -> Fixtures {
        let mut tops: Vec<Top> = Vec::new();
        let mut sorted: Vec<&Mount> = mounts.iter().collect();
        sorted.sort_by_key(|entry| entry.destination());
        for entry in sorted {
            if !tops.iter().any(|top| entry.destination().starts_with(&top.path)) {
                tops.push(Top { path: entry.destination().clone(), ..Top::default() });
            }
        }
        let mut fixtures = Fixtures(tops);
        for entry in mounts {
            if let Some(top) = fixtures.at(entry.destination()) {
                top.mounts.push(entry);
            }
        }
        fixtures
    }

    fn at(&mut self, path: &Path) -> Option<&mut Top> {
        self.0.iter_mut().find(|top| path.starts_with(&top.path))
    }

    /// With these devices.
    #[must_use]
    pub fn devices(mut self, all: Vec<LinuxDevice>) -> Fixtures {
        for device in all {
            if let Some(top) = self.at(device.path()) {
                top.devices.push(device);
            }
        }
        self
    }

    /// With these links.
    #[must_use]
    pub fn links(mut self, all: Vec<FileOperation>) -> Fixtures {
        for link in all {
            if let Some(top) = place(&link).and_then(|path| self.at(path)) {
                top.links.push(link);
            }
        }
        self
    }

    /// With these paths not to be seen and not to be written to.
    #[must_use]
    pub fn guarded(mut self, hidden: &[&str], protected: &[&str]) -> Fixtures {
        for path in hidden {
            if let Some(top) = self.at(path.as_ref()) {
                top.hidden.push(path.into());
            }
        }
        for path in protected {
            if let Some(top) = self.at(path.as_ref()) {
                top.protected.push(path.into());
            }
        }
        self
    }

    /// All of them.
    #[must_use]
    pub fn tops(&self) -> &[Top] {
        &self.0
    }

    /// What shows processes: those of whoever mounts it.
    pub fn processes(&self) -> impl Iterator<Item = &Top> {
        self.0.iter().filter(|top| top.shows_processes())
    }

    /// A directory that is hidden and does not show processes: it is empty.
    #[must_use]
    pub fn empty(&self) -> Option<&Path> {
        self.0.iter().find_map(Top::empty)
    }

    /// How they are made, but for what shows processes.
    #[must_use]
    pub fn steps(&self) -> Vec<Fixture> {
        self.0.iter().filter(|top| !top.shows_processes()).flat_map(Top::steps).collect()
    }

    /// What of them is in the container of `spec` just as well when it is made first;
    /// `parked`: by its own shim, what shows processes.
    #[must_use]
    pub fn taken(&self, spec: &Spec, parked: bool) -> Taken<'_> {
        let (as_they_are, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|top| top.suits(spec, parked));
        Taken { as_they_are, others: others.into_iter().map(|top| top.path.as_path()).collect() }
    }
}

impl Top {
    fn is_of(&self, kind: &str) -> bool {
        self.mounts.iter().any(|entry| entry.typ().as_deref() == Some(kind))
    }

    fn shows_processes(&self) -> bool {
        self.is_of("proc")
    }

    fn empty(&self) -> Option<&Path> {
        self.hidden.first().filter(|_| !self.shows_processes()).map(PathBuf::as_path)
    }

    fn steps(&self) -> impl Iterator<Item = Fixture> {
        let mounts = self.mounts.iter().map(|entry| {
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
        let hidden = self.hidden.iter().map(|path| Fixture::Hidden(path.clone()));
        mounts.chain(devices).chain(links).chain(hidden)
    }

    /// Whether the container has all of it, and nothing of its own that would be covered
    /// by it or covers it.
    fn suits(&self, spec: &Spec, parked: bool) -> bool {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let linux = spec.linux().as_ref();
        let last = mounts.iter().rposition(|entry| self.mounts.contains(entry)).unwrap_or(0);
        let in_the_way = |(at, entry): (usize, &Mount)| {
            let target = entry.destination();
            let is_below = target.starts_with(&self.path);
            if !is_below && !self.path.starts_with(target) || self.mounts.contains(entry) {
                return false;
            }
            is_below && at < last || self.paths().any(|path| path.starts_with(target))
        };
        let masked = linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
        let guarded = linux.and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default();
        let all_in = |ours: &[PathBuf], list: &[String]| {
            ours.iter().all(|path| list.iter().any(|one| path.as_os_str() == one.as_str()))
        };
        let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        // It shows the network of whoever mounts it.
        let own_network = self.is_of("sysfs")
            && linux.and_then(|linux| linux.namespaces().as_ref()).is_some_and(|all| {
                all.iter().any(|space| space.typ() == LinuxNamespaceType::Network)
            });
        !own_network
            && (parked || !self.shows_processes())
            && self.mounts.iter().all(|entry| mounts.contains(entry))
            && !mounts.iter().enumerate().any(in_the_way)
            && all_in(&self.hidden, masked)
            && all_in(&self.protected, guarded)
            && self.devices.iter().all(|one| devices.contains(one))
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
        let mounts =
            vec![mount("sysfs", "/sys"), mount("tmpfs", "/dev"), mount("devpts", "/dev/pts")];
        Fixtures::new(mounts).links(vec![link]).guarded(&["/sys/firmware"], &[])
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

    /// `/sys`, `/dev` and `/dev/pts`.
    fn mounts(fixtures: &Fixtures) -> [&Mount; 3] {
        let [dev, sys] = fixtures.0.as_slice() else { panic!("{fixtures:?}") };
        [&sys.mounts[0], &dev.mounts[0], &dev.mounts[1]]
    }

    #[test]
    fn they_are_taken_where_the_container_has_just_them() {
        let fixtures = fixtures();
        let [sys, dev, pts] = mounts(&fixtures);
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
        assert_eq!(others(&[sys, dev, pts, &on("/")], plain), ["/dev", "/sys"], "all is covered");
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
        let fixtures = Fixtures::new(vec![proc.clone()]).guarded(&["/proc/kcore"], &["/proc/sys"]);
        assert!(fixtures.steps().is_empty() && fixtures.empty().is_none());
        let guarded = |hidden: &str| {
            spec(&[&proc], |linux| {
                linux.set_masked_paths(Some(vec![hidden.into()]));
                linux.set_readonly_paths(Some(vec!["/proc/sys".into()]));
            })
        };
        let (same, other) = (guarded("/proc/kcore"), guarded("/proc/keys"));
        let taken = fixtures.taken(&same, true);
        assert!(taken.mount(&proc) && taken.hides("/proc/kcore"));
        assert!(taken.protects("/proc/sys") && !taken.protects("/proc"));
        assert_eq!(fixtures.taken(&same, false).others, [Path::new("/proc")], "no shim");
        assert_eq!(fixtures.taken(&other, true).others, [Path::new("/proc")], "kcore is seen");
    }

    #[test]
    fn what_is_taken_is_known_by_what_it_is() {
        let fixtures = fixtures();
        let [sys, dev, _] = mounts(&fixtures);
        let spec = spec(&[sys, dev], |_| {});
        let taken = fixtures.taken(&spec, false);
        assert_eq!(taken.others, [Path::new("/dev")]);
        assert!(taken.mount(sys) && !taken.mount(dev));
        assert!(!taken.mount(&file_system("sysfs", "/sys", &["ro"])));
        assert!(!taken.link(&fixtures.0[0].links[0]));
        assert!(taken.hides("/sys/firmware") && !taken.hides("/sys"));
        assert_eq!(taken.empty(), Some(Path::new("/sys/firmware")));
        let steps = fixtures.steps();
        assert_eq!(steps.len(), 5);
        let Fixture::FileSystem { kind, flags, data, .. } = &steps[0] else { panic!("{steps:?}") };
        assert_eq!((kind.as_str(), data.as_str()), ("tmpfs", "mode=755"));
        assert_ne!(*flags, 0);
    }
}
