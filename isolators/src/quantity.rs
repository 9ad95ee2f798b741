//! Amounts of scalar resources, summed over roles and reservations. Pure.

use mesos::{Resource, value};

/// The sum of the scalars called `name`, rounded to three decimals as Mesos
/// does; `None` if there is no such resource.
#[must_use]
pub fn total(resources: &[Resource], name: &str) -> Option<f64> {
    sum(resources.iter().filter(|r| r.name == name))
}

/// Whether some of the resource is revocable.
#[must_use]
pub fn has_revocable(resources: &[Resource], name: &str) -> bool {
    resources.iter().any(|r| r.name == name && r.revocable.is_some())
}

fn sum<'a>(resources: impl Iterator<Item = &'a Resource>) -> Option<f64> {
    let mut sum = None;
    for scalar in resources.filter_map(|r| r.scalar.as_ref()) {
        sum = Some(sum.unwrap_or(0.0) + scalar.value);
    }
    sum.map(|value: f64| (value * 1000.0).round() / 1000.0)
}

/// An unreserved scalar resource.
#[must_use]
pub fn scalar(name: &str, value: f64) -> Resource {
    Resource {
        name: name.to_owned(),
        r#type: value::Type::Scalar as i32,
        scalar: Some(value::Scalar { value }),
        ..Resource::default()
    }
}

/// Mesos' megabytes as bytes; negative and absurd amounts saturate.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn megabytes(amount: f64) -> u64 {
    // Whole megabytes, as Mesos takes them; the cast saturates.
    (amount.floor() as u64).saturating_mul(1024 * 1024)
}

/// Bytes in the largest unit that divides them, as Mesos prints them.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "KB")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| format!("{bytes}B"), |(shift, name)| format!("{}{name}", bytes >> shift))
}

/// Bytes for people, with one decimal where that says more: `210.0 MB`, `1.2 GB`.
#[must_use]
#[allow(clippy::cast_precision_loss)] // one decimal is shown
pub fn readable(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.0} KB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_roles_to_three_decimals() {
        let resources = [scalar("cpus", 0.1), scalar("mem", 64.0), scalar("cpus", 0.2)];
        assert_eq!(total(&resources, "cpus"), Some(0.3));
        assert_eq!(total(&resources, "mem"), Some(64.0));
        assert_eq!(total(&resources, "disk"), None);
        assert!(!has_revocable(&resources, "cpus"));
    }

    #[test]
    fn megabytes_round_down_and_saturate() {
        let rows =
            [(0.0, 0), (1.9, 1 << 20), (64.0, 64 << 20), (-3.0, 0), (f64::INFINITY, u64::MAX)];
        for (amount, wanted) in rows {
            assert_eq!(megabytes(amount), wanted, "{amount}");
        }
    }

    #[test]
    fn bytes_as_mesos_prints_them() {
        let rows = [
            (64 << 20, "64MB"),
            (1 << 30, "1GB"),
            (1536, "1536B"),
            (2048, "2KB"),
            (0, "0B"),
            (1 << 40, "1TB"),
        ];
        for (bytes, wanted) in rows {
            assert_eq!(bytes_text(bytes), wanted);
        }
    }
}
