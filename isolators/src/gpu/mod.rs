//! `gpu/nvidia`: whole GPUs of Nvidia's driver for single containers.
//!
//! Owns the allocation: which GPU belongs to which container. It is written to the
//! container's runtime directory before the kernel is told, so the next agent knows
//! it. What a container may open is changed through [`Grants`]; nested containers
//! are covered by their top-level container, which has their resources too.

mod allocator;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kernel::bpf::device::{Access, Rule};
use kernel::machine;
use kernel::nvml::{Nvml, Usage};
use mesos::Resource;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use tracing::{info, warn};

use self::allocator::Allocator;
pub use self::settings::Settings;
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use crate::cgroups::grants::Grants;
use crate::quantity::total;

/// As in `--isolation`.
pub const NAME: &str = "gpu/nvidia";

/// Major number of all GPUs of Nvidia's driver.
const MAJOR: u32 = 195;

/// The file in a container's runtime directory that says which GPUs it has.
const FILE: &str = "gpus";

/// Nodes that every container with a GPU needs, and whether they must be there.
const CONTROL: [(&str, bool); 3] =
    [("nvidiactl", true), ("nvidia-uvm", true), ("nvidia-uvm-tools", false)];

/// Opens the management library.
///
/// # Errors
/// It is not there, or the driver does not answer; says what to do.
fn open(settings: &Settings) -> Result<Nvml, IsolatorError> {
    Nvml::open(&settings.library).map_err(|error| {
        let object = "Nvidia's management library: install the driver, or leave 'gpu/nvidia' out \
                      of --isolation";
        IsolatorError::new(NAME, "use", object, error)
    })
}

/// How many GPUs the machine has.
///
/// # Errors
/// As [`nvidia`].
pub fn count(settings: &Settings) -> Result<u32, IsolatorError> {
    open(settings)?.count().map_err(|error| IsolatorError::new(NAME, "count", "the GPUs", error))
}

/// The isolator.
///
/// # Errors
/// The driver or a device node is missing, or nothing would keep other containers
/// from the GPUs.
pub fn nvidia(
    settings: &Settings,
    grants: Option<Arc<Grants>>,
    filesystem_linux: bool,
) -> Result<Nvidia, IsolatorError> {
    let (Some(grants), true) = (grants, filesystem_linux) else {
        let object = "without 'cgroups/devices' and 'filesystem/linux': add them to --isolation";
        return Err(IsolatorError::plain(NAME, "start", object));
    };
    let nvml = open(settings)?;
    let failed = |error| IsolatorError::new(NAME, "find", "the GPUs", error);
    let indices = match &settings.indices {
        Some(indices) => indices.clone(),
        None => (0..nvml.count().map_err(failed)?).collect(),
    };
    let gpus = indices.iter().map(|index| Ok((nvml.minor(*index).map_err(failed)?, *index)));
    let gpus = gpus.collect::<Result<BTreeMap<u32, u32>, IsolatorError>>()?;
    let version = nvml.driver_version().map_err(failed)?;
    info!("gpu/nvidia manages {} GPUs of the driver {version}", gpus.len());
    let control = control_devices(&settings.devices)?;
    let allocator = Mutex::new(Allocator::new(gpus.keys().copied()));
    let devices = settings.devices.clone();
    let shared = Shared { nvml, gpus, allocator, control, devices, grants };
    Ok(Nvidia { shared: Arc::new(shared) })
}

/// A node that is not a GPU's.
#[derive(Debug)]
struct Control {
    path: PathBuf,
    major: u32,
    minor: u32,
}

fn control_devices(dev: &Path) -> Result<Vec<Control>, IsolatorError> {
    // The module is loaded, and its node made, by the first program that needs it.
    if dev == Path::new("/dev") && !dev.join("nvidia-uvm").exists() {
        let made = Command::new("nvidia-modprobe").args(["-u", "-c", "0"]).status();
        if !made.is_ok_and(|status| status.success()) {
            warn!("'nvidia-modprobe -u -c 0' failed: /dev/nvidia-uvm may be missing");
        }
    }
    let mut all = Vec::new();
    for (name, needed) in CONTROL {
        let path = dev.join(name);
        match machine::device(&path) {
            Ok(Some(number)) => {
                all.push(Control { path, major: number.major, minor: number.minor });
            }
            Err(error) if needed => {
                let object = path.display().to_string();
                return Err(IsolatorError::new(NAME, "find the device", object, error));
            }
            Ok(None) if needed => {
                let object = format!("'{}': it is no device", path.display());
                return Err(IsolatorError::plain(NAME, "use", object));
            }
            _ => {}
        }
    }
    Ok(all)
}

