//! Resources: their algebra, their checks, their text and JSON forms.
//!
//! [`Resources`] is what both daemons compute with; [`crate::Resource`] messages
//! are what they send. Reading a message accepts both reservation formats,
//! writing one gives `reservations[]` ([`Format`] has the others). Scalars count
//! thousandths, ranges are coalesced. Owns no state, reads nothing.
//!
//! ```
//! use mesos::resources::Resources;
//! let total = Resources::parse("cpus:4;mem:4096;ports:[31000-32000]", "*").unwrap();
//! let task = Resources::parse("cpus:0.5;ports:[31000-31001]", "*").unwrap();
//! assert!(total.contains(&task));
//! assert_eq!((&total - &task).to_string(), "cpus:3.5; mem:4096; ports:[31002-32000]");
//! ```

mod checkpointed;
mod conversion;
mod display;
mod format;
mod item;
mod parse;
mod quantities;
mod validate;
mod value;

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::Arc;

pub use conversion::{ApplyError, Conversion, conversions};
pub use format::{CannotDowngrade, Format, convert, upgrade, upgrade_all};
pub use item::Item;
pub use parse::{ParseError, Parsed, ValueError, parse_list, parse_resource, parse_value};
pub use quantities::{Quantities, QuantityError};
pub use validate::{Invalid, validate, validate_all};
pub use value::{Ranges, Scalar, Set, Value};

use crate::Resource;
use crate::resource::ReservationInfo;

/// A collection of resources in which like is merged with like.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    items: Vec<Item>,
}

