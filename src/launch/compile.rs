//! Launch plan to launch program: the one place that knows the order in which a
//! container is put together.
//!
//! Reads the plan and writes bytes; asks the kernel for nothing but the own user
//! id. Whether a path exists is found out by the shim, in the container's
//! namespaces.

use std::path::Path;

use isolators::plan::{CgroupJoin, FileOperation, LaunchPlan, LinuxNamespaceType, Overlay};
use kernel::namespaces::Namespace;
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, Mount, PosixRlimit, PosixRlimitType, Process,
};

use super::Engine;
use super::capabilities::Masks;
use super::error::{LaunchError, Step};
use super::mounts::{self, Options};
use super::program::{Builder, Op, Steps, code};

/// A compiled plan.
#[derive(Debug)]
pub(super) struct Compiled {
    pub bytes: Vec<u8>,
    pub steps: Steps,
    /// `CLONE_NEW*` flags for the shim.
    pub namespaces: u64,
    /// Whether the shim is the init of a pid namespace.
    pub own_pids: bool,
}

/// Search path when the environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(super) const O_PATH_DIRECTORY: u64 = (libc::O_PATH | libc::O_DIRECTORY) as u64;

/// Compiles `plan` for `engine`.
pub(super) fn compile(plan: &LaunchPlan, engine: Engine) -> Result<Compiled, LaunchError> {
    refuse(plan, engine)?;
    let spaces = Spaces::of(plan.spec.linux().as_ref())?;
    let process = plan.spec.process().as_ref();
    let process = process.ok_or_else(|| LaunchError::Plan("no process".to_owned()))?;

    let mut program = Builder::new();
    if !spaces.made(Namespace::Pid) {
        program.push(Step::Reaper, "", Op { code: code::SUBREAPER, ..Op::default() });
    }
    let procfs = open(&mut program, Path::new("/proc"), O_PATH_DIRECTORY)?;
    let identify = Op { code: code::IDENTIFY, a: procfs, ..Op::default() };
    program.push(Step::Process, "pid", identify);
    let cgroups = open_cgroups(&mut program, &plan.cgroups)?;
    join(&mut program, &spaces)?;
    file_system(&mut program, plan, &spaces)?;
    hostname(&mut program, plan, &spaces)?;
    let spawn = Op { code: code::SPAWN, a: cgroups.v2.map_or(0, |slot| slot + 1), ..Op::default() };
    program.push(Step::Spawn, "", spawn);
    first_process(&mut program, plan, process, &spaces, procfs, &cgroups)?;

    let (bytes, steps) = program.finish();
    // A cgroup namespace is rooted at its maker's cgroup, so it is made later.
    let namespaces = u64::from(spaces.new & !Namespace::Cgroup.flag());
    Ok(Compiled { bytes, steps, namespaces, own_pids: spaces.made(Namespace::Pid) })
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
    let process = spec.process().as_ref();
    let rows = [
        (posix && namespaces.is_some_and(|list| !list.is_empty()), "namespaces"),
        (posix && (spec.root().is_some() || plan.overlay.is_some()), "a root file system"),
        (posix && mounts, "mounts"),
        (posix && some(linux.map(Linux::masked_paths)), "masked paths"),
        (posix && some(linux.map(Linux::readonly_paths)), "read-only paths"),
        (linux.is_some_and(|linux| linux.seccomp().is_some()), "an OCI system call filter"),
        (linux.is_some_and(|l| l.sysctl().as_ref().is_some_and(|s| !s.is_empty())), "sysctls"),
        (process.and_then(Process::terminal) == Some(true), "a terminal"),
        (spec.hooks().is_some(), "OCI hooks"),
    ];
    match rows.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            Err(LaunchError::Unsupported { engine: engine.name(), what: what.to_owned() })
        }
        None => Ok(()),
    }
}

/// The namespaces of a plan.
pub(super) struct Spaces<'a> {
    /// `CLONE_NEW*` flags of those to make.
    new: u32,
    /// Those to join, the mount namespace last: it changes what paths mean.
    joined: Vec<(Namespace, &'a Path)>,
}

