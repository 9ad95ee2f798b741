//! Where a container's cgroups are, on every kind of host. Pure but for
//! [`Layout::initialize`], which makes the root directories once at start.
//!
//! v1: `<hierarchy>/<cgroups_root>/<id>`; nested `…/<id>/mesos/<child>`.
//! v2: the same directories hold the knobs, and the processes are in their
//! `leaf`, since v2 wants no processes in a cgroup that has children.
//! Hybrid: as v1, and with `network/ports` also in the v2 hierarchy, without knobs.
//!
//! One cgroup of each container is its *tracker*: no process of the container can
//! leave it, so killing what is in it kills the container. v2: the container's
//! directory. v1: the one in the `pids` hierarchy (else `freezer`, else any), also
//! for nested containers that share all other cgroups with their parent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::cgroup::{Cgroup, Hierarchy, Version, is_implicit_on_v2};

use crate::api::IsolatorError;
use crate::config::{Config, Launcher};
use crate::plan::CgroupJoin;

/// Directory between a container and its nested ones.
const SEPARATOR: &str = "mesos";
/// Holds the processes on v2.
const LEAF: &str = "leaf";

/// Whether a directory is named as agents name containers: a UUID in lower case.
#[must_use]
pub fn is_container_name(name: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = name.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.into_iter().all(hex)
}

/// The hierarchies in use and what for.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    /// Controller to its hierarchy's mount point and kind.
    controllers: BTreeMap<&'static str, Place>,
    /// Every hierarchy in use, once; the tracker's first.
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    mount: PathBuf,
    version: Version,
}

impl Place {
    fn of(hierarchy: &Hierarchy) -> Place {
        Place { mount: hierarchy.mount.clone(), version: hierarchy.version }
    }
}

impl Layout {
    /// The layout for these kernel controllers; `None` if there is nothing to
    /// lay out: no controllers, and a launcher that needs no tracker.
    ///
    /// # Errors
    /// A controller is on no mounted hierarchy, or nothing can be a tracker.
    pub fn new(
        config: &Config,
        wanted: &[(&'static str, &'static str)],
    ) -> Result<Option<Layout>, IsolatorError> {
        let mut controllers = BTreeMap::new();
        for (isolator, controller) in wanted {
            let hierarchy = config.hierarchies.carrying(controller).ok_or_else(|| {
                let hint = match *controller {
                    "net_cls" | "net_prio" if config.hierarchies.is_pure_v2() => {
                        "cgroup v2 does not have it (nftables match 'socket cgroupv2' instead)"
                    }
                    _ => "it is on no mounted hierarchy; enable it in the kernel or mount it",
                };
                let object = format!(
                    "the cgroup controller '{controller}': {hint}, or leave '{isolator}' out of \
                     --isolation"
                );
                IsolatorError::plain(isolator, "find", object)
            })?;
            controllers.insert(*controller, Place::of(hierarchy));
        }
        if controllers.is_empty() && config.launcher == Launcher::Posix {
            return Ok(None);
        }
        let tracker = tracker(config, &controllers).ok_or_else(|| {
            let object = "a cgroup hierarchy to keep track of containers (cgroup2, pids or freezer); \
                          mount one, or use --launcher=posix";
            IsolatorError::plain("cgroups", "find", object)
        })?;
        let mut places = vec![tracker];
        // Not the tracker on hybrid hosts: older containers are not in it.
        let beside = config.hierarchies.unified().filter(|_| config.ports.unified).map(Place::of);
        for place in controllers.values().cloned().chain(beside) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let root = PathBuf::from(config.cgroups_root.trim_matches('/'));
        Ok(Some(Layout { root, controllers, places }))
    }

