//! What flags say to the controllers, parsed and checked. Each module owns the
//! grammar of its own flags; this is only the struct that carries them.

use std::path::PathBuf;

use mesos::DeviceAccess;

use super::{blkio, cpuset, hugetlb, net_cls, net_prio, perf_event};

/// Flags of the controllers; Mesos' names and defaults unless said.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--cgroups_hierarchy`: where v1 controllers that nobody mounted are mounted.
    pub hierarchy: PathBuf,
    /// `--allowed_devices`: beside the default whitelist.
    pub allowed_devices: Vec<DeviceAccess>,
    /// `--cpuset_policy`, ours.
    pub cpuset_policy: cpuset::Policy,
    /// `--cgroups_blkio_weight`, ours: default and ceiling of every container.
    pub blkio_weight: Option<u64>,
    /// `--cgroups_blkio_throttle`, ours: default and ceiling of every container.
    pub blkio_throttle: Vec<blkio::Throttle>,
    /// `--cgroups_hugetlb_limits`, ours: default and ceiling of every container.
    pub hugetlb_limits: Vec<hugetlb::PageLimit>,
    /// `--cgroups_mem_high_ratio`, ours, v2: `memory.high` as a part of the limit.
    pub mem_high_ratio: Option<f64>,
    /// `--cgroups_mem_min_ratio`, ours, v2: `memory.min` as a part of the request.
    pub mem_min_ratio: Option<f64>,
    /// `--cgroups_mem_oom_group`, ours, v2: the kernel kills all or none.
    pub mem_oom_group: bool,
    /// `--cgroups_net_cls_primary_handle` and `--cgroups_net_cls_secondary_handles`.
    pub net_cls: Option<net_cls::Handles>,
    /// `--cgroups_net_prio_map`, ours.
    pub net_prio: Vec<net_prio::Priority>,
    /// `--perf_events`, `--perf_interval`, `--perf_duration`.
    pub perf: Option<perf_event::Plan>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            hierarchy: "/sys/fs/cgroup".into(),
            allowed_devices: Vec::new(),
            cpuset_policy: cpuset::Policy::Inherit,
            blkio_weight: None,
            blkio_throttle: Vec::new(),
            hugetlb_limits: Vec::new(),
            mem_high_ratio: None,
            mem_min_ratio: None,
            mem_oom_group: false,
            net_cls: None,
            net_prio: Vec::new(),
            perf: None,
        }
    }
}
