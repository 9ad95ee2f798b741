//! One resource: an identity shared by reference, an allocation role, a value.
//!
//! The identity (name, reservations, disk, ...) rarely changes while values and
//! allocation roles change all the time, so clones copy no text.

use std::sync::{Arc, LazyLock};

use super::value::{Ranges, Scalar, Set, Value};
use super::{Invalid, format, validate};
use crate::resource::disk_info::{Source, source};
use crate::resource::reservation_info::Type as ReservationType;
use crate::resource::{AllocationInfo, DiskInfo, ReservationInfo, SharedInfo};
use crate::value as proto;
use crate::{Label, Labels, Resource, ResourceProviderId};

/// What two resources must share to be added or subtracted, besides the role
/// that they are allocated to.
#[derive(Debug)]
pub(super) struct Identity {
    pub name: Arc<str>,
    pub kind: proto::Type,
    pub reservations: Vec<ReservationInfo>,
    /// The role of the last reservation.
    pub reserved_to: Option<Arc<str>>,
    pub disk: Option<DiskInfo>,
    pub revocable: bool,
    pub shared: bool,
    pub provider: Option<String>,
}

impl Identity {
    /// Whole or not at all: persistent volumes, mount and block disks, raw disks
    /// with an id. Such resources are never merged nor taken in parts.
    pub fn indivisible(&self) -> bool {
        let Some(disk) = &self.disk else { return false };
        let whole = disk.source.as_ref().is_some_and(|s| match s.r#type() {
            source::Type::Mount | source::Type::Block => true,
            source::Type::Raw => s.id.is_some(),
            source::Type::Path | source::Type::Unknown => false,
        });
        whole || disk.persistence.is_some()
    }
}

impl PartialEq for Identity {
    fn eq(&self, that: &Self) -> bool {
        self.name == that.name
            && self.kind == that.kind
            && self.revocable == that.revocable
            && self.shared == that.shared
            && self.provider == that.provider
            && self.reservations.len() == that.reservations.len()
            && self.reservations.iter().zip(&that.reservations).all(|(a, b)| same_reservation(a, b))
            && match (&self.disk, &that.disk) {
                (None, None) => true,
                (Some(a), Some(b)) => same_disk(a, b),
                _ => false,
            }
    }
}

fn same_reservation(a: &ReservationInfo, b: &ReservationInfo) -> bool {
    a.r#type() == b.r#type()
        && a.role() == b.role()
        && a.principal == b.principal
        && same_labels(a.labels.as_ref(), b.labels.as_ref())
}

/// Equal whatever the order, repetitions counted.
fn same_labels(a: Option<&Labels>, b: Option<&Labels>) -> bool {
    let count = |all: &[Label], one: &Label| all.iter().filter(|l| *l == one).count();
    match (a, b) {
        (None, None) => true,
        (Some(Labels { labels: a }), Some(Labels { labels: b })) => {
            a == b || (a.len() == b.len() && a.iter().all(|l| count(a, l) == count(b, l)))
        }
        _ => false,
    }
}

/// Disks are the same by source and persistence id; the volume (where a task
/// sees it) and who created it are no part of the identity.
fn same_disk(a: &DiskInfo, b: &DiskInfo) -> bool {
    let id = |d: &DiskInfo| d.persistence.as_ref().map(|p| p.id.clone());
    id(a) == id(b)
        && match (&a.source, &b.source) {
            (None, None) => true,
            (Some(a), Some(b)) => same_source(a, b),
            _ => false,
        }
}

fn same_source(a: &Source, b: &Source) -> bool {
    a.r#type == b.r#type
        && a.path == b.path
        && a.mount == b.mount
        && a.vendor == b.vendor
        && a.id == b.id
        && a.profile == b.profile
        && same_labels(a.metadata.as_ref(), b.metadata.as_ref())
}

/// Identities of the resources that nearly every agent has: sharing them makes
/// comparing two of them one pointer comparison.
static PLAIN: LazyLock<[Arc<Identity>; 5]> = LazyLock::new(|| {
    [
        ("cpus", proto::Type::Scalar),
        ("mem", proto::Type::Scalar),
        ("disk", proto::Type::Scalar),
        ("gpus", proto::Type::Scalar),
        ("ports", proto::Type::Ranges),
    ]
    .map(|(name, kind)| Arc::new(plain(name.into(), kind)))
});