#[derive(Debug)]
struct Shared {
    nvml: Nvml,
    /// Minor number to the library's index.
    gpus: BTreeMap<u32, u32>,
    allocator: Mutex<Allocator>,
    control: Vec<Control>,
    devices: PathBuf,
    grants: Arc<Grants>,
}

impl Shared {
    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a container with these GPUs may open. The control devices are everybody's
    /// who is under this isolator, as in Mesos.
    fn rules(&self, gpus: &BTreeSet<u32>) -> Vec<Rule> {
        let control = self
            .control
            .iter()
            .map(|node| Rule::char(Some(node.major), Some(node.minor), Access::ALL));
        let use_it = Access { read: true, write: true, mknod: false };
        control.chain(gpus.iter().map(|gpu| Rule::char(Some(MAJOR), Some(*gpu), use_it))).collect()
    }
}

/// The isolator.
#[derive(Debug)]
pub struct Nvidia {
    shared: Arc<Shared>,
}

impl Nvidia {
    /// For those who want to know how busy the GPUs are.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures(Arc::clone(&self.shared))
    }
}

/// One GPU for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Minor number of its device node.
    pub minor: u32,
    /// The top-level container that has it.
    pub container: Option<String>,
    /// How busy it is.
    pub usage: Usage,
}

/// Reads the figures of all GPUs that are managed.
#[derive(Debug, Clone)]
pub struct Figures(Arc<Shared>);

impl Figures {
    /// Asks the driver; blocks for as long as it takes.
    #[must_use]
    pub fn read(&self) -> Vec<Figure> {
        let shared = &self.0;
        let owner = |minor| shared.allocator().owner(minor).map(str::to_owned);
        let figure = |(minor, index): (&u32, &u32)| Figure {
            minor: *minor,
            container: owner(*minor),
            usage: shared.nvml.usage(*index),
        };
        shared.gpus.iter().map(figure).collect()
    }
}

#[async_trait]
impl Isolator for Nvidia {
    fn about(&self) -> About {
        About::everywhere(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (shared, context) = (Arc::clone(&self.shared), Arc::clone(context));
        Box::new(Gpus { shared, context })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        for container in known.iter().filter(|k| k.pid.is_some() && k.context.id.parent.is_none()) {
            let context = &container.context;
            let had = read(&context.runtime.join(FILE))?;
            let got = self.shared.allocator().assign(&context.id.value, &had);
            if got != had {
                let lost: Vec<String> = had.difference(&got).map(u32::to_string).collect();
                warn!(container = %context.id.value, gpus = %lost.join(" "),
                      "a container has GPUs that are no longer managed");
            }
            // It keeps what it had until its resources change.
            self.shared.grants.remember(NAME, context, self.shared.rules(&had));
        }
        Ok(Recovered::attached(self, known))
    }
}

/// The GPUs of the file; a container without it has none.
fn read(path: &Path) -> Result<BTreeSet<u32>, IsolatorError> {
    let show = || path.display().to_string();
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.map_err(|error| IsolatorError::new(NAME, "read", show(), error))?,
    };
    text.split_whitespace()
        .map(|word| word.parse())
        .collect::<Result<_, _>>()
        .map_err(|error| IsolatorError::new(NAME, "understand", show(), error))
}

/// One container's GPUs.
#[derive(Debug)]
struct Gpus {
    shared: Arc<Shared>,
    context: Arc<ContainerContext>,
}

