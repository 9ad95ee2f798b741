//! What a framework may say of itself.

use std::collections::BTreeSet;

use mesos::framework_info::capability::Type as Capability;
use mesos::scheduler::OfferConstraints;
use mesos::{FrameworkInfo, roles};

use super::Check;
use crate::master::allocator::constraints::Constraints;

/// A `FrameworkInfo` by itself.
///
/// # Errors
/// The first rule it breaks.
#[allow(deprecated)]
pub fn info(info: &FrameworkInfo) -> Check {
    check_roles(info)?;
    if let Some(id) = info.id.as_ref().filter(|id| !id.value.is_empty()) {
        super::id(&id.value)?;
    }
    for filters in info.offer_filters.values() {
        offer_filters(filters)?;
    }
    let timeout = info.failover_timeout();
    // Mesos counts nanoseconds in 64 bits: about 292 years.
    if !timeout.is_finite() || timeout.abs() > 9.2e9 {
        return Err(format!("The framework failover_timeout ({timeout}) is invalid"));
    }
    Ok(())
}

#[allow(deprecated)]
fn check_roles(info: &FrameworkInfo) -> Check {
    let multi = info.capabilities.iter().any(|c| c.r#type() == Capability::MultiRole);
    if !multi {
        if !info.roles.is_empty() {
            return Err("'FrameworkInfo.roles' must not be set when the framework is not \
                        MULTI_ROLE capable"
                .into());
        }
        return roles::validate(info.role())
            .map_err(|e| format!("'FrameworkInfo.role' is not a valid role: {e}"));
    }
    if info.role.is_some() {
        return Err("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE \
                    capable"
            .into());
    }
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> =
        info.roles.iter().map(String::as_str).filter(|r| !seen.insert(*r)).collect();
    if !twice.is_empty() {
        return Err(format!("'FrameworkInfo.roles' contains duplicate items: {}", set(&twice)));
    }
    info.roles.iter().try_for_each(|role| {
        roles::validate(role)
            .map_err(|e| format!("'FrameworkInfo.roles' contains invalid role: {e}"))
    })
}

/// `{ a, b }`, as Mesos prints sets.
fn set(items: &BTreeSet<&str>) -> String {
    format!("{{ {} }}", items.iter().copied().collect::<Vec<_>>().join(", "))
}

fn offer_filters(filters: &mesos::OfferFilters) -> Check {
    let Some(minimum) = &filters.min_allocatable_resources else { return Ok(()) };
    for quantities in &minimum.quantities {
        if quantities.quantities.is_empty() {
            return Err("Invalid resource quantity: quantities must not be empty".into());
        }
        for (name, amount) in &quantities.quantities {
            if !(amount.value >= 0.0 && amount.value.is_finite()) {
                return Err(format!(
                    "Invalid resource quantity for '{name}': {} is not a valid amount",
                    amount.value
                ));
            }
        }
    }
    Ok(())
}

/// Suppressed roles and constraints must be about the framework's own roles.
///
/// # Errors
/// The first rule broken.
pub fn options(
    roles: &BTreeSet<String>,
    suppressed: &BTreeSet<String>,
    constraints: Option<&OfferConstraints>,
) -> Check {
    let foreign: BTreeSet<&str> =
        suppressed.iter().map(String::as_str).filter(|r| !roles.contains(*r)).collect();
    if !foreign.is_empty() {
        return Err(format!(
            "Suppressed roles {} are not contained in the set of roles",
            set(&foreign)
        ));
    }
    for role in constraints.iter().flat_map(|c| c.role_constraints.keys()) {
        if !roles.contains(role) {
            return Err(format!(
                "Offer constraints specify `role_constraints` for a role '{role}' not contained \
                 in the set of roles"
            ));
        }
    }
    if let Some(constraints) = constraints {
        Constraints::new(constraints).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// What cannot be changed keeps its old value, as Mesos does on subscription.
pub fn preserve(old: &FrameworkInfo, new: &mut FrameworkInfo) {
    new.user.clone_from(&old.user);
    if new.checkpoint() != old.checkpoint() {
        new.checkpoint = old.checkpoint;
    }
}

/// What may not change from one subscription to the next.
///
/// # Errors
/// The field that must not change.
pub fn update(old: &FrameworkInfo, new: &FrameworkInfo) -> Check {
    if old.principal != new.principal {
        return Err("Changing framework's principal is not allowed.".into());
    }
    if old.user != new.user {
        return Err(format!(
            "Updating 'FrameworkInfo.user' is unsupported; attempted to update from '{}' to '{}'",
            old.user, new.user
        ));
    }
    if old.checkpoint() != new.checkpoint() {
        return Err(format!(
            "Updating 'FrameworkInfo.checkpoint' is unsupported; attempted to update from '{}' \
             to '{}'",
            old.checkpoint(),
            new.checkpoint()
        ));
    }
    Ok(())
}
