//! Mounts, root, devices, files: the order in which a container's file system is put
//! together.

use std::path::{Path, PathBuf};

use isolators::plan::{FileOperation, Fixtures, LaunchPlan, Overlay, ReadyRoot, Taken, seen_by};
use kernel::layers::escape;
use kernel::mounts::options::{self as mounts, Options};
use kernel::namespaces::Namespace;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Mount};

use super::{O_PATH_DIRECTORY, Scene, Spaces, UserSlot, open};
use crate::launch::error::{LaunchError, Step};
use crate::launch::program::{Builder, Op, READY_FD, code};

/// The descriptor of the first layer of an overlay of many: above those of the program,
/// and with 500 more (overlay's limit) below the usual limit of 1,024.
const FIRST_LAYER: u32 = 512;
/// Layers that an overlay has at most; a limit of the kernel.
const MOST_LAYERS: usize = 500;

/// With a root of its own the container's mounts
/// are made after the change of root, so that the kernel resolves their targets
/// inside it; sources of bind mounts are picked up before.
pub(super) fn file_system(
    program: &mut Builder,
    plan: &LaunchPlan,
    scene: &Scene<'_>,
) -> Result<(), LaunchError> {
    let owner = scene.user.as_ref().and_then(|user| user.owner);
    let files_as = |program: &mut Builder, (a, b): (u32, u32)| {
        let op = Op { code: code::FILES_AS, a, b, ..Op::default() };
        program.push(Step::Process, format!("files of user {a}"), op);
    };
    // What is made here belongs to the container's root.
    if let Some(owner) = owner {
        files_as(program, owner);
    }
    made_as_owner(program, plan, scene)?;
    if owner.is_some() {
        files_as(program, (0, 0));
    }
    Ok(())
}

fn made_as_owner(
    program: &mut Builder,
    plan: &LaunchPlan,
    scene: &Scene<'_>,
) -> Result<(), LaunchError> {
    let (spaces, user) = (scene.spaces, scene.user.as_ref());
    let linux = plan.spec.linux().as_ref();
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let own = spaces.made(Namespace::Mount);
    let root = plan.spec.root().as_ref().map(|root| root.path().as_path());
    let root = root.or(plan.overlay.as_ref().map(|overlay| overlay.upper.as_path()));
    if (!mounts.is_empty() || plan.overlay.is_some()) && !spaces.has(Namespace::Mount) {
        return Err(LaunchError::Plan("mounts without a mount namespace".to_owned()));
    }
    let wild = open_wild(program, plan)?;
    let mut mounts = read(mounts);
    let ready = ready_root(plan, spaces);
    let taken = ready.map(|ready| ready.fixtures.taken(&plan.spec, scene.parked));
    // A copy of a shared mount is its peer only as long as the mounts here are the host's.
    pick_up_early(program, &mut mounts, &wild, Options::is_shared)?;
    if own && ready.is_none() {
        let word = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
        let flags = mounts::propagation(word.unwrap_or("rslave"))
            .ok_or_else(|| LaunchError::Plan(format!("propagation {}", word.unwrap_or(""))))?;
        propagate(program, Path::new("/"), flags | libc::MS_REC)?;
    }
    // After the change of root there is no way to the sources, and what is mapped
    // already must not be mapped again.
    let early = root.is_some() || user.is_some();
    pick_up_early(program, &mut mounts, &wild, |_| early)?;
    // A root of its own is where its links lead; only the host's needs the care.
    let wild = if root.is_some() { Vec::new() } else { wild };
    if let Some(taken) = &taken {
        enter_ready(program, taken)?;
    } else if let Some(root) = root {
        match &plan.overlay {
            Some(overlay) => {
                if let Some(user) = user {
                    map_layers(program, overlay, user)?;
                }
                mount_overlay(program, overlay, root)?;
            }
            None if let Some(user) = user.filter(|_| own) => {
                let slot = program.slot()?;
                map_in_place(program, root, (slot, true), user)?;
            }
            None if own => mount(program, Some(root), root, "", libc::MS_BIND | libc::MS_REC, "")?,
            None => {}
        }
        let code = if own { code::PIVOT } else { code::CHROOT };
        let a = program.path(root)?;
        program.push(Step::Root, root.display().to_string(), Op { code, a, ..Op::default() });
    }
    let taken = taken.as_ref();
    let is_there = |entry: &Mount| taken.is_some_and(|taken| taken.mount(entry));
    for prepared in mounts.iter().filter(|(entry, ..)| !is_there(entry)) {
        add_mount(program, prepared, &wild, user)?;
        if ready.is_some() && prepared.1.bind.is_some() && !prepared.1.is_shared() {
            // It was picked up where the machine's are still its peers.
            propagate(program, prepared.0.destination(), libc::MS_SLAVE | libc::MS_REC)?;
        }
    }
    let is_there = |device: &LinuxDevice| taken.is_some_and(|taken| taken.device(device));
    let devices = linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    for device in devices.filter(|device| !is_there(device)) {
        add_device(program, device)?;
    }
    let is_there = |link: &FileOperation| taken.is_some_and(|taken| taken.link(link));
    for operation in plan.file_operations.iter().filter(|operation| !is_there(operation)) {
        add_operation(program, operation, own)?;
    }
    hide(program, linux, taken)?;
    if plan.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) && own {
        restrict(program, Path::new("/"), libc::MS_RDONLY, false)?;
    }
    Ok(())
}