/// Whole GPUs only.
fn asked(requests: &[Resource]) -> Result<usize, IsolatorError> {
    let amount = total(requests, "gpus").unwrap_or(0.0);
    if amount < 0.0 || amount.fract() != 0.0 {
        let object = format!("{amount} gpus: the 'gpus' resource must be an unsigned integer");
        return Err(IsolatorError::plain(NAME, "give", object));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // whole, and a machine has few
    Ok(amount as usize)
}

impl Gpus {
    fn nested(&self) -> bool {
        self.context.id.parent.is_some()
    }

    /// Gives the container what it asks for: book, file, kernel, in this order.
    fn give(&self, requests: &[Resource]) -> Result<BTreeSet<u32>, IsolatorError> {
        let id = &self.context.id.value;
        let count = asked(requests)?;
        let (before, gpus) = {
            let mut allocator = self.shared.allocator();
            let before = allocator.of(id);
            let plan = allocator
                .plan(id, count)
                .map_err(|text| IsolatorError::plain(NAME, "give", text))?;
            (before, allocator.assign(id, &plan))
        };
        let given = self
            .write(&gpus)
            .and_then(|()| self.shared.grants.set(NAME, &self.context, self.shared.rules(&gpus)));
        if given.is_err() {
            self.shared.allocator().assign(id, &before);
        }
        given.map(|()| gpus)
    }

    fn write(&self, gpus: &BTreeSet<u32>) -> Result<(), IsolatorError> {
        let path = self.context.runtime.join(FILE);
        if gpus.is_empty() && !path.exists() {
            return Ok(());
        }
        let text: Vec<String> = gpus.iter().map(u32::to_string).collect();
        let temporary = path.with_extension("new");
        fs::write(&temporary, text.join(" ") + "\n")
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| IsolatorError::new(NAME, "write", path.display().to_string(), e))
    }

    /// Nodes for a root file system of the container's own.
    fn nodes(&self, gpus: &BTreeSet<u32>) -> Vec<LinuxDevice> {
        if self.context.rootfs.is_none() {
            // It has the host's /dev.
            return Vec::new();
        }
        let control = self.shared.control.iter().map(|n| (n.path.clone(), n.major, n.minor));
        let named = |gpu: &u32| (self.shared.devices.join(format!("nvidia{gpu}")), MAJOR, *gpu);
        control
            .chain(gpus.iter().map(named))
            .map(|(path, major, minor)| {
                let mut node = LinuxDevice::default();
                node.set_path(path)
                    .set_typ(LinuxDeviceType::C)
                    .set_major(major.into())
                    .set_minor(minor.into())
                    .set_file_mode(Some(0o666))
                    .set_uid(Some(0))
                    .set_gid(Some(0));
                node
            })
            .collect()
    }
}

#[async_trait]
impl Isolation for Gpus {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        if self.nested() {
            // Its top-level container has its GPUs; it sees all of them.
            let gpus = self.shared.allocator().of(&self.context.id.root().value);
            let devices = self.nodes(&gpus);
            return Ok(Contribution { devices, ..Contribution::default() });
        }
        let gpus = self.give(&self.context.requests)?;
        Ok(Contribution { devices: self.nodes(&gpus), ..Contribution::default() })
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        if !self.nested() {
            self.give(requests)?;
        }
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        if self.nested() {
            return Ok(());
        }
        self.shared.allocator().assign(&self.context.id.value, &BTreeSet::new());
        self.shared.grants.forget(NAME, &self.context);
        let path = self.context.runtime.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(IsolatorError::new(NAME, "remove", path.display().to_string(), error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::scalar;

    #[test]
    fn gpus_are_whole() {
        assert_eq!(asked(&[scalar("gpus", 2.0)]).unwrap(), 2);
        assert_eq!(asked(&[scalar("cpus", 0.5)]).unwrap(), 0);
        let error = asked(&[scalar("gpus", 0.5)]).unwrap_err().to_string();
        assert!(error.contains("0.5 gpus"), "{error}");
    }

    #[test]
    fn a_machine_without_a_driver_says_what_to_do() {
        let settings = Settings { library: "libbulkhead-none.so".into(), ..Settings::default() };
        let error = count(&settings).unwrap_err().chain();
        assert!(
            error.contains("install the driver") && error.contains("libbulkhead-none"),
            "{error}"
        );
        let error = nvidia(&settings, None, true).err().unwrap().to_string();
        assert!(error.contains("'cgroups/devices'"), "{error}");
    }

    #[test]
    fn control_devices_must_be_there() {
        let error = control_devices(Path::new("/nonexistent")).unwrap_err().chain();
        assert!(error.contains("find the device /nonexistent/nvidiactl"), "{error}");
    }
}
