//! Operations on resources: RESERVE, UNRESERVE, CREATE, DESTROY.

use mesos::offer::operation::{Create, Destroy, Reserve, Unreserve};
use mesos::resource::ReservationInfo;
use mesos::resources::Item;
use mesos::slave_info::capability::Type as Capability;
use mesos::{Resource, framework_info};

use super::task::Scene;
use super::{Check, resources};
use crate::master::Resources;

/// RESERVE by a framework.
///
/// # Errors
/// The first rule it breaks.
pub fn reserve(operation: &Reserve, scene: Scene<'_>) -> Check {
    resources::all(&operation.resources).map_err(invalid)?;
    resources::one_provider(&operation.resources).map_err(invalid)?;
    for resource in &operation.resources {
        reserve_one(resource, scene)?;
    }
    resources::one_role(&operation.resources)
        .map_err(|e| format!("Invalid reservation resources: {e}"))
}

fn invalid(error: String) -> String {
    format!("Invalid resources: {error}")
}

fn reserve_one(resource: &Resource, scene: Scene<'_>) -> Check {
    let item = Item::new(resource).map_err(|e| e.to_string())?;
    dynamic(&item)?;
    placeable(&item, scene, "Resource", "reserved")?;
    if let Some(principal) = &scene.framework.info.principal {
        let given = item.reservations().last().and_then(|r: &ReservationInfo| r.principal.clone());
        match given {
            None => {
                return Err(format!(
                    "A reserve operation was attempted by principal '{principal}', but there is a \
                     reserved resource in the request with no principal set"
                ));
            }
            Some(given) if given != *principal => {
                return Err(format!(
                    "A reserve operation was attempted by authenticated principal '{principal}', \
                     which does not match a reserved resource in the request with principal \
                     '{given}'"
                ));
            }
            Some(_) => {}
        }
    }
    let role = item.reservation_role().unwrap_or_default();
    match item.allocation_role() {
        None => Err(format!(
            "A reserve operation was attempted on unallocated resource {item}, but frameworks can \
             only perform reservations on allocated resources"
        )),
        Some(allocated) if allocated != role => Err(format!(
            "A reserve operation was attempted for a resource with role '{role}', but the \
             resource was allocated to role '{allocated}'"
        )),
        Some(_) if !scene.framework.roles.contains(role) => Err(format!(
            "A reserve operation was attempted for a resource with role '{role}', but the \
             framework can only reserve resources with roles '{:?}'",
            scene.framework.roles
        )),
        Some(_) => Ok(()),
    }
}

fn dynamic(item: &Item) -> Check {
    if item.is_dynamically_reserved() {
        Ok(())
    } else {
        Err(format!("Resource {item} is not dynamically reserved"))
    }
}

/// Whether the agent understands such a reservation.
fn placeable(item: &Item, scene: Scene<'_>, what: &str, verb: &str) -> Check {
    let role = item.reservation_role().unwrap_or_default();
    if !scene.agent.can(Capability::HierarchicalRole) && role.contains('/') {
        return Err(format!(
            "{what} {item} with reservation for hierarchical role '{role}' cannot be {verb} on an \
             agent without HIERARCHICAL_ROLE capability"
        ));
    }
    if !scene.agent.can(Capability::ReservationRefinement) && item.is_refined() {
        return Err(format!(
            "{what} {item} with reservation refinement cannot be {verb} on an agent without \
             RESERVATION_REFINEMENT capability"
        ));
    }
    Ok(())
}

/// UNRESERVE.
///
/// # Errors
/// The first rule it breaks.
pub fn unreserve(operation: &Unreserve) -> Check {
    resources::all(&operation.resources).map_err(invalid)?;
    resources::one_provider(&operation.resources).map_err(invalid)?;
    for resource in &operation.resources {
        let item = Item::new(resource).map_err(|e| e.to_string())?;
        dynamic(&item)?;
        if item.is_persistent_volume() {
            return Err(format!(
                "A dynamically reserved persistent volume {item} cannot be unreserved directly. \
                 Please destroy the persistent volume first then unreserve the resource"
            ));
        }
    }
    Ok(())
}

/// CREATE by a framework.
///
/// # Errors
/// The first rule it breaks.
pub fn create(operation: &Create, scene: Scene<'_>) -> Check {
    let volumes = &operation.volumes;
    resources::all(volumes).map_err(invalid)?;
    resources::one_provider(volumes).map_err(invalid)?;
    resources::persistent(volumes).map_err(|e| format!("Not a persistent volume: {e}"))?;
    let mut all = scene.agent.checkpointed.clone();
    all += &Resources::from_valid(volumes).unallocated();
    resources::unique_persistence(&all)?;
    let shares = scene.framework.can(framework_info::capability::Type::SharedResources);
    for volume in volumes {
        let item = Item::new(volume).map_err(|e| e.to_string())?;
        if volume.shared.is_some() && !shares {
            return Err(format!(
                "Create volume operation for '{item}' has been attempted by framework '{}' with \
                 no SHARED_RESOURCES capability",
                scene.framework.id
            ));
        }
        placeable(&item, scene, "Volume", "created")?;
        if let Some(principal) = &scene.framework.info.principal {
            volume_principal(volume, principal)?;
        }
    }
    resources::one_role(volumes).map_err(|e| format!("Invalid volume resources: {e}"))
}

fn volume_principal(volume: &Resource, principal: &str) -> Check {
    let persistence = volume.disk.as_ref().and_then(|d| d.persistence.as_ref());
    match persistence.and_then(|p| p.principal.as_deref()) {
        None => Err(format!(
            "Create volume operation attempted by principal '{principal}', but there is a volume \
             in the operation with no principal set in 'disk.persistence'"
        )),
        Some(given) if given != principal => Err(format!(
            "Create volume operation attempted by authenticated principal '{principal}', which \
             does not match a volume in the operation with principal '{given}' set in \
             'disk.persistence'"
        )),
        Some(_) => Ok(()),
    }
}

/// DESTROY.
///
/// # Errors
/// The first rule it breaks.
pub fn destroy(operation: &Destroy, scene: Scene<'_>) -> Check {
    resources::all(&operation.volumes).map_err(invalid)?;
    resources::one_provider(&operation.volumes).map_err(invalid)?;
    resources::persistent(&operation.volumes)
        .map_err(|e| format!("Not a persistent volume: {e}"))?;
    let volumes = Resources::from_valid(&operation.volumes).unallocated();
    for volume in &volumes {
        if volume.provider_id().is_none() && !scene.agent.checkpointed.contains_item(volume) {
            return Err("Persistent volumes not found".into());
        }
        let in_use = |used: &Resources| used.clone().unallocated().contains_item(volume);
        if scene.agent.used.values().any(in_use) {
            return Err("Persistent volumes in use".into());
        }
    }
    Ok(())
}
