//! The cgroups of containers: one isolator behind all `cgroups/*` names.
//!
//! Owns the directories of every container in every hierarchy in use and is the
//! only writer of their knobs. Exists whenever the linux launcher is used, with no
//! controllers if `--isolation` names none: the launcher needs a cgroup per
//! container to find and kill its processes. What each controller writes is in the
//! module of its name; where, in [`Layout`].

pub mod blkio;
mod control;
mod controllers;
pub mod cpu;
pub mod cpuset;
pub mod devices;
pub mod foreign;
pub mod grants;
pub mod hugetlb;
mod layout;
pub mod mem;
pub mod net_cls;
pub mod net_prio;
mod oom;
pub mod perf_event;
pub mod pids;
pub mod pinning;
pub(crate) mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kernel::cgroup::{Cgroup, Version};
use mesos::{ContainerStatus, Resource};
use tracing::{info, warn};

use self::control::{Control, Demand};
pub use self::controllers::Controller;
use self::controllers::Shared;
use self::grants::Grants;
pub use self::layout::{Layout, is_container_name};
pub use self::settings::Settings;
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Probe, Recovered, Watch,
};
use crate::config::Config;

/// Name of the isolator where no controller is to blame.
const NAME: &str = "cgroups";

/// The isolator.
#[derive(Debug)]
pub struct Cgroups {
    frame: Arc<Frame>,
}

#[derive(Debug)]
struct Frame {
    config: Arc<Config>,
    layout: Layout,
    shared: Shared,
}

impl Cgroups {
    /// Finds the hierarchies, mounts v1 controllers that nobody has mounted, and
    /// makes the root cgroups. `None`: nothing to do, see [`Layout::new`].
    ///
    /// # Errors
    /// Not root, a controller is missing, a flag asks for what the machine does
    /// not have, or the kernel refuses.
    pub fn new(
        config: Arc<Config>,
        controllers: BTreeSet<Controller>,
    ) -> Result<Option<Cgroups>, IsolatorError> {
        let config = with_mounts(config, &controllers)?;
        let names: Vec<_> = controllers
            .iter()
            .flat_map(|c| c.kernel_names(&config.hierarchies).into_iter().map(|n| (c.name(), n)))
            .collect();
        let Some(layout) = Layout::new(&config, &names)? else { return Ok(None) };
        if !config.root {
            return Err(IsolatorError::plain(NAME, "use", "cgroups: the agent must run as root"));
        }
        let shared = Shared::new(Arc::clone(&config), controllers)?;
        layout.initialize()?;
        for (isolator, controller) in names {
            log_place(&config, isolator, controller);
        }
        Ok(Some(Cgroups { frame: Arc::new(Frame { config, layout, shared }) }))
    }

    /// Every controller that this machine has, for `cgroups/all`; the others are
    /// named in the log. With the configuration that has what was mounted for it.
    #[must_use]
    pub fn available(config: &Arc<Config>) -> (Arc<Config>, BTreeSet<Controller>) {
        let all: BTreeSet<Controller> = Controller::ALL.into_iter().collect();
        let mut config = Arc::clone(config);
        for controller in &all {
            match with_mounts(Arc::clone(&config), &BTreeSet::from([*controller])) {
                Ok(more) => config = more,
                Err(error) => warn!("{}", error.chain()),
            }
        }
        let carried = |controller: &Controller| {
            let names = controller.kernel_names(&config.hierarchies);
            names.iter().all(|name| config.hierarchies.carrying(name).is_some())
        };
        let (has, lacks): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(carried);
        let lacks: Vec<&str> = lacks.into_iter().map(Controller::name).collect();
        if !lacks.is_empty() {
            info!("cgroups/all leaves out what this machine does not have: {}", lacks.join(", "));
        }
        (config, has)
    }

