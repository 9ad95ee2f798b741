//! Launch plan to launch program: the one place that knows the order in which a
//! container is put together.
//!
//! Reads the plan and writes bytes; asks the kernel for nothing but the own user
//! id. Whether a path exists is found out by the shim, in the container's
//! namespaces.

mod files;
mod parking;
mod process;
mod spaces;
mod terminal;

use std::path::Path;

use isolators::linux::sysctl;
use isolators::plan::{CgroupJoin, LaunchPlan};
use kernel::namespaces::Namespace;
use oci_spec::runtime::{Linux, LinuxIdMapping};

use super::Engine;
use super::error::{LaunchError, Step};
use super::ids::Ids;
use super::program::{Builder, Op, Steps, code};
pub(super) use files::overlay_options;
pub(super) use parking::parking;
#[cfg(feature = "oci")]
pub(super) use process::candidates;
pub(super) use spaces::{Spaces, User};

/// A compiled plan.
#[derive(Debug)]
pub(super) struct Compiled {
    pub bytes: Vec<u8>,
    pub steps: Steps,
    /// `CLONE_NEW*` flags for the shim.
    pub namespaces: u64,
    /// Whether the shim is the init of a pid namespace.
    pub own_pids: bool,
    /// Whether the program takes the plan's ready root, as descriptor `READY_FD`.
    pub ready: bool,
    /// Whether the root's shim can run it.
    pub parked: bool,
}

/// What all parts of the compiler look at.
struct Scene<'a> {
    spaces: &'a Spaces<'a>,
    /// Slot of the host's procfs.
    procfs: u32,
    cgroups: &'a Cgroups,
    user: Option<UserSlot>,
    /// It has a terminal.
    terminal: bool,
    /// The ready root has its shim.
    parked: bool,
}

/// The container's user namespace.
struct UserSlot {
    slot: u32,
    /// The host's ids of its root, if the plan says them.
    owner: Option<(u32, u32)>,
}

pub(super) const O_PATH_DIRECTORY: u64 = (libc::O_PATH | libc::O_DIRECTORY) as u64;

/// Compiles `plan` for `engine`. `ids` is the user namespace, if there is one; `parked`:
/// its root is ready, with a shim.
pub(super) fn compile(
    plan: &LaunchPlan,
    engine: Engine,
    ids: Option<&Ids>,
    parked: bool,
) -> Result<Compiled, LaunchError> {
    refuse(plan, engine)?;
    let spaces = Spaces::of(plan.spec.linux().as_ref())?;
    let process = plan.spec.process().as_ref();
    let process = process.ok_or_else(|| LaunchError::Plan("no process".to_owned()))?;

    let mut program = Builder::new();
    let ready = files::ready_root(plan, &spaces).is_some();
    let parked = parked && ready && spaces.made(Namespace::Pid);
    let mut namespaces = spaces.for_shim();
    if ready {
        namespaces &= !u64::from(Namespace::Mount.flag());
    }
    if parked {
        let d = namespaces & !u64::from(Namespace::Pid.flag());
        if d != 0 {
            let op = Op { code: code::UNSHARE, d, ..Op::default() };
            program.push(Step::NewNamespace, "those of the container", op);
        }
    }
    if !spaces.made(Namespace::Pid) {
        program.push(Step::Reaper, "", Op { code: code::SUBREAPER, ..Op::default() });
    }
    let procfs = open(&mut program, Path::new("/proc"), O_PATH_DIRECTORY)?;
    let identify = Op { code: code::IDENTIFY, a: procfs, ..Op::default() };
    program.push(Step::Process, "pid", identify);
    let cgroups = open_cgroups(&mut program, &plan.cgroups)?;
    let user = open_user(&mut program, plan, &spaces, ids.map(Ids::path))?;
    let terminal = process.terminal() == Some(true);
    let scene = Scene { spaces: &spaces, procfs, cgroups: &cgroups, user, terminal, parked };
    join(&mut program, &spaces)?;
    settings(&mut program, plan, procfs)?;
    files::file_system(&mut program, plan, &scene)?;
    if terminal {
        terminal::make(&mut program, plan, process, (procfs, ids))?;
    }
    hostname(&mut program, plan, &spaces)?;
    let timed = clocks(&mut program, plan, &scene)?;
    let a = cgroups.v2.map_or(0, |slot| slot + 1);
    let spawn = Op { code: code::SPAWN, a, b: timed.into(), ..Op::default() };
    program.push(Step::Spawn, "", spawn);
    process::first_process(&mut program, plan, process, &scene)?;

    let (bytes, steps) = program.finish();
    let own_pids = spaces.made(Namespace::Pid);
    Ok(Compiled { bytes, steps, namespaces, own_pids, ready, parked })
}

fn open_user(
    program: &mut Builder,
    plan: &LaunchPlan,
    spaces: &Spaces<'_>,
    path: Option<&Path>,
) -> Result<Option<UserSlot>, LaunchError> {
    let Some(path) = path.filter(|_| spaces.user.is_some()) else { return Ok(None) };
    let linux = plan.spec.linux().as_ref();
    let root = |list: Option<&Option<Vec<LinuxIdMapping>>>| {
        let list = list.and_then(Option::as_deref).unwrap_or_default();
        list.iter().find(|map| map.container_id() == 0).map(LinuxIdMapping::host_id)
    };
    let owner = root(linux.map(Linux::uid_mappings)).zip(root(linux.map(Linux::gid_mappings)));
    Ok(Some(UserSlot { slot: open(program, path, 0)?, owner }))
}

