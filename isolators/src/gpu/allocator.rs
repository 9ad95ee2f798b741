//! Which container has which GPU. Pure, but for the lock around it in [`super`].

use std::collections::{BTreeMap, BTreeSet};

/// GPUs by minor number; the lowest free ones are given first, as in Mesos.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    free: BTreeSet<u32>,
    given: BTreeMap<String, BTreeSet<u32>>,
}

impl Allocator {
    pub(super) fn new(all: impl IntoIterator<Item = u32>) -> Allocator {
        Allocator { free: all.into_iter().collect(), given: BTreeMap::new() }
    }

    /// What the container has.
    pub(super) fn of(&self, container: &str) -> BTreeSet<u32> {
        self.given.get(container).cloned().unwrap_or_default()
    }

    /// Whose a GPU is.
    pub(super) fn owner(&self, gpu: u32) -> Option<&str> {
        let has = |(_, gpus): &(&String, &BTreeSet<u32>)| gpus.contains(&gpu);
        self.given.iter().find(has).map(|(container, _)| container.as_str())
    }

    /// What the container would have with `count` GPUs: it keeps those it has as far
    /// as it can.
    ///
    /// # Errors
    /// There are not that many; for people.
    pub(super) fn plan(&self, container: &str, count: usize) -> Result<BTreeSet<u32>, String> {
        let has = self.of(container);
        if count <= has.len() {
            return Ok(has.into_iter().take(count).collect());
        }
        let more = count - has.len();
        if more > self.free.len() {
            return Err(format!("Requested {more} gpus but only {} available", self.free.len()));
        }
        Ok(has.into_iter().chain(self.free.iter().take(more).copied()).collect())
    }

    /// The container has exactly these from now on. GPUs that are not managed, or
    /// that another container has, are left out: what is left is returned.
    pub(super) fn assign(&mut self, container: &str, wanted: &BTreeSet<u32>) -> BTreeSet<u32> {
        let has = self.given.remove(container).unwrap_or_default();
        self.free.extend(has);
        let got: BTreeSet<u32> = wanted.intersection(&self.free).copied().collect();
        self.free.retain(|gpu| !got.contains(gpu));
        if !got.is_empty() {
            self.given.insert(container.to_owned(), got.clone());
        }
        got
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(gpus: &[u32]) -> BTreeSet<u32> {
        gpus.iter().copied().collect()
    }

    #[test]
    fn the_lowest_are_given_first_and_kept() {
        let mut all = Allocator::new([3, 0, 1]);
        let mut take = |id: &str, count| {
            let plan = all.plan(id, count)?;
            Ok::<_, String>(all.assign(id, &plan))
        };
        assert_eq!(take("a", 1), Ok(set(&[0])));
        assert_eq!(take("b", 1), Ok(set(&[1])));
        // More and fewer: what a container has it keeps.
        assert_eq!(take("a", 2), Ok(set(&[0, 3])));
        assert_eq!(take("c", 1), Err("Requested 1 gpus but only 0 available".into()));
        assert_eq!(take("a", 1), Ok(set(&[0])));
        assert_eq!(take("c", 1), Ok(set(&[3])));
        assert_eq!(take("b", 0), Ok(set(&[])));
        assert_eq!(take("d", 1), Ok(set(&[1])));
    }

    #[test]
    fn what_is_recovered_is_believed_only_where_it_can_be() {
        let mut all = Allocator::new([0, 1]);
        assert_eq!(all.assign("a", &set(&[1, 7])), set(&[1]));
        assert_eq!(all.assign("b", &set(&[0, 1])), set(&[0]));
        assert_eq!(all.assign("a", &set(&[])), set(&[]));
        assert_eq!((all.of("b"), all.owner(0), all.owner(1)), (set(&[0]), Some("b"), None));
        assert_eq!(all.plan("c", 1), Ok(set(&[1])));
    }
}
