//! Offer operations as conversions: what they consume and what comes of it.

use thiserror::Error;

use super::{Invalid, Item, Resources, Scalar, Value};
use crate::offer::Operation;
use crate::offer::operation::Type;
use crate::{Resource, resource};

/// Why an operation cannot be applied to resources.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ApplyError {
    #[error("Unknown operation")]
    Unknown,
    #[error("Operation not supported")]
    NotSupported,
    #[error("Operation not supported for resource provider")]
    Provider,
    #[error("A {operation} offer operation must have the Offer.Operation.{field} field set.")]
    Missing { operation: &'static str, field: &'static str },
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("Resource '{0}' is not reserved")]
    NotReserved(String),
    #[error("{have} does not contain {need}")]
    NotContained { have: String, need: String },
    #[error("Persistent volume {0} cannot be removed due to additional shared copies")]
    SharedCopies(String),
}

/// One step: `consumed` is taken away and `converted` added.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// What it needs.
    pub consumed: Resources,
    /// What it leaves.
    pub converted: Resources,
    /// A volume of which no copy may remain afterwards.
    gone: Option<Item>,
}

impl Conversion {
    fn new(consumed: impl Into<Resources>, converted: impl Into<Resources>) -> Self {
        Self { consumed: consumed.into(), converted: converted.into(), gone: None }
    }
}

/// The conversions of an operation that only changes resources.
///
/// # Errors
/// [`ApplyError`]: launches and disk creation are no such operations.
pub fn conversions(operation: &Operation) -> Result<Vec<Conversion>, ApplyError> {
    let missing = |operation, field| ApplyError::Missing { operation, field };
    match operation.r#type() {
        Type::Unknown => Err(ApplyError::Unknown),
        Type::Launch | Type::LaunchGroup | Type::CreateDisk | Type::DestroyDisk => {
            Err(ApplyError::NotSupported)
        }
        Type::Reserve => {
            let reserve =
                operation.reserve.as_ref().ok_or_else(|| missing("RESERVE", "reserve"))?;
            let reserved = Resources::from_protos(&reserve.resources)?;
            let consumed = if reserve.source.is_empty() {
                pop(&reserved)?
            } else {
                Resources::from_protos(&reserve.source)?
            };
            Ok(vec![Conversion::new(consumed, reserved)])
        }
        Type::Unreserve => {
            let unreserve =
                operation.unreserve.as_ref().ok_or_else(|| missing("UNRESERVE", "unreserve"))?;
            let mut steps = Vec::with_capacity(unreserve.resources.len());
            for resource in &unreserve.resources {
                let reserved = Resources::from(Item::new(resource)?);
                steps.push(Conversion::new(reserved.clone(), pop(&reserved)?));
            }
            Ok(steps)
        }
        Type::Create => {
            let create = operation.create.as_ref().ok_or_else(|| missing("CREATE", "create"))?;
            let step = |v: &Resource| Ok(Conversion::new(raw(v)?, Item::new(v)?));
            create.volumes.iter().map(step).collect()
        }
        Type::Destroy => {
            let destroy =
                operation.destroy.as_ref().ok_or_else(|| missing("DESTROY", "destroy"))?;
            let step = |v: &Resource| {
                let volume = Item::new(v)?;
                let mut step = Conversion::new(volume.clone(), raw(v)?);
                step.gone = Some(volume);
                Ok(step)
            };
            destroy.volumes.iter().map(step).collect()
        }
        Type::GrowVolume => {
            let grow = operation
                .grow_volume
                .as_ref()
                .ok_or_else(|| missing("GROW_VOLUME", "grow_volume"))?;
            let volume = own(&grow.volume)?;
            let addition = Item::new(&grow.addition)?;
            let mut grown = volume.clone();
            grown.value.add(&addition.value);
            let mut consumed = Resources::from(volume);
            consumed.add_item(addition);
            Ok(vec![Conversion::new(consumed, grown)])
        }
        Type::ShrinkVolume => {
            let shrink = operation
                .shrink_volume
                .as_ref()
                .ok_or_else(|| missing("SHRINK_VOLUME", "shrink_volume"))?;
            let volume = own(&shrink.volume)?;
            let less = Value::Scalar(Scalar::saturating(shrink.subtract.value));
            let mut freed = raw(&shrink.volume)?;
            freed.value = less.clone();
            let mut shrunk = volume.clone();
            shrunk.value.subtract(&less);
            let mut converted = Resources::from(shrunk);
            converted.add_item(freed);
            Ok(vec![Conversion::new(volume, converted)])
        }
    }
}

fn own(volume: &Resource) -> Result<Item, ApplyError> {
    let volume = Item::new(volume)?;
    if volume.provider_id().is_some() { Err(ApplyError::Provider) } else { Ok(volume) }
}

/// The disk space that a volume is made of.
fn raw(volume: &Resource) -> Result<Item, Invalid> {
    let mut stripped = volume.clone();
    strip_volume(&mut stripped);
    Item::new(&stripped)
}

pub(super) fn strip_volume(resource: &mut Resource) {
    resource.disk = resource.disk.take().and_then(|d| d.source).map(|source| resource::DiskInfo {
        source: Some(source),
        persistence: None,
        volume: None,
    });
    resource.shared = None;
}

fn pop(reserved: &Resources) -> Result<Resources, ApplyError> {
    match reserved.iter().find(|i| i.reservations().is_empty()) {
        Some(item) => Err(ApplyError::NotReserved(item.to_string())),
        None => Ok(reserved.pop_reservation()),
    }
}

impl Resources {
    /// What is left after `operation`.
    ///
    /// # Errors
    /// [`ApplyError`], for example when the resources it needs are not there.
    pub fn apply(&self, operation: &Operation) -> Result<Self, ApplyError> {
        let mut result = self.clone();
        for step in conversions(operation)? {
            result = result.convert(&step)?;
        }
        Ok(result)
    }

    /// What is left after one conversion.
    ///
    /// # Errors
    /// [`ApplyError`] when what it consumes is not there.
    pub fn convert(&self, step: &Conversion) -> Result<Self, ApplyError> {
        if !self.contains(&step.consumed) {
            return Err(ApplyError::NotContained {
                have: self.to_string(),
                need: step.consumed.to_string(),
            });
        }
        let mut result = self.clone();
        result -= &step.consumed;
        result += &step.converted;
        match &step.gone {
            Some(volume) if result.contains_item(volume) => {
                Err(ApplyError::SharedCopies(volume.to_string()))
            }
            _ => Ok(result),
        }
    }
}
