//! `cgroups/pids`: a limit on processes and threads.
//!
//! Mesos only makes the cgroup. Here `pids.max` is really set: to
//! `--cgroups_pids_limit`, or to the task's label `pids_limit` if that is lower
//! or the flag is not set.

use kernel::cgroup::Cgroup;
use mesos::ResourceStatistics;

use super::control::{Control, failed};
use crate::api::{ContainerContext, IsolatorError, Probe};
use crate::probe::FileProbe;

pub(super) const NAME: &str = "cgroups/pids";

/// The label of a task, or of an executor, that asks for a limit.
pub const LABEL: &str = "pids_limit";

/// `PID_MAX_LIMIT` of 64-bit kernels.
const MOST: u64 = 4 << 20;

/// `pids.max` for the operator's flag and the task's label.
///
/// # Errors
/// The label is no positive number; the text says so.
pub fn limit(flag: Option<u64>, label: Option<&str>) -> Result<Option<u64>, String> {
    let label = match label.map(|text| (text, text.trim().parse::<u64>())) {
        None => None,
        Some((_, Ok(number))) if number > 0 => Some(number),
        Some((text, _)) => {
            return Err(format!("label '{LABEL}': '{text}' is not a positive number"));
        }
    };
    Ok(match (flag, label) {
        (Some(flag), Some(label)) => Some(flag.min(label)),
        (flag, label) => flag.or(label),
    })
}

/// The limit of one container.
#[derive(Debug)]
pub(super) struct Pids {
    group: Cgroup,
    flag: Option<u64>,
}

impl Pids {
    pub(super) fn new(group: Cgroup, flag: Option<u64>) -> Pids {
        Pids { group, flag }
    }
}

impl Control for Pids {
    fn prepare(&mut self, context: &ContainerContext) -> Result<(), IsolatorError> {
        let label = context.labels.get(LABEL).map(String::as_str);
        let limit =
            limit(self.flag, label).map_err(|text| IsolatorError::plain(NAME, "read", text))?;
        // The kernel knows no more than this many, and refuses to be asked.
        match limit.map(|limit| limit.min(MOST)) {
            None => Ok(()),
            Some(limit) => self
                .group
                .write("pids.max", &limit.to_string())
                .map_err(|e| failed(NAME, "set", &self.group, "pids.max", e)),
        }
    }

    fn probes(&self) -> Vec<Box<dyn Probe>> {
        let file = self.group.file("pids.current");
        vec![FileProbe::boxed(NAME, "pids.current", file, fill_current)]
    }
}

/// The kernel counts threads, so do we; `cgroups/cpu` may count them too.
fn fill_current(bytes: &[u8], statistics: &mut ResourceStatistics) {
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
    statistics.threads = statistics.threads.or(number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_told_as_threads() {
        for (bytes, threads) in [("7\n", Some(7)), ("", None), ("max\n", None)] {
            let mut statistics = ResourceStatistics::default();
            fill_current(bytes.as_bytes(), &mut statistics);
            assert_eq!(statistics.threads, threads, "{bytes:?}");
        }
    }

    #[test]
    fn the_flag_is_default_and_ceiling() {
        let rows: [(Option<u64>, Option<&str>, Option<u64>); 6] = [
            (None, None, None),
            (Some(100), None, Some(100)),
            (None, Some("50"), Some(50)),
            (Some(100), Some(" 50 "), Some(50)),
            (Some(100), Some("500"), Some(100)),
            (None, Some("18446744073709551615"), Some(u64::MAX)),
        ];
        for (flag, label, wanted) in rows {
            assert_eq!(limit(flag, label), Ok(wanted), "{flag:?} {label:?}");
        }
        for bad in ["0", "-1", "many", ""] {
            assert!(limit(Some(100), Some(bad)).is_err(), "{bad}");
        }
    }
}
