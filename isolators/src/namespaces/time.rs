//! `namespaces/time`, which Mesos does not have: clocks of its own, for the clocks that
//! count from the machine's start. They run as the host's unless the task's label
//! `time_offsets` moves them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::namespaces::Namespace;
use oci_spec::runtime::{LinuxNamespaceType, LinuxTimeOffset};

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::mounts::{namespace_of, new_namespace};
use crate::simple::Preparing;

const NAME: &str = "namespaces/time";
/// The label of a task, or of an executor, that moves the clocks.
pub const LABEL: &str = "time_offsets";
const NANOSECONDS: u32 = 1_000_000_000;

/// The isolator.
///
/// # Errors
/// The combination of flags, or the kernel, cannot work.
pub fn time(config: &Config, filesystem_linux: bool) -> Result<Arc<dyn Isolator>, IsolatorError> {
    super::check(NAME, config, filesystem_linux)?;
    if !Namespace::Time.supported() {
        let object = "here: this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS)";
        return Err(IsolatorError::plain(NAME, "start", object));
    }
    Ok(Preparing::everywhere(NAME, (), prepare))
}

/// Parses `boottime=-3600;monotonic=1.5`: seconds to add to a clock.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn parse(text: &str) -> Result<BTreeMap<String, LinuxTimeOffset>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("'{part}' is no offset of a clock like boottime=-3600");
        let (clock, seconds) = part.split_once('=').ok_or_else(wrong)?;
        if !matches!(clock, "boottime" | "monotonic") {
            return Err(format!("'{part}': the clocks are 'boottime' and 'monotonic'"));
        }
        let offset = offset(seconds).ok_or_else(wrong)?;
        if all.insert(clock.to_owned(), offset).is_some() {
            return Err(format!("'{part}': the clock is there twice"));
        }
    }
    Ok(all)
}

/// Seconds with up to nine decimals. The kernel adds the nanoseconds, so below zero
/// the seconds are rounded down.
fn offset(text: &str) -> Option<LinuxTimeOffset> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |text: &str| text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty();
    if !number(whole) || !number(part) || part.len() > 9 {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let nanoseconds = format!("{part:0<9}").parse::<u32>().ok()?;
    let (seconds, nanoseconds) = match (negative, nanoseconds) {
        (false, _) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, NANOSECONDS - nanoseconds),
    };
    let mut offset = LinuxTimeOffset::default();
    offset.set_secs(Some(seconds)).set_nanosecs(Some(nanoseconds));
    Some(offset)
}

fn prepare((): &(), context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    let asked = context.labels.get(LABEL).map(|text| parse(text)).transpose();
    let asked = asked
        .map_err(|text| IsolatorError::plain(NAME, "read", format!("label '{LABEL}': {text}")))?;
    let (namespace, time_offsets) = match (asked, &context.parent) {
        (None, Some(parent)) => {
            (namespace_of(LinuxNamespaceType::Time, parent.pid, "time"), BTreeMap::new())
        }
        (asked, _) => (new_namespace(LinuxNamespaceType::Time), asked.unwrap_or_default()),
    };
    Ok(Contribution { namespaces: vec![namespace], time_offsets, ..Contribution::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Parent;
    use crate::suite::context;

    #[test]
    fn offsets_are_parsed_or_refused() {
        let rows = [
            ("boottime=10", Some((10, 0))),
            ("boottime=-10", Some((-10, 0))),
            ("boottime=1.5", Some((1, 500_000_000))),
            ("boottime=-1.5", Some((-2, 500_000_000))),
            ("boottime=0.000000001", Some((0, 1))),
            ("boottime=1.0000000001", None),
            ("boottime=", None),
            ("boottime=1.", None),
            ("boottime=+1", None),
            ("boottime=99999999999999999999", None),
            ("realtime=1", None),
            ("boottime", None),
            ("boottime=1;boottime=2", None),
        ];
        for (text, wanted) in rows {
            let got = parse(text).ok().map(|all| {
                let offset = &all["boottime"];
                (offset.secs().unwrap(), offset.nanosecs().unwrap())
            });
            assert_eq!(got, wanted, "{text}");
        }
        assert_eq!(parse("boottime=1; monotonic=2").unwrap().len(), 2);
    }

    #[test]
    fn a_nested_container_has_its_parents_clocks_unless_it_asks() {
        let mut nested = context("a");
        assert_eq!(
            prepare(&(), &nested).unwrap().namespaces,
            [new_namespace(LinuxNamespaceType::Time)]
        );
        nested.parent = Some(Parent {
            pid: 7,
            sandbox: "/s".into(),
            runtime: "/r".into(),
            host_pid_namespace: false,
        });
        let joined = prepare(&(), &nested).unwrap();
        assert_eq!(joined.namespaces[0].path().clone().unwrap().to_str(), Some("/proc/7/ns/time"));
        nested.labels.insert(LABEL.into(), "monotonic=5".into());
        let own = prepare(&(), &nested).unwrap();
        assert_eq!((own.namespaces[0].path(), own.time_offsets.len()), (&None, 1));
        nested.labels.insert(LABEL.into(), "x".into());
        assert!(prepare(&(), &nested).unwrap_err().to_string().contains("label 'time_offsets'"));
    }
}