impl<'a> Spaces<'a> {
    pub(super) fn of(linux: Option<&'a Linux>) -> Result<Spaces<'a>, LaunchError> {
        let mut spaces = Spaces { new: 0, joined: Vec::new() };
        for space in linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
            let kind = match space.typ() {
                LinuxNamespaceType::Mount => Namespace::Mount,
                LinuxNamespaceType::Cgroup => Namespace::Cgroup,
                LinuxNamespaceType::Uts => Namespace::Uts,
                LinuxNamespaceType::Ipc => Namespace::Ipc,
                LinuxNamespaceType::Pid => Namespace::Pid,
                LinuxNamespaceType::Network => Namespace::Network,
                LinuxNamespaceType::User | LinuxNamespaceType::Time => {
                    let what = format!("the {} namespace", space.typ());
                    return Err(LaunchError::Unsupported { engine: "linux", what });
                }
            };
            if spaces.has(kind) {
                return Err(LaunchError::Plan(format!("two {} namespaces", space.typ())));
            }
            match space.path() {
                None => spaces.new |= kind.flag(),
                Some(path) => spaces.joined.push((kind, path)),
            }
        }
        spaces.joined.sort_by_key(|(kind, _)| *kind == Namespace::Mount);
        Ok(spaces)
    }

    /// Made for this container.
    pub(super) fn made(&self, kind: Namespace) -> bool {
        self.new & kind.flag() != 0
    }

    /// Not the agent's own.
    fn has(&self, kind: Namespace) -> bool {
        self.made(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
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

/// Mounts, root, devices, files. With a root of its own the container's mounts
/// are made after the change of root, so that the kernel resolves their targets
/// inside it; sources of bind mounts are picked up before.
fn file_system(
    program: &mut Builder,
    plan: &LaunchPlan,
    spaces: &Spaces<'_>,
) -> Result<(), LaunchError> {
    let linux = plan.spec.linux().as_ref();
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let own = spaces.made(Namespace::Mount);
    if (!mounts.is_empty() || plan.overlay.is_some()) && !spaces.has(Namespace::Mount) {
        return Err(LaunchError::Plan("mounts without a mount namespace".to_owned()));
    }
    if own {
        let word = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
        let flags = mounts::propagation(word.unwrap_or("rslave"))
            .ok_or_else(|| LaunchError::Plan(format!("propagation {}", word.unwrap_or(""))))?;
        propagate(program, Path::new("/"), flags | libc::MS_REC)?;
    }
    let root = plan.spec.root().as_ref().map(|root| root.path().as_path());
    let root = root.or(plan.overlay.as_ref().map(|overlay| overlay.upper.as_path()));
    let wild = open_wild(program, plan)?;
    let mounts = with_sources(program, mounts, root.is_some(), &wild)?;
    // A root of its own is where its links lead; only the host's needs the care.
    let wild = if root.is_some() { Vec::new() } else { wild };
    if let Some(root) = root {
        match &plan.overlay {
            Some(overlay) => mount_overlay(program, overlay, root)?,
            None if own => mount(program, Some(root), root, "", libc::MS_BIND | libc::MS_REC, "")?,
            None => {}
        }
        let code = if own { code::PIVOT } else { code::CHROOT };
        let a = program.path(root)?;
        program.push(Step::Root, root.display().to_string(), Op { code, a, ..Op::default() });
    }
    for (entry, options, slot) in &mounts {
        add_mount(program, entry, options, *slot, &wild)?;
    }
    for device in linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten() {
        add_device(program, device)?;
    }
    for operation in &plan.file_operations {
        add_operation(program, operation)?;
    }
    let paths = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let masked = paths(linux.and_then(|linux| linux.masked_paths().as_ref()));
    let protected = paths(linux.and_then(|linux| linux.readonly_paths().as_ref()));
    for (code, list) in [(code::MASK, masked), (code::PROTECT, protected)] {
        for path in list {
            let a = program.string(path.as_bytes())?;
            program.push(Step::Mask, path, Op { code, a, ..Op::default() });
        }
    }
    if plan.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) && own {
        restrict(program, Path::new("/"), libc::MS_RDONLY, false)?;
    }
    Ok(())
}

type Prepared<'a> = (&'a Mount, Options, Option<u32>);

/// Directories of the plan that are not to be left, with their slots.
type Wild<'a> = Vec<(&'a Path, u32)>;

/// Opens the directories that tasks can change, if mounts have to do with them.
fn open_wild<'a>(program: &mut Builder, plan: &'a LaunchPlan) -> Result<Wild<'a>, LaunchError> {
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let mut wild = Wild::new();
    for dir in &plan.wild {
        let concerns = |entry: &Mount| {
            let source = entry.source().as_deref().is_some_and(|path| path.starts_with(dir));
            source || entry.destination().starts_with(dir)
        };
        if mounts.iter().any(concerns) {
            wild.push((dir, open(program, dir, O_PATH_DIRECTORY)?));
        }
    }
    Ok(wild)
}

