//! The program of a shim that is started ahead: what shows its processes is made in the
//! root that is ready, by it, because it shows those of whoever mounts it.

use std::path::Path;

use isolators::plan::Fixtures;

use super::files;
use super::open;
use crate::launch::error::{LaunchError, Step};
use crate::launch::program::{Builder, Op, READY_FD, Steps, code};

/// Compiles it.
pub(in crate::launch) fn parking(fixtures: &Fixtures) -> Result<(Vec<u8>, Steps), LaunchError> {
    let mut program = Builder::new();
    let host = open(&mut program, Path::new("/proc/self/ns/mnt"), 0)?;
    let ready = files::inherit_ready(&mut program)?;
    files::enter(&mut program, ready, "mount, of a root that is ready");
    files::processes(&mut program, fixtures)?;
    files::enter(&mut program, host, "mount, its own again");
    let (a, b) = (READY_FD as u32 + 1, u32::MAX);
    program.push(Step::Open, "what is left", Op { code: code::CLOSE, a, b, ..Op::default() });
    program.push(Step::Process, "what it is told", Op { code: code::PARK, ..Op::default() });
    Ok(program.finish())
}