    /// Where the cgroups are: the containerizer kills through the tracker.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.frame.layout
    }

    /// Where isolators hand out single devices; `None` without `cgroups/devices`.
    #[must_use]
    pub fn grants(&self) -> Option<Arc<Grants>> {
        let base = self.frame.shared.device_rules()?;
        Some(Arc::new(Grants::new(self.frame.layout.clone(), base)))
    }

    fn handle(&self, context: &Arc<ContainerContext>, fresh: bool) -> CgroupIsolation {
        let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
        let nested = context.id.parent.is_some();
        let shared = nested && linux.and_then(|l| l.share_cgroups).unwrap_or(true);
        let lineage: Vec<&str> = context.id.lineage();
        let frame = Arc::clone(&self.frame);
        let has = |c: Controller| !shared && frame.shared.has(c);
        let knobs = |name: &str| frame.layout.knobs(name, &lineage);
        let cpu = has(Controller::Cpu).then(|| knobs("cpu")).flatten().map(|group| {
            let accounting = knobs("cpuacct").unwrap_or_else(|| group.clone());
            cpu::Cpu::new(&frame.config, group, accounting, fresh)
        });
        let mem = has(Controller::Mem)
            .then(|| knobs("memory"))
            .flatten()
            .map(|group| mem::Mem::new(&frame.config, group, fresh));
        let controls = match shared {
            true => Vec::new(),
            false => frame.shared.controls(&frame.layout, &lineage),
        };
        CgroupIsolation { context: Arc::clone(context), shared, cpu, mem, controls, frame }
    }
}

/// The configuration with v1 hierarchies mounted that are wanted and missing.
fn with_mounts(
    config: Arc<Config>,
    controllers: &BTreeSet<Controller>,
) -> Result<Arc<Config>, IsolatorError> {
    if !config.root {
        return Ok(config);
    }
    let base = config.cgroups.hierarchy.clone();
    let mut config = config;
    for controller in controllers {
        for name in controller.kernel_names(&config.hierarchies) {
            let mounted = Arc::make_mut(&mut config).hierarchies.mount_v1(name, &base);
            let mounted = mounted.map_err(|e| {
                let object = format!("'{name}' below '{}'", base.display());
                IsolatorError::new(controller.name(), "mount", object, e)
            })?;
            if mounted {
                info!("mounted the cgroup controller '{name}' below {}", base.display());
            }
        }
    }
    Ok(config)
}

/// Says which hierarchy carries a controller, and why.
fn log_place(config: &Config, isolator: &str, controller: &str) {
    let Some(found) = config.hierarchies.carrying(controller) else { return };
    let implicit = kernel::cgroup::is_implicit_on_v2(controller);
    let why = match found.version {
        Version::V1 => "its v1 hierarchy is mounted",
        Version::V2 if implicit => "no v1 hierarchy has it, and every v2 cgroup does",
        Version::V2 => "cgroup.controllers of v2 lists it",
    };
    let mount = found.mount.display();
    info!("{isolator} uses the controller '{controller}' at {mount}: {why}");
}

fn kill_and_remove(group: &Cgroup, timeout: Duration) -> Result<(), IsolatorError> {
    let path = || group.path().display().to_string();
    group.kill(timeout).map_err(|e| IsolatorError::new(NAME, "kill", path(), e))?;
    group.remove(timeout).map_err(|e| IsolatorError::new(NAME, "remove", path(), e))
}

#[async_trait]
impl Isolator for Cgroups {
    fn about(&self) -> About {
        About::everywhere(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context, true))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let mut handles: Vec<Box<dyn Isolation>> = Vec::new();
        for container in known {
            let mut handle = self.handle(&container.context, false);
            for control in &mut handle.controls {
                if container.pid.is_some()
                    && let Err(error) = control.recover(&container.context)
                {
                    warn!(error = %error.chain(), "a recovered container is less isolated");
                }
            }
            // Also if it ended while the agent was away: why, the cgroup still tells.
            if let Some(mem) = handle.mem.as_mut().filter(|mem| mem.exists())
                && let Err(error) = mem.listen()
            {
                warn!(error = %error.chain(), "a recovered container's memory limit is not watched");
            }
            handles.push(Box::new(handle));
        }
        // Cgroups that nobody claims are swept by the containerizer, always.
        Ok(Recovered { handles, leftovers: Vec::new() })
    }
}

/// One container's cgroups.
#[derive(Debug)]
struct CgroupIsolation {
    context: Arc<ContainerContext>,
    frame: Arc<Frame>,
    /// Nested, and under the limits of its parent.
    shared: bool,
    cpu: Option<cpu::Cpu>,
    mem: Option<mem::Mem>,
    controls: Vec<Box<dyn Control>>,
}

impl CgroupIsolation {
    fn apply(&mut self, demand: Demand<'_>) -> Result<(), IsolatorError> {
        if let Some(cpu) = &mut self.cpu {
            cpu.update(demand)?;
        }
        if let Some(mem) = &mut self.mem {
            mem.update(demand)?;
        }
        Ok(())
    }

