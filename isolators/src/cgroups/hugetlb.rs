//! `cgroups/hugetlb`: limits on huge pages.
//!
//! Mesos only makes the cgroup. Here limits per page size can be set, by flag for
//! every container and by label for a task; of both the lower counts. Reserved
//! pages are limited too where the kernel can (5.7): then `mmap` fails, instead of
//! `SIGBUS` at the first touch.

use std::collections::BTreeMap;

use kernel::cgroup::{Cgroup, Version};

use super::control::{Control, failed};
use crate::api::{ContainerContext, IsolatorError};

/// As in `--isolation`.
pub const NAME: &str = "cgroups/hugetlb";
/// The label that asks for limits.
pub const LABEL: &str = "hugetlb_limits";

/// A limit on the pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLimit {
    /// As in the names of the kernel's files: `2MB`, `1GB`.
    pub size: String,
    /// The most that may be used, in bytes.
    pub bytes: u64,
}

/// Parses `2MB=64MB;1GB=0`.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn parse_limits(text: &str) -> Result<Vec<PageLimit>, String> {
    let mut all = Vec::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("'{part}' is no limit on huge pages like 2MB=64MB");
        let (size, amount) = part.split_once('=').ok_or_else(wrong)?;
        let page = bytes(size).filter(|page| *page > 0).ok_or_else(wrong)?;
        let amount = bytes(amount).ok_or_else(wrong)?;
        // The kernel rounds down to whole pages; say nothing and do the same.
        all.push(PageLimit { size: size.to_owned(), bytes: amount / page * page });
    }
    Ok(all)
}

fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[split..] {
        "" | "B" => 0,
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    text[..split].parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The files to write for a page size: limit, and limit on reservations.
#[must_use]
pub fn files(version: Version, size: &str) -> [String; 2] {
    let end = match version {
        Version::V1 => "limit_in_bytes",
        Version::V2 => "max",
    };
    [format!("hugetlb.{size}.{end}"), format!("hugetlb.{size}.rsvd.{end}")]
}

/// One container's huge pages.
#[derive(Debug)]
pub(super) struct Hugetlb {
    group: Cgroup,
    limits: Vec<PageLimit>,
}

impl Hugetlb {
    pub(super) fn new(group: Cgroup, limits: Vec<PageLimit>) -> Hugetlb {
        Hugetlb { group, limits }
    }
}

impl Control for Hugetlb {
    fn prepare(&mut self, context: &ContainerContext) -> Result<(), IsolatorError> {
        let asked = context.labels.get(LABEL).map(|text| parse_limits(text)).transpose();
        let asked = asked.map_err(|text| {
            IsolatorError::plain(NAME, "read", format!("label '{LABEL}': {text}"))
        })?;
        let mut lowest: BTreeMap<&str, u64> = BTreeMap::new();
        for limit in self.limits.iter().chain(asked.iter().flatten()) {
            let bytes = lowest.entry(&limit.size).or_insert(limit.bytes);
            *bytes = limit.bytes.min(*bytes);
        }
        for (size, bytes) in lowest {
            let [limit, reserved] = files(self.group.version(), size);
            if !self.group.file(&limit).exists() {
                let object =
                    format!("huge pages of {size}: this machine has no pages of that size");
                return Err(IsolatorError::plain(NAME, "limit", object));
            }
            for file in [limit, reserved] {
                if self.group.file(&file).exists() {
                    self.group
                        .write(&file, &bytes.to_string())
                        .map_err(|e| failed(NAME, "set", &self.group, &file, e))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_parsed_or_refused() {
        let rows = [
            ("2MB=64MB", vec![("2MB", 64 << 20)]),
            ("2MB=3MB;1GB=0", vec![("2MB", 2 << 20), ("1GB", 0)]),
            ("", vec![]),
        ];
        for (text, wanted) in rows {
            let parsed = parse_limits(text).unwrap();
            let parsed: Vec<_> = parsed.iter().map(|l| (l.size.as_str(), l.bytes)).collect();
            assert_eq!(parsed, wanted, "{text}");
        }
        for bad in ["2MB", "2MB=many", "big=1MB", "0MB=1MB", "=1MB", "2MB=99999999999999999GB"] {
            assert!(parse_limits(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn files_of_both_versions() {
        let [limit, reserved] = files(Version::V1, "2MB");
        assert_eq!(limit, "hugetlb.2MB.limit_in_bytes");
        assert_eq!(reserved, "hugetlb.2MB.rsvd.limit_in_bytes");
        assert_eq!(files(Version::V2, "1GB"), ["hugetlb.1GB.max", "hugetlb.1GB.rsvd.max"]);
    }
}
