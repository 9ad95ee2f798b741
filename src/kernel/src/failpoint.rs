//! Places where a process can be made to die as by `kill -9`, for tests of recovery.
//!
//! ```text
//! failpoint!("launch.after_fork");      die here
//! failpoint!(soon "send.update");       die once what was begun had time to arrive
//! ```
//!
//! Compiled in builds with debug assertions only: in a release the macro is nothing
//! and this module is not there. `BULKHEAD_FAILPOINT=NAME` arms one point of a
//! process, `NAME@3` its third passage. [`ALL`] lists every point there is; passing
//! one that is not in it is a bug, and panics.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names the point that is armed.
pub const VARIABLE: &str = "BULKHEAD_FAILPOINT";

/// The first point that a task passes when it ends.
const END: &str = "destroy.begin";

/// Every point, in the order in which a task passes them.
pub const ALL: &[&str] = &[
    // A record before and after it is written (src/checkpoint/store.rs).
    "checkpoint.agent.before",
    "checkpoint.agent.after",
    "checkpoint.framework.before",
    "checkpoint.framework.after",
    "checkpoint.executor.before",
    "checkpoint.executor.after",
    "checkpoint.task.before",
    "checkpoint.task.after",
    "checkpoint.forked_pid.before",
    "checkpoint.forked_pid.after",
    "checkpoint.libprocess_pid.before",
    "checkpoint.libprocess_pid.after",
    "checkpoint.http_marker.before",
    "checkpoint.http_marker.after",
    "checkpoint.update.before",
    "checkpoint.update.after",
    "checkpoint.ack.before",
    "checkpoint.ack.after",
    "checkpoint.kill.before",
    "checkpoint.kill.after",
    "checkpoint.sentinel.before",
    "checkpoint.sentinel.after",
    "checkpoint.scheduled.before",
    "checkpoint.scheduled.after",
    "checkpoint.unscheduled.before",
    "checkpoint.unscheduled.after",
    "checkpoint.schedule.before",
    "checkpoint.schedule.after",
    "checkpoint.forget_agent.before",
    "checkpoint.forget_agent.after",
    "checkpoint.drain.before",
    "checkpoint.drain.after",
    "checkpoint.drained.before",
    "checkpoint.drained.after",
    "checkpoint.resources.before",
    "checkpoint.resources.after",
    "checkpoint.operation_update.before",
    "checkpoint.operation_update.after",
    "checkpoint.operation_ack.before",
    "checkpoint.operation_ack.after",
    "checkpoint.forget_operation.before",
    "checkpoint.forget_operation.after",
    // Reservations and volumes, between two files (src/checkpoint/resources.rs).
    "resources.target",
    "resources.volumes",
    "resources.half",
    // A file between its temporary name and its own; a log half way through a record.
    "checkpoint.replace.half",
    "checkpoint.append.half",
    // What the core asked for, before it is begun (src/agent/driver).
    "effect.register",
    "effect.reregister",
    "effect.launch",
    "effect.watch",
    "effect.update",
    "effect.signal",
    "effect.destroy",
    "effect.forget",
    "send.update.before",
    "send.update.after",
    "send.operation.before",
    "sandbox.made",
    "sandbox.linked",
    // A launch (src/containerizer/native/start.rs, isolators, src/launch).
    "launch.begin",
    "launch.configured",
    "cgroups.made",
    "provision.recorded",
    "provision.made",
    "provision.taken",
    "launch.provisioned",
    // Networks of a container (isolators/src/network/cni).
    "cni.entered",
    "cni.intended",
    "cni.namespace_half",
    "cni.namespace",
    "cni.bridge_leased",
    "cni.bridge_paired",
    "cni.plugin_added",
    "cni.answered",
    "cni.recorded",
    "cni.added_one",
    "cni.joined",
    // Of a docker container (src/containerizer/docker).
    "docker.holder",
    "docker.held",
    "docker.created",
    "docker.started",
    "launch.prepared",
    "launch.fetched",
    "launch.record",
    "launch.before_fork",
    "launch.after_fork",
    "launch.waiting",
    // With network/port_mapping: the pair has its mark; packets flow.
    "port_mapping.made",
    "port_mapping.furnished",
    "launch.isolated",
    "launch.released",
    "launch.pid",
    // A root for the next container of an image (src/provisioner/ahead.rs).
    "provision.ahead",
    // The end of a container (src/containerizer/native/finish.rs).
    END,
    "destroy.limited",
    "destroy.killed",
    "destroy.cleaned_one",
    "cni.bridge_removed",
    "cni.plugin_deleted",
    "cni.deleted_one",
    "cni.let_go",
    "cni.removed",
    "cni.forgotten",
    "docker.departs",
    "docker.departed",
    "cgroups.removed_one",
    "provision.unmounted",
    "provision.moved",
    "provision.removed",
    "destroy.cleaned",
    "destroy.status",
    "destroy.recorded",
    "forget.before",
    "forget.half",
    "forget.after",
    // Recovery itself.
    "recover.read",
    "recover.looked",
    "recover.roots",
    "recover.isolators",
    "recover.adopted_one",
    "recover.done",
    "recover.resumed",
];

/// Whether a task passes `point` when it ends, or later, and not when it begins. `NAME@3`
/// is a passage of `NAME`.
#[must_use]
pub fn is_of_the_end(point: &str) -> bool {
    let name = point.split('@').next().unwrap_or(point);
    ALL.iter().skip_while(|known| **known != END).any(|known| *known == name)
}

/// What is armed in this process.
#[derive(Debug)]
struct Armed {
    name: String,
    passages: u64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
static PASSED: AtomicU64 = AtomicU64::new(0);

fn parse(text: &str) -> Option<Armed> {
    let (name, passages) = text.split_once('@').unwrap_or((text, "1"));
    Some(Armed { name: name.to_owned(), passages: passages.parse().ok()? })
}

/// The points whose names begin so, in the order of [`ALL`].
pub fn of(beginning: &str) -> impl Iterator<Item = &'static str> {
    ALL.iter().copied().filter(move |point| point.starts_with(beginning))
}

/// Whether this passage of `name` is the one to die at.
///
/// # Panics
/// If `name` is not in [`ALL`].
#[must_use]
pub fn strikes(name: &str) -> bool {
    assert!(ALL.contains(&name), "failpoint {name} is not in the list");
    let armed = ARMED.get_or_init(|| parse(&std::env::var(VARIABLE).ok()?));
    armed.as_ref().is_some_and(|armed| {
        armed.name == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == armed.passages
    })
}

/// The point itself; called through the macro.
pub fn reach(name: &str) {
    if strikes(name) {
        die(name);
    }
}

/// As [`reach`], a moment later.
pub fn reach_soon(name: &str) {
    if strikes(name) {
        let name = name.to_owned();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            die(&name);
        });
    }
}

/// Dies as by `kill -9`: nothing is flushed, dropped or told.
pub fn die(name: &str) -> ! {
    eprintln!("failpoint {name}: dying");
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_name_once_and_unarmed_points_do_nothing() {
        let unique: std::collections::BTreeSet<_> = ALL.iter().collect();
        assert_eq!(unique.len(), ALL.len());
        reach(ALL[0]);
        let armed = parse("launch.pid@3").unwrap();
        assert_eq!((armed.name.as_str(), armed.passages), ("launch.pid", 3));
        assert!(parse("launch.pid@x").is_none());
        assert!(is_of_the_end("destroy.begin") && is_of_the_end("cni.let_go@2"));
        assert!(!is_of_the_end("cni.entered@2") && !is_of_the_end("launch.pid"));
    }
}