/// Kernel settings of the new namespaces: the host's procfs shows its readers their own.
fn settings(program: &mut Builder, plan: &LaunchPlan, procfs: u32) -> Result<(), LaunchError> {
    let all = plan.spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.sort();
    for (name, value) in all {
        let file = format!("sys/{}", sysctl::file(name));
        write_at(program, procfs, &file, value, format!("sysctl {name} to '{value}'"))?;
    }
    Ok(())
}

/// Clocks of its own; whether there are.
fn clocks(
    program: &mut Builder,
    plan: &LaunchPlan,
    scene: &Scene<'_>,
) -> Result<bool, LaunchError> {
    if !scene.spaces.made(Namespace::Time) {
        return Ok(false);
    }
    let op = Op { code: code::UNSHARE, d: Namespace::Time.flag().into(), ..Op::default() };
    program.push(Step::NewNamespace, "time", op);
    let offsets = plan.spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut offsets: Vec<_> = offsets.into_iter().flatten().collect();
    offsets.sort_by_key(|(clock, _)| *clock);
    for (clock, offset) in offsets {
        let (seconds, part) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        let line = format!("{clock} {seconds} {part}");
        let object = format!("the time offset '{line}'");
        write_at(program, scene.procfs, "self/timens_offsets", &line, object)?;
    }
    Ok(true)
}

/// Writes a file below a directory in a slot.
fn write_at(
    program: &mut Builder,
    directory: u32,
    file: &str,
    text: &str,
    object: String,
) -> Result<(), LaunchError> {
    let b = program.string(file.as_bytes())?;
    let (c, d) = (program.string(text.as_bytes())?, text.len() as u64);
    let op = Op { code: code::WRITE_AT, a: directory, b, c, d, ..Op::default() };
    program.push(Step::Setting, object, op);
    Ok(())
}

/// Enters the namespaces that exist.
pub(super) fn join(program: &mut Builder, spaces: &Spaces<'_>) -> Result<(), LaunchError> {
    for (kind, path) in &spaces.joined {
        let a = program.path(path)?;
        let op = Op { code: code::JOIN, a, b: kind.flag(), ..Op::default() };
        program.push(Step::JoinNamespace, path.display().to_string(), op);
    }
    Ok(())
}

/// Sets the host name, unless it would be the agent's own.
pub(super) fn hostname(
    program: &mut Builder,
    plan: &LaunchPlan,
    spaces: &Spaces<'_>,
) -> Result<(), LaunchError> {
    if let Some(name) = plan.spec.hostname().as_ref().filter(|_| spaces.has(Namespace::Uts)) {
        let (a, b) = (program.string(name.as_bytes())?, name.len() as u32);
        let op = Op { code: code::HOSTNAME, a, b, ..Op::default() };
        program.push(Step::Hostname, name.clone(), op);
    }
    Ok(())
}

/// Refuses what the engine cannot do, by name.
fn refuse(plan: &LaunchPlan, engine: Engine) -> Result<(), LaunchError> {
    let spec = &plan.spec;
    let linux = spec.linux().as_ref();
    let some = |list: Option<&Option<Vec<_>>>| {
        list.and_then(Option::as_ref).is_some_and(|list: &Vec<String>| !list.is_empty())
    };
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let mounts = spec.mounts().as_ref().is_some_and(|mounts| !mounts.is_empty());
    let posix = engine == Engine::Posix;
    let rows = [
        (posix && namespaces.is_some_and(|list| !list.is_empty()), "namespaces"),
        (posix && (spec.root().is_some() || plan.overlay.is_some()), "a root file system"),
        (posix && mounts, "mounts"),
        (posix && some(linux.map(Linux::masked_paths)), "masked paths"),
        (posix && some(linux.map(Linux::readonly_paths)), "read-only paths"),
        (linux.is_some_and(|linux| linux.seccomp().is_some()), "an OCI system call filter"),
        (posix && linux.is_some_and(|l| l.sysctl().is_some()), "sysctls"),
        (spec.hooks().is_some(), "OCI hooks"),
    ];
    match rows.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            Err(LaunchError::Unsupported { engine: engine.name(), what: what.to_owned() })
        }
        None => Ok(()),
    }
}

/// Slots of the cgroups to join.
struct Cgroups {
    v1: Vec<(u32, String)>,
    v2: Option<u32>,
}

fn open_cgroups(program: &mut Builder, joins: &[CgroupJoin]) -> Result<Cgroups, LaunchError> {
    let mut cgroups = Cgroups { v1: Vec::new(), v2: None };
    for join in joins {
        match join {
            CgroupJoin::V1(path) => {
                let slot = open(program, &path.join("tasks"), libc::O_WRONLY as u64)?;
                cgroups.v1.push((slot, path.display().to_string()));
            }
            CgroupJoin::V2(path) => {
                if cgroups.v2.replace(open(program, path, O_PATH_DIRECTORY)?).is_some() {
                    return Err(LaunchError::Plan("two v2 cgroups".to_owned()));
                }
            }
        }
    }
    Ok(cgroups)
}

pub(super) fn open(program: &mut Builder, path: &Path, flags: u64) -> Result<u32, LaunchError> {
    let (a, b) = (program.path(path)?, program.slot()?);
    let op = Op { code: code::OPEN, a, b, d: flags, ..Op::default() };
    program.push(Step::Open, path.display().to_string(), op);
    Ok(b)
}
