//! Pure parsers of cgroup files. Bytes in, numbers out; no allocation per line.

/// A limit file's value: `memory.max`, `pids.max`, `cpu.max`'s first field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `max` (v2) or `-1` (v1).
    Unlimited,
    /// A number, in the unit of the file.
    Value(u64),
}

/// The lines `name number` of a flat keyed file; other lines are skipped.
pub fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let blank = line.iter().position(|b| *b == b' ')?;
        Some((&line[..blank], number(&line[blank + 1..])?))
    })
}

/// The number beside `key` in a flat keyed file.
#[must_use]
pub fn value(text: &[u8], key: &str) -> Option<u64> {
    pairs(text).find(|(name, _)| *name == key.as_bytes()).map(|(_, number)| number)
}

/// A decimal number, surrounded by blanks at most.
#[must_use]
pub fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, digit| {
        digit.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// A limit; of several fields the first counts.
#[must_use]
pub fn limit(text: &[u8]) -> Option<Limit> {
    match text.trim_ascii().split(|b| *b == b' ').next()? {
        b"max" | b"-1" => Some(Limit::Unlimited),
        field => number(field).map(Limit::Value),
    }
}

/// The pids of `cgroup.procs`, `tasks`, `cgroup.threads`.
#[must_use]
pub fn pids(text: &[u8]) -> Vec<u32> {
    let lines = text.split(|b| *b == b'\n');
    lines.filter_map(number).filter_map(|pid| u32::try_from(pid).ok()).collect()
}

/// Controllers of `cgroup.controllers` and `cgroup.subtree_control`.
pub fn words(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(u8::is_ascii_whitespace)
        .filter_map(|w| std::str::from_utf8(w).ok())
        .filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_keyed_files() {
        let stat = b"cache 24576\nrss 65470464\nbad\nhuge x\n\ntotal_rss 65470465\n";
        assert_eq!(value(stat, "rss"), Some(65_470_464));
        assert_eq!(value(stat, "total_rss"), Some(65_470_465));
        assert_eq!(value(stat, "huge"), None);
        assert_eq!(value(stat, "none"), None);
        assert_eq!(pairs(stat).count(), 3);
    }

    #[test]
    fn numbers() {
        let rows: [(&[u8], Option<u64>); 7] = [
            (b"0\n", Some(0)),
            (b" 42 ", Some(42)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"", None),
            (b"-1", None),
            (b"12a", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(number(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn limits() {
        let rows: [(&[u8], Option<Limit>); 6] = [
            (b"max\n", Some(Limit::Unlimited)),
            (b"-1\n", Some(Limit::Unlimited)),
            (b"max 100000\n", Some(Limit::Unlimited)),
            (b"50000 100000\n", Some(Limit::Value(50_000))),
            (b"67108864\n", Some(Limit::Value(67_108_864))),
            (b"nonsense", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(limit(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(pids(b"1\n22\n\n4194304\n"), vec![1, 22, 4_194_304]);
        assert_eq!(pids(b""), Vec::<u32>::new());
        assert_eq!(words(b"cpuset cpu  memory\n").collect::<Vec<_>>(), ["cpuset", "cpu", "memory"]);
    }
}
