//! The container's terminal: one of its own devpts, if it has one, else the host's.

use std::path::Path;

use isolators::plan::LaunchPlan;
use oci_spec::runtime::{Mount, Process};

use crate::launch::error::{LaunchError, Step};
use crate::launch::ids::Ids;
use crate::launch::program::{Builder, Op, code};

/// Leaves the owner of a file as it is.
const SAME_USER: u32 = u32::MAX;

/// Makes it, in the container's mount namespace. `procfs` is the slot of the host's.
pub(super) fn make(
    program: &mut Builder,
    plan: &LaunchPlan,
    process: &Process,
    (procfs, ids): (u32, Option<&Ids>),
) -> Result<(), LaunchError> {
    let user = process.user().uid();
    // A namespace whose ids nobody knows leaves it to root.
    let owner = ids.map_or(user, |ids| ids.outside(user).unwrap_or(SAME_USER));
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let own_dev = mounts.iter().map(Mount::destination).any(|path| path == Path::new("/dev"));
    let console = if own_dev { program.string(b"/dev/console")? } else { 0 };
    let size = process.console_size();
    let window = size.as_ref().map_or(0, |size| {
        let number = |value: u64| u64::from(u16::try_from(value).unwrap_or(u16::MAX));
        number(size.height()) | number(size.width()) << 32
    });
    let op = Op { code: code::TERMINAL, a: procfs, b: owner, c: console, d: window, e: 0 };
    program.push(Step::Terminal, "a new one", op);
    Ok(())
}