    /// Makes the root directories; v2: gives them the controllers. Makes sure
    /// that what is named `<cgroups_root>` can hold containers.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn initialize(&self) -> Result<(), IsolatorError> {
        for place in &self.places {
            let mut group = Cgroup::new(place.version, &place.mount);
            let controllers: Vec<&str> = self.controllers_of(place);
            let failed = |group: &Cgroup, e| {
                let path = group.path().display().to_string();
                IsolatorError::new("cgroups", "make the root cgroup", path, e)
            };
            for part in &self.root {
                if place.version == Version::V2 {
                    group.enable(&controllers).map_err(|e| enable_failed(&group, e))?;
                }
                group = group.child(part);
                group.create_all().map_err(|e| failed(&group, e))?;
                self.fill(&group).map_err(|e| failed(&group, e))?;
            }
            if place.version == Version::V2 {
                group.enable(&controllers).map_err(|e| enable_failed(&group, e))?;
            }
        }
        Ok(())
    }

    /// v2 controllers to enable; the implicit ones need not be.
    fn controllers_of(&self, place: &Place) -> Vec<&'static str> {
        let here = self.controllers.iter().filter(|(_, p)| *p == place).map(|(name, _)| *name);
        here.filter(|name| !is_implicit_on_v2(name)).collect()
    }

    /// Makes a new directory able to hold processes: v1 `cpuset` needs that.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fill(&self, group: &Cgroup) -> Result<(), kernel::cgroup::Error> {
        match self.controllers.get("cpuset") {
            Some(place)
                if place.version == Version::V1 && group.path().starts_with(&place.mount) =>
            {
                group.inherit_cpuset()
            }
            _ => Ok(()),
        }
    }

    /// `<cgroups_root>` in every hierarchy in use, the tracker's first.
    #[must_use]
    pub fn roots(&self) -> Vec<Cgroup> {
        self.places.iter().map(|place| self.root_of(place)).collect()
    }

    fn root_of(&self, place: &Place) -> Cgroup {
        Cgroup::new(place.version, place.mount.join(&self.root))
    }

    fn group(&self, place: &Place, lineage: &[&str]) -> Cgroup {
        let mut path = PathBuf::new();
        for (depth, value) in lineage.iter().enumerate() {
            if depth > 0 {
                path.push(SEPARATOR);
            }
            path.push(value);
        }
        self.root_of(place).child(path)
    }

    /// The cgroup that holds all processes of the container and of those nested
    /// in it. `lineage`: the ids from the top-level container down.
    ///
    /// # Panics
    /// Never: a layout has at least one hierarchy.
    #[must_use]
    pub fn tracker(&self, lineage: &[&str]) -> Cgroup {
        self.group(self.places.first().expect("a layout has a tracker"), lineage)
    }

    /// The container's own directory in the hierarchy of `controller`.
    #[must_use]
    pub fn knobs(&self, controller: &str, lineage: &[&str]) -> Option<Cgroup> {
        self.controllers.get(controller).map(|place| self.group(place, lineage))
    }

    /// Where the v2 hierarchy is mounted, if containers have cgroups in it.
    #[must_use]
    pub fn unified_mount(&self) -> Option<&Path> {
        let place = self.places.iter().find(|place| place.version == Version::V2)?;
        Some(&place.mount)
    }

    /// The container's directory in the v2 hierarchy, with all its processes below,
    /// if containers have cgroups there.
    #[must_use]
    pub fn unified(&self, lineage: &[&str]) -> Option<Cgroup> {
        let place = self.places.iter().find(|place| place.version == Version::V2)?;
        Some(self.group(place, lineage))
    }

    /// Directories to make for the container, in order; remove in reverse.
    /// `shared`: the container uses its parent's limits.
    #[must_use]
    pub fn directories(&self, lineage: &[&str], shared: bool) -> Vec<Cgroup> {
        let mut all = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            if shared && index > 0 && place.version == Version::V1 {
                continue;
            }
            let group = self.group(place, lineage);
            if place.version == Version::V2 {
                let leaf = group.child(LEAF);
                all.extend([group, leaf]);
            } else {
                all.push(group);
            }
        }
        all
    }

    /// Cgroups that the container's first process joins. `exists` tells which
    /// directories are there: a shared container joins its nearest ancestor's.
    #[must_use]
    pub fn joins(&self, lineage: &[&str], exists: impl Fn(&Cgroup) -> bool) -> Vec<CgroupJoin> {
        let mut joins = Vec::new();
        for place in &self.places {
            let candidates = (1..=lineage.len()).rev().map(|n| self.group(place, &lineage[..n]));
            let Some(group) = candidates.into_iter().find(&exists) else { continue };
            joins.push(match place.version {
                Version::V1 => CgroupJoin::V1(group.path().to_path_buf()),
                Version::V2 => CgroupJoin::V2(group.file(LEAF)),
            });
        }
        joins
    }

    /// v2: the ancestors that must give a nested container's own cgroup its
    /// controllers, outermost first.
    #[must_use]
    pub fn givers(&self, lineage: &[&str]) -> Vec<(Cgroup, Vec<&'static str>)> {
        let mut all = Vec::new();
        for place in self.places.iter().filter(|place| place.version == Version::V2) {
            let controllers = self.controllers_of(place);
            for depth in 1..lineage.len() {
                let parent = self.group(place, &lineage[..depth]);
                let between = parent.child(SEPARATOR);
                all.extend([(parent, controllers.clone()), (between, controllers.clone())]);
            }
        }
        all
    }
}

