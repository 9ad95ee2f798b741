//! Which project ids are in use. Pure.
//!
//! An id is taken by a container or a volume. When that is gone the id is idle:
//! files may still carry it (a sandbox waits for its removal), so it is used
//! again only when the kernel counts no file of it any more.

use std::collections::BTreeSet;

/// The project ids of `--xfs_project_range`.
#[derive(Debug)]
pub struct Projects {
    /// Inclusive, sorted, without overlaps.
    ranges: Vec<(u32, u32)>,
    /// Not free, whether idle or not; ids outside the range too.
    taken: BTreeSet<u32>,
    idle: BTreeSet<u32>,
}

impl Projects {
    /// Reads `[5000-10000]` or `[1-9,20-29]`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Projects, String> {
        let wrong = || format!("'{text}' is no range of project ids such as [5000-10000]");
        let inner = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let mut ranges = Vec::new();
        for range in inner.ok_or_else(wrong)?.split(',') {
            let (from, to) = range.split_once('-').ok_or_else(wrong)?;
            let id = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
            let (from, to) = (id(from)?, id(to)?);
            if from == 0 {
                return Err(format!("'{text}' has project id 0, which marks what has none"));
            }
            if from > to {
                return Err(wrong());
            }
            ranges.push((from, to));
        }
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
            return Err(format!("'{text}' has a project id twice"));
        }
        Ok(Projects { ranges, taken: BTreeSet::new(), idle: BTreeSet::new() })
    }

    /// The lowest free id; `None` if there is none.
    pub fn take(&mut self) -> Option<u32> {
        let taken = &self.taken;
        let free = |(from, to): &(u32, u32)| (*from..=*to).find(|id| !taken.contains(id));
        let id = self.ranges.iter().find_map(free)?;
        self.taken.insert(id);
        Some(id)
    }

    /// Somebody has this id already.
    pub fn reserve(&mut self, id: u32) {
        self.taken.insert(id);
        self.idle.remove(&id);
    }

    /// Nobody uses it any more, but files may carry it.
    pub fn release(&mut self, id: u32) {
        if self.taken.contains(&id) {
            self.idle.insert(id);
        }
    }

    /// The ids that may be free by now.
    #[must_use]
    pub fn idle(&self) -> Vec<u32> {
        self.idle.iter().copied().collect()
    }

    /// No file carries it any more.
    pub fn free(&mut self, id: u32) {
        self.idle.remove(&id);
        self.taken.remove(&id);
    }

    /// Whether an id is of the range.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&id))
    }

    /// The lowest and the highest id.
    #[must_use]
    pub fn bounds(&self) -> (u32, u32) {
        let first = self.ranges.first().map_or(1, |range| range.0);
        (first, self.ranges.last().map_or(0, |range| range.1))
    }

    /// How many ids there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(from, to)| u64::from(to - from) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, wanted) in [
            ("[5000-10000]", Ok(5001)),
            (" [7-7] ", Ok(1)),
            ("[20-29, 1-9]", Ok(19)),
            ("[0-9]", Err("project id 0")),
            ("[9-1]", Err("no range")),
            ("[1-5,5-9]", Err("twice")),
            ("5000-10000", Err("no range")),
            ("[]", Err("no range")),
            ("[1-4294967296]", Err("no range")),
        ] {
            match (Projects::parse(text), wanted) {
                (Ok(projects), Ok(total)) => assert_eq!(projects.total(), total, "{text}"),
                (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn the_lowest_free_id_and_none_while_files_carry_it() {
        let mut ids = Projects::parse("[10-11,20-20]").expect("a range");
        ids.reserve(10);
        ids.reserve(99);
        assert_eq!((ids.take(), ids.take(), ids.take()), (Some(11), Some(20), None));
        ids.release(11);
        ids.release(12);
        assert_eq!((ids.idle(), ids.take()), (vec![11], None));
        ids.free(11);
        assert_eq!((ids.take(), ids.idle()), (Some(11), vec![]));
        // Used again before it was free: a volume that comes back.
        ids.release(20);
        ids.reserve(20);
        assert!(ids.idle().is_empty());
        assert!(ids.contains(20) && !ids.contains(12) && !ids.contains(99));
        assert_eq!(ids.bounds(), (10, 20));
    }
}
