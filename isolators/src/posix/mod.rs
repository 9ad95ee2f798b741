//! `posix/*`: isolators that need nothing from the kernel but `/proc` and rlimits.

pub mod rlimits;
mod usage;

pub use self::rlimits::isolator as rlimits;
pub use self::usage::{PosixCpu, PosixMem};
