//! What makes a resource message valid, in Mesos' words.

use thiserror::Error;

use super::value::Scalar;
use crate::resource::disk_info::source;
use crate::resource::reservation_info::Type;
use crate::roles::{self, InvalidRole};
use crate::value as proto;
use crate::{Resource, json};

/// Why a resource is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Invalid {
    #[error("Empty resource name")]
    EmptyName,
    #[error("Invalid resource type")]
    Type,
    #[error("Unsupported resource type")]
    TextType,
    #[error("Invalid {0} resource")]
    Value(&'static str),
    #[error("Invalid scalar resource: value <= 0")]
    NotPositive,
    #[error("Invalid scalar resource: value is too large (at most 9000000000000)")]
    TooLarge,
    #[error("Invalid ranges resource: begin > end")]
    BeginAfterEnd,
    #[error("Invalid ranges resource: overlapping ranges")]
    Overlapping,
    #[error("Invalid set resource: duplicated elements")]
    Duplicated,
    #[error("DiskInfo should not be set for {0} resource")]
    DiskInfo(String),
    #[error("{what} should not be set for {source_type} disk source")]
    DiskSourcePath { what: &'static str, source_type: &'static str },
    #[error("Unsupported 'DiskInfo.Source.Type' in '{0}'")]
    DiskSourceType(String),
    #[error(transparent)]
    Role(#[from] InvalidRole),
    #[error("'Resource.ReservationInfo.{0}' must not be set for the 'Resource.reservation' field")]
    PreField(&'static str),
    #[error("Invalid reservation: role \"*\" cannot be dynamically reserved")]
    StarDynamic,
    #[error("Invalid reservation: 'Resource.ReservationInfo.{0}' field must be set.")]
    MissingField(&'static str),
    #[error("Invalid reservation: role \"*\" cannot be reserved")]
    StarReserved,
    #[error("Invalid refined reservation: A refined reservation cannot be STATIC")]
    StaticRefinement,
    #[error("Invalid refined reservation: role '{role}' is not a refinement of '{of}'")]
    NotARefinement { role: String, of: String },
    #[error(
        "Invalid resource format: 'Resource.role' field with '{role}' does not match the role \
         '{reservation}' in 'Resource.reservations'"
    )]
    RoleMismatch { role: String, reservation: String },
    #[error(
        "Invalid resource format: 'Resource.reservation' must not be set if the single \
         reservation in 'Resource.reservations' is STATIC"
    )]
    ReservationWithStatic,
    #[error(
        "Invalid resource format: 'Resource.role' and 'Resource.reservation' must either be both \
         set or both not set if the single reservation in 'Resource.reservations' is DYNAMIC"
    )]
    HalfDynamic,
    #[error(
        "Invalid resource format: 'Resource.reservation.{field}' field does not match the \
         {field} in 'Resource.reservations'"
    )]
    ReservationMismatch { field: &'static str },
    #[error("Unsupported 'Resource.ReservationInfo.Type'")]
    ReservationType,
    #[error(
        "Invalid resource format: '{0}' must not be set if there is more than one reservation in \
         'Resource.reservations'"
    )]
    PreWithRefined(&'static str),
    #[error("Resource {0} cannot be shared")]
    SharedName(String),
    #[error("Only persistent volumes can be shared")]
    SharedKind,
    /// One of several resources; names which.
    #[error("Resource '{resource}' is invalid: {reason}")]
    OneOf { resource: String, reason: Box<Invalid> },
}

/// Checks one resource of either reservation format.
///
/// # Errors
/// The first rule it breaks.
pub fn validate(resource: &Resource) -> Result<(), Invalid> {
    if resource.name.is_empty() {
        return Err(Invalid::EmptyName);
    }
    validate_value(resource)?;
    validate_disk(resource)?;
    validate_reservations(resource)?;
    if resource.shared.is_some() {
        if resource.name != "disk" {
            return Err(Invalid::SharedName(resource.name.clone()));
        }
        if resource.disk.as_ref().is_none_or(|d| d.persistence.is_none()) {
            return Err(Invalid::SharedKind);
        }
    }
    Ok(())
}

/// Checks several resources; the error names the one.
///
/// # Errors
/// [`Invalid::OneOf`] for the first invalid one.
pub fn validate_all(resources: &[Resource]) -> Result<(), Invalid> {
    resources.iter().try_for_each(|r| validate(r).map_err(|reason| one_of(r, reason)))
}

pub(super) fn one_of(resource: &Resource, reason: Invalid) -> Invalid {
    Invalid::OneOf { resource: super::display::describe(resource), reason: Box::new(reason) }
}