/// The path's place below such a directory: slot plus 1, and the rest of the path;
/// 0 and the path itself if it is nowhere below.
fn below<'a>(wild: &Wild<'_>, path: &'a Path) -> (u32, &'a Path) {
    let found = wild.iter().find_map(|(dir, slot)| Some((slot + 1, path.strip_prefix(dir).ok()?)));
    match found {
        None => (0, path),
        Some((slot, rest)) if rest.as_os_str().is_empty() => (slot, Path::new(".")),
        Some(found) => found,
    }
}

/// Picks up the sources of bind mounts, in one go if the root will change.
fn with_sources<'a>(
    program: &mut Builder,
    mounts: &'a [Mount],
    early: bool,
    wild: &Wild<'_>,
) -> Result<Vec<Prepared<'a>>, LaunchError> {
    let mut out = Vec::with_capacity(mounts.len());
    for entry in mounts {
        let options =
            mounts::parse(entry.typ().as_deref(), entry.options().as_deref().unwrap_or_default());
        let slot = match options.bind {
            Some(recursive) if early => Some(pick_up(program, entry, recursive, wild)?),
            _ => None,
        };
        out.push((entry, options, slot));
    }
    Ok(out)
}

fn pick_up(
    program: &mut Builder,
    entry: &Mount,
    recursive: bool,
    wild: &Wild<'_>,
) -> Result<u32, LaunchError> {
    let source = entry.source().as_deref().ok_or_else(|| {
        LaunchError::Plan(format!("no source for {}", entry.destination().display()))
    })?;
    let (dir, path) = below(wild, source);
    let (a, b) = (program.path(path)?, program.slot()?);
    let op = Op { code: code::TREE, a, b, c: recursive.into(), d: dir.into(), e: 0 };
    program.push(Step::Mount, source.display().to_string(), op);
    Ok(b)
}

fn add_mount(
    program: &mut Builder,
    entry: &Mount,
    options: &Options,
    slot: Option<u32>,
    wild: &Wild<'_>,
) -> Result<(), LaunchError> {
    let target = entry.destination().as_path();
    if let Some(recursive) = options.bind {
        let slot = slot.map_or_else(|| pick_up(program, entry, recursive, wild), Ok)?;
        let (c, path) = below(wild, target);
        let restricted = mounts::attributes(options.flags);
        if c != 0 && restricted != 0 {
            // Before it has a name that could be made to mean something else.
            let (b, c) = (recursive.into(), slot + 1);
            let op = Op { code: code::RESTRICT, b, c, d: restricted, ..Op::default() };
            program.push(Step::Mount, target.display().to_string(), op);
        }
        let b = program.path(path)?;
        let op = Op { code: code::ATTACH, a: slot, b, c, ..Op::default() };
        program.push(Step::Mount, target.display().to_string(), op);
        if c == 0 && restricted != 0 {
            restrict(program, target, options.flags, recursive)?;
        }
    } else {
        let kind = entry.typ().as_deref().unwrap_or("none");
        make_directory(program, target, 0o755, true)?;
        let source = entry.source().as_deref().or(Some(Path::new(kind)));
        mount(program, source, target, kind, options.flags, &options.data)?;
    }
    for flags in &options.propagation {
        propagate(program, target, *flags)?;
    }
    Ok(())
}

fn mount(
    program: &mut Builder,
    source: Option<&Path>,
    target: &Path,
    kind: &str,
    flags: u64,
    data: &str,
) -> Result<(), LaunchError> {
    let op = Op {
        code: code::MOUNT,
        a: source.map_or(Ok(0), |source| program.path(source))?,
        b: program.path(target)?,
        c: if kind.is_empty() { 0 } else { program.string(kind.as_bytes())? },
        d: flags,
        e: if data.is_empty() { 0 } else { program.string(data.as_bytes())?.into() },
    };
    let object = match source.filter(|_| !kind.is_empty()) {
        Some(source) => format!("{} ({kind}) on {}", source.display(), target.display()),
        None => target.display().to_string(),
    };
    program.push(Step::Mount, object, op);
    Ok(())
}

fn propagate(program: &mut Builder, target: &Path, flags: u64) -> Result<(), LaunchError> {
    mount(program, None, target, "", flags, "")
}

fn restrict(
    program: &mut Builder,
    target: &Path,
    flags: u64,
    recursive: bool,
) -> Result<(), LaunchError> {
    let a = program.path(target)?;
    let d = mounts::attributes(flags);
    let op = Op { code: code::RESTRICT, a, b: recursive.into(), d, e: flags, ..Op::default() };
    program.push(Step::Mount, target.display().to_string(), op);
    Ok(())
}

