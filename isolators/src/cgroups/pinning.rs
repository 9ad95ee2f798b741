//! Which processors belong to one container alone. Pure.
//!
//! A container with exclusive processors gets them on one memory node if any node
//! has enough, on the fullest such node; else on as few nodes as can be. Within a
//! node whole cores come first, so that two containers share no core when it can
//! be helped. What is left over is the pool of all other containers; if nothing
//! is left, they use every processor.

use std::collections::{BTreeMap, BTreeSet};

use kernel::cpus::{CpuSet, Spot};

/// More processors were asked for than are free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} exclusive processors were asked for, {free} of {all} are free")]
#[allow(missing_docs)]
pub struct NotEnough {
    pub wanted: usize,
    pub free: usize,
    pub all: usize,
}

/// How many processors a request pins: whole numbers from 1, none for fractions
/// and for revocable cpus.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn exclusive_count(cpus: f64, revocable: bool) -> Option<usize> {
    let whole = !revocable && cpus >= 1.0 && cpus.fract() == 0.0 && cpus < 1e6;
    whole.then_some(cpus as usize)
}

/// The processors and who has them.
#[derive(Debug)]
pub struct Allocator {
    topology: BTreeMap<u32, Spot>,
    taken: BTreeMap<String, BTreeSet<u32>>,
}

impl Allocator {
    /// Nothing is taken.
    #[must_use]
    pub fn new(topology: BTreeMap<u32, Spot>) -> Allocator {
        Allocator { topology, taken: BTreeMap::new() }
    }

    fn free(&self) -> BTreeSet<u32> {
        let taken = |cpu: &u32| self.taken.values().any(|set| set.contains(cpu));
        self.topology.keys().copied().filter(|cpu| !taken(cpu)).collect()
    }

    /// What containers without exclusive processors use.
    #[must_use]
    pub fn shared(&self) -> CpuSet {
        let free = self.free();
        CpuSet(if free.is_empty() { self.topology.keys().copied().collect() } else { free })
    }