fn validate_value(resource: &Resource) -> Result<(), Invalid> {
    let Ok(kind) = proto::Type::try_from(resource.r#type) else { return Err(Invalid::Type) };
    let present = (resource.scalar.is_some(), resource.ranges.is_some(), resource.set.is_some());
    match kind {
        proto::Type::Scalar => {
            let (Some(scalar), (true, false, false)) = (&resource.scalar, present) else {
                return Err(Invalid::Value("scalar"));
            };
            // Zero is nothing; what only rounds to nothing is a mistake.
            if scalar.value != 0.0 && (scalar.value.is_nan() || scalar.value < 0.0005) {
                return Err(Invalid::NotPositive);
            }
            Scalar::new(scalar.value).map(drop).ok_or(Invalid::TooLarge)
        }
        proto::Type::Ranges => {
            let (Some(ranges), (false, true, false)) = (&resource.ranges, present) else {
                return Err(Invalid::Value("ranges"));
            };
            if ranges.range.iter().any(|r| r.begin > r.end) {
                return Err(Invalid::BeginAfterEnd);
            }
            let mut sorted: Vec<_> = ranges.range.iter().map(|r| (r.begin, r.end)).collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
                return Err(Invalid::Overlapping);
            }
            Ok(())
        }
        proto::Type::Set => {
            let (Some(set), (false, false, true)) = (&resource.set, present) else {
                return Err(Invalid::Value("set"));
            };
            let mut sorted: Vec<&str> = set.item.iter().map(String::as_str).collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Invalid::Duplicated);
            }
            Ok(())
        }
        proto::Type::Text => Err(Invalid::TextType),
    }
}

fn validate_disk(resource: &Resource) -> Result<(), Invalid> {
    let Some(disk) = &resource.disk else { return Ok(()) };
    if resource.name != "disk" {
        return Err(Invalid::DiskInfo(resource.name.clone()));
    }
    let Some(source) = &disk.source else { return Ok(()) };
    match source.r#type() {
        source::Type::Path | source::Type::Mount => Ok(()),
        kind @ (source::Type::Block | source::Type::Raw) => {
            let source_type = kind.as_str_name();
            if source.mount.is_some() {
                return Err(Invalid::DiskSourcePath { what: "Mount", source_type });
            }
            if source.path.is_some() {
                return Err(Invalid::DiskSourcePath { what: "Path", source_type });
            }
            Ok(())
        }
        source::Type::Unknown => {
            let text = String::from_utf8_lossy(&json::to_json(source)).into_owned();
            Err(Invalid::DiskSourceType(text))
        }
    }
}

#[allow(deprecated)]
fn validate_reservations(resource: &Resource) -> Result<(), Invalid> {
    if resource.reservations.is_empty() {
        roles::validate(resource.role())?;
        if let Some(reservation) = &resource.reservation {
            if reservation.r#type.is_some() {
                return Err(Invalid::PreField("type"));
            }
            if reservation.role.is_some() {
                return Err(Invalid::PreField("role"));
            }
            if resource.role() == "*" {
                return Err(Invalid::StarDynamic);
            }
        }
        return Ok(());
    }
    let mut ancestor: Option<&str> = None;
    for reservation in &resource.reservations {
        if reservation.r#type.is_none() {
            return Err(Invalid::MissingField("type"));
        }
        let Some(role) = reservation.role.as_deref() else {
            return Err(Invalid::MissingField("role"));
        };
        roles::validate(role)?;
        if role == "*" {
            return Err(Invalid::StarReserved);
        }
        if reservation.r#type() == Type::Unknown {
            return Err(Invalid::ReservationType);
        }
        if let Some(ancestor) = ancestor {
            if reservation.r#type() == Type::Static {
                return Err(Invalid::StaticRefinement);
            }
            if !roles::is_strict_subrole(role, ancestor) {
                return Err(Invalid::NotARefinement { role: role.into(), of: ancestor.into() });
            }
        }
        ancestor = Some(role);
    }
    validate_both_formats(resource)
}

/// `role` and `reservation` may stand beside `reservations[]` if they agree.
#[allow(deprecated)]
fn validate_both_formats(resource: &Resource) -> Result<(), Invalid> {
    let [only] = resource.reservations.as_slice() else {
        if resource.role.is_some() {
            return Err(Invalid::PreWithRefined("Resource.role"));
        }
        if resource.reservation.is_some() {
            return Err(Invalid::PreWithRefined("Resource.reservation"));
        }
        return Ok(());
    };
    if let Some(role) = resource.role.as_deref().filter(|r| *r != only.role()) {
        let reservation = only.role().to_owned();
        return Err(Invalid::RoleMismatch { role: role.into(), reservation });
    }
    if only.r#type() == Type::Static {
        let both = resource.reservation.is_some();
        return if both { Err(Invalid::ReservationWithStatic) } else { Ok(()) };
    }
    if resource.role.is_some() != resource.reservation.is_some() {
        return Err(Invalid::HalfDynamic);
    }
    if let Some(reservation) = &resource.reservation {
        if reservation.principal() != only.principal() {
            return Err(Invalid::ReservationMismatch { field: "principal" });
        }
        if reservation.labels.clone().unwrap_or_default() != only.labels.clone().unwrap_or_default()
        {
            return Err(Invalid::ReservationMismatch { field: "labels" });
        }
    }
    Ok(())
}
