//! `cgroups/net_cls` (v1 only): a class id for each container's packets.
//!
//! `--cgroups_net_cls_primary_handle` is the upper half of every id, the lower half
//! is the lowest free one of `--cgroups_net_cls_secondary_handles`. Without a
//! primary handle ids belong to the operator and nothing is written. The kernel
//! keeps the ids of running containers; recovery reads them back.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::cgroup::Cgroup;
use mesos::ContainerStatus;
use mesos::cgroup_info;

use super::control::{Control, failed};
use crate::api::{ContainerContext, IsolatorError};

/// As in `--isolation`.
pub const NAME: &str = "cgroups/net_cls";
pub(super) const FILE: &str = "net_cls.classid";

/// The handles that may be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handles {
    /// Upper half of the class id.
    pub primary: u16,
    /// Lowest lower half.
    pub first: u16,
    /// Highest lower half.
    pub last: u16,
}

/// Parses the two flags, `0xAAAA` and `0x0001,0xFFFF`.
///
/// # Errors
/// What is wrong with them, for people.
pub fn parse_handles(
    primary: Option<&str>,
    secondary: Option<&str>,
) -> Result<Option<Handles>, String> {
    let Some(primary) = primary else {
        return match secondary {
            None => Ok(None),
            Some(_) => Err("a primary handle is needed for secondary handles".to_owned()),
        };
    };
    let primary = handle(primary)?;
    if primary == 0 {
        return Err("the primary handle must not be 0".to_owned());
    }
    let Some(secondary) = secondary else {
        return Ok(Some(Handles { primary, first: 1, last: u16::MAX }));
    };
    let wrong = || format!("'{secondary}' is no range of handles like 0x0001,0xFFFF");
    let (first, last) = secondary.split_once(',').ok_or_else(wrong)?;
    let (first, last) = (handle(first)?, handle(last)?);
    if first == 0 {
        return Err("the first secondary handle must not be 0".to_owned());
    }
    if first > last {
        return Err(wrong());
    }
    Ok(Some(Handles { primary, first, last }))
}

fn handle(text: &str) -> Result<u16, String> {
    let text = text.trim();
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = hex.map_or_else(|| text.parse().ok(), |hex| u16::from_str_radix(hex, 16).ok());
    number.ok_or_else(|| format!("'{text}' is no handle from 0x0001 to 0xffff"))
}

/// Which secondary handles are taken. Pure.
#[derive(Debug)]
pub struct Allocator {
    handles: Handles,
    /// Free handles below the first one never used.
    returned: BTreeSet<u16>,
    taken: BTreeSet<u16>,
}

impl Allocator {
    /// All of `handles` are free.
    #[must_use]
    pub fn new(handles: Handles) -> Allocator {
        Allocator { handles, returned: BTreeSet::new(), taken: BTreeSet::new() }
    }

    fn range(&self) -> RangeInclusive<u16> {
        self.handles.first..=self.handles.last
    }

    /// Takes the lowest free handle; its class id. `None`: all are taken.
    pub fn allocate(&mut self) -> Option<u32> {
        let secondary = match self.returned.pop_first() {
            Some(returned) => returned,
            // Above the highest taken one; what is free below it was returned.
            None => match self.taken.last() {
                None => self.handles.first,
                Some(last) => last.checked_add(1).filter(|next| self.range().contains(next))?,
            },
        };
        self.taken.insert(secondary);
        Some(self.class_id(secondary))
    }

    /// Takes the handle of a class id that a container has already; whether it is
    /// one of ours and was free.
    pub fn adopt(&mut self, class_id: u32) -> bool {
        let Some(secondary) = self.secondary(class_id) else { return false };
        let next = self.taken.last().map_or(self.handles.first, |last| last.saturating_add(1));
        if !self.taken.insert(secondary) {
            return false;
        }
        // What was skipped is free, and lower.
        self.returned.extend(next..secondary);
        self.returned.remove(&secondary);
        true
    }

    /// Gives a handle back.
    pub fn release(&mut self, class_id: u32) {
        if let Some(secondary) = self.secondary(class_id)
            && self.taken.remove(&secondary)
        {
            self.returned.insert(secondary);
            // What is free above the highest taken one is not listed.
            match self.taken.last().copied() {
                Some(highest) => drop(self.returned.split_off(&highest)),
                None => self.returned.clear(),
            }
        }
    }

    fn class_id(&self, secondary: u16) -> u32 {
        u32::from(self.handles.primary) << 16 | u32::from(secondary)
    }

    fn secondary(&self, class_id: u32) -> Option<u16> {
        let secondary = u16::try_from(class_id & 0xffff).ok()?;
        let ours = class_id >> 16 == u32::from(self.handles.primary);
        (ours && self.range().contains(&secondary)).then_some(secondary)
    }
}

/// The allocator of the agent.
#[derive(Debug)]
pub(super) struct Pool(Mutex<Allocator>);

impl Pool {
    pub(super) fn new(handles: Handles) -> Pool {
        Pool(Mutex::new(Allocator::new(handles)))
    }

