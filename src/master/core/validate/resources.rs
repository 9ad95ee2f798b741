//! What tasks, executors and operations may ask for.

use std::collections::{BTreeMap, BTreeSet};

use mesos::Resource;
use mesos::resources::{Item, Quantities, validate_all};

use super::Check;
use crate::master::Resources;

/// Everything that every list of resources must be.
///
/// # Errors
/// The first rule broken.
pub fn all(resources: &[Resource]) -> Check {
    validate_all(resources).map_err(|e| format!("Invalid resources: {e}"))?;
    gpus(resources).map_err(|e| format!("Invalid 'gpus' resource: {e}"))?;
    disks(resources).map_err(|e| format!("Invalid DiskInfo: {e}"))?;
    for resource in resources {
        if resource.revocable.is_some()
            && Item::new(resource).is_ok_and(|i| i.is_dynamically_reserved())
        {
            return Err(format!(
                "Invalid ReservationInfo: Dynamically reserved resource {} cannot be created \
                 from revocable resources",
                show(resource)
            ));
        }
    }
    Ok(())
}

/// A resource in words.
pub(super) fn show(resource: &Resource) -> String {
    Item::new(resource).map_or_else(|_| resource.name.clone(), |item| item.to_string())
}

fn gpus(resources: &[Resource]) -> Check {
    let gpus = Resources::from_valid(resources).gpus().unwrap_or(0.0);
    if gpus.fract() == 0.0 {
        Ok(())
    } else {
        Err("The 'gpus' resource must be an unsigned integer".into())
    }
}

fn disks(resources: &[Resource]) -> Check {
    for resource in resources {
        let Some(disk) = &resource.disk else { continue };
        let Some(persistence) = &disk.persistence else {
            if disk.volume.is_some() {
                return Err("Non-persistent volume not supported".into());
            }
            if disk.source.is_none() {
                return Err("DiskInfo is set but empty".into());
            }
            continue;
        };
        if resource.revocable.is_some() {
            return Err("Persistent volumes cannot be created from revocable resources".into());
        }
        if Item::new(resource).is_ok_and(|i| i.reservations().is_empty()) {
            return Err("Persistent volumes cannot be created from unreserved resources".into());
        }
        let Some(volume) = &disk.volume else {
            return Err("Expecting 'volume' to be set for persistent volume".into());
        };
        if volume.host_path.is_some() {
            return Err("Expecting 'host_path' to be unset for persistent volume".into());
        }
        super::id(&persistence.id)
            .map_err(|e| format!("Invalid persistence ID for persistent volume: {e}"))?;
    }
    Ok(())
}

/// A persistence id occurs once per role.
///
/// # Errors
/// The id that does not.
pub fn unique_persistence(resources: &Resources) -> Check {
    let mut seen = BTreeSet::new();
    for volume in resources.iter().filter(|i| i.is_persistent_volume()) {
        let id = volume.persistence_id().unwrap_or_default();
        if !seen.insert((volume.reservation_role().map(str::to_owned), id.to_owned())) {
            return Err(format!("Persistence ID '{id}' is not unique"));
        }
    }
    Ok(())
}

/// All are allocated to one role.
///
/// # Errors
/// The roles, if they are several.
pub fn one_role(resources: &[Resource]) -> Check {
    let mut first: Option<&str> = None;
    for resource in resources {
        let Some(role) = resource.allocation_info.as_ref().and_then(|a| a.role.as_deref()) else {
            return Err("The resources are not allocated to a role".into());
        };
        if let Some(first) = first.filter(|f| *f != role) {
            return Err(format!(
                "The resources have multiple allocation roles ('{role}' and '{first}') but only \
                 one allocation role is allowed"
            ));
        }
        first = Some(role);
    }
    Ok(())
}

/// Of each kind, either all or none is revocable.
///
/// # Errors
/// The kind that is mixed.
pub fn revocable_or_not(resources: &Resources) -> Check {
    let mut kinds: BTreeMap<&str, bool> = BTreeMap::new();
    for item in resources {
        if *kinds.entry(item.name()).or_insert(item.is_revocable()) != item.is_revocable() {
            return Err(format!(
                "Cannot use both revocable and non-revocable '{}' at the same time",
                item.name()
            ));
        }
    }
    Ok(())
}

/// Whether ranges or sets of the lists have elements in common.
#[must_use]
pub fn overlap(lists: &[Resources]) -> bool {
    let mut sum = Quantities::new();
    let mut together = Resources::new();
    for list in lists {
        sum += &Quantities::of(list);
        together += list;
    }
    let union = Quantities::of(&together);
    !(sum.contains(&union) && union.contains(&sum))
}

/// All from one provider, or all from the agent itself.
///
/// # Errors
/// If they are not.
pub fn one_provider(resources: &[Resource]) -> Check {
    let providers: BTreeSet<Option<&str>> =
        resources.iter().map(|r| r.provider_id.as_ref().map(|p| p.value.as_str())).collect();
    match providers.len() {
        1 => Ok(()),
        _ if providers.contains(&None) && providers.len() > 1 => {
            Err("Some resources have a resource provider and some do not".into())
        }
        _ => {
            let ids: Vec<&str> = providers.into_iter().flatten().collect();
            Err(format!("The resources have multiple resource providers: {}", ids.join(", ")))
        }
    }
}

/// Each is a persistent volume that can be written.
///
/// # Errors
/// The one that is not.
pub fn persistent(volumes: &[Resource]) -> Check {
    for volume in volumes {
        let Some(disk) = &volume.disk else {
            return Err(format!("Resource {} does not have DiskInfo", show(volume)));
        };
        if disk.persistence.is_none() {
            return Err("'persistence' is not set in DiskInfo".into());
        }
        match &disk.volume {
            None => return Err("Expecting 'volume' to be set for persistent volume".into()),
            Some(v) if v.mode() == mesos::volume::Mode::Ro => {
                return Err("Read-only persistent volume not supported".into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}
