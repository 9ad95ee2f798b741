//! The controllers that `--isolation` can name, and the [`Control`]s of a container:
//! `cpu` and `mem` have types of their own, since they take part in updates and
//! limitations; the rest is made by [`Shared`].

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use kernel::bpf::device::Rule;
use kernel::cgroup::{Hierarchies, Version};

use super::control::Control;
use super::layout::Layout;
use super::{blkio, cpu, cpuset, devices, hugetlb, mem, net_cls, net_prio, perf_event, pids};
use crate::api::IsolatorError;
use crate::config::Config;

/// A controller that `--isolation` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Controller {
    Blkio,
    Cpu,
    Cpuset,
    Devices,
    Hugetlb,
    Mem,
    NetCls,
    NetPrio,
    PerfEvent,
    Pids,
}

impl Controller {
    /// All of them: `cgroups/all` where the kernel has them.
    pub const ALL: [Controller; 10] = [
        Controller::Blkio,
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Devices,
        Controller::Hugetlb,
        Controller::Mem,
        Controller::NetCls,
        Controller::NetPrio,
        Controller::PerfEvent,
        Controller::Pids,
    ];

    /// As in `--isolation`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Controller::Blkio => blkio::NAME,
            Controller::Cpu => cpu::NAME,
            Controller::Cpuset => cpuset::NAME,
            Controller::Devices => devices::NAME,
            Controller::Hugetlb => hugetlb::NAME,
            Controller::Mem => mem::NAME,
            Controller::NetCls => net_cls::NAME,
            Controller::NetPrio => net_prio::NAME,
            Controller::PerfEvent => perf_event::NAME,
            Controller::Pids => pids::NAME,
        }
    }

    /// The kernel's controllers behind it, on these hierarchies.
    pub(super) fn kernel_names(self, hierarchies: &Hierarchies) -> Vec<&'static str> {
        let v1 = |name| hierarchies.carrying(name).is_some_and(|h| h.version == Version::V1);
        match self {
            // v2 has it under another name.
            Controller::Blkio if hierarchies.carrying("io").is_some() && !v1("blkio") => vec!["io"],
            Controller::Blkio => vec!["blkio"],
            // On v2 `cpu` counts the time too.
            Controller::Cpu if hierarchies.carrying("cpu").is_some() && !v1("cpu") => vec!["cpu"],
            Controller::Cpu => vec!["cpu", "cpuacct"],
            Controller::Cpuset => vec!["cpuset"],
            Controller::Devices => vec!["devices"],
            Controller::Hugetlb => vec!["hugetlb"],
            Controller::Mem => vec!["memory"],
            Controller::NetCls => vec!["net_cls"],
            Controller::NetPrio => vec!["net_prio"],
            Controller::PerfEvent => vec!["perf_event"],
            Controller::Pids => vec!["pids"],
        }
    }
}

/// What the containers of one agent share: parsed rules and allocators.
#[derive(Debug)]
pub(super) struct Shared {
    config: Arc<Config>,
    controllers: BTreeSet<Controller>,
    devices: Arc<[Rule]>,
    pins: Option<Arc<cpuset::Pins>>,
    handles: Option<Arc<net_cls::Pool>>,
    perf: Option<Arc<perf_event::Plan>>,
}

impl Shared {
    /// Checks what can be checked before the first container.
    pub(super) fn new(
        config: Arc<Config>,
        controllers: BTreeSet<Controller>,
    ) -> Result<Shared, IsolatorError> {
        let has = |controller| controllers.contains(&controller);
        let settings = &config.cgroups;
        let devices = match has(Controller::Devices) {
            true => devices::whitelist(&settings.allowed_devices)?,
            false => Vec::new(),
        };
        let pins = match settings.cpuset_policy {
            cpuset::Policy::Exclusive if has(Controller::Cpuset) => {
                Some(Arc::new(cpuset::Pins::detect()?))
            }
            _ => None,
        };
        let handles = settings.net_cls.filter(|_| has(Controller::NetCls));
        let perf = settings.perf.clone().filter(|_| has(Controller::PerfEvent));
        if let Some(plan) = &perf {
            plan.check()?;
        }
        Ok(Shared {
            devices: devices.into(),
            pins,
            handles: handles.map(|handles| Arc::new(net_cls::Pool::new(handles))),
            perf: perf.map(Arc::new),
            config,
            controllers,
        })
    }

    pub(super) fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// What every container may do with devices; `None` if nothing is forbidden.
    pub(super) fn device_rules(&self) -> Option<Arc<[Rule]>> {
        self.has(Controller::Devices).then(|| Arc::clone(&self.devices))
    }

    /// The controls of one container, `cpu` and `mem` apart.
    pub(super) fn controls(&self, layout: &Layout, lineage: &[&str]) -> Vec<Box<dyn Control>> {
        let settings = &self.config.cgroups;
        let mut all: Vec<Box<dyn Control>> = Vec::new();
        for controller in &self.controllers {
            let names = controller.kernel_names(&self.config.hierarchies);
            let Some(group) = names.first().and_then(|name| layout.knobs(name, lineage)) else {
                continue;
            };
            match controller {
                Controller::Cpu | Controller::Mem => {}
                Controller::Blkio => {
                    let (weight, throttles) =
                        (settings.blkio_weight, settings.blkio_throttle.clone());
                    all.push(Box::new(blkio::Blkio::new(weight, throttles, group)));
                }
                Controller::Cpuset => {
                    // A nested container stays within its parent's processors.
                    if let Some(pins) = self.pins.as_ref().filter(|_| lineage.len() == 1) {
                        all.push(Box::new(cpuset::Cpuset::new(Arc::clone(pins), group)));
                    }
                }
                Controller::Devices => {
                    let rules = Arc::clone(&self.devices);
                    all.push(Box::new(devices::Devices::new(group, rules)));
                }
                Controller::Hugetlb => {
                    let limits = settings.hugetlb_limits.clone();
                    all.push(Box::new(hugetlb::Hugetlb::new(group, limits)));
                }
                Controller::NetCls => {
                    if let Some(pool) = &self.handles {
                        all.push(Box::new(net_cls::NetCls::new(Arc::clone(pool), group)));
                    }
                }
                Controller::NetPrio => {
                    let map = settings.net_prio.clone();
                    all.push(Box::new(net_prio::NetPrio::new(group, map)));
                }
                Controller::PerfEvent => {
                    if let Some(plan) = &self.perf {
                        all.push(Box::new(perf_event::PerfEvent::new(Arc::clone(plan), group)));
                    }
                }
                Controller::Pids => {
                    all.push(Box::new(pids::Pids::new(group, self.config.cgroups_pids_limit)));
                }
            }
        }
        all
    }
}