    fn lock(&self) -> MutexGuard<'_, Allocator> {
        // Every change is one call: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One container's class id.
#[derive(Debug)]
pub(super) struct NetCls {
    pool: Arc<Pool>,
    group: Cgroup,
    class_id: Option<u32>,
}

impl NetCls {
    pub(super) fn new(pool: Arc<Pool>, group: Cgroup) -> NetCls {
        NetCls { pool, group, class_id: None }
    }
}

impl Control for NetCls {
    fn prepare(&mut self, _context: &ContainerContext) -> Result<(), IsolatorError> {
        let class_id = self.pool.lock().allocate().ok_or_else(|| {
            let object = "a handle: all of --cgroups_net_cls_secondary_handles are in use";
            IsolatorError::plain(NAME, "allocate", object)
        })?;
        self.class_id = Some(class_id);
        self.group
            .write(FILE, &class_id.to_string())
            .map_err(|e| failed(NAME, "set", &self.group, FILE, e))
    }

    fn recover(&mut self, _context: &ContainerContext) -> Result<(), IsolatorError> {
        let Some(class_id) = class_id(&self.group) else { return Ok(()) };
        if self.pool.lock().adopt(class_id) {
            self.class_id = Some(class_id);
            return Ok(());
        }
        let object = format!(
            "the handle {class_id:#010x} of '{}': it is outside --cgroups_net_cls_*_handles, or twice",
            self.group.path().display()
        );
        Err(IsolatorError::plain(NAME, "recover", object))
    }

    fn status(&self, status: &mut ContainerStatus) {
        set_status(status, self.class_id.or_else(|| class_id(&self.group)));
    }

    fn cleanup(&mut self) {
        if let Some(class_id) = self.class_id.take() {
            self.pool.lock().release(class_id);
        }
    }
}

/// What the kernel has; 0 is none.
pub(super) fn class_id(group: &Cgroup) -> Option<u32> {
    let number = group.read_number(FILE).ok()?;
    u32::try_from(number).ok().filter(|class_id| *class_id != 0)
}

pub(super) fn set_status(status: &mut ContainerStatus, classid: Option<u32>) {
    if classid.is_some() {
        status.cgroup_info.get_or_insert_default().net_cls = Some(cgroup_info::NetCls { classid });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_parsed_or_refused() {
        let all = |primary, first, last| Ok(Some(Handles { primary, first, last }));
        let rows = [
            (None, None, Ok(None)),
            (Some("0xAAAA"), None, all(0xaaaa, 1, 0xffff)),
            (Some("16"), Some("0x0002, 0x0005"), all(16, 2, 5)),
            (Some("0x12"), Some("0x1,0x1"), all(0x12, 1, 1)),
        ];
        for (primary, secondary, wanted) in rows {
            assert_eq!(parse_handles(primary, secondary), wanted);
        }
        let bad = [
            (None, Some("0x1,0x2")),
            (Some("0x0"), None),
            (Some("0x10000"), None),
            (Some("handle"), None),
            (Some("0x1"), Some("0x0,0x2")),
            (Some("0x1"), Some("0x3,0x2")),
            (Some("0x1"), Some("0x3")),
        ];
        for (primary, secondary) in bad {
            assert!(parse_handles(primary, secondary).is_err(), "{primary:?} {secondary:?}");
        }
    }

    #[test]
    fn the_lowest_free_handle_is_taken() {
        let mut pool = Allocator::new(Handles { primary: 0x10, first: 5, last: 8 });
        assert!(pool.adopt(0x10_0007));
        assert!(!pool.adopt(0x10_0007), "twice");
        assert!(!pool.adopt(0x10_0009) && !pool.adopt(0x11_0005), "outside");
        let taken: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(taken, [0x10_0005, 0x10_0006, 0x10_0008]);
        pool.release(0x10_0006);
        pool.release(0x10_0006);
        pool.release(0x99_0006);
        assert_eq!(pool.allocate(), Some(0x10_0006));
        assert_eq!(pool.allocate(), None);
        for id in [0x10_0008, 0x10_0007, 0x10_0006, 0x10_0005] {
            pool.release(id);
        }
        assert_eq!(pool.allocate(), Some(0x10_0005));
    }

    /// Against a plain search, over a long mixed run.
    #[test]
    fn the_allocator_agrees_with_a_linear_search() {
        let handles = Handles { primary: 1, first: 1, last: 20 };
        let (mut pool, mut model) = (Allocator::new(handles), BTreeSet::new());
        let mut state = 12345u32;
        for _ in 0..5000 {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
            let id = 0x1_0000 | (1 + (state >> 16) % 20);
            match (state >> 8) % 3 {
                0 => {
                    let wanted = (0x1_0001..=0x1_0014).find(|id| !model.contains(id));
                    assert_eq!(pool.allocate(), wanted);
                    model.extend(wanted);
                }
                1 => assert_eq!(pool.adopt(id), model.insert(id)),
                _ => {
                    pool.release(id);
                    model.remove(&id);
                }
            }
        }
    }
}
