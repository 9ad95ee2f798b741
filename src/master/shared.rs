//! A map that is cheap to freeze: copying it copies a handful of pointers, and
//! a later change copies only the shard it touches.
//!
//! The core keeps its visible state in such maps, so publishing a snapshot of
//! 10,000 agents after every event costs microseconds, not a copy of the state.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::sync::Arc;

/// Entries per shard above which the number of shards doubles. A change after a
/// freeze copies at most about this many entries.
const SHARD: usize = 64;

type Hasher = BuildHasherDefault<std::hash::DefaultHasher>;

/// Copy-on-write map in shards. Iteration order is stable between changes but
/// otherwise arbitrary.
#[derive(Debug, Clone)]
pub struct SharedMap<K, V> {
    shards: Vec<Arc<BTreeMap<K, V>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap { shards: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Hash + Clone, V: Clone> SharedMap<K, V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn shard_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The shard count is a power of two (or zero, before the first entry).
        let hash = Hasher::default().hash_one(key);
        usize::try_from(hash & 0xffff_ffff).unwrap_or(0) & self.shards.len().wrapping_sub(1)
    }

    /// The value under `key`.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        if self.shards.is_empty() {
            return None;
        }
        self.shards[self.shard_of(key)].get(key)
    }

    /// Whether there is a value under `key`.
    #[must_use]
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        self.get(key).is_some()
    }

    /// The value under `key`, for changing it.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        if !self.contains_key(key) {
            return None; // Do not copy a shard for nothing.
        }
        let shard = self.shard_of(key);
        Arc::make_mut(&mut self.shards[shard]).get_mut(key)
    }

    /// Puts `value` under `key` and returns what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= self.shards.len() * SHARD {
            self.grow();
        }
        let shard = self.shard_of(&key);
        let old = Arc::make_mut(&mut self.shards[shard]).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes the value under `key` out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        if !self.contains_key(key) {
            return None;
        }
        let shard = self.shard_of(key);
        let old = Arc::make_mut(&mut self.shards[shard]).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    fn grow(&mut self) {
        let count = (self.shards.len() * 2).max(1);
        let old = std::mem::replace(&mut self.shards, vec![Arc::default(); count]);
        for shard in old {
            for (key, value) in Arc::unwrap_or_clone(shard) {
                let at = self.shard_of(&key);
                Arc::make_mut(&mut self.shards[at]).insert(key, value);
            }
        }
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Hash + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = SharedMap::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_map_and_freezes() {
        let mut map = SharedMap::new();
        for i in 0..1000_u32 {
            assert_eq!(map.insert(i, i), None);
        }
        assert_eq!(map.insert(7, 70), Some(7));
        let frozen = map.clone();
        for i in 0..500 {
            assert!(map.remove(&i).is_some());
        }
        assert_eq!(map.remove(&3), None);
        *map.get_mut(&700).expect("present") = 1;
        assert_eq!((map.len(), frozen.len()), (500, 1000));
        assert_eq!((frozen.get(&700), frozen.get(&7)), (Some(&700), Some(&70)));
        assert_eq!((map.get(&700), map.get(&7)), (Some(&1), None));
        let mut keys: Vec<_> = map.keys().copied().collect();
        keys.sort_unstable();
        assert!(keys.into_iter().eq(500..1000));
        assert_eq!(SharedMap::<u32, u32>::new().get(&1), None);
    }
}
