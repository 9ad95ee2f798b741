//! Values of resources: fixed point scalars, coalesced ranges, sets.
//!
//! All three are cheap to clone; the sum, difference and containment rules of
//! one value live here, those of whole resources in the parent module.

use std::fmt;
use std::sync::Arc;

use crate::value as proto;

/// A scalar in thousandths, the precision in which Mesos compares and adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Scalar(i64);

/// Beyond this many thousandths a double no longer tells neighbours apart, so
/// larger input is refused instead of silently changed.
const LIMIT_MILLIS: f64 = 9.0e15;

impl Scalar {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// From thousandths.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// In thousandths.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Rounds to the nearest thousandth, halves away from zero. `None` for what
    /// is no number or too large to be counted exactly (about 9e12).
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        let millis = (value * 1000.0).round();
        (millis.abs() <= LIMIT_MILLIS).then_some(Self(millis as i64))
    }

    /// As [`Scalar::new`], clamped to what can be counted; not a number is zero.
    #[must_use]
    pub fn saturating(value: f64) -> Self {
        Self((value * 1000.0).round().clamp(-LIMIT_MILLIS, LIMIT_MILLIS) as i64)
    }

    /// The nearest double.
    #[must_use]
    pub fn value(self) -> f64 {
        (self.0 / 1000) as f64 + (self.0 % 1000) as f64 / 1000.0
    }

    /// Whether it is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::Add for Scalar {
    type Output = Self;
    fn add(self, that: Self) -> Self {
        Self(self.0.saturating_add(that.0))
    }
}

impl std::ops::AddAssign for Scalar {
    fn add_assign(&mut self, that: Self) {
        *self = *self + that;
    }
}

impl std::ops::Sub for Scalar {
    type Output = Self;
    fn sub(self, that: Self) -> Self {
        Self(self.0.saturating_sub(that.0))
    }
}

impl std::ops::SubAssign for Scalar {
    fn sub_assign(&mut self, that: Self) {
        *self = *self - that;
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0.unsigned_abs() / 1000, self.0.unsigned_abs() % 1000);
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if part == 0 {
            return write!(f, "{whole}");
        }
        let part = format!("{part:03}");
        write!(f, "{whole}.{}", part.trim_end_matches('0'))
    }
}

/// Closed ranges of integers, sorted, disjoint and not adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Arc<[(u64, u64)]>);

impl Ranges {
    /// Sorts and coalesces; pairs with `begin > end` are empty.
    #[must_use]
    pub fn new(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<(u64, u64)> = pairs.into_iter().filter(|(b, e)| b <= e).collect();
        sorted.sort_unstable();
        let mut runs: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
        for (begin, end) in sorted {
            match runs.last_mut() {
                Some((_, last)) if begin <= last.saturating_add(1) => *last = end.max(*last),
                _ => runs.push((begin, end)),
            }
        }
        Self(runs.into())
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is no number in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |n: u64, (b, e)| n.saturating_add((e - b).saturating_add(1)))
    }

    /// Whether every number of `that` is in it.
    #[must_use]
    pub fn contains(&self, that: &Self) -> bool {
        that.0.iter().all(|(begin, end)| {
            let after = self.0.partition_point(|(b, _)| b <= begin);
            after > 0 && self.0[after - 1].1 >= *end
        })
    }

    /// The union.
    #[must_use]
    pub fn union(&self, that: &Self) -> Self {
        if that.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return that.clone();
        }
        Self::new(self.iter().chain(that.iter()))
    }

    /// The numbers that are not in `that`.
    #[must_use]
    pub fn difference(&self, that: &Self) -> Self {
        if self.is_empty() || that.is_empty() {
            return self.clone();
        }
        let mut rest = Vec::with_capacity(self.0.len() + that.0.len());
        let mut holes = that.0.iter().peekable();
        for &(mut begin, end) in self.0.iter() {
            let mut open = true;
            while let Some(&&(from, to)) = holes.peek() {
                if to < begin {
                    holes.next();
                } else if from > end {
                    break;
                } else {
                    if from > begin {
                        rest.push((begin, from - 1));
                    }
                    if to >= end {
                        open = false;
                        break;
                    }
                    begin = to + 1;
                    holes.next();
                }
            }
            if open {
                rest.push((begin, end));
            }
        }
        Self(rest.into())
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (begin, end)) in self.iter().enumerate() {
            write!(f, "{}{begin}-{end}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

/// Distinct names, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Set(Arc<[String]>);

impl Set {
    /// Keeps the first of equal items.
    #[must_use]
    pub fn new(items: impl IntoIterator<Item = String>) -> Self {
        let mut kept: Vec<String> = Vec::new();
        for item in items {
            if !kept.contains(&item) {
                kept.push(item);
            }
        }
        Self(kept.into())
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> + '_ {
        self.0.iter().map(String::as_str)
    }

    /// Whether it has no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many items it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether every item of `that` is in it.
    #[must_use]
    pub fn contains(&self, that: &Self) -> bool {
        that.0.iter().all(|item| self.0.contains(item))
    }

    /// The union, own items first.
    #[must_use]
    pub fn union(&self, that: &Self) -> Self {
        Self::new(self.0.iter().chain(that.0.iter()).cloned())
    }

    /// The items that are not in `that`.
    #[must_use]
    pub fn difference(&self, that: &Self) -> Self {
        Self(self.0.iter().filter(|i| !that.0.contains(i)).cloned().collect())
    }
}

impl PartialEq for Set {
    fn eq(&self, that: &Self) -> bool {
        self.0.len() == that.0.len() && self.contains(that)
    }
}

impl Eq for Set {}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0.join(", "))
    }
}