/// The hierarchy that keeps track of containers.
fn tracker(config: &Config, used: &BTreeMap<&'static str, Place>) -> Option<Place> {
    if let Some(place) = used.values().find(|place| place.version == Version::V2) {
        return Some(place.clone());
    }
    let v1 = ["pids", "freezer"]
        .iter()
        .filter_map(|name| config.hierarchies.carrying(name))
        .find(|hierarchy| hierarchy.version == Version::V1)
        .map(Place::of);
    v1.or_else(|| config.hierarchies.unified().map(Place::of))
        .or_else(|| used.values().next().cloned())
}

fn enable_failed(group: &Cgroup, error: kernel::cgroup::Error) -> IsolatorError {
    let path = group.path().display();
    let object = format!(
        "controllers in '{path}': delegate them to it, and keep processes out of it (systemd: \
         Delegate=yes)"
    );
    IsolatorError::new("cgroups", "enable", object, error)
}

#[cfg(test)]
mod tests {
    use kernel::cgroup::Hierarchies;

    use super::*;

    const WANTED: [(&str, &str); 4] = [
        ("cgroups/cpu", "cpu"),
        ("cgroups/cpu", "cpuacct"),
        ("cgroups/mem", "memory"),
        ("cgroups/pids", "pids"),
    ];

    fn v1(controllers: &[&str]) -> Config {
        let table: String = controllers
            .iter()
            .map(|c| format!("1 0 0:1 / /cg/{c} rw - cgroup cgroup rw,{c}\n"))
            .collect();
        let table = table + "1 0 0:1 / /cg/unified rw - cgroup2 none rw\n";
        Config::new(Launcher::Linux, Hierarchies::parse(table.as_bytes(), |_| String::new()))
    }

    fn v2() -> Config {
        let table = b"1 0 0:1 / /cg rw - cgroup2 none rw\n";
        Config::new(Launcher::Linux, Hierarchies::parse(table, |_| "cpu memory pids".into()))
    }

    fn paths(groups: &[Cgroup]) -> Vec<String> {
        groups.iter().map(|g| g.path().display().to_string()).collect()
    }

    #[test]
    fn v1_directories_and_joins() {
        let config = v1(&["cpu", "cpuacct", "memory", "pids", "freezer"]);
        let layout = Layout::new(&config, &WANTED).unwrap().unwrap();
        assert_eq!(
            paths(&layout.directories(&["a"], false)),
            ["/cg/pids/mesos/a", "/cg/cpu/mesos/a", "/cg/cpuacct/mesos/a", "/cg/memory/mesos/a"]
        );
        // A nested container that shares has a tracker of its own, nothing more.
        assert_eq!(paths(&layout.directories(&["a", "b"], true)), ["/cg/pids/mesos/a/mesos/b"]);
        let exists = |g: &Cgroup| {
            let path = g.path().display().to_string();
            path.starts_with("/cg/pids") || !path.ends_with("/b")
        };
        let joins = layout.joins(&["a", "b"], exists);
        assert_eq!(joins[0], CgroupJoin::V1("/cg/pids/mesos/a/mesos/b".into()));
        assert_eq!(joins[3], CgroupJoin::V1("/cg/memory/mesos/a".into()));
        assert_eq!(layout.tracker(&["a"]).path().to_str(), Some("/cg/pids/mesos/a"));
        assert_eq!(layout.knobs("cpu", &["a"]).unwrap().path().to_str(), Some("/cg/cpu/mesos/a"));
        assert_eq!(layout.knobs("blkio", &["a"]), None);
        assert!(layout.givers(&["a", "b"]).is_empty());
    }

