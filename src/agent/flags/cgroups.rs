//! Flags of single cgroup controllers to [`Settings`]. What a value may be is
//! decided beside the controller that uses it; here errors get the flag's name.

use std::time::Duration;

use isolators::cgroups::{Settings, blkio, hugetlb, net_cls, net_prio, perf_event};
use mesos::DeviceWhitelist;

use super::values::{StartError, invalid, parsed};
use crate::daemon::flags::Flags;

/// # Errors
/// A value that means nothing, with the name of its flag.
pub(super) fn settings(flags: &Flags) -> Result<Settings, StartError> {
    let default = Settings::default();
    Ok(Settings {
        hierarchy: flags.text("cgroups_hierarchy").map_or(default.hierarchy, Into::into),
        allowed_devices: devices(flags)?,
        cpuset_policy: parsed(flags, "cpuset_policy", |text| text.parse())?
            .unwrap_or(default.cpuset_policy),
        blkio_weight: parsed(flags, "cgroups_blkio_weight", blkio::parse_weight)?,
        blkio_throttle: parsed(flags, "cgroups_blkio_throttle", blkio::parse_throttles)?
            .unwrap_or_default(),
        hugetlb_limits: parsed(flags, "cgroups_hugetlb_limits", hugetlb::parse_limits)?
            .unwrap_or_default(),
        mem_high_ratio: ratio(flags, "cgroups_mem_high_ratio")?,
        mem_min_ratio: ratio(flags, "cgroups_mem_min_ratio")?,
        mem_oom_group: flags.bool("cgroups_mem_oom_group"),
        net_cls: handles(flags)?,
        net_prio: parsed(flags, "cgroups_net_prio_map", net_prio::parse_map)?.unwrap_or_default(),
        perf: perf(flags)?,
    })
}

fn ratio(flags: &Flags, name: &'static str) -> Result<Option<f64>, StartError> {
    match flags.float(name) {
        Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
            Err(invalid(name, &ratio.to_string(), "above 0.0, at most 1.0"))
        }
        ratio => Ok(ratio),
    }
}

fn devices(flags: &Flags) -> Result<Vec<mesos::DeviceAccess>, StartError> {
    const FLAG: &str = "allowed_devices";
    let Some(json) = flags.json(FLAG) else { return Ok(Vec::new()) };
    let text = json.to_string();
    // A misspelt whitelist must not be an empty one.
    if json.get(FLAG).is_none() {
        return Err(invalid(FLAG, &text, "an object with the list 'allowed_devices'"));
    }
    let list: DeviceWhitelist =
        mesos::json::from_json(text.as_bytes()).map_err(|e| invalid(FLAG, &text, e.to_string()))?;
    Ok(list.allowed_devices)
}

fn handles(flags: &Flags) -> Result<Option<net_cls::Handles>, StartError> {
    let primary = flags.text("cgroups_net_cls_primary_handle");
    let secondary = flags.text("cgroups_net_cls_secondary_handles");
    net_cls::parse_handles(primary, secondary).map_err(|expected| match secondary {
        Some(secondary) => invalid("cgroups_net_cls_secondary_handles", secondary, expected),
        None => invalid("cgroups_net_cls_primary_handle", primary.unwrap_or_default(), expected),
    })
}

fn perf(flags: &Flags) -> Result<Option<perf_event::Plan>, StartError> {
    let time = |name, default| flags.duration(name).unwrap_or(Duration::from_secs(default));
    let (interval, duration) = (time("perf_interval", 60), time("perf_duration", 10));
    parsed(flags, "perf_events", |text| perf_event::Plan::new(text, interval, duration))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn built(more: &[&str]) -> Result<Settings, StartError> {
        let base = ["--work_dir=/tmp/none", "--master=127.0.0.1:5050"];
        let arguments = base.iter().chain(more).map(|a| (*a).to_owned());
        settings(&Flags::parse(FLAGS, arguments, []).expect("known flags"))
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let built = built(&[
            "--cgroups_hierarchy=/cg",
            r#"--allowed_devices={"allowed_devices": [{"device": {"path": "/dev/kvm"}, "access": {"read": true}}]}"#,
            "--cpuset_policy=exclusive",
            "--cgroups_blkio_weight=200",
            "--cgroups_blkio_throttle=8:0 rbps=1048576",
            "--cgroups_hugetlb_limits=2MB=64MB",
            "--cgroups_mem_high_ratio=0.9",
            "--cgroups_mem_min_ratio=0.5",
            "--cgroups_mem_oom_group",
            "--cgroups_net_cls_primary_handle=0xAAAA",
            "--cgroups_net_cls_secondary_handles=0x1,0x10",
            "--cgroups_net_prio_map=eth0=5",
            "--perf_events=cycles",
        ])
        .expect("valid");
        assert_eq!(built.hierarchy.to_str(), Some("/cg"));
        assert_eq!(built.allowed_devices[0].device.path.as_deref(), Some("/dev/kvm"));
        assert_eq!(built.cpuset_policy, isolators::cgroups::cpuset::Policy::Exclusive);
        assert_eq!(built.blkio_weight, Some(200));
        assert_eq!(built.blkio_throttle.len(), 1);
        assert_eq!(built.hugetlb_limits[0].bytes, 64 << 20);
        assert_eq!((built.mem_high_ratio, built.mem_min_ratio), (Some(0.9), Some(0.5)));
        assert!(built.mem_oom_group && built.perf.is_some());
        assert_eq!(built.net_cls.map(|h| (h.primary, h.last)), Some((0xaaaa, 0x10)));
        assert_eq!(built.net_prio[0].priority, 5);
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (flag, words) in [
            ("--cpuset_policy=numa", "--cpuset_policy: one of none, exclusive"),
            ("--cgroups_blkio_weight=0", "--cgroups_blkio_weight: '0' is no weight"),
            ("--cgroups_blkio_throttle=8:0", "bounds nothing"),
            ("--cgroups_hugetlb_limits=2MB", "--cgroups_hugetlb_limits"),
            ("--cgroups_mem_high_ratio=1.5", "at most 1.0"),
            ("--cgroups_net_cls_primary_handle=x", "--cgroups_net_cls_primary_handle"),
            ("--cgroups_net_cls_secondary_handles=0x1,0x2", "a primary handle is needed"),
            ("--cgroups_net_prio_map=eth0", "--cgroups_net_prio_map"),
            ("--perf_events=cycle", "'cycle' is no perf event"),
            (r#"--allowed_devices={"allowed": []}"#, "--allowed_devices"),
        ] {
            let error = built(&[flag]).expect_err(flag).to_string();
            assert!(error.contains(words), "{flag}: {error}");
        }
    }
}