fn plain(name: Arc<str>, kind: proto::Type) -> Identity {
    Identity {
        name,
        kind,
        reservations: Vec::new(),
        reserved_to: None,
        disk: None,
        revocable: false,
        shared: false,
        provider: None,
    }
}

/// One resource of a [`super::Resources`] collection.
#[derive(Debug, Clone)]
pub struct Item {
    pub(super) identity: Arc<Identity>,
    /// The role it is allocated (offered) to.
    pub(super) role: Option<Arc<str>>,
    pub(super) value: Value,
    /// Copies of a shared resource; 1 otherwise.
    pub(super) copies: u32,
}

impl Item {
    /// Reads a message of either reservation format.
    ///
    /// # Errors
    /// [`Invalid`], in Mesos' words.
    pub fn new(resource: &Resource) -> Result<Self, Invalid> {
        validate::validate(resource)?;
        Ok(Self::unchecked(resource))
    }

    /// Reads a message that may be invalid, for error messages.
    pub(super) fn unchecked(resource: &Resource) -> Self {
        let kind = resource.r#type();
        let value = match kind {
            proto::Type::Scalar => {
                Value::Scalar(Scalar::saturating(resource.scalar.map_or(0.0, |s| s.value)))
            }
            proto::Type::Ranges => {
                Value::Ranges(resource.ranges.as_ref().map(Ranges::from).unwrap_or_default())
            }
            _ => Value::Set(resource.set.as_ref().map(Set::from).unwrap_or_default()),
        };
        let reservations = format::reservations(resource);
        let bare = reservations.is_empty()
            && resource.disk.is_none()
            && resource.revocable.is_none()
            && resource.shared.is_none()
            && resource.provider_id.is_none();
        let known = PLAIN.iter().find(|p| bare && *p.name == *resource.name && p.kind == kind);
        let identity = known.cloned().unwrap_or_else(|| {
            Arc::new(Identity {
                reserved_to: reservations.last().map(|r| r.role().into()),
                reservations,
                disk: resource.disk.clone(),
                revocable: resource.revocable.is_some(),
                shared: resource.shared.is_some(),
                provider: resource.provider_id.as_ref().map(|p| p.value.clone()),
                ..plain(resource.name.as_str().into(), kind)
            })
        });
        let role = resource.allocation_info.as_ref().and_then(|a| a.role.as_deref());
        Self { identity, role: role.map(Into::into), value, copies: 1 }
    }

    /// An unreserved scalar.
    #[must_use]
    pub fn scalar(name: &str, value: Scalar) -> Self {
        let known = PLAIN.iter().find(|p| *p.name == *name && p.kind == proto::Type::Scalar);
        Self {
            identity: known
                .cloned()
                .unwrap_or_else(|| Arc::new(plain(name.into(), proto::Type::Scalar))),
            role: None,
            value: Value::Scalar(value),
            copies: 1,
        }
    }

    /// Its message, in the format with `reservations[]`.
    #[must_use]
    pub fn to_proto(&self) -> Resource {
        let id = &self.identity;
        let mut resource = Resource {
            name: id.name.to_string(),
            r#type: id.kind.into(),
            allocation_info: self
                .role
                .as_ref()
                .map(|role| AllocationInfo { role: Some(role.to_string()) }),
            reservations: id.reservations.clone(),
            disk: id.disk.clone(),
            revocable: id.revocable.then(Default::default),
            shared: id.shared.then(SharedInfo::default),
            provider_id: id.provider.clone().map(|value| ResourceProviderId { value }),
            ..Resource::default()
        };
        match &self.value {
            Value::Scalar(s) => resource.scalar = Some((*s).into()),
            Value::Ranges(r) => resource.ranges = Some(r.into()),
            Value::Set(s) => resource.set = Some(s.into()),
        }
        resource
    }

