//! Recorded names and ours: ids, addresses and uuids differ from run to run, so
//! they are learned from what corresponds and exchanged before comparing.

#![allow(dead_code, reason = "every test program uses its own part")]

/// Pairs of (recorded, ours).
#[derive(Debug, Default)]
pub struct Names(Vec<(String, String)>);

impl Names {
    /// Remembers a pair; the first one of a recorded name stays.
    pub fn learn(&mut self, recorded: &str, ours: &str) {
        if recorded.is_empty() || self.0.iter().any(|(name, _)| name == recorded) {
            return;
        }
        self.0.push((recorded.to_owned(), ours.to_owned()));
        // A name may be the beginning of another.
        self.0.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// Learns the ids (uuids as text) of two texts that say the same.
    pub fn learn_ids(&mut self, recorded: &str, ours: &str) {
        let (recorded, ours) = (uuids(recorded), uuids(ours));
        if recorded.len() == ours.len() {
            for (recorded, ours) in recorded.into_iter().zip(ours) {
                self.learn(recorded, ours);
            }
        }
    }

    /// A recorded text in our names.
    #[must_use]
    pub fn ours(&self, recorded: &str) -> String {
        exchange(recorded, self.0.iter().map(|(theirs, ours)| (theirs, ours)))
    }

    /// A text of ours in the recorded names.
    #[must_use]
    pub fn recorded(&self, ours: &str) -> String {
        // Of two recorded names for one of ours the newer is meant.
        let pairs = self.0.iter().rev().map(|(theirs, ours)| (ours, theirs));
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        exchange(ours, pairs)
    }
}

/// Replaces from left to right, the first pair that fits at each place.
fn exchange<'a>(
    text: &str,
    pairs: impl IntoIterator<Item = (&'a String, &'a String)> + Clone,
) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    'all: while let Some(next) = rest.chars().next() {
        for (from, to) in &pairs {
            if let Some(after) = rest.strip_prefix(from.as_str()) {
                out.push_str(to);
                rest = after;
                continue 'all;
            }
        }
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    out
}

fn uuids(text: &str) -> Vec<&str> {
    let is = |part: &[u8]| {
        part.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(b),
        })
    };
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at + 36 <= bytes.len() {
        if is(&bytes[at..at + 36]) {
            found.push(&text[at..at + 36]);
            at += 36;
        } else {
            at += 1;
        }
    }
    found
}
