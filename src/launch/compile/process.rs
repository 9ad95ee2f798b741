//! What the container's first process does between its creation and the command.

use isolators::plan::LaunchPlan;
use kernel::namespaces::Namespace;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};

use super::{Scene, write_at};
use crate::launch::capabilities::Masks;
use crate::launch::error::{LaunchError, Step};
use crate::launch::program::{Builder, Op, code};

/// Search path when the environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Its operations, in order.
pub(super) fn first_process(
    program: &mut Builder,
    plan: &LaunchPlan,
    process: &Process,
    scene: &Scene<'_>,
) -> Result<(), LaunchError> {
    let Scene { spaces, procfs, cgroups, user, terminal, parked: _ } = scene;
    let plain = |code| Op { code, ..Op::default() };
    program.push(Step::Release, "", Op { a: *procfs, ..plain(code::PUBLISH) });
    let zero = program.string(b"0")?;
    for (slot, path) in &cgroups.v1 {
        let op = Op { a: *slot, b: zero, c: 1, ..plain(code::WRITE) };
        program.push(Step::Cgroup, path.clone(), op);
    }
    // Whoever makes a terminal is to have it before anything is written to it.
    if *terminal || !plan.wait_for.is_empty() {
        program.push(Step::Release, plan.wait_for.join(", "), plain(code::WAIT));
    }
    if spaces.made(Namespace::Cgroup) {
        let op = Op { d: Namespace::Cgroup.flag().into(), ..plain(code::UNSHARE) };
        program.push(Step::NewNamespace, "cgroup", op);
    }
    if let Some(value) = plan.oom_score_adj.or(process.oom_score_adj()) {
        let (text, object) = (value.to_string(), format!("oom_score_adj {value}"));
        write_at(program, *procfs, "self/oom_score_adj", &text, object)?;
    }
    for rlimit in process.rlimits().iter().flatten() {
        let op =
            Op { a: number(rlimit), d: rlimit.soft(), e: rlimit.hard(), ..plain(code::RLIMIT) };
        program.push(Step::Rlimit, format!("{:?}", rlimit.typ()), op);
    }
    program.push(Step::Process, "session", plain(code::SESSION));
    if *terminal {
        program.push(Step::Terminal, "its session", plain(code::CONTROL));
    }
    if let Some(user) = user {
        // From here on it has no power over the host, nor over the namespaces above.
        let (b, d) = (Namespace::User.flag(), u64::from(user.slot) + 1);
        program.push(Step::JoinNamespace, "user", Op { b, d, ..plain(code::JOIN) });
    }
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
pub(in crate::launch) fn candidates(name: &str, environment: &[String]) -> Vec<String> {
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
