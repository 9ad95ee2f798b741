//! Lists of the kernel that are read once for all containers of a sampling pass.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// One reading serves all containers of a pass.
const FRESH: Duration = Duration::from_millis(250);

/// Values by interface: one list is cheaper to make than a tree, and as quick to ask.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    read: Option<Instant>,
    /// Apart from the values: all that a search touches is a few cache lines.
    indices: Vec<u32>,
    values: Vec<T>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Sorted<T> {
        Sorted { read: None, indices: Vec::new(), values: Vec::new() }
    }
}

impl<T> Sorted<T> {
    fn is_fresh(&self) -> bool {
        self.read.is_some_and(|read| read.elapsed() < FRESH)
    }

    fn replace(&mut self, mut all: Vec<(u32, T)>) {
        // What one interface has keeps its order. Newer kernels list them so.
        all.sort_by_key(|(index, _)| *index);
        (self.indices, self.values) = all.into_iter().unzip();
        self.read = Some(Instant::now());
    }

    /// What the interface with this index has.
    pub(super) fn of(&self, index: u32) -> impl Iterator<Item = &T> {
        let first = self.indices.partition_point(|has| *has < index);
        let own = self.indices[first..].iter().take_while(move |has| **has == index);
        own.zip(&self.values[first..]).map(|(_, value)| value)
    }
}

/// The list that the threads of a pass share. Those that find it fresh do not wait for one
/// another.
#[derive(Debug)]
pub(super) struct Fresh<T>(RwLock<Sorted<T>>);

impl<T> Default for Fresh<T> {
    fn default() -> Fresh<T> {
        Fresh(RwLock::default())
    }
}

impl<T> Fresh<T> {
    /// What `ask` finds in the list, which is read again first if it is not fresh any more.
    ///
    /// # Errors
    /// As `read`; what was there stays.
    pub(super) fn ask<R>(
        &self,
        read: impl FnOnce() -> Result<Vec<(u32, T)>, kernel::Error>,
        ask: impl FnOnce(&Sorted<T>) -> R,
    ) -> Result<R, kernel::Error> {
        // A list is replaced as a whole.
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if list.is_fresh() {
            return Ok(ask(&list));
        }
        drop(list);
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been here first.
        if !list.is_fresh() {
            list.replace(read()?);
        }
        Ok(ask(&list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_interface() {
        let mut sorted = Sorted::default();
        assert_eq!(sorted.of(1).count(), 0);
        sorted.replace(vec![(7, 'a'), (2, 'b'), (7, 'c')]);
        assert_eq!(sorted.of(7).collect::<String>(), "ac");
        assert_eq!(sorted.of(2).collect::<String>(), "b");
        assert_eq!((sorted.of(1).count(), sorted.of(8).count()), (0, 0));
    }

    #[test]
    fn lists_are_read_once_for_all_who_ask_at_once() {
        let fresh: Fresh<char> = Fresh::default();
        let refuse = || Err(kernel::Error::new("list", "nothing", std::io::Error::other("no")));
        fresh.ask(refuse, |_| ()).expect_err("there is nothing yet");
        let of = |list: &Sorted<char>| list.of(2).collect::<String>();
        assert_eq!(fresh.ask(|| Ok(vec![(2, 'a')]), of).expect("read"), "a");
        // However long this thread has waited for its turn.
        let later = Instant::now() + Duration::from_secs(3600);
        fresh.0.write().expect("whole").read = Some(later);
        assert_eq!(fresh.ask(|| Ok(vec![(2, 'b')]), of).expect("fresh"), "a");
        fresh.0.write().expect("whole").read = None;
        assert_eq!(fresh.ask(|| Ok(vec![(2, 'c')]), of).expect("read"), "c");
    }
}
