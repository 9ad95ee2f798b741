//! Typed Linux: the only place, besides the launch code and the shim, that talks
//! to the kernel in ways the standard library does not.
//!
//! Knows nothing of Mesos. Every function says which file or call it wraps; an
//! error names the verb and the object once ([`Error`]).

#[path = "../../shim/src/arch.rs"]
mod arch;
pub mod beneath;
pub mod boot;
pub mod bpf;
pub mod cgroup;
pub mod cpus;
pub mod directory;
mod error;
#[cfg(debug_assertions)]
pub mod failpoint;
pub mod hung;
pub mod idmap;
pub mod layers;
pub mod leash;
pub mod lock;
pub mod lookup;
pub mod machine;
pub mod memfd;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod netns;
pub mod nvml;
pub mod owners;
pub mod parked;
pub mod perf;
pub mod pidfd;
pub mod pipe;
pub mod proctree;
pub mod quota;
pub mod ramdisk;
pub mod remove;
pub mod root;
pub mod sched;
pub mod signals;
pub mod spawn;
pub mod terminal;
mod tree;
pub mod users;
pub mod volume;
pub mod walk;
pub mod xattr;

pub use error::{Error, chain};

/// A place where tests make the process die; nothing in a release. See `failpoint`.
#[macro_export]
macro_rules! failpoint {
    (soon $name:expr) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::reach_soon($name);
    };
    ($name:expr) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::reach($name);
    };
}