fn mount_overlay(program: &mut Builder, overlay: &Overlay, root: &Path) -> Result<(), LaunchError> {
    let data = overlay_options(overlay)?;
    mount(program, Some(Path::new("overlay")), root, "overlay", 0, &data)
}

/// `volatile`: without it the unmount at the end waits for the whole upper file
/// system to be written back.
pub(super) fn overlay_options(overlay: &Overlay) -> Result<String, LaunchError> {
    let lower: Vec<String> = overlay.lower.iter().map(|path| escape(path)).collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.join(":"),
        escape(&overlay.upper),
        escape(&overlay.work),
    );
    // mount(2) copies one page of data.
    if data.len() >= 4096 {
        let what = format!("overlays with {} layers in paths this long", lower.len());
        return Err(LaunchError::Unsupported { engine: "linux", what });
    }
    Ok(data)
}

/// Escapes what separates options and layers.
fn escape(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn make_directory(
    program: &mut Builder,
    path: &Path,
    mode: u32,
    recursive: bool,
) -> Result<(), LaunchError> {
    let a = program.path(path)?;
    let op = Op { code: code::MKDIR, a, b: mode, c: recursive.into(), ..Op::default() };
    program.push(Step::File, path.display().to_string(), op);
    Ok(())
}

fn add_device(program: &mut Builder, device: &LinuxDevice) -> Result<(), LaunchError> {
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            let path = device.path().display();
            return Err(LaunchError::Plan(format!("device {path} is of no kind")));
        }
    };
    let a = program.path(device.path())?;
    let object = device.path().display().to_string();
    let number = libc::makedev(device.major() as u32, device.minor() as u32);
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    let op = Op { code: code::MKNOD, a, b: kind | mode, d: number, ..Op::default() };
    program.push(Step::File, object.clone(), op);
    let (b, c) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (b, c) != (0, 0) {
        program.push(Step::File, object, Op { code: code::CHOWN, a, b, c, ..Op::default() });
    }
    Ok(())
}

fn add_operation(program: &mut Builder, operation: &FileOperation) -> Result<(), LaunchError> {
    let (code, from, to) = match operation {
        FileOperation::Mkdir { path, mode, recursive } => {
            return make_directory(program, path, *mode, *recursive);
        }
        FileOperation::Symlink { target, link } => (code::SYMLINK, target, link),
        FileOperation::Rename { from, to } => (code::RENAME, from, to),
    };
    let (a, b) = (program.path(from)?, program.path(to)?);
    program.push(Step::File, to.display().to_string(), Op { code, a, b, ..Op::default() });
    Ok(())
}

/// What the first process does between its creation and the command.
fn first_process(
    program: &mut Builder,
    plan: &LaunchPlan,
    process: &Process,
    spaces: &Spaces<'_>,
    procfs: u32,
    cgroups: &Cgroups,
) -> Result<(), LaunchError> {
    let plain = |code| Op { code, ..Op::default() };
    program.push(Step::Release, "", Op { a: procfs, ..plain(code::PUBLISH) });
    let zero = program.string(b"0")?;
    for (slot, path) in &cgroups.v1 {
        let op = Op { a: *slot, b: zero, c: 1, ..plain(code::WRITE) };
        program.push(Step::Cgroup, path.clone(), op);
    }
    if !plan.wait_for.is_empty() {
        program.push(Step::Release, plan.wait_for.join(", "), plain(code::WAIT));
    }
    if spaces.made(Namespace::Cgroup) {
        let op = Op { d: Namespace::Cgroup.flag().into(), ..plain(code::UNSHARE) };
        program.push(Step::NewNamespace, "cgroup", op);
    }
    if let Some(value) = plan.oom_score_adj.or(process.oom_score_adj()) {
        let text = value.to_string();
        let b = program.string(b"self/oom_score_adj")?;
        let (c, d) = (program.string(text.as_bytes())?, text.len() as u64);
        let op = Op { a: procfs, b, c, d, ..plain(code::WRITE_AT) };
        program.push(Step::Setting, format!("oom_score_adj {text}"), op);
    }
    for rlimit in process.rlimits().iter().flatten() {
        let op =
            Op { a: number(rlimit), d: rlimit.soft(), e: rlimit.hard(), ..plain(code::RLIMIT) };
        program.push(Step::Rlimit, format!("{:?}", rlimit.typ()), op);
    }
    program.push(Step::Process, "session", plain(code::SESSION));
    // Without no-new-privileges only root may install a filter, so it comes first
    // and must allow what follows; with it, it comes last.
    let late = process.no_new_privileges() == Some(true);
    if !late {
        system_calls(program, plan);
    }
    identity(program, process)?;
    if !spaces.made(Namespace::Pid) {
        program.push(Step::Process, "parent death signal", plain(code::DIE_WITH_SHIM));
    }
    let a = program.path(process.cwd())?;
    let object = process.cwd().display().to_string();
    program.push(Step::WorkingDirectory, object, Op { a, ..plain(code::CHDIR) });
    if let Some(mask) = process.user().umask() {
        program.push(Step::Process, "umask", Op { a: mask, ..plain(code::UMASK) });
    }
    program.push(Step::Process, "scheduler slice", plain(code::SLICE));
    if late {
        program.push(Step::Privileges, "no new privileges", plain(code::NO_NEW_PRIVILEGES));
        system_calls(program, plan);
    }
    execute(program, plan.executable.as_deref(), process)
}

