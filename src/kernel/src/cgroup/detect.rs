//! Which cgroup hierarchies are mounted where, from `/proc/self/mountinfo`.
//!
//! Pure but for [`Hierarchies::detect`]. Read once at start, never on a hot path.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Error;

/// The two kinds of hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// One hierarchy per controller (or per set of co-mounted controllers).
    V1,
    /// The unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its kind.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Controllers it carries (`cpu`, `memory`, ...); v2: those that can be
    /// enabled in its root. Empty for named v1 hierarchies.
    pub controllers: BTreeSet<String>,
    /// `name=` of a v1 hierarchy (`systemd`).
    pub name: Option<String>,
}

/// All mounted hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    all: Vec<Hierarchy>,
}

/// Controllers a v1 mount can name in its super options; the rest are options.
const V1_CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

/// How often and how far apart mounting is tried while the kernel is busy: 2 s.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Controllers that v2 has without listing them: eBPF decides on devices, and
/// `perf_event` follows every process. They are not enabled by anybody.
const V2_IMPLICIT: [&str; 2] = ["devices", "perf_event"];

/// Whether v2 has the controller without `cgroup.subtree_control` naming it.
#[must_use]
pub fn is_implicit_on_v2(controller: &str) -> bool {
    V2_IMPLICIT.contains(&controller)
}

impl Hierarchies {
    /// Reads this process' mount table.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` cannot be read.
    pub fn detect() -> Result<Hierarchies, Error> {
        let table = Path::new("/proc/self/mountinfo");
        let text = std::fs::read(table).map_err(|e| Error::io("read", table, e))?;
        Ok(Hierarchies::parse(&text, |mount| {
            std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    /// Finds the hierarchies in a mount table; `v2_controllers` gives the content
    /// of `cgroup.controllers` of a cgroup2 mount. A hierarchy mounted more than
    /// once counts where it was mounted first.
    #[must_use]
    pub fn parse(mountinfo: &[u8], v2_controllers: impl Fn(&Path) -> String) -> Hierarchies {
        let mut all: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.split(|b| *b == b'\n') {
            let Some(found) = parse_line(line, &v2_controllers) else { continue };
            let again = all.iter().any(|known| {
                known.version == found.version
                    && known.controllers == found.controllers
                    && known.name == found.name
            });
            if !again {
                all.push(found);
            }
        }
        Hierarchies { all }
    }

    /// Every hierarchy, in mount order.
    #[must_use]
    pub fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    /// The hierarchy that carries `controller`. A v1 mount wins: the kernel gives
    /// a controller to one hierarchy only, but a v2 mount in another cgroup
    /// namespace may still list it.
    #[must_use]
    pub fn carrying(&self, controller: &str) -> Option<&Hierarchy> {
        let carries = |h: &&Hierarchy| h.controllers.contains(controller);
        let v1 = self.all.iter().filter(|h| h.version == Version::V1).find(carries);
        let implicit = || is_implicit_on_v2(controller).then(|| self.unified()).flatten();
        v1.or_else(|| self.all.iter().find(carries)).or_else(implicit)
    }

    /// Mounts v1's `controller` at `<base>/<controller>`, where no hierarchy has
    /// it but the kernel does, and notes the mount. Nothing on pure v2 hosts.
    ///
    /// # Errors
    /// The directory cannot be made, or the kernel refuses.
    pub fn mount_v1(&mut self, controller: &str, base: &Path) -> Result<bool, Error> {
        let in_kernel = std::fs::read("/proc/cgroups").unwrap_or_default();
        if self.carrying(controller).is_some() || self.is_pure_v2() || !has(&in_kernel, controller)
        {
            return Ok(false);
        }
        let mount = base.join(controller);
        std::fs::create_dir_all(&mount).map_err(|e| Error::io("create", &mount, e))?;
        let flags = nix::mount::MsFlags::MS_NOSUID
            | nix::mount::MsFlags::MS_NODEV
            | nix::mount::MsFlags::MS_NOEXEC;
        let try_it =
            || nix::mount::mount(Some("cgroup"), &mount, Some("cgroup"), flags, Some(controller));
        let mut result = try_it();
        // Busy while the kernel takes an unmounted hierarchy of it apart.
        for _ in 0..BUSY_TRIES {
            if result != Err(nix::errno::Errno::EBUSY) {
                break;
            }
            std::thread::sleep(BUSY_PAUSE);
            result = try_it();
        }
        result.map_err(|e| Error::io("mount a cgroup hierarchy at", &mount, e.into()))?;
        let controllers = BTreeSet::from([controller.to_owned()]);
        self.all.push(Hierarchy { version: Version::V1, mount, controllers, name: None });
        Ok(true)
    }

    /// The unified hierarchy, if mounted.
    #[must_use]
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|h| h.version == Version::V2)
    }

    /// Whether there are only v2 hierarchies.
    #[must_use]
    pub fn is_pure_v2(&self) -> bool {
        self.unified().is_some() && self.all.iter().all(|h| h.version == Version::V2)
    }
}

/// Whether `/proc/cgroups` has the controller, enabled.
fn has(table: &[u8], controller: &str) -> bool {
    table.split(|b| *b == b'\n').any(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|f| !f.is_empty());
        fields.next() == Some(controller.as_bytes()) && fields.nth(2) == Some(b"1")
    })
}

