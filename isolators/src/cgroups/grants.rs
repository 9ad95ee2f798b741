//! Devices beyond the whitelist, handed out to single containers.
//!
//! [`Grants`] is the one place where a container's device list changes after it is
//! made: isolators that hand devices out say what each container has of theirs, and
//! the kernel is told the sum. A container that lives under its parent's limits has
//! no list of its own; its parent's resources, and so its list, cover it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::bpf::device::Rule;
use kernel::cgroup::{Cgroup, Version};

use super::Layout;
use super::control::failed;
use super::devices::{NAME, grant};
use crate::api::{ContainerContext, IsolatorError};

/// What each isolator has given, by container.
type Table = BTreeMap<String, BTreeMap<&'static str, Vec<Rule>>>;

/// The grants of all containers. The lock is held while the kernel is told, so that
/// two isolators cannot undo each other's.
#[derive(Debug)]
pub struct Grants {
    layout: Layout,
    base: Arc<[Rule]>,
    table: Mutex<Table>,
}

impl Grants {
    /// On top of `base`, which every container has.
    #[must_use]
    pub(super) fn new(layout: Layout, base: Arc<[Rule]>) -> Grants {
        Grants { layout, base, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cgroup that has the container's device list, if it has one of its own.
    fn group(&self, context: &ContainerContext) -> Option<Cgroup> {
        let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
        let shares = linux.and_then(|linux| linux.share_cgroups).unwrap_or(true);
        if context.id.parent.is_some() && shares {
            return None;
        }
        self.layout.knobs("devices", &context.id.lineage())
    }

    /// From now on the container has exactly `rules` from `owner`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set(
        &self,
        owner: &'static str,
        context: &ContainerContext,
        rules: Vec<Rule>,
    ) -> Result<(), IsolatorError> {
        let Some(group) = self.group(context) else { return Ok(()) };
        let mut table = self.table();
        let owners = table.entry(context.id.to_string()).or_default();
        let before = sum(owners);
        if rules.is_empty() {
            owners.remove(owner)
        } else {
            owners.insert(owner, rules)
        };
        let after = sum(owners);
        if before == after {
            return Ok(());
        }
        tell(&group, &self.base, &before, &after)
    }

    /// The container has had `rules` from `owner` since before a restart of the
    /// agent; the kernel knows.
    pub fn remember(&self, owner: &'static str, context: &ContainerContext, rules: Vec<Rule>) {
        if !rules.is_empty() && self.group(context).is_some() {
            self.table().entry(context.id.to_string()).or_default().insert(owner, rules);
        }
    }

    /// The container is gone, and its list with it.
    pub fn forget(&self, owner: &'static str, context: &ContainerContext) {
        let mut table = self.table();
        let key = context.id.to_string();
        if let Some(owners) = table.get_mut(&key) {
            owners.remove(owner);
            if owners.is_empty() {
                table.remove(&key);
            }
        }
    }
}

fn sum(owners: &BTreeMap<&'static str, Vec<Rule>>) -> Vec<Rule> {
    let mut all: Vec<Rule> = owners.values().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What to take away and what to add, in v1's words: a running container must never
/// be without what it keeps. What the base list gives is left alone.
fn changes(base: &[Rule], before: &[Rule], after: &[Rule]) -> (Vec<Rule>, Vec<Rule>) {
    let numbers = |rule: &Rule| (rule.kind, rule.major, rule.minor);
    let given = |rule: &&Rule| base.iter().any(|known| numbers(known) == numbers(rule));
    let deny: Vec<Rule> =
        before.iter().filter(|rule| !after.contains(rule)).filter(|r| !given(r)).copied().collect();
    let allow = |rule: &&Rule| {
        // Denying takes an access away from everybody who gave it.
        let hit = deny.iter().any(|gone| numbers(gone) == numbers(rule));
        hit || !before.contains(rule)
    };
    (deny.clone(), after.iter().filter(allow).copied().collect())
}

fn tell(
    group: &Cgroup,
    base: &[Rule],
    before: &[Rule],
    after: &[Rule],
) -> Result<(), IsolatorError> {
    if group.version() == Version::V2 {
        return grant(group, base, after);
    }
    let (deny, allow) = changes(base, before, after);
    let write = |file: &str, rule: &Rule| {
        group.write(file, &rule.to_string()).map_err(|e| failed(NAME, "set", group, file, e))
    };
    deny.iter().try_for_each(|rule| write("devices.deny", rule))?;
    allow.iter().try_for_each(|rule| write("devices.allow", rule))
}

#[cfg(test)]
mod tests {
    use kernel::bpf::device::Access;

    use super::*;

    #[test]
    fn what_stays_is_never_taken_away() {
        let read = Access { read: true, ..Access::default() };
        let rule = |minor, access| Rule::char(Some(1), Some(minor), access);
        let base = [rule(5, Access::ALL)];
        let text = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
        type Row<'a> = (&'a [Rule], &'a [Rule], &'a [&'a str], &'a [&'a str]);
        let rows: [Row<'_>; 5] = [
            (&[], &[rule(11, read)], &[], &["c 1:11 r"]),
            (&[rule(11, read)], &[], &["c 1:11 r"], &[]),
            // A second one more.
            (&[rule(11, read)], &[rule(11, read), rule(7, read)], &[], &["c 1:7 r"]),
            // Two have given the same device, one takes it back.
            (
                &[rule(11, read), rule(11, Access::ALL)],
                &[rule(11, read)],
                &["c 1:11 rwm"],
                &["c 1:11 r"],
            ),
            // Everybody has it anyway.
            (&[rule(5, read)], &[], &[], &[]),
        ];
        for (before, after, denied, allowed) in rows {
            let (deny, allow) = changes(&base, before, after);
            assert_eq!(
                (text(&deny), text(&allow)),
                (
                    denied.iter().map(ToString::to_string).collect(),
                    allowed.iter().map(ToString::to_string).collect(),
                )
            );
        }
    }
}
