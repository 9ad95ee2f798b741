//! Jitter and identifiers from a seed, so that the core stays repeatable.

/// xoshiro-style generator (splitmix64 twice); not for secrets.
#[derive(Debug)]
pub(super) struct Random([u64; 2]);

impl Random {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Random(seed)
    }

    fn next(&mut self, lane: usize) -> u64 {
        self.0[lane] = self.0[lane].wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0[lane];
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..1`.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next(0) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The 16 bytes of a version 4 uuid.
    pub(super) fn uuid(&mut self) -> Vec<u8> {
        let bits = (u128::from(self.next(0)) << 64) | u128::from(self.next(1));
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().as_bytes().to_vec()
    }

    /// A version 4 uuid as text.
    pub(super) fn uuid_text(&mut self) -> String {
        let bytes = self.uuid();
        uuid::Uuid::from_slice(&bytes).map(|u| u.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_version_4_and_differ() {
        let mut random = Random::new([1, 2]);
        let (a, b) = (random.uuid_text(), random.uuid_text());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(&a[14..15], "4");
        assert!((0.0..1.0).contains(&random.fraction()));
    }
}