/// One line: `36 35 98:0 /root /mount options optional… - type source super`.
fn parse_line(line: &[u8], v2_controllers: &impl Fn(&Path) -> String) -> Option<Hierarchy> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let mount = unescape(fields.get(4)?);
    let options = std::str::from_utf8(fields.get(dash + 3)?).ok()?;
    match *fields.get(dash + 1)? {
        b"cgroup2" => {
            let controllers =
                v2_controllers(&mount).split_whitespace().map(str::to_owned).collect();
            Some(Hierarchy { version: Version::V2, mount, controllers, name: None })
        }
        b"cgroup" => {
            let controllers: BTreeSet<String> = options
                .split(',')
                .filter(|option| V1_CONTROLLERS.contains(option))
                .map(str::to_owned)
                .collect();
            let name = options.split(',').find_map(|o| o.strip_prefix("name=")).map(str::to_owned);
            Some(Hierarchy { version: Version::V1, mount, controllers, name })
        }
        _ => None,
    }
}

/// Undoes the kernel's `\040` spelling of blanks in paths.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\' && tail.len() >= 3)
            .then(|| std::str::from_utf8(&tail[..3]).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_BY_ONE: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_takes_controllers_from_v1() {
        let found = Hierarchies::parse(ONE_BY_ONE.as_bytes(), |_| String::new());
        assert_eq!(found.all().len(), 5);
        let cpu = found.carrying("cpu").unwrap();
        assert_eq!(
            (cpu.version, cpu.mount.as_path()),
            (Version::V1, Path::new("/sys/fs/cgroup/cpu"))
        );
        assert_eq!(found.carrying("pids"), None);
        assert_eq!(found.unified().unwrap().mount, Path::new("/sys/fs/cgroup/unified"));
        assert!(!found.is_pure_v2());
        assert_eq!(found.all()[3].name.as_deref(), Some("systemd"));
    }

    #[test]
    fn a_controller_that_v1_does_not_have_is_found_on_unified() {
        let found = Hierarchies::parse(ONE_BY_ONE.as_bytes(), |_| "pids hugetlb\n".into());
        assert_eq!(found.carrying("pids").unwrap().version, Version::V2);
        assert_eq!(found.carrying("memory").unwrap().version, Version::V1);
    }

    #[test]
    fn pure_v2() {
        let table =
            "24 22 0:21 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate\n";
        let found = Hierarchies::parse(table.as_bytes(), |_| "cpuset cpu io memory pids".into());
        assert!(found.is_pure_v2());
        assert_eq!(found.carrying("memory").unwrap().mount, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn co_mounted_twice_mounted_and_escaped() {
        let table = "\
1 0 0:1 / /c/cpu\\040acct rw shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct,clone_children
2 0 0:1 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct,clone_children
garbage
";
        let found = Hierarchies::parse(table.as_bytes(), |_| String::new());
        assert_eq!(found.all().len(), 1);
        assert_eq!(found.carrying("cpuacct").unwrap().mount, Path::new("/c/cpu acct"));
    }

    #[test]
    fn controllers_of_the_kernel() {
        let table = b"#subsys_name\thierarchy\tnum\tenabled\nnet_cls\t0\t1\t1\nrdma\t0\t1\t0\n";
        assert!(has(table, "net_cls") && !has(table, "rdma") && !has(table, "net"));
    }

    #[test]
    fn devices_and_perf_are_on_every_v2() {
        let found = Hierarchies::parse(ONE_BY_ONE.as_bytes(), |_| String::new());
        for name in ["devices", "perf_event"] {
            assert_eq!(found.carrying(name).unwrap().version, Version::V2, "{name}");
        }
        assert_eq!(Hierarchies::default().carrying("devices"), None);
    }

    #[test]
    fn nothing_mounted() {
        assert!(Hierarchies::parse(b"", |_| String::new()).all().is_empty());
        assert!(!Hierarchies::default().is_pure_v2());
    }
}