/// The value of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Value {
    Scalar(Scalar),
    Ranges(Ranges),
    Set(Set),
}

impl Value {
    /// Whether it stands for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(s) => s.is_zero(),
            Self::Ranges(r) => r.is_empty(),
            Self::Set(s) => s.is_empty(),
        }
    }

    /// Whether `that` is of the same type and part of it.
    #[must_use]
    pub fn contains(&self, that: &Self) -> bool {
        match (self, that) {
            (Self::Scalar(a), Self::Scalar(b)) => b <= a,
            (Self::Ranges(a), Self::Ranges(b)) => a.contains(b),
            (Self::Set(a), Self::Set(b)) => a.contains(b),
            _ => false,
        }
    }

    /// Adds a value of the same type; another type changes nothing.
    pub(super) fn add(&mut self, that: &Self) {
        match (self, that) {
            (Self::Scalar(a), Self::Scalar(b)) => *a += *b,
            (Self::Ranges(a), Self::Ranges(b)) => *a = a.union(b),
            (Self::Set(a), Self::Set(b)) => *a = a.union(b),
            _ => {}
        }
    }

    /// Takes a value of the same type away; another type changes nothing.
    pub(super) fn subtract(&mut self, that: &Self) {
        match (self, that) {
            (Self::Scalar(a), Self::Scalar(b)) => *a -= *b,
            (Self::Ranges(a), Self::Ranges(b)) => *a = a.difference(b),
            (Self::Set(a), Self::Set(b)) => *a = a.difference(b),
            _ => {}
        }
    }

    pub(super) fn kind(&self) -> proto::Type {
        match self {
            Self::Scalar(_) => proto::Type::Scalar,
            Self::Ranges(_) => proto::Type::Ranges,
            Self::Set(_) => proto::Type::Set,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(s) => s.fmt(f),
            Self::Ranges(r) => r.fmt(f),
            Self::Set(s) => s.fmt(f),
        }
    }
}

impl From<Scalar> for proto::Scalar {
    fn from(s: Scalar) -> Self {
        Self { value: s.value() }
    }
}

impl From<&Ranges> for proto::Ranges {
    fn from(r: &Ranges) -> Self {
        Self { range: r.iter().map(|(begin, end)| proto::Range { begin, end }).collect() }
    }
}

impl From<&proto::Ranges> for Ranges {
    fn from(r: &proto::Ranges) -> Self {
        Self::new(r.range.iter().map(|r| (r.begin, r.end)))
    }
}

impl From<&Set> for proto::Set {
    fn from(s: &Set) -> Self {
        Self { item: s.0.to_vec() }
    }
}

impl From<&proto::Set> for Set {
    fn from(s: &proto::Set) -> Self {
        Self::new(s.item.iter().cloned())
    }
}