    /// The processors of a container.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<CpuSet> {
        self.taken.get(id).cloned().map(CpuSet)
    }

    /// Gives `id` exactly `count` processors; what it had before is free for it.
    /// On error it keeps what it had.
    ///
    /// # Errors
    /// Too few are free.
    pub fn allocate(&mut self, id: &str, count: usize) -> Result<CpuSet, NotEnough> {
        let before = self.taken.remove(id);
        let free = self.free();
        if free.len() < count {
            let error = NotEnough { wanted: count, free: free.len(), all: self.topology.len() };
            self.taken.extend(before.map(|set| (id.to_owned(), set)));
            return Err(error);
        }
        let mut nodes: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for cpu in free {
            nodes.entry(self.topology[&cpu].node).or_default().insert(cpu);
        }
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            let left = count - chosen.len();
            let fits = nodes.iter().filter(|(_, free)| free.len() >= left);
            // The fullest that fits, else the emptiest of all; then the lowest.
            let node = fits
                .min_by_key(|(node, free)| (free.len(), **node))
                .or_else(|| nodes.iter().max_by_key(|(n, free)| (free.len(), u32::MAX - **n)))
                .map(|(node, _)| *node);
            let Some(free) = node.and_then(|node| nodes.remove(&node)) else { break };
            chosen.extend(self.within_node(free, left));
        }
        self.taken.insert(id.to_owned(), chosen.clone());
        Ok(CpuSet(chosen))
    }

    /// Up to `count` of `free`: whole cores, then rests of cores, then parts.
    fn within_node(&self, free: BTreeSet<u32>, count: usize) -> BTreeSet<u32> {
        let mut cores: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for cpu in free {
            cores.entry(self.topology[&cpu].core).or_default().push(cpu);
        }
        let size = |core: &(u32, u32)| self.topology.values().filter(|s| s.core == *core).count();
        let (whole, mut rest): (Vec<_>, Vec<_>) =
            cores.into_iter().partition(|(core, cpus)| cpus.len() == size(core));
        let mut chosen = BTreeSet::new();
        let mut unused = Vec::new();
        for (core, cpus) in whole {
            if chosen.len() + cpus.len() <= count {
                chosen.extend(cpus);
            } else {
                unused.push((core, cpus));
            }
        }
        rest.extend(unused);
        let singles = rest.into_iter().flat_map(|(_, cpus)| cpus);
        chosen.extend(singles.take(count.saturating_sub(chosen.len())).collect::<Vec<_>>());
        chosen
    }

    /// Notes processors that a recovered container has already; `false` and no
    /// change if one is taken or unknown.
    pub fn adopt(&mut self, id: &str, set: &CpuSet) -> bool {
        let fits = !set.0.is_empty() && set.0.is_subset(&self.free());
        if fits {
            self.taken.insert(id.to_owned(), set.0.clone());
        }
        fits
    }

    /// Gives back what `id` has; whether it had something.
    pub fn release(&mut self, id: &str) -> bool {
        self.taken.remove(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes, four processors each; with `smt` two of them on a core: 0 and 4
    /// on node 0's first core, and so on.
    fn machine(smt: bool) -> Allocator {
        let spot = |cpu: u32| {
            let node = cpu / 2 % 2;
            let core = if smt { cpu % 4 } else { cpu };
            (cpu, Spot { node, core: (node, core) })
        };
        Allocator::new((0..8).map(spot).collect())
    }

    fn take(allocator: &mut Allocator, id: &str, count: usize) -> String {
        allocator.allocate(id, count).map_or_else(|e| e.to_string(), |set| set.to_string())
    }

    #[test]
    fn which_requests_pin() {
        let rows = [
            (1.0, false, Some(1)),
            (4.0, false, Some(4)),
            (0.0, false, None),
            (0.5, false, None),
            (1.5, false, None),
            (2.0, true, None),
            (f64::INFINITY, false, None),
        ];
        for (cpus, revocable, wanted) in rows {
            assert_eq!(exclusive_count(cpus, revocable), wanted, "{cpus}");
        }
    }

    /// Each row: requests in order, with what each gets. Node 0 is 0,1,4,5.
    #[test]
    fn placement() {
        let rows: [(bool, &[(usize, &str)]); 6] = [
            (false, &[(1, "0"), (1, "1"), (2, "4-5"), (1, "2")]),
            // The fullest node that fits, so that large requests still find one.
            (false, &[(3, "0-1,4"), (4, "2-3,6-7"), (1, "5")]),
            (false, &[(2, "0-1"), (4, "2-3,6-7"), (2, "4-5")]),
            // No node is large enough: as few as can be.
            (false, &[(5, "0-2,4-5"), (3, "3,6-7")]),
            // Whole cores first, then the rest of a broken one.
            (true, &[(1, "0"), (2, "1,5"), (1, "4"), (4, "2-3,6-7")]),
            (true, &[(3, "0-1,4"), (2, "2,6"), (2, "3,7"), (1, "5")]),
        ];
        for (smt, requests) in rows {
            let mut allocator = machine(smt);
            for (index, (count, wanted)) in requests.iter().enumerate() {
                let got = take(&mut allocator, &index.to_string(), *count);
                assert_eq!(got, *wanted, "{smt} {requests:?}");
            }
        }
    }

    #[test]
    fn too_many_is_an_error_that_changes_nothing() {
        let mut allocator = machine(false);
        assert_eq!(
            take(&mut allocator, "a", 9),
            "9 exclusive processors were asked for, 8 of 8 are free"
        );
        assert_eq!(take(&mut allocator, "a", 6), "0-5");
        let before = allocator.of("a");
        assert!(allocator.allocate("b", 3).is_err());
        assert!(allocator.allocate("a", 9).is_err());
        assert_eq!(allocator.of("a"), before);
        assert_eq!(allocator.shared().0.len(), 2);
    }

    #[test]
    fn the_pool_is_what_is_left_or_all() {
        let mut allocator = machine(false);
        assert_eq!(allocator.shared().to_string(), "0-7");
        take(&mut allocator, "a", 4);
        assert_eq!(allocator.shared().to_string(), "2-3,6-7");
        take(&mut allocator, "b", 4);
        assert_eq!(allocator.shared().to_string(), "0-7", "nothing is left");
        assert!(allocator.release("a") && !allocator.release("a"));
        assert_eq!(allocator.shared().to_string(), "0-1,4-5");
        // A container that grows may keep its own.
        assert_eq!(allocator.allocate("b", 5).unwrap().0.len(), 5);
    }

    #[test]
    fn recovered_sets_are_kept_once() {
        let mut allocator = machine(false);
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        assert!(allocator.adopt("a", &set("2,6")));
        assert!(!allocator.adopt("b", &set("6-7")), "6 is taken");
        assert!(!allocator.adopt("b", &set("8")), "8 is not there");
        assert!(!allocator.adopt("b", &set("")));
        assert_eq!(allocator.shared().to_string(), "0-1,3-5,7");
    }
}