    #[test]
    fn a_cgroup_of_v2_beside_those_of_v1() {
        let mut config = v1(&["memory", "pids"]);
        let wanted = [("cgroups/mem", "memory")];
        let layout = Layout::new(&config, &wanted).unwrap().unwrap();
        assert_eq!((layout.unified_mount(), layout.unified(&["a"])), (None, None));
        config.ports.unified = true;
        let layout = Layout::new(&config, &wanted).unwrap().unwrap();
        assert_eq!(layout.unified_mount(), Some(Path::new("/cg/unified")));
        let all = ["/cg/pids/mesos/a", "/cg/memory/mesos/a", "/cg/unified/mesos/a"];
        let leaf = ["/cg/unified/mesos/a/leaf"];
        assert_eq!(paths(&layout.directories(&["a"], false)), [&all[..], &leaf].concat());
        assert_eq!(layout.tracker(&["a"]).path(), Path::new(all[0]));
        let joins = layout.joins(&["a"], |_| true);
        assert_eq!(joins.last(), Some(&CgroupJoin::V2(leaf[0].into())));
        // What it was before, on v2.
        let mut config = v2();
        config.ports.unified = true;
        let layout = Layout::new(&config, &[("cgroups/mem", "memory")]).unwrap().unwrap();
        assert_eq!(layout.places.len(), 1);
    }

    #[test]
    fn v2_directories_and_joins() {
        let wanted: Vec<_> = WANTED.into_iter().filter(|(_, c)| *c != "cpuacct").collect();
        let layout = Layout::new(&v2(), &wanted).unwrap().unwrap();
        assert_eq!(paths(&layout.directories(&["a"], false)), ["/cg/mesos/a", "/cg/mesos/a/leaf"]);
        assert_eq!(
            paths(&layout.directories(&["a", "b"], true)),
            ["/cg/mesos/a/mesos/b", "/cg/mesos/a/mesos/b/leaf"]
        );
        let joins = layout.joins(&["a"], |_| true);
        assert_eq!(joins, [CgroupJoin::V2("/cg/mesos/a/leaf".into())]);
        let givers: Vec<_> = layout.givers(&["a", "b"]).into_iter().map(|(g, _)| g).collect();
        assert_eq!(paths(&givers), ["/cg/mesos/a", "/cg/mesos/a/mesos"]);
    }

    #[test]
    fn containers_have_uuids_for_names() {
        assert!(is_container_name("0b4e2f6c-6d0e-4a5e-9d3c-1f2a3b4c5d6e"));
        for other in
            ["", "agent", "0B4E2F6C-6D0E-4A5E-9D3C-1F2A3B4C5D6E", "0b4e2f6c-6d0e-4a5e-9d3c"]
        {
            assert!(!is_container_name(other), "{other}");
        }
    }

    #[test]
    fn trackers() {
        let rows: [(&[&str], &str); 3] = [
            (&["cpu", "pids", "freezer"], "/cg/pids"),
            (&["cpu", "freezer"], "/cg/freezer"),
            (&["cpu"], "/cg/unified"),
        ];
        for (mounted, wanted) in rows {
            let layout = Layout::new(&v1(mounted), &[]).unwrap().unwrap();
            assert_eq!(layout.places[0].mount.to_str(), Some(wanted));
        }
        let mut posix = v1(&["cpu"]);
        posix.launcher = Launcher::Posix;
        assert!(Layout::new(&posix, &[]).unwrap().is_none());
        posix.hierarchies = Hierarchies::default();
        posix.launcher = Launcher::Linux;
        assert!(Layout::new(&posix, &[]).is_err());
    }

    #[test]
    fn a_missing_controller_says_what_to_do() {
        let error = Layout::new(&v1(&["cpu"]), &WANTED).unwrap_err().to_string();
        assert!(error.contains("'cpuacct'") && error.contains("--isolation"), "{error}");
    }
}
