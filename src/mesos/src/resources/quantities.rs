//! Amounts per resource name, without any other detail: what quota, fair
//! shares and `min_allocatable_resources` count.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::parse::{Parsed, ValueError, parse_value};
use super::{Item, Resources, Scalar, Value};

/// Why a text describes no quantities.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum QuantityError {
    #[error("Failed to parse '{0}': missing or extra ':'")]
    Colon(String),
    #[error("Failed to parse '{text}' to quantity: {error}")]
    Value { text: String, error: ValueError },
    #[error("Failed to parse '{0}' to quantity: only scalar values are allowed")]
    Kind(String),
    #[error("Failed to parse '{0}' to quantity: the value is too large")]
    TooLarge(String),
}

/// Amounts by resource name, sorted by name; absent is zero, and no zero is kept
/// except one that was asked for by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quantities(Vec<(Arc<str>, Scalar)>);

impl Quantities {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Reads `cpus:1;mem:32`; zero amounts are left out.
    ///
    /// # Errors
    /// [`QuantityError`] naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let mut result = Self::new();
        for token in text.split(';').filter(|t| !t.is_empty()) {
            let pair: Vec<&str> = token.split(':').filter(|t| !t.is_empty()).collect();
            let [name, value] = pair.as_slice() else {
                return Err(QuantityError::Colon(token.into()));
            };
            let amount = match parse_value(value) {
                Ok(Parsed::Scalar(amount)) => amount,
                Ok(_) => return Err(QuantityError::Kind((*value).into())),
                Err(error) => return Err(QuantityError::Value { text: (*value).into(), error }),
            };
            let amount =
                Scalar::new(amount).ok_or_else(|| QuantityError::TooLarge((*value).into()))?;
            result.add(name.trim().into(), amount);
        }
        Ok(result)
    }

    /// The scalars of `resources`, whatever their other details.
    #[must_use]
    pub fn of_scalars(resources: &Resources) -> Self {
        let mut result = Self::new();
        result.add_scalars(resources);
        result
    }

    /// All of `resources`: ranges and sets count their elements.
    #[must_use]
    pub fn of(resources: &Resources) -> Self {
        let mut result = Self::new();
        for item in resources {
            let amount = match item.value() {
                Value::Scalar(s) => *s,
                Value::Ranges(r) => whole(r.count()),
                Value::Set(s) => whole(s.count()),
            };
            result.add(item.shared_name().clone(), amount);
        }
        result
    }

    /// Adds the scalars of `resources`.
    pub fn add_scalars(&mut self, resources: &Resources) {
        for item in resources {
            self.add_item(item);
        }
    }

    /// Takes the scalars of `resources` away; never below zero.
    pub fn subtract_scalars(&mut self, resources: &Resources) {
        for item in resources {
            if let Some(s) = item.as_scalar() {
                self.subtract(item.name(), s);
            }
        }
    }

    /// Adds one item if it is a scalar.
    pub fn add_item(&mut self, item: &Item) {
        if let Some(s) = item.as_scalar() {
            self.add(item.shared_name().clone(), s);
        }
    }

    /// Adds an amount.
    pub fn add(&mut self, name: Arc<str>, amount: Scalar) {
        if amount.is_zero() {
            return;
        }
        match self.0.binary_search_by(|(n, _)| n.cmp(&name)) {
            Ok(at) => self.0[at].1 += amount,
            Err(at) => self.0.insert(at, (name, amount)),
        }
    }

    /// Takes an amount away; never below zero.
    pub fn subtract(&mut self, name: &str, amount: Scalar) {
        if let Ok(at) = self.0.binary_search_by(|(n, _)| (**n).cmp(name)) {
            if self.0[at].1 <= amount {
                self.0.remove(at);
            } else {
                self.0[at].1 -= amount;
            }
        }
    }

    /// The amount of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Scalar {
        // A handful of entries: walking them beats bisecting.
        self.0.iter().find(|(n, _)| **n == *name).map_or(Scalar::ZERO, |(_, s)| *s)
    }

    /// Whether `name` has an amount.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| **n == *name)
    }

    /// Whether there is no amount.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and amounts, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Scalar)> + '_ {
        self.0.iter().map(|(n, s)| (&**n, *s))
    }

    pub(super) fn entries(&self) -> &[(Arc<str>, Scalar)] {
        &self.0
    }

    /// Whether it has at least the amounts of `that`.
    #[must_use]
    pub fn contains(&self, that: &Self) -> bool {
        that.iter().all(|(name, amount)| self.get(name) >= amount)
    }
}

fn whole(count: u64) -> Scalar {
    Scalar::saturating(count as f64)
}

impl std::ops::AddAssign<&Quantities> for Quantities {
    fn add_assign(&mut self, that: &Self) {
        for (name, amount) in that.entries() {
            self.add(name.clone(), *amount);
        }
    }
}

impl std::ops::SubAssign<&Quantities> for Quantities {
    fn sub_assign(&mut self, that: &Self) {
        for (name, amount) in that.iter() {
            self.subtract(name, amount);
        }
    }
}

impl fmt::Display for Quantities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("{}");
        }
        for (i, (name, amount)) in self.iter().enumerate() {
            write!(f, "{}{name}:{amount}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}
