//! cgroups with the oci engine: ours are joined as they are; what libcontainer
//! makes beside them is known and removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use isolators::plan::{CgroupJoin, LinuxNamespaceType as Kind};
use kernel::cgroup::{Hierarchies, Version};

use crate::{Fixture, end_of, require};

/// One cgroup of this test in each hierarchy, removed when dropped.
pub(crate) struct Groups {
    pub(crate) joins: Vec<CgroupJoin>,
    pub(crate) inner: PathBuf,
    /// How /proc/self/cgroup names the hierarchies.
    pub(crate) hierarchies: Vec<String>,
}

impl Groups {
    /// `controllers` of v1; on pure v2 the one cgroup.
    pub(crate) fn new(name: &str, controllers: &[&str]) -> Groups {
        let inner = PathBuf::from(format!("bulkhead-engines-{name}-{}", std::process::id()));
        let found = Hierarchies::detect().expect("hierarchies");
        let mut joins = Vec::new();
        if found.is_pure_v2() {
            let mount = &found.unified().expect("v2").mount;
            // As the isolators do it on a machine where nobody has.
            let enabled = controllers.iter().map(|name| format!("+{name} ")).collect::<String>();
            std::fs::write(mount.join("cgroup.subtree_control"), enabled).expect("controllers");
            joins.push(CgroupJoin::V2(mount.join(&inner)));
        } else {
            for controller in controllers {
                let hierarchy = found.carrying(controller).expect("a controller");
                let path = hierarchy.mount.join(&inner);
                let join = match hierarchy.version {
                    Version::V1 => CgroupJoin::V1(path),
                    Version::V2 => CgroupJoin::V2(path),
                };
                if !joins.contains(&join) {
                    joins.push(join);
                }
            }
        }
        for path in paths(&joins) {
            std::fs::create_dir(path).expect("a cgroup");
        }
        let hierarchies = match found.is_pure_v2() {
            true => vec!["0::".to_owned()],
            false => controllers.iter().map(|name| format!(":{name}:")).collect(),
        };
        Groups { joins, inner, hierarchies }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for path in paths(&self.joins) {
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn paths(joins: &[CgroupJoin]) -> impl Iterator<Item = &Path> {
    joins.iter().map(|join| match join {
        CgroupJoin::V1(path) | CgroupJoin::V2(path) => path.as_path(),
    })
}

/// Every writable knob of a cgroup directory and its value; and the directories.
fn knobs(dir: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a cgroup").flatten() {
        let data = entry.metadata().expect("metadata");
        if data.is_dir() {
            out.insert(entry.path(), "directory".to_owned());
        } else if data.permissions().mode() & 0o222 != 0
            && !["procs", "tasks", "threads"].iter().any(|n| is_called(&entry.path(), n))
        {
            // Some can only be written.
            if let Ok(text) = std::fs::read_to_string(entry.path()) {
                out.insert(entry.path(), text);
            }
        }
    }
    out
}

/// Whether a knob is called `word`, or `something.word`.
fn is_called(path: &Path, word: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit('.').next() == Some(word)
}

/// Values that the use of a cgroup changes by itself.
fn is_counter(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ["usage", "peak", "pressure", "failcnt", "stat", "force_empty", "cgroup.clone", "reset"]
        .iter()
        .any(|word| name.contains(word))
}

#[tokio::test]
async fn joining_changes_no_knob_and_makes_no_directory() {
    require!(root, cgroup);
    let fixture = Fixture::new("knobs");
    let groups = Groups::new("knobs", &["cpu", "memory", "pids"]);
    for join in &groups.joins {
        let (file, value) = match join {
            CgroupJoin::V1(path) if path.starts_with("/sys/fs/cgroup/memory") => {
                (path.join("memory.limit_in_bytes"), "67108864")
            }
            CgroupJoin::V1(path) if path.starts_with("/sys/fs/cgroup/pids") => {
                (path.join("pids.max"), "77")
            }
            CgroupJoin::V2(path) => (path.join("memory.max"), "67108864"),
            CgroupJoin::V1(_) => continue,
        };
        std::fs::write(file, value).expect("a limit");
    }
    let stable = |all: BTreeMap<PathBuf, String>| -> BTreeMap<PathBuf, String> {
        all.into_iter().filter(|(path, _)| !is_counter(path)).collect()
    };
    let all = || -> Vec<_> { paths(&groups.joins).map(|dir| stable(knobs(dir))).collect() };
    // On v2 nothing above may change either: no other controller is enabled.
    let above: Vec<PathBuf> = paths(&groups.joins)
        .filter_map(Path::parent)
        .map(|dir| dir.join("cgroup.subtree_control"))
        .filter(|file| file.exists())
        .collect();
    let enabled = || -> Vec<_> {
        above.iter().map(|file| std::fs::read_to_string(file).expect("readable")).collect()
    };
    let before = (all(), enabled());
    let mut plan = fixture.plan(&[Kind::Mount, Kind::Pid], &["sleep", "1000"]);
    plan.cgroups.clone_from(&groups.joins);
    let running = fixture.launch("oci", &plan).await.expect("launch");
    for path in paths(&groups.joins) {
        let procs = std::fs::read_to_string(path.join("cgroup.procs")).expect("procs");
        assert_eq!(procs.trim(), running.pid().to_string(), "{}", path.display());
    }
    assert_eq!((all(), enabled()), before, "while it runs");
    running.signal(libc::SIGKILL).expect("signal");
    end_of(&running).await;
    assert_eq!((all(), enabled()), before, "when it is gone");
}

/// Directories of this name in any hierarchy, apart from `known`.
fn others(inner: &Path, known: &[CgroupJoin]) -> Vec<PathBuf> {
    let found = Hierarchies::detect().expect("hierarchies");
    let all = found.all().iter().map(|hierarchy| hierarchy.mount.join(inner));
    all.filter(|path| path.exists() && !paths(known).any(|known| known == path)).collect()
}

/// The directories that the bundle of the last launch names.
pub(crate) fn known(fixture: &Fixture) -> Vec<PathBuf> {
    let bundle = fixture.record().with_extension("bundle");
    let text = std::fs::read(bundle.join("launch.json")).expect("a message");
    let message: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let list = message["extra_cgroups"].as_array().expect("a list").clone();
    list.iter().filter_map(|path| path.as_str().map(PathBuf::from)).collect()
}

#[tokio::test]
async fn extra_directories_on_v1_are_known_and_removed() {
    require!(root, cgroup1);
    let fixture = Fixture::new("extra");
    let groups = Groups::new("extra", &["memory"]);
    let mut plan = fixture.plan(&[Kind::Mount, Kind::Pid], &["sleep", "1000"]);
    plan.cgroups.clone_from(&groups.joins);
    let running = fixture.launch("oci", &plan).await.expect("launch");
    let mut made = others(&groups.inner, &groups.joins);
    assert!(!made.is_empty(), "libcontainer joins every v1 hierarchy");
    let mut said = known(&fixture);
    made.sort();
    said.sort();
    assert_eq!(made, said);
    running.signal(libc::SIGKILL).expect("signal");
    end_of(&running).await;
    assert_eq!(others(&groups.inner, &groups.joins), Vec::<PathBuf>::new());
    assert!(paths(&groups.joins).all(Path::exists), "ours are the isolators' to remove");

    // An agent that was away sweeps when it recovers.
    let running = fixture.launch("oci", &plan).await.expect("launch");
    let pid = running.shim_pid();
    drop(running);
    assert_ne!(others(&groups.inner, &groups.joins), Vec::<PathBuf>::new());
    let shim = kernel::pidfd::Pidfd::open(pid).expect("the shim");
    shim.signal(libc::SIGKILL).expect("signal");
    crate::until("the shim ends", || shim.ended().expect("poll")).await;
    bulkhead::launch::recover(&fixture.record()).await.expect("a record");
    assert_eq!(others(&groups.inner, &groups.joins), Vec::<PathBuf>::new());
    let _ = shim.reap();

    // Without cgroups in the plan all that libcontainer makes is extra.
    let plan = fixture.plan(&[Kind::Mount, Kind::Pid], &["sleep", "1000"]);
    let running = fixture.launch("oci", &plan).await.expect("launch");
    let made = known(&fixture);
    assert!(made.iter().any(|path| path.exists()));
    running.signal(libc::SIGKILL).expect("signal");
    end_of(&running).await;
    assert!(!made.iter().any(|path| path.exists()), "{made:?}");
}