impl Resources {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new() }
    }

    /// Reads messages of either reservation format. Zero amounts vanish.
    ///
    /// # Errors
    /// [`Invalid::OneOf`] naming the first invalid one.
    pub fn from_protos(resources: &[Resource]) -> Result<Self, Invalid> {
        let mut result = Self { items: Vec::with_capacity(resources.len()) };
        for resource in resources {
            result.add_item(Item::new(resource).map_err(|e| validate::one_of(resource, e))?);
        }
        Ok(result)
    }

    /// As [`Resources::from_protos`], leaving invalid ones out, as Mesos does
    /// with what has been checked before.
    #[must_use]
    pub fn from_valid(resources: &[Resource]) -> Self {
        let mut result = Self { items: Vec::with_capacity(resources.len()) };
        for item in resources.iter().filter_map(|r| Item::new(r).ok()) {
            result.add_item(item);
        }
        result
    }

    /// Reads the value of `--resources`, text or JSON.
    ///
    /// # Errors
    /// [`ParseError`] naming the input that is wrong.
    pub fn parse(text: &str, default_role: &str) -> Result<Self, ParseError> {
        parse::parse(text, default_role)
    }

    /// The messages, with `reservations[]`.
    #[must_use]
    pub fn to_protos(&self) -> Vec<Resource> {
        self.items.iter().map(Item::to_proto).collect()
    }

    /// The messages in another format.
    ///
    /// # Errors
    /// [`CannotDowngrade`] for refined reservations and [`Format::Pre`].
    pub fn to_protos_in(&self, format: Format) -> Result<Vec<Resource>, CannotDowngrade> {
        let mut all = self.to_protos();
        convert(&mut all, format)?;
        Ok(all)
    }

    /// The items, in the order in which they came.
    pub fn iter(&self) -> std::slice::Iter<'_, Item> {
        self.items.iter()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many distinct items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Adds one item.
    pub fn add_item(&mut self, that: Item) {
        if that.is_empty() {
            return;
        }
        match self.items.iter_mut().find(|own| own.addable(&that)) {
            Some(own) if own.is_shared() => own.copies = own.copies.saturating_add(that.copies),
            Some(own) => own.value.add(&that.value),
            None => self.items.push(that),
        }
    }

    /// Takes one item away. What is not there is ignored; a scalar that would
    /// become negative vanishes.
    pub fn subtract_item(&mut self, that: &Item) {
        if that.is_empty() {
            return;
        }
        let Some(at) = self.items.iter().position(|own| own.subtractable(that)) else { return };
        let own = &mut self.items[at];
        let negative = if own.is_shared() {
            own.copies = own.copies.saturating_sub(that.copies);
            false
        } else {
            own.value.subtract(&that.value);
            own.as_scalar().is_some_and(|s| s < Scalar::ZERO)
        };
        if negative || own.is_empty() {
            // The last one takes the free place, as in Mesos: offers show it.
            self.items.swap_remove(at);
        }
    }

    /// Whether all of `that` is in it, each item within one item.
    #[must_use]
    pub fn contains(&self, that: &Self) -> bool {
        // Volumes of equal identity may stand here side by side: each serves once.
        if !that.items.iter().any(|i| i.identity.indivisible()) {
            return that.items.iter().all(|i| self.contains_item(i));
        }
        let mut rest = self.clone();
        that.items.iter().all(|item| {
            let found = rest.contains_item(item);
            if found && item.identity.indivisible() {
                rest.subtract_item(item);
            }
            found
        })
    }

    /// Whether one item is part of one of its items.
    #[must_use]
    pub fn contains_item(&self, that: &Item) -> bool {
        self.items.iter().any(|own| own.contains(that))
    }

    /// Whether a valid message is part of it.
    #[must_use]
    pub fn contains_proto(&self, that: &Resource) -> bool {
        Item::new(that).is_ok_and(|item| item.is_empty() || self.contains_item(&item))
    }

    /// Whether it has at least these amounts, by name alone; ranges and sets
    /// count their elements.
    #[must_use]
    pub fn contains_quantities(&self, quantities: &Quantities) -> bool {
        quantities.iter().all(|(name, amount)| {
            let mut have = Scalar::ZERO;
            for item in self.items.iter().filter(|i| i.name() == name) {
                have += match item.value() {
                    Value::Scalar(s) => *s,
                    Value::Ranges(r) => Scalar::saturating(r.count() as f64),
                    Value::Set(s) => Scalar::saturating(s.count() as f64),
                };
            }
            have >= amount
        })
    }

    /// The items that `keep` accepts.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Item) -> bool) -> Self {
        Self { items: self.items.iter().filter(|i| keep(i)).cloned().collect() }
    }

    /// Without reservations.
    #[must_use]
    pub fn unreserved(&self) -> Self {
        self.filter(|i| i.reservation_role().is_none())
    }

    /// With a reservation for any role.
    #[must_use]
    pub fn reserved(&self) -> Self {
        self.filter(|i| i.reservation_role().is_some())
    }

    /// Reserved to exactly `role`.
    #[must_use]
    pub fn reserved_to(&self, role: &str) -> Self {
        self.filter(|i| i.reservation_role() == Some(role))
    }

    /// Reserved resources by the role of their innermost reservation.
    #[must_use]
    pub fn reservations(&self) -> BTreeMap<String, Self> {
        let mut result: BTreeMap<String, Self> = BTreeMap::new();
        for item in &self.items {
            if let Some(role) = item.reservation_role() {
                result.entry(role.to_owned()).or_default().add_item(item.clone());
            }
        }
        result
    }

    /// Unreserved, or reserved to `role` or to an ancestor of it.
    #[must_use]
    pub fn allocatable_to(&self, role: &str) -> Self {
        self.filter(|i| i.is_allocatable_to(role))
    }

    /// From oversubscription.
    #[must_use]
    pub fn revocable(&self) -> Self {
        self.filter(Item::is_revocable)
    }

    /// Not from oversubscription.
    #[must_use]
    pub fn non_revocable(&self) -> Self {
        self.filter(|i| !i.is_revocable())
    }

    /// Shared volumes.
    #[must_use]
    pub fn shared(&self) -> Self {
        self.filter(Item::is_shared)
    }

    /// All but shared volumes.
    #[must_use]
    pub fn non_shared(&self) -> Self {
        self.filter(|i| !i.is_shared())
    }

    /// Persistent volumes.
    #[must_use]
    pub fn persistent_volumes(&self) -> Self {
        self.filter(Item::is_persistent_volume)
    }

    /// Scalars.
    #[must_use]
    pub fn scalars(&self) -> Self {
        self.filter(|i| i.as_scalar().is_some())
    }

    /// Marks everything as allocated to `role`.
    #[must_use]
    pub fn allocated(mut self, role: &Arc<str>) -> Self {
        for item in &mut self.items {
            item.role = Some(role.clone());
        }
        self
    }

    /// Forgets to whom it is allocated. Items that then are alike are merged.
    #[must_use]
    pub fn unallocated(mut self) -> Self {
        if self.items.iter().all(|i| i.role.is_none()) {
            return self;
        }
        let mut result = Self { items: Vec::with_capacity(self.items.len()) };
        for mut item in self.items.drain(..) {
            item.role = None;
            result.add_item(item);
        }
        result
    }

    /// By the role to which they are allocated; what is allocated to none is
    /// left out.
    #[must_use]
    pub fn allocations(&self) -> BTreeMap<Arc<str>, Self> {
        let mut result: BTreeMap<Arc<str>, Self> = BTreeMap::new();
        for item in &self.items {
            if let Some(role) = &item.role {
                result.entry(role.clone()).or_default().add_item(item.clone());
            }
        }
        result
    }

    /// The same with all reservations dropped.
    #[must_use]
    pub fn to_unreserved(&self) -> Self {
        self.map(|item| match item.reservations() {
            [] => item.clone(),
            _ => item.with_identity(|r| r.reservations.clear()),
        })
    }

    /// The same without the innermost reservation of each.
    #[must_use]
    pub fn pop_reservation(&self) -> Self {
        self.map(|item| item.with_identity(|r| drop(r.reservations.pop())))
    }

    /// The same, each reserved once more.
    ///
    /// # Errors
    /// [`Invalid`] when the reservation does not refine the present ones.
    pub fn push_reservation(&self, reservation: &ReservationInfo) -> Result<Self, Invalid> {
        let mut result = Self::new();
        for item in &self.items {
            let mut resource = item.to_proto();
            resource.reservations.push(reservation.clone());
            let mut reserved = Item::new(&resource)?;
            reserved.copies = item.copies;
            result.add_item(reserved);
        }
        Ok(result)
    }

    /// The same with persistent volumes turned back into disk space.
    #[must_use]
    pub fn without_volumes(&self) -> Self {
        self.map(|item| {
            if item.is_persistent_volume() {
                let mut raw = item.with_identity(conversion::strip_volume);
                raw.copies = 1;
                raw
            } else {
                item.clone()
            }
        })
    }

    fn map(&self, change: impl Fn(&Item) -> Item) -> Self {
        let mut result = Self { items: Vec::with_capacity(self.items.len()) };
        for item in &self.items {
            result.add_item(change(item));
        }
        result
    }

    /// Cuts scalars down to at most `target` in total per name; a name that is
    /// not in `target` goes entirely. Volumes that do not fit whole go too.
    #[must_use]
    pub fn shrunk(&self, target: &Quantities) -> Self {
        let mut left = target.clone();
        let mut result = Self { items: Vec::with_capacity(self.items.len()) };
        for item in &self.items {
            let limit = left.get(item.name());
            if limit.is_zero() {
                continue;
            }
            let mut item = item.clone();
            if item.shrink(limit) {
                left.subtract(item.name(), item.as_scalar().unwrap_or_default());
                result.add_item(item);
            }
        }
        result
    }

    /// The sum of the scalars called `name`; `None` if there is none.
    #[must_use]
    pub fn scalar(&self, name: &str) -> Option<Scalar> {
        self.items
            .iter()
            .filter(|i| i.name() == name)
            .filter_map(Item::as_scalar)
            .reduce(|a, b| a + b)
    }

    /// Cpus.
    #[must_use]
    pub fn cpus(&self) -> Option<f64> {
        self.scalar("cpus").map(Scalar::value)
    }

    /// Memory in MB.
    #[must_use]
    pub fn mem(&self) -> Option<f64> {
        self.scalar("mem").map(Scalar::value)
    }

    /// Disk space in MB.
    #[must_use]
    pub fn disk(&self) -> Option<f64> {
        self.scalar("disk").map(Scalar::value)
    }

    /// Gpus, a whole number.
    #[must_use]
    pub fn gpus(&self) -> Option<f64> {
        self.scalar("gpus").map(Scalar::value)
    }

    /// Ports.
    #[must_use]
    pub fn ports(&self) -> Option<Ranges> {
        self.ranges("ports")
    }

    /// The union of the ranges called `name`; `None` if there is none.
    #[must_use]
    pub fn ranges(&self, name: &str) -> Option<Ranges> {
        let mut all =
            self.items.iter().filter(|i| i.name() == name).filter_map(|i| match &i.value {
                Value::Ranges(r) => Some(r.clone()),
                _ => None,
            });
        let first = all.next()?;
        Some(all.fold(first, |sum, r| sum.union(&r)))
    }

    /// The union of the sets called `name`; `None` if there is none.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<Set> {
        let mut all =
            self.items.iter().filter(|i| i.name() == name).filter_map(|i| match &i.value {
                Value::Set(s) => Some(s.clone()),
                _ => None,
            });
        let first = all.next()?;
        Some(all.fold(first, |sum, s| sum.union(&s)))
    }

    /// Whether something of this name is in it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.items.iter().any(|i| i.name() == name)
    }

    /// The scalar amounts by name.
    #[must_use]
    pub fn quantities(&self) -> Quantities {
        Quantities::of_scalars(self)
    }
}