/// The plan's root, if it is there before the container.
pub(super) fn ready_root<'a>(plan: &'a LaunchPlan, spaces: &Spaces<'_>) -> Option<&'a ReadyRoot> {
    let takes = plan.overlay.is_some() && spaces.user.is_none();
    plan.ready.as_deref().filter(|_| takes && spaces.made(Namespace::Mount))
}

/// What shows processes, as in every container.
pub(super) fn processes(program: &mut Builder, fixtures: &Fixtures) -> Result<(), LaunchError> {
    let list = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect();
    for top in fixtures.processes() {
        for prepared in &read(&top.mounts) {
            add_mount(program, prepared, &Vec::new(), None)?;
        }
        guard(program, list(&top.hidden), list(&top.protected), fixtures.empty())?;
    }
    Ok(())
}

/// A slot for the mount namespace of the ready root.
pub(super) fn inherit_ready(program: &mut Builder) -> Result<u32, LaunchError> {
    let (a, b) = (READY_FD as u32, program.slot()?);
    let op = Op { code: code::INHERIT, a, b, ..Op::default() };
    program.push(Step::Root, "a root that is ready", op);
    Ok(b)
}

/// Paths that are not to be seen, and those that are not to be written to.
fn hide(
    program: &mut Builder,
    linux: Option<&Linux>,
    taken: Option<&Taken<'_>>,
) -> Result<(), LaunchError> {
    let paths = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let mut masked = paths(linux.and_then(|linux| linux.masked_paths().as_ref()));
    masked.retain(|path| !taken.is_some_and(|taken| taken.hides(path)));
    let mut protected = paths(linux.and_then(|linux| linux.readonly_paths().as_ref()));
    protected.retain(|path| !taken.is_some_and(|taken| taken.protects(path)));
    guard(program, masked, protected, taken.and_then(Taken::empty))
}

/// `empty`: a directory that is.
fn guard(
    program: &mut Builder,
    masked: Vec<String>,
    protected: Vec<String>,
    empty: Option<&Path>,
) -> Result<(), LaunchError> {
    // One more place for a file system is made much faster than one more file system.
    let empty = empty.filter(|_| !masked.is_empty());
    let empty = empty.map(|path| program.path(path)).transpose()?;
    let lists = [(code::MASK, masked, empty.unwrap_or(0)), (code::PROTECT, protected, 0)];
    for (code, list, b) in lists {
        for path in list {
            let a = program.string(path.as_bytes())?;
            program.push(Step::Mask, path, Op { code, a, b, ..Op::default() });
        }
    }
    Ok(())
}

/// Enters the mount namespace that the root is the root of, and takes away what is to be
/// made again.
fn enter_ready(program: &mut Builder, taken: &Taken<'_>) -> Result<(), LaunchError> {
    let slot = inherit_ready(program)?;
    enter(program, slot, "mount, of a root that is ready");
    taken.others.iter().try_for_each(|path| unmount(program, path))
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

fn read(mounts: &[Mount]) -> Vec<Prepared<'_>> {
    let options = |entry: &Mount| {
        mounts::parse(entry.typ().as_deref(), entry.options().as_deref().unwrap_or_default())
    };
    mounts.iter().map(|entry| (entry, options(entry), None)).collect()
}

