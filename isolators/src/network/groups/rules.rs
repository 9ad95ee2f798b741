//! The groups' part of nftables: tables of their own, for bridged and for routed packets.
//! Pure.
//!
//! A set for each group, and one for all members. What goes from a member to a member is
//! accepted by the rule of a group that both are in, or dropped.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::network::nft::{Element, add, remove};
use crate::network::plugin::hash;

/// Our tables' name.
pub const TABLE: &str = "bulkhead_groups";
/// Their families.
pub const FAMILIES: [&str; 2] = ["bridge", "inet"];

/// Of members of any group.
const MEMBERS: &str = "members";

fn kinds() -> [(&'static str, &'static str, &'static str); 2] {
    [("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr")]
}

/// The elements of a container in `groups`.
#[must_use]
pub fn elements(groups: &[String], addresses: &[IpAddr], tag: &str) -> Vec<Element> {
    let mut all = Vec::new();
    for ip in addresses.iter().filter(|_| !groups.is_empty()) {
        let number = if ip.is_ipv4() { 4 } else { 6 };
        let unique: BTreeSet<u64> = groups.iter().map(|group| hash(&[group])).collect();
        let sets = unique.into_iter().map(|group| format!("group{group:016x}-"));
        for set in sets.chain([MEMBERS.to_owned()]) {
            all.push(Element {
                map: format!("{set}{number}"),
                key: ip.to_string(),
                target: None,
                tag: tag.to_owned(),
            });
        }
    }
    all
}

/// The group that a set is of, without the kind of its addresses.
fn group_of(set: &str) -> Option<&str> {
    set.split_once('-').map(|(group, _)| group).filter(|group| group.starts_with("group"))
}

/// Text that adds `new` to a table that has `known`.
#[must_use]
pub fn join(family: &str, known: &[Element], new: &[Element]) -> String {
    let there: BTreeSet<&str> = known.iter().filter_map(|e| group_of(&e.map)).collect();
    let groups: BTreeSet<&str> = new.iter().filter_map(|e| group_of(&e.map)).collect();
    let mut text = ground(family, known.is_empty());
    for group in groups.iter().filter(|group| !there.contains(*group)) {
        text.push_str(&rule(family, group));
    }
    text.extend(new.iter().map(|element| add(family, TABLE, element)));
    text
}

/// Text that takes `gone` away where `stays` stays.
#[must_use]
pub fn leave(family: &str, stays: &[Element], gone: &[Element]) -> String {
    if stays.is_empty() {
        return format!("delete table {family} {TABLE}\n");
    }
    let used: BTreeSet<&str> = stays.iter().filter_map(|e| group_of(&e.map)).collect();
    let empty = gone.iter().filter_map(|e| group_of(&e.map)).any(|group| !used.contains(group));
    if !empty {
        return gone.iter().map(|element| remove(family, TABLE, element)).collect();
    }
    // A group has lost its last member: its rule goes, too.
    format!("delete table {family} {TABLE}\n{}", join(family, &[], stays))
}

/// The table and what does not depend on groups.
fn ground(family: &str, new: bool) -> String {
    let mut text = format!("add table {family} {TABLE}\n");
    for (number, _, kind) in kinds() {
        text.push_str(&format!("add set {family} {TABLE} {MEMBERS}{number} {{ type {kind}; }}\n"));
    }
    let hook = "{ type filter hook forward priority 0; policy accept; }";
    text.push_str(&format!("add chain {family} {TABLE} groups\n"));
    text.push_str(&format!("add chain {family} {TABLE} forward {hook}\n"));
    if new {
        text.push_str(&format!("flush chain {family} {TABLE} forward\n"));
        text.push_str(&format!("flush chain {family} {TABLE} groups\n"));
        text.push_str(&format!("add rule {family} {TABLE} forward jump groups\n"));
        for (number, ip, _) in kinds() {
            let set = format!("@{MEMBERS}{number}");
            text.push_str(&format!(
                "add rule {family} {TABLE} forward {ip} saddr {set} {ip} daddr {set} drop\n"
            ));
        }
    }
    text
}

/// Sets and rules of one group.
fn rule(family: &str, group: &str) -> String {
    let mut text = String::new();
    for (number, ip, kind) in kinds() {
        let set = format!("{group}-{number}");
        text.push_str(&format!("add set {family} {TABLE} {set} {{ type {kind}; }}\n"));
        text.push_str(&format!(
            "add rule {family} {TABLE} groups {ip} saddr @{set} {ip} daddr @{set} accept\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_and_go_with_their_members() {
        let ip: IpAddr = "10.0.0.2".parse().unwrap();
        let groups = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let one = elements(&groups(&["a", "b", "a"]), &[ip], "one");
        assert_eq!(one.len(), 3);
        let two = elements(&groups(&["a"]), &["10.0.0.3".parse().unwrap()], "two");
        let first = join("inet", &[], &one);
        assert_eq!(first.matches("accept\n").count(), 4);
        assert_eq!(first.matches(" drop\n").count(), 2);
        let second = join("inet", &one, &two);
        assert_eq!((second.matches("accept\n").count(), second.matches("drop").count()), (0, 0));
        assert_eq!(second.matches("add element").count(), 2);
        // `b` is empty afterwards.
        let left = leave("inet", &two, &one);
        assert!(
            left.starts_with("delete table") && left.matches("accept\n").count() == 2,
            "{left}"
        );
        assert_eq!(leave("inet", &one, &two).matches("delete element").count(), 2);
        assert_eq!(leave("inet", &[], &one), "delete table inet bulkhead_groups\n");
        assert!(elements(&[], &[ip], "t").is_empty());
    }
}
