//! The agent's side: writes bundles, compiles the shim's program for them, removes
//! what containers leave.

use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use isolators::plan::{CgroupJoin, LaunchPlan};
use kernel::cgroup::{Hierarchies, Hierarchy, Version};
use kernel::namespaces::Namespace;

use super::message::{self, VERSION, file};
use super::translate::{self, Scene};
use crate::launch::compile::{self, Compiled, Spaces};
use crate::launch::error::{LaunchError, Step};
use crate::launch::program::{Builder, Op, code};

/// Start of the cgroup's name of containers whose plan names none: libcontainer
/// needs one. It has no parent of ours, so nothing stays.
const UNNAMED: &str = "bulkhead.oci";
/// Times to try removing a cgroup whose last process is still being torn down.
const TRIES: u32 = 50;
/// v1 controllers whose hierarchies libcontainer joins, by the mount point's name.
const JOINED: [&str; 16] = [
    "cpu",
    "cpuacct",
    "cpu,cpuacct",
    "cpuacct,cpu",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "net_cls,net_prio",
    "net_prio,net_cls",
    "freezer",
];

/// What the engine found out at start.
#[derive(Debug)]
pub(in crate::launch) struct Oci {
    helper: PathBuf,
    hierarchies: Hierarchies,
    /// The machine runs from its initial ramfs.
    no_pivot: bool,
}

impl Oci {
    /// Checks that `helper` is there, runs, and is of this build.
    pub(in crate::launch) fn new(helper: PathBuf) -> Result<Oci, LaunchError> {
        let failed = |verb, source| {
            let object = format!("the helper '{}'", helper.display());
            LaunchError::Prepare { verb, object, source }
        };
        let output = Command::new(&helper)
            .args(["oci", "version"])
            .env_clear()
            .output()
            .map_err(|source| failed("run", source))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() != VERSION.to_string() {
            let why = String::from_utf8_lossy(&output.stderr);
            let why = if why.trim().is_empty() { "it is of another version" } else { why.trim() };
            return Err(failed("use", io::Error::other(why.to_owned())));
        }
        let hierarchies = Hierarchies::detect().map_err(|error| LaunchError::Prepare {
            verb: "find",
            object: "the cgroup hierarchies".to_owned(),
            source: io::Error::other(error),
        })?;
        let no_pivot = kernel::mounts::root_is_initial(&kernel::mounts::table()?);
        Ok(Oci { helper, hierarchies, no_pivot })
    }

