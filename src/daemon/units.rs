//! Durations and sizes in Mesos' spelling: `15secs`, `1weeks`, `4KB`.
//!
//! Read and printed as the flags, `/flags` and query parameters of the real
//! daemons do. Pure text.

use std::fmt::Write as _;
use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration or size, in Mesos' words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// The part before the unit.
    #[error("Failed to convert '{0}' to number")]
    Number(String),
    /// A unit nobody knows.
    #[error(
        "Unknown duration unit '{0}'; supported units are 'ns', 'us', 'ms', 'secs', 'mins', 'hrs', 'days', and 'weeks'"
    )]
    DurationUnit(String),
    /// No unit at all.
    #[error("Invalid duration '{0}'")]
    Duration(String),
    /// More than 64 bits of nanoseconds.
    #[error("Argument out of the range that a Duration can represent due to int64_t's size limit")]
    Range,
    /// A unit nobody knows.
    #[error("Unknown bytes unit '{0}'; supported units are 'B', 'KB', 'MB', 'GB' and 'TB'")]
    BytesUnit(String),
    /// Sizes are whole numbers.
    #[error("Fractional bytes '{0}'")]
    Fraction(String),
    /// No unit at all, or too large.
    #[error("Invalid bytes '{0}'")]
    Bytes(String),
}

/// Units with their length in nanoseconds, the smallest first.
const DURATIONS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("secs", 1_000_000_000),
    ("mins", 60 * 1_000_000_000),
    ("hrs", 3_600 * 1_000_000_000),
    ("days", 86_400 * 1_000_000_000),
    ("weeks", 604_800 * 1_000_000_000),
];

/// Units with their size in bytes, the smallest first.
const SIZES: [(&str, u64); 5] =
    [("B", 1), ("KB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// Reads `1.5hrs`, `200ms`, `0ns`. There are no negative durations.
///
/// # Errors
/// [`UnitError`]
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(|| UnitError::Duration(text.to_owned()))?;
    let (number, unit) = text.split_at(split);
    let value: f64 = number.parse().map_err(|_| UnitError::Number(number.to_owned()))?;
    let (_, factor) = DURATIONS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::DurationUnit(unit.to_owned()))?;
    #[allow(clippy::cast_precision_loss)] // the factors are exact
    let nanoseconds = value * factor as f64;
    #[allow(clippy::cast_precision_loss)]
    if nanoseconds >= i64::MAX as f64 {
        return Err(UnitError::Range);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above
    Ok(Duration::from_nanos(nanoseconds as u64))
}

/// Prints a duration in its own unit, or the next smaller one if that gives a
/// whole number: `1weeks`, `10days`, `90mins`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let own = DURATIONS.iter().rposition(|(_, factor)| nanoseconds >= *factor).unwrap_or(0);
    let whole = |i: usize| nanoseconds.is_multiple_of(DURATIONS[i].1);
    let unit = if own > 0 && !whole(own) && whole(own - 1) { own - 1 } else { own };
    let (name, factor) = DURATIONS[unit];
    if nanoseconds.is_multiple_of(factor) {
        return format!("{}{name}", nanoseconds / factor);
    }
    #[allow(clippy::cast_precision_loss)] // printed with fifteen digits
    let value = nanoseconds as f64 / factor as f64;
    format!("{}{name}", significant(value))
}

/// Fifteen significant digits without trailing zeros.
fn significant(value: f64) -> String {
    let before = value.abs().log10().floor().max(0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0..=18
    let decimals = 14usize.saturating_sub(before as usize);
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads `512MB`, `2gb`, `0B`.
///
/// # Errors
/// [`UnitError`]
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(|| UnitError::Bytes(text.to_owned()))?;
    let (number, unit) = text.split_at(split);
    if unit.starts_with('.') {
        return Err(UnitError::Fraction(text.to_owned()));
    }
    let value: u64 = number.parse().map_err(|_| UnitError::Number(number.to_owned()))?;
    let unit = unit.to_ascii_uppercase();
    let factor = SIZES
        .into_iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| factor)
        .ok_or(UnitError::BytesUnit(unit))?;
    value.checked_mul(factor).ok_or_else(|| UnitError::Bytes(text.to_owned()))
}

/// Prints a size in the largest unit that loses nothing: `4KB`, `1025B`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let (name, factor) = SIZES
        .into_iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .unwrap_or(SIZES[0]);
    let mut text = (bytes / factor).to_string();
    // Writing to a String cannot fail.
    let _ = text.write_str(name);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_recorded() {
        for (given, shown) in [
            ("0ns", "0ns"),
            ("0secs", "0ns"),
            ("15secs", "15secs"),
            ("60secs", "1mins"),
            ("90secs", "90secs"),
            ("1weeks", "1weeks"),
            ("7days", "1weeks"),
            ("10days", "10days"),
            ("14days", "2weeks"),
            ("6hrs", "6hrs"),
            ("1.5hrs", "90mins"),
            ("1500ms", "1500ms"),
            ("1001us", "1001us"),
            ("1500us", "1500us"),
            ("1500001ns", "1.500001ms"),
            ("1001ns", "1001ns"),
            ("999ns", "999ns"),
            ("61.5secs", "1.025mins"),
        ] {
            let duration = parse_duration(given).expect(given);
            assert_eq!(show_duration(duration), shown, "{given}");
        }
    }

    #[test]
    fn bad_durations_are_named_as_recorded() {
        for (given, message) in [
            (
                "1parsec",
                "Unknown duration unit 'parsec'; supported units are 'ns', 'us', 'ms', 'secs', \
                 'mins', 'hrs', 'days', and 'weeks'",
            ),
            ("abc", "Failed to convert '' to number"),
            ("1.2.3secs", "Failed to convert '1.2.3' to number"),
            ("15", "Invalid duration '15'"),
            ("", "Invalid duration ''"),
            ("-1secs", "Failed to convert '' to number"),
            (
                "99999weeks",
                "Argument out of the range that a Duration can represent due to int64_t's size limit",
            ),
        ] {
            assert_eq!(parse_duration(given).expect_err(given).to_string(), message);
        }
    }

    #[test]
    fn sizes_print_as_recorded() {
        for (given, bytes, shown) in [
            ("4096B", 4096, "4KB"),
            ("2GB", 2 << 30, "2GB"),
            ("2gb", 2 << 30, "2GB"),
            ("0MB", 0, "0B"),
            ("1025B", 1025, "1025B"),
            ("1024GB", 1 << 40, "1TB"),
        ] {
            assert_eq!(parse_bytes(given), Ok(bytes));
            assert_eq!(show_bytes(bytes), shown);
        }
        for bad in ["", "10", "1.5GB", "MB", "1XB", "99999999999TB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