    fn make_directories(&self) -> Result<(), IsolatorError> {
        let lineage = self.context.id.lineage();
        let layout = &self.frame.layout;
        let owner = self.context.ids.filter(|(uid, _)| *uid != 0);
        let fail = |verb, group: &Cgroup, error| {
            IsolatorError::new(NAME, verb, group.path().display().to_string(), error)
        };
        for group in layout.directories(&lineage, self.shared) {
            if lineage.len() > 1
                && let Some(parent) = group.path().parent()
            {
                let parent = Cgroup::new(group.version(), parent);
                parent.create_all().map_err(|e| fail("create", &parent, e))?;
                layout.fill(&parent).map_err(|e| fail("give processors to", &parent, e))?;
            }
            group.create().map_err(|e| fail("create", &group, e))?;
            self.frame.layout.fill(&group).map_err(|e| fail("give processors to", &group, e))?;
        }
        if !self.shared {
            for (group, controllers) in layout.givers(&lineage) {
                group.enable(&controllers).map_err(|e| fail("enable controllers in", &group, e))?;
            }
        }
        if let Some((uid, gid)) = owner {
            // v1: the container's directories; v2: where its processes are.
            for group in layout.directories(&lineage, self.shared) {
                let leaf = group.path().ends_with("leaf");
                if group.version() == Version::V1 || leaf {
                    std::os::unix::fs::chown(group.path(), Some(uid), Some(gid)).map_err(|e| {
                        let path = group.path().display().to_string();
                        IsolatorError::new(NAME, "change the owner of", path, e)
                    })?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Isolation for CgroupIsolation {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        self.make_directories()?;
        kernel::failpoint!("cgroups.made");
        let context = Arc::clone(&self.context);
        let lineage = context.id.lineage();
        let demand = Demand { requests: &context.requests, limits: &context.limits };
        let cgroups = self.frame.layout.joins(&lineage, Cgroup::exists);
        self.apply(demand)?;
        let mut oom_score_adj = None;
        if let Some(mem) = &mut self.mem {
            mem.listen()?;
            let task = context.command_task || context.id.parent.is_some();
            oom_score_adj = if task { mem.oom_score(demand) } else { None };
        }
        for control in &mut self.controls {
            control.prepare(&context)?;
        }
        Ok(Contribution { cgroups, oom_score_adj, ..Contribution::default() })
    }

    fn watch(&mut self) -> Option<Watch> {
        for control in &mut self.controls {
            control.start();
        }
        self.mem.as_mut().and_then(mem::Mem::watch)
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        // A nested container under its parent's limits has none of its own.
        self.apply(Demand { requests, limits })?;
        self.controls.iter_mut().try_for_each(|control| control.update(requests))
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        let mut probes = self.cpu.as_ref().map(cpu::Cpu::probes).unwrap_or_default();
        probes.extend(self.mem.as_ref().map(mem::Mem::probes).unwrap_or_default());
        probes.extend(self.controls.iter().flat_map(|control| control.probes()));
        probes
    }

    fn status(&mut self, status: &mut ContainerStatus) -> Result<(), IsolatorError> {
        for control in &self.controls {
            control.status(status);
        }
        // A container under its parent's limits has its parent's class id.
        if self.shared
            && self.frame.shared.has(Controller::NetCls)
            && let Some(group) = self.frame.layout.knobs("net_cls", &self.context.id.lineage()[..1])
        {
            net_cls::set_status(status, net_cls::class_id(&group));
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<Limitation> {
        self.mem.as_mut().and_then(mem::Mem::ended)
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        if let Some(mem) = &mut self.mem {
            mem.close();
        }
        let timeout = self.frame.config.cgroups_destroy_timeout;
        let lineage = self.context.id.lineage();
        let groups = self.frame.layout.directories(&lineage, self.shared);
        let mut first_error = None;
        for group in groups.into_iter().rev() {
            // Nearly always empty by now. If not, wait and kill off the runtime's
            // threads.
            if group.remove(Duration::ZERO).is_ok() {
                kernel::failpoint!("cgroups.removed_one");
                continue;
            }
            let task = tokio::task::spawn_blocking(move || kill_and_remove(&group, timeout));
            let result = task.await.unwrap_or_else(|e| {
                Err(IsolatorError::new(NAME, "remove", "a cgroup: the worker ended", e))
            });
            if let Err(error) = result {
                first_error.get_or_insert(error);
            }
        }
        // What was the container's is free only when its cgroups are gone.
        if first_error.is_none() {
            self.controls.iter_mut().for_each(|control| control.cleanup());
        }
        first_error.map_or(Ok(()), Err)
    }
}
