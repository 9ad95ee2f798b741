//! `devices/cdi`: devices that vendors describe in CDI specs, as resources by name.
//!
//! * [`inventory`]: which devices there are. `spec`: one file (pure). `yaml`: its
//!   other form (pure). `edits`: what a container with a device gets.
//!
//! A device is one item of a set resource that has the name of its kind, so the
//! resources of a container say which devices it has: nothing is allocated here,
//! and nothing has to be remembered. What else may be opened is up to
//! `cgroups/devices`, whose list is extended through [`Grants`].

mod edits;
pub mod inventory;
pub mod settings;
mod spec;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use mesos::Resource;
use tracing::warn;

pub use self::inventory::Inventory;
pub use self::settings::{Hooks, Settings};
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use crate::cgroups::grants::Grants;

/// As in `--isolation`.
pub const NAME: &str = "devices/cdi";

/// The isolator.
///
/// # Errors
/// Nothing would keep other containers from the devices.
pub fn devices(
    settings: &Settings,
    grants: Option<Arc<Grants>>,
    filesystem_linux: bool,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    let (Some(grants), true) = (grants, filesystem_linux) else {
        let object = "without 'cgroups/devices' and 'filesystem/linux': add them to --isolation";
        return Err(IsolatorError::plain(NAME, "start", object));
    };
    for broken in Inventory::load(&settings.directories).broken() {
        warn!("a CDI spec cannot be used: {broken}");
    }
    Ok(Arc::new(Cdi { shared: Arc::new(Shared { settings: settings.clone(), grants }) }))
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    grants: Arc<Grants>,
}

struct Cdi {
    shared: Arc<Shared>,
}

#[async_trait]
impl Isolator for Cdi {
    fn about(&self) -> About {
        About::everywhere(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (shared, context) = (Arc::clone(&self.shared), Arc::clone(context));
        Box::new(Devices { shared, context })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        for container in known.iter().filter(|known| known.pid.is_some()) {
            let devices = Devices {
                shared: Arc::clone(&self.shared),
                context: Arc::clone(&container.context),
            };
            // The kernel still holds what was granted; this is for the next change.
            match devices.given(&container.context.requests) {
                Ok(given) => self.shared.grants.remember(NAME, &container.context, given.rules),
                Err(error) => warn!(error = %error.chain(), "a device has lost its CDI spec"),
            }
        }
        Ok(Recovered::attached(self, known))
    }
}

/// One container's devices.
#[derive(Debug)]
struct Devices {
    shared: Arc<Shared>,
    context: Arc<ContainerContext>,
}

/// Names of devices by kind: items of all set resources whose name is a kind.
#[must_use]
pub fn wanted(requests: &[Resource]) -> BTreeMap<&str, Vec<String>> {
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for resource in requests.iter().filter(|resource| resource.name.contains('/')) {
        let Some(set) = &resource.set else { continue };
        let names = all.entry(resource.name.as_str()).or_default();
        for name in &set.item {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    all.retain(|_, names| !names.is_empty());
    all
}

impl Devices {
    /// What the container gets for these resources.
    fn given(&self, requests: &[Resource]) -> Result<edits::Given, IsolatorError> {
        let wanted = wanted(requests);
        if wanted.is_empty() {
            return Ok(edits::Given::default());
        }
        let settings = &self.shared.settings;
        let inventory = Inventory::load(&settings.directories);
        let mut all = Vec::new();
        for (kind, names) in &wanted {
            let edits = inventory.edits(kind, names);
            all.extend(edits.map_err(|text| IsolatorError::plain(NAME, "give", text))?);
        }
        edits::apply(&all, &self.context, settings.hooks).map_err(|text| {
            let names: Vec<String> =
                wanted.iter().map(|(kind, names)| format!("{kind}={}", names.join(","))).collect();
            IsolatorError::plain(NAME, "give", format!("{}: {text}", names.join(" ")))
        })
    }
}

#[async_trait]
impl Isolation for Devices {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        let given = self.given(&self.context.requests)?;
        self.shared.grants.set(NAME, &self.context, given.rules)?;
        Ok(given.part)
    }

    /// A running container keeps its mounts and environment; what it may open
    /// follows its resources.
    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        let rules = self.given(requests)?.rules;
        self.shared.grants.set(NAME, &self.context, rules)
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        self.shared.grants.forget(NAME, &self.context);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mesos::value;

    use super::*;
    use crate::quantity::scalar;

    fn set(name: &str, items: &[&str]) -> Resource {
        let item = items.iter().map(|item| (*item).to_owned()).collect();
        Resource {
            name: name.into(),
            r#type: value::Type::Set as i32,
            set: Some(value::Set { item }),
            ..Resource::default()
        }
    }

    #[test]
    fn resources_name_the_devices() {
        let requests = [
            scalar("cpus", 1.0),
            set("acme.com/widget", &["1", "0"]),
            set("acme.com/widget", &["1", "2"]),
            set("colours", &["red"]),
            set("acme.com/none", &[]),
            scalar("acme.com/scalar", 2.0),
        ];
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            wanted(&requests),
            BTreeMap::from([("acme.com/widget", names(&["1", "0", "2"]))])
        );
    }

    #[test]
    fn without_a_device_list_nobody_would_be_kept_out() {
        let error = devices(&Settings::default(), None, true).err().unwrap().to_string();
        assert!(error.contains("'cgroups/devices'"), "{error}");
    }
}