/// Picks up the sources of those bind mounts that are `wanted` and not yet picked up.
fn pick_up_early(
    program: &mut Builder,
    mounts: &mut [Prepared<'_>],
    wild: &Wild<'_>,
    wanted: impl Fn(&Options) -> bool,
) -> Result<(), LaunchError> {
    for (entry, options, slot) in mounts {
        if let (Some(recursive), None) = (options.bind, &slot)
            && (wanted(options) || view(entry).is_some())
        {
            *slot = Some(pick_up(program, entry, recursive, wild)?);
        }
    }
    Ok(())
}

/// Of a source that is what another process sees: its mount namespace, and the path.
fn view(entry: &Mount) -> Option<(PathBuf, PathBuf)> {
    let (pid, path) = seen_by(entry.source().as_deref()?)?;
    Some((Namespace::Mount.of(pid), path))
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
    if let Some((namespace, path)) = view(entry) {
        return pick_up_there(program, &namespace, &path, recursive);
    }
    let (dir, path) = below(wild, source);
    let b = program.slot()?;
    tree(program, source, path, Op { b, c: recursive.into(), d: dir.into(), ..Op::default() })?;
    Ok(b)
}

/// Picks up what is at `path` in another mount namespace: only its members can. The
/// way goes there and back.
fn pick_up_there(
    program: &mut Builder,
    namespace: &Path,
    path: &Path,
    recursive: bool,
) -> Result<u32, LaunchError> {
    let own = open(program, Path::new("/proc/self/ns/mnt"), 0)?;
    let a = program.path(namespace)?;
    let there = Op { code: code::JOIN, a, b: Namespace::Mount.flag(), ..Op::default() };
    program.push(Step::JoinNamespace, namespace.display().to_string(), there);
    let b = program.slot()?;
    tree(program, path, path, Op { b, c: recursive.into(), ..Op::default() })?;
    enter(program, own, "mount, its own again");
    Ok(b)
}

/// Enters the mount namespace in `slot`.
pub(super) fn enter(program: &mut Builder, slot: u32, name: &'static str) {
    let (b, d) = (Namespace::Mount.flag(), u64::from(slot) + 1);
    program.push(Step::JoinNamespace, name, Op { code: code::JOIN, b, d, ..Op::default() });
}

fn tree(program: &mut Builder, source: &Path, path: &Path, op: Op) -> Result<(), LaunchError> {
    let a = program.path(path)?;
    program.push(Step::Mount, source.display().to_string(), Op { code: code::TREE, a, ..op });
    Ok(())
}

/// Maps the ids of the tree in `slot`, which has no name yet.
fn map_ids(program: &mut Builder, object: &Path, (slot, recursive): (u32, bool), user: &UserSlot) {
    let op =
        Op { code: code::MAP_IDS, a: slot, b: user.slot, c: recursive.into(), ..Op::default() };
    program.push(Step::MapIds, object.display().to_string(), op);
}

/// Puts a mapped copy of what is at `path` on top of it, by way of `slot`.
fn map_in_place(
    program: &mut Builder,
    path: &Path,
    (slot, recursive): (u32, bool),
    user: &UserSlot,
) -> Result<(), LaunchError> {
    tree(program, path, path, Op { b: slot, c: recursive.into(), ..Op::default() })?;
    map_ids(program, path, (slot, recursive), user);
    let b = program.path(path)?;
    let op = Op { code: code::ATTACH, a: slot, b, ..Op::default() };
    program.push(Step::Mount, path.display().to_string(), op);
    Ok(())
}

/// Layers cannot be mapped once they are an overlay, so they are before. Upper and work
/// directory must be on one mount: their parent's.
fn map_layers(
    program: &mut Builder,
    overlay: &Overlay,
    user: &UserSlot,
) -> Result<(), LaunchError> {
    let parent = match (overlay.upper.parent(), overlay.work.parent()) {
        (Some(parent), Some(other)) if parent == other => parent,
        _ => {
            let text = "upper and work directory of an overlay in two directories";
            return Err(LaunchError::Plan(text.to_owned()));
        }
    };
    let slot = program.slot()?;
    for layer in overlay.lower.iter().map(PathBuf::as_path).chain([parent]) {
        map_in_place(program, layer, (slot, false), user)?;
    }
    Ok(())
}

fn add_mount(
    program: &mut Builder,
    (entry, options, slot): &Prepared<'_>,
    wild: &Wild<'_>,
    user: Option<&UserSlot>,
) -> Result<(), LaunchError> {
    let target = entry.destination().as_path();
    let Some(recursive) = options.bind else {
        let kind = entry.typ().as_deref().unwrap_or("none");
        make_directory(program, target, 0o755, true)?;
        let source = entry.source().as_deref().or(Some(Path::new(kind)));
        mount(program, source, target, kind, options.flags, &options.data)?;
        return options.propagation.iter().try_for_each(|flags| propagate(program, target, *flags));
    };
    let slot = slot.map_or_else(|| pick_up(program, entry, recursive, wild), Ok)?;
    if let Some(recursive) = options.map_ids {
        let user = user.ok_or_else(|| {
            LaunchError::Plan(format!("mapped ids of {} without ids", target.display()))
        })?;
        map_ids(program, entry.source().as_deref().unwrap_or(target), (slot, recursive), user);
    }
    attach(program, target, (slot, recursive), options, wild)?;
    // A copy of a shared mount is shared already, with the right peers.
    let others = options.propagation.iter().filter(|flags| **flags & libc::MS_SHARED == 0);
    others.into_iter().try_for_each(|flags| propagate(program, target, *flags))
}

/// Gives a tree its name.
fn attach(
    program: &mut Builder,
    target: &Path,
    (slot, recursive): (u32, bool),
    options: &Options,
    wild: &Wild<'_>,
) -> Result<(), LaunchError> {
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
    // What was opened before is under the new mount now.
    for (dir, slot) in wild.iter().filter(|(dir, _)| *dir == target) {
        let op = Op {
            code: code::OPEN,
            a: program.path(dir)?,
            b: *slot,
            d: O_PATH_DIRECTORY,
            ..Op::default()
        };
        program.push(Step::Open, dir.display().to_string(), op);
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

/// The options must fit into a page. If they do not, layers are opened, and named by
/// their descriptors from the working directory `/proc/self/fd`.
fn mount_overlay(program: &mut Builder, overlay: &Overlay, root: &Path) -> Result<(), LaunchError> {
    let layers = overlay.lower.len();
    let place = |program: &mut Builder, data: &str| {
        mount(program, Some(Path::new("overlay")), root, "overlay", 0, data)
    };
    if let Ok(data) = overlay_options(overlay) {
        return place(program, &data);
    }
    if layers > MOST_LAYERS {
        let what = format!("overlays of {layers} layers; {MOST_LAYERS} is most");
        return Err(LaunchError::Unsupported { engine: "linux", what });
    }
    let numbers: Vec<u32> = (FIRST_LAYER..).take(layers).collect();
    for (path, b) in overlay.lower.iter().zip(&numbers) {
        let op = Op { code: code::PLACE, a: program.path(path)?, b: *b, ..Op::default() };
        program.push(Step::Open, format!("layer {}", path.display()), op);
    }
    let names: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let data = options(overlay, &names)?;
    go(program, "/proc/self/fd")?;
    place(program, &data)?;
    go(program, "/")?;
    let b = numbers.last().copied().unwrap_or(FIRST_LAYER);
    let op = Op { code: code::CLOSE, a: FIRST_LAYER, b, ..Op::default() };
    program.push(Step::Open, "layers", op);
    Ok(())
}

fn go(program: &mut Builder, path: &'static str) -> Result<(), LaunchError> {
    let op = Op { code: code::CHDIR, a: program.path(Path::new(path))?, ..Op::default() };
    program.push(Step::WorkingDirectory, path, op);
    Ok(())
}

/// `volatile`: without it the unmount at the end waits for the whole upper file
/// system to be written back.
pub(in crate::launch) fn overlay_options(overlay: &Overlay) -> Result<String, LaunchError> {
    options(overlay, &overlay.lower.iter().map(|path| escape(path)).collect::<Vec<_>>())
}

fn options(overlay: &Overlay, lower: &[String]) -> Result<String, LaunchError> {
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

fn unmount(program: &mut Builder, path: &Path) -> Result<(), LaunchError> {
    let op = Op { code: code::UNMOUNT, a: program.path(path)?, ..Op::default() };
    program.push(Step::Mount, path.display().to_string(), op);
    Ok(())
}

/// `own`: the mounts are the container's own.
fn add_operation(
    program: &mut Builder,
    operation: &FileOperation,
    own: bool,
) -> Result<(), LaunchError> {
    let (code, from, to) = match operation {
        FileOperation::Mkdir { path, mode, recursive } => {
            return make_directory(program, path, *mode, *recursive);
        }
        FileOperation::Symlink { target, link } => (code::SYMLINK, target, link),
        FileOperation::Rename { from, to } => (code::RENAME, from, to),
        FileOperation::Unmount { path } => {
            return if own { unmount(program, path) } else { Ok(()) };
        }
    };
    let (a, b) = (program.path(from)?, program.path(to)?);
    program.push(Step::File, to.display().to_string(), Op { code, a, b, ..Op::default() });
    Ok(())
}