fn system_calls(program: &mut Builder, plan: &LaunchPlan) {
    let Some(filter) = &plan.system_calls else { return };
    let (a, b) = (program.words(&filter.program), filter.program.len() as u32);
    let op = Op { code: code::SECCOMP, a, b, c: filter.flags, ..Op::default() };
    program.push(Step::Seccomp, format!("'{}'", filter.profile), op);
}

/// Groups, user and capabilities, in the only order that works: the bounding set
/// needs `CAP_SETPCAP`, the ids need `CAP_SETUID`, the sets come after the ids.
fn identity(program: &mut Builder, process: &Process) -> Result<(), LaunchError> {
    let plain = |code| Op { code, ..Op::default() };
    let masks = process.capabilities().as_ref().map(Masks::from);
    if let Some(masks) = masks {
        let op = Op { d: masks.bounding, ..plain(code::BOUND) };
        program.push(Step::Privileges, "bounding capabilities", op);
    }
    let user = process.user();
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    // Without privileges only the agent's own identity is left, groups included.
    if privileged() || !groups.is_empty() {
        let (a, b) = (program.ids(groups), groups.len() as u32);
        program.push(Step::User, "supplementary groups", Op { a, b, ..plain(code::GROUPS) });
    }
    let gid = Op { a: user.gid(), ..plain(code::GID) };
    program.push(Step::User, format!("group {}", user.gid()), gid);
    let uid = Op { a: user.uid(), b: masks.is_some().into(), ..plain(code::UID) };
    program.push(Step::User, format!("user {}", user.uid()), uid);
    if let Some(masks) = masks {
        let op = Op {
            d: masks.permitted,
            e: masks.effective,
            a: masks.inheritable as u32,
            b: (masks.inheritable >> 32) as u32,
            ..plain(code::CAPABILITIES)
        };
        program.push(Step::Privileges, "capabilities", op);
        let op = Op { d: masks.ambient, ..plain(code::AMBIENT) };
        program.push(Step::Privileges, "ambient capabilities", op);
    }
    Ok(())
}

/// Whether the agent may change identities.
fn privileged() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn execute(
    program: &mut Builder,
    executable: Option<&str>,
    process: &Process,
) -> Result<(), LaunchError> {
    let args = process.args().as_deref().unwrap_or_default();
    let name = executable.or(args.first().map(String::as_str)).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| LaunchError::Plan("no command".to_owned()))?;
    let environment = process.env().as_deref().unwrap_or_default();
    let candidates = candidates(name, environment);
    let b = candidates.len() as u32;
    let a = program.table(&candidates)?;
    let arguments = if args.is_empty() { vec![name.to_owned()] } else { args.to_vec() };
    let table = |offset: u32, count: usize| u64::from(offset) | (count as u64) << 32;
    let d = table(program.table(&arguments)?, arguments.len());
    let e = table(program.table(environment)?, environment.len());
    let op = Op { code: code::EXEC, a, b, d, e, ..Op::default() };
    program.push(Step::Exec, format!("'{name}'"), op);
    Ok(())
}

/// The files that `name` may mean, in the order in which they are tried.
pub(super) fn candidates(name: &str, environment: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = environment.iter().find_map(|pair| pair.strip_prefix("PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(':');
    // An empty element is the working directory.
    directories.map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir })).collect()
}

fn number(rlimit: &PosixRlimit) -> u32 {
    match rlimit.typ() {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