impl From<Item> for Resources {
    fn from(item: Item) -> Self {
        let mut result = Self::new();
        result.add_item(item);
        result
    }
}

impl FromIterator<Item> for Resources {
    fn from_iter<T: IntoIterator<Item = Item>>(items: T) -> Self {
        let mut result = Self::new();
        items.into_iter().for_each(|item| result.add_item(item));
        result
    }
}

impl<'a> IntoIterator for &'a Resources {
    type Item = &'a Item;
    type IntoIter = std::slice::Iter<'a, Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl PartialEq for Resources {
    /// Equal whatever the order.
    fn eq(&self, that: &Self) -> bool {
        self.items.len() == that.items.len() && self.contains(that) && that.contains(self)
    }
}

impl Eq for Resources {}

impl AddAssign<&Resources> for Resources {
    fn add_assign(&mut self, that: &Resources) {
        for item in &that.items {
            self.add_item(item.clone());
        }
    }
}

impl AddAssign for Resources {
    fn add_assign(&mut self, that: Resources) {
        if self.items.is_empty() {
            *self = that;
        } else {
            that.items.into_iter().for_each(|item| self.add_item(item));
        }
    }
}

impl SubAssign<&Resources> for Resources {
    fn sub_assign(&mut self, that: &Resources) {
        for item in &that.items {
            self.subtract_item(item);
        }
    }
}

impl Add<&Resources> for &Resources {
    type Output = Resources;
    fn add(self, that: &Resources) -> Resources {
        let mut sum = self.clone();
        sum += that;
        sum
    }
}

impl Sub<&Resources> for &Resources {
    type Output = Resources;
    fn sub(self, that: &Resources) -> Resources {
        let mut rest = self.clone();
        rest -= that;
        rest
    }
}

#[cfg(test)]
mod tests;
