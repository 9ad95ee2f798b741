//! The formats in which reservations travel.
//!
//! * [`Format::Post`]: everything in `reservations[]`; the only form inside.
//! * [`Format::Pre`]: `role` and `reservation`; for frameworks and agents that
//!   do not know refined reservations, and on disk.
//! * [`Format::Endpoint`]: both; in the `*_full` fields of the HTTP endpoints.

use thiserror::Error;

use crate::Resource;
use crate::resource::ReservationInfo;
use crate::resource::reservation_info::Type;

/// A format of reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `role` and `reservation` only.
    Pre,
    /// `reservations[]` only.
    Post,
    /// `reservations[]`, and `role` and `reservation` where they can say it.
    Endpoint,
}

/// Refined reservations cannot be said in the older format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("Cannot downgrade resources containing refined reservations")]
pub struct CannotDowngrade;

/// The reservations of a resource of either format, as `reservations[]`.
#[allow(deprecated)]
pub(super) fn reservations(resource: &Resource) -> Vec<ReservationInfo> {
    if !resource.reservations.is_empty() {
        return resource.reservations.clone();
    }
    if resource.role() == "*" {
        return Vec::new();
    }
    let role = Some(resource.role().to_owned());
    vec![match &resource.reservation {
        Some(r) => ReservationInfo { r#type: Some(Type::Dynamic.into()), role, ..r.clone() },
        None => ReservationInfo { r#type: Some(Type::Static.into()), role, ..Default::default() },
    }]
}

/// Brings a valid resource into [`Format::Post`], whatever it was.
#[allow(deprecated)]
pub fn upgrade(resource: &mut Resource) {
    resource.reservations = reservations(resource);
    resource.role = None;
    resource.reservation = None;
}

/// Brings valid resources into [`Format::Post`], whatever they were.
pub fn upgrade_all(resources: &mut [Resource]) {
    resources.iter_mut().for_each(upgrade);
}

/// Brings valid resources into `format`, whatever they were.
///
/// # Errors
/// [`CannotDowngrade`] for refined reservations and [`Format::Pre`].
#[allow(deprecated)]
pub fn convert(resources: &mut [Resource], format: Format) -> Result<(), CannotDowngrade> {
    for resource in resources {
        upgrade(resource);
        if format == Format::Post {
            continue;
        }
        match resource.reservations.as_slice() {
            [] => resource.role = Some("*".into()),
            [one] => {
                resource.role.clone_from(&one.role);
                if one.r#type() == Type::Dynamic {
                    resource.reservation = Some(ReservationInfo {
                        principal: one.principal.clone(),
                        labels: one.labels.clone(),
                        ..Default::default()
                    });
                }
                if format == Format::Pre {
                    resource.reservations.clear();
                }
            }
            _ if format == Format::Pre => return Err(CannotDowngrade),
            _ => {}
        }
    }
    Ok(())
}