    /// Its name: `cpus`, `ports`, ...
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.identity.name
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Its value if it is a scalar.
    #[must_use]
    pub fn as_scalar(&self) -> Option<Scalar> {
        match self.value {
            Value::Scalar(s) => Some(s),
            _ => None,
        }
    }

    /// The role that it is allocated to.
    #[must_use]
    pub fn allocation_role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// The role of its (innermost) reservation.
    #[must_use]
    pub fn reservation_role(&self) -> Option<&str> {
        self.identity.reserved_to.as_deref()
    }

    /// All its reservations, outermost first.
    #[must_use]
    pub fn reservations(&self) -> &[ReservationInfo] {
        &self.identity.reservations
    }

    /// Whether its innermost reservation was made by an operation.
    #[must_use]
    pub fn is_dynamically_reserved(&self) -> bool {
        self.identity.reservations.last().is_some_and(|r| r.r#type() == ReservationType::Dynamic)
    }

    /// Whether its reservation refines another one.
    #[must_use]
    pub fn is_refined(&self) -> bool {
        self.identity.reservations.len() > 1
    }

    /// Unreserved, or reserved to `role` or one of its ancestors.
    #[must_use]
    pub fn is_allocatable_to(&self, role: &str) -> bool {
        self.reservation_role()
            .is_none_or(|r| r == role || crate::roles::is_strict_subrole(role, r))
    }

    /// Whether oversubscription provided it.
    #[must_use]
    pub fn is_revocable(&self) -> bool {
        self.identity.revocable
    }

    /// Whether several tasks may use it at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.identity.shared
    }

    /// How many copies of a shared resource this stands for; 1 otherwise.
    #[must_use]
    pub fn copies(&self) -> u32 {
        self.copies
    }

    /// Its disk details.
    #[must_use]
    pub fn disk(&self) -> Option<&DiskInfo> {
        self.identity.disk.as_ref()
    }

    /// Whether it is a persistent volume.
    #[must_use]
    pub fn is_persistent_volume(&self) -> bool {
        self.persistence_id().is_some()
    }

    /// The id of the persistent volume that it is.
    #[must_use]
    pub fn persistence_id(&self) -> Option<&str> {
        self.disk().and_then(|d| d.persistence.as_ref()).map(|p| p.id.as_str())
    }

    /// The resource provider that it comes from.
    #[must_use]
    pub fn provider_id(&self) -> Option<&str> {
        self.identity.provider.as_deref()
    }

    /// A copy whose identity `change` edits.
    pub(super) fn with_identity(&self, change: impl FnOnce(&mut Resource)) -> Self {
        let mut resource = self.to_proto();
        change(&mut resource);
        let mut item = Self::new(&resource).expect("a valid resource without a detail is valid");
        item.copies = self.copies;
        item
    }

    fn same(&self, that: &Self) -> bool {
        self.role == that.role
            && (Arc::ptr_eq(&self.identity, &that.identity) || self.identity == that.identity)
    }

    /// Whether the two become one entry when put together.
    pub(super) fn addable(&self, that: &Self) -> bool {
        if !self.same(that) {
            return false;
        }
        if self.is_shared() { self.value == that.value } else { !self.identity.indivisible() }
    }

    /// Whether `that` can be taken from it.
    pub(super) fn subtractable(&self, that: &Self) -> bool {
        self.same(that)
            && (!(self.is_shared() || self.identity.indivisible()) || self.value == that.value)
    }

    /// Whether `that` is part of it.
    #[must_use]
    pub fn contains(&self, that: &Self) -> bool {
        if self.is_shared() {
            return self.subtractable(that) && self.copies >= that.copies;
        }
        self.subtractable(that) && self.value.contains(&that.value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.value.is_empty() || self.copies == 0
    }

    /// Cuts a scalar down to `target`; false if it can only be taken whole.
    pub(super) fn shrink(&mut self, target: Scalar) -> bool {
        let Value::Scalar(value) = &mut self.value else { return false };
        if *value <= target {
            return true;
        }
        if self.identity.indivisible() {
            return false;
        }
        *value = target;
        true
    }
}

impl PartialEq for Item {
    fn eq(&self, that: &Self) -> bool {
        self.same(that) && self.value == that.value && self.copies == that.copies
    }
}

impl Eq for Item {}
