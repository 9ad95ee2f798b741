//! Lists of the kernel that are read once for all containers of a sampling pass.

use std::time::{Duration, Instant};

/// One reading serves all containers of a pass.
const FRESH: Duration = Duration::from_millis(250);

/// Values by interface: one list is cheaper to make than a tree, and as quick to ask.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    read: Option<Instant>,
    all: Vec<(u32, T)>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Sorted<T> {
        Sorted { read: None, all: Vec::new() }
    }
}

impl<T> Sorted<T> {
    /// Reads again what is not fresh any more.
    ///
    /// # Errors
    /// As `read`; what was there stays.
    pub(super) fn renew(
        &mut self,
        read: impl FnOnce() -> Result<Vec<(u32, T)>, kernel::Error>,
    ) -> Result<(), kernel::Error> {
        if self.read.is_none_or(|read| read.elapsed() >= FRESH) {
            self.all = read()?;
            // What one interface has keeps its order.
            self.all.sort_by_key(|(index, _)| *index);
            self.read = Some(Instant::now());
        }
        Ok(())
    }

    /// What the interface with this index has.
    pub(super) fn of(&self, index: u32) -> impl Iterator<Item = &T> {
        let first = self.all.partition_point(|(has, _)| *has < index);
        self.all[first..].iter().take_while(move |(has, _)| *has == index).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_interface_and_read_once() {
        let mut sorted = Sorted::default();
        assert_eq!(sorted.of(1).count(), 0);
        sorted.renew(|| Ok(vec![(7, 'a'), (2, 'b'), (7, 'c')])).expect("read");
        sorted.renew(|| Ok(Vec::new())).expect("fresh");
        assert_eq!(sorted.of(7).collect::<String>(), "ac");
        assert_eq!(sorted.of(2).collect::<String>(), "b");
        assert_eq!((sorted.of(1).count(), sorted.of(8).count()), (0, 0));
    }
}
