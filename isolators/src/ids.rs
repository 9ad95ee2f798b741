//! The host's ids that containers get in place of their own (`--userns_remap`), in
//! blocks. Pure; `namespaces/user` acts on it.

use std::collections::BTreeSet;

/// Ids of one container.
pub(crate) const BLOCK: u32 = 1 << 16;

/// The host's ids that containers get: `--userns_remap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
    /// How many blocks fit.
    blocks: u32,
}

impl IdRange {
    /// Reads `[100000-6653599]`.
    ///
    /// # Errors
    /// What is wrong with the text, for people.
    pub fn parse(text: &str) -> Result<IdRange, String> {
        let wrong = || format!("'{text}' is no range of host ids such as [100000-6653599]");
        let inner = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let (from, to) = inner.and_then(|inner| inner.split_once('-')).ok_or_else(wrong)?;
        let id = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (from, to) = (id(from)?, id(to)?);
        if from > to {
            return Err(wrong());
        }
        if from < BLOCK {
            // What images and the host call their users: 0 to 65535.
            return Err(format!("'{text}' begins below {BLOCK}, where the host's own ids are"));
        }
        // The last id of all is no id.
        let blocks = (u64::from(to.min(u32::MAX - 1)) + 1 - u64::from(from)) / u64::from(BLOCK);
        match u32::try_from(blocks) {
            Ok(blocks) if blocks > 0 => Ok(IdRange { first: from, blocks }),
            _ => Err(format!("'{text}' is shorter than one container needs: {BLOCK} ids")),
        }
    }

    /// The lowest of them.
    #[must_use]
    pub fn first(self) -> u32 {
        self.first
    }

    fn base(self, block: u32) -> u32 {
        self.first + block * BLOCK
    }

    /// The block that begins at a host id.
    fn block(self, base: u32) -> Option<u32> {
        let distance = base.checked_sub(self.first)?;
        let found = (distance / BLOCK, distance % BLOCK);
        (found.1 == 0 && found.0 < self.blocks).then_some(found.0)
    }
}

/// Which blocks are taken.
#[derive(Debug)]
pub(crate) struct Pool {
    range: IdRange,
    taken: BTreeSet<u32>,
    /// Where the search begins: a block rests as long as it can.
    next: u32,
}

impl Pool {
    /// None of them is.
    pub(crate) fn new(range: IdRange) -> Pool {
        Pool { range, taken: BTreeSet::new(), next: 0 }
    }

    /// A free block: its first host id.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let all = (self.next..self.range.blocks).chain(0..self.next);
        let block = all.into_iter().find(|block| !self.taken.contains(block))?;
        self.taken.insert(block);
        self.next = (block + 1) % self.range.blocks;
        Some(self.range.base(block))
    }

    /// Somebody has the block that begins at `base`; whether it is one, and was free.
    pub(crate) fn reserve(&mut self, base: u32) -> bool {
        self.range.block(base).is_some_and(|block| self.taken.insert(block))
    }

    /// Nobody has it any more.
    pub(crate) fn give_back(&mut self, base: u32) {
        if let Some(block) = self.range.block(base) {
            self.taken.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_or_refused() {
        let rows = [
            ("[100000-165535]", Ok((100_000, 1))),
            ("[ 100000 - 231071 ]", Ok((100_000, 2))),
            ("[65536-4294967295]", Ok((65536, 65534))),
            ("[100000-165534]", Err("shorter than one container needs")),
            ("[0-65535]", Err("begins below 65536")),
            ("[200000-100000]", Err("is no range of host ids")),
            ("100000-165535", Err("is no range of host ids")),
            ("[100000]", Err("is no range of host ids")),
            ("[100000-99999999999]", Err("is no range of host ids")),
        ];
        for (text, wanted) in rows {
            match (IdRange::parse(text), wanted) {
                (Ok(range), Ok(wanted)) => {
                    assert_eq!((range.first, range.blocks), wanted, "{text}")
                }
                (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{text}: {error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn blocks_are_taken_once_rest_and_come_back() {
        let range = IdRange::parse("[100000-296607]").unwrap();
        let mut pool = Pool::new(range);
        assert!(pool.reserve(165_536), "recovered");
        assert!(!pool.reserve(165_536), "twice");
        assert!(!pool.reserve(100_001) && !pool.reserve(65_536) && !pool.reserve(296_608));
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(100_000), Some(231_072), None));
        pool.give_back(231_072);
        pool.give_back(100_000);
        assert_eq!(pool.take(), Some(100_000), "the search goes on behind the last");
        pool.give_back(100_000);
        assert_eq!(pool.take(), Some(231_072), "it rests");
    }
}