    /// Writes the bundle beside `record` and compiles the shim's program.
    pub(in crate::launch) fn prepare(
        &self,
        plan: &LaunchPlan,
        record: &Path,
    ) -> Result<Compiled, LaunchError> {
        let bundle = of_record(record);
        let (cgroup, extra_cgroups) = self.cgroups(plan, record)?;
        let scene = Scene {
            bundle: &bundle,
            record,
            helper: &self.helper,
            cgroup,
            extra_cgroups,
            no_pivot: self.no_pivot,
        };
        let (spec, message) = translate::translate(plan, scene)?;
        let failed = |verb| {
            let object = bundle.display().to_string();
            move |source| LaunchError::Prepare { verb, object, source }
        };
        // A launch that failed may have left one.
        match fs::remove_dir_all(&bundle) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove the bundle")(error));
            }
            _ => {}
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        for name in [file::ROOT, file::STATE] {
            builder.create(bundle.join(name)).map_err(failed("create the bundle"))?;
        }
        let write = |name, bytes: serde_json::Result<Vec<u8>>| {
            let bytes = bytes.map_err(io::Error::other);
            bytes.and_then(|bytes| fs::write(bundle.join(name), bytes))
        };
        write(file::CONFIG, serde_json::to_vec(&spec)).map_err(failed("write the bundle"))?;
        write(file::MESSAGE, serde_json::to_vec(&message)).map_err(failed("write the bundle"))?;
        self.program(plan, &bundle, message.wait)
    }

    /// The cgroup's path inside every hierarchy, and the directories that
    /// libcontainer will make: v1 hierarchies that the plan does not name.
    fn cgroups(
        &self,
        plan: &LaunchPlan,
        record: &Path,
    ) -> Result<(PathBuf, Vec<PathBuf>), LaunchError> {
        let pure = self.hierarchies.is_pure_v2();
        let mut inner: Option<PathBuf> = None;
        for join in &plan.cgroups {
            let (CgroupJoin::V1(path) | CgroupJoin::V2(path)) = join;
            if matches!(join, CgroupJoin::V2(_)) && !pure {
                continue;
            }
            let below = |h: &&Hierarchy| path.starts_with(&h.mount);
            let mount = self.hierarchies.all().iter().filter(below).map(|h| &h.mount);
            let mount = mount.max_by_key(|mount| mount.as_os_str().len());
            let found = mount.and_then(|mount| path.strip_prefix(mount).ok());
            let found = found.ok_or_else(|| {
                LaunchError::Plan(format!("'{}' is in no cgroup hierarchy", path.display()))
            })?;
            match &inner {
                Some(known) if known != found => {
                    let what = "cgroups with different paths in two hierarchies".to_owned();
                    return Err(LaunchError::Unsupported { engine: "oci", what });
                }
                _ => inner = Some(found.to_path_buf()),
            }
        }
        let named = inner.is_some();
        let inner = inner.unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            record.hash(&mut hasher);
            PathBuf::from(format!("{UNNAMED}.{:016x}", hasher.finish()))
        });
        let extra = self
            .hierarchies
            .all()
            .iter()
            .filter(|h| match h.version {
                Version::V1 => joined(&h.mount),
                Version::V2 => pure && !named,
            })
            .map(|h| h.mount.join(&inner))
            .filter(|path| !plan.cgroups.contains(&CgroupJoin::V1(path.clone())));
        let extra = extra.collect();
        Ok((Path::new("/").join(inner), extra))
    }

    /// The shim joins what exists, becomes the reaper, and has the helper do the rest.
    fn program(
        &self,
        plan: &LaunchPlan,
        bundle: &Path,
        wait: bool,
    ) -> Result<Compiled, LaunchError> {
        let spaces = Spaces::of(plan.spec.linux().as_ref())?;
        let own_pids = spaces.made(Namespace::Pid);
        let plain = |code| Op { code, ..Op::default() };
        let mut program = Builder::new();
        if !own_pids {
            program.push(Step::Reaper, "", plain(code::SUBREAPER));
        }
        let procfs = compile::open(&mut program, Path::new("/proc"), compile::O_PATH_DIRECTORY)?;
        program.push(Step::Process, "pid", Op { a: procfs, ..plain(code::IDENTIFY) });
        // With v1 hierarchies beside it, libcontainer does not see the unified one.
        let mut unified = 0;
        for join in &plan.cgroups {
            if let CgroupJoin::V2(path) = join
                && !self.hierarchies.is_pure_v2()
            {
                unified = 1 + compile::open(&mut program, path, compile::O_PATH_DIRECTORY)?;
            }
        }
        compile::join(&mut program, &spaces)?;
        if !spaces.made(Namespace::Uts) {
            compile::hostname(&mut program, plan, &spaces)?;
        }
        program.push(Step::Runtime, "", plain(code::FOLLOW));
        program.push(Step::Spawn, "", Op { a: unified, ..plain(code::SPAWN) });
        if !own_pids {
            program.push(Step::Process, "parent death signal", plain(code::DIE_WITH_SHIM));
        }
        // An empty list of groups means none here, and "leave them" to libcontainer.
        program.push(Step::User, "supplementary groups", plain(code::GROUPS));
        program.push(Step::Process, "scheduler slice", plain(code::SLICE));
        let helper = self.helper.to_string_lossy().into_owned();
        let a = program.table(&[helper.as_str()])?;
        let bundle = bundle.to_string_lossy();
        let arguments = ["bulkhead-helper", "oci", "run", &bundle];
        let d = u64::from(program.table(&arguments)?) | (arguments.len() as u64) << 32;
        let e = u64::from(program.table::<&str>(&[])?);
        let op = Op { a, b: 1, c: wait.into(), d, e, ..plain(code::EXEC) };
        program.push(Step::Exec, format!("'{helper}'"), op);
        let (bytes, steps) = program.finish();
        let namespaces = if own_pids { u64::from(Namespace::Pid.flag()) } else { 0 };
        Ok(Compiled { bytes, steps, namespaces, own_pids, ready: false, parked: false })
    }
}

fn joined(mount: &Path) -> bool {
    mount.file_name().and_then(|name| name.to_str()).is_some_and(|name| JOINED.contains(&name))
}

/// The bundle that belongs to an exit record.
pub(in crate::launch) fn of_record(record: &Path) -> PathBuf {
    record.with_extension("bundle")
}

/// What the helper said of its failure; `None` if it said nothing.
pub(in crate::launch) fn failure_of(bundle: &Path) -> Option<String> {
    fs::read_to_string(bundle.join(file::ERROR)).ok().filter(|text| !text.is_empty())
}

/// Removes the cgroups that libcontainer made beside ours. Their processes are
/// gone or going; may be repeated; a container of another engine has none.
///
/// # Errors
/// One cannot be removed; the others are.
pub(in crate::launch) fn sweep(bundle: &Path) -> io::Result<()> {
    let Ok(message) = message::read(bundle) else { return Ok(()) };
    let mut last = Ok(());
    for path in &message.extra_cgroups {
        if let Err(error) = remove_cgroup(path) {
            let text = format!("remove the cgroup '{}': {error}", path.display());
            last = Err(io::Error::new(error.kind(), text));
        }
    }
    last
}

fn remove_cgroup(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < TRIES => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            other => return other,
        }
    }
}
