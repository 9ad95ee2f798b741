//! What is in the cache and what has to go. Pure: names and sizes, no files.

use std::collections::BTreeMap;

use crate::fetch::message::Validators;

/// What a download is found by. Users do not share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::fetch) struct Key {
    pub user: Option<String>,
    pub uri: String,
}

/// A download that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its file's name.
    pub file: String,
    /// In bytes.
    pub size: u64,
    pub validators: Validators,
    /// Readers that have it now.
    readers: u32,
    /// The larger, the later used.
    used: u64,
}

/// A file that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removed {
    pub key: Key,
    pub file: String,
}

/// There is no room, even without everything that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub wanted: u64,
    pub capacity: u64,
}

/// Space that a download has been promised, in bytes.
#[derive(Debug, Default)]
pub(super) struct Reservation(u64);

/// The books.
#[derive(Debug)]
pub(super) struct Book {
    capacity: u64,
    /// By entries and reservations.
    used: u64,
    clock: u64,
    entries: BTreeMap<Key, Entry>,
}

impl Book {
    pub fn new(capacity: u64) -> Book {
        Book { capacity, used: 0, clock: 0, entries: BTreeMap::new() }
    }

    /// Bytes used or promised.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Takes the entry into use; release it.
    pub fn hold(&mut self, key: &Key) -> Option<Entry> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.readers += 1;
        entry.used = self.clock;
        Some(entry.clone())
    }

    /// A reader is done with `file`; nothing if that was replaced meanwhile.
    pub fn release(&mut self, key: &Key, file: &str) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.file == file) {
            entry.readers = entry.readers.saturating_sub(1);
        }
    }

    /// Grows a reservation to `bytes`; what has to go for it, least recently used first.
    ///
    /// # Errors
    /// It does not fit; the reservation is as before, and nothing goes.
    pub fn reserve(
        &mut self,
        reservation: &mut Reservation,
        bytes: u64,
    ) -> Result<Vec<Removed>, Full> {
        let more = bytes.saturating_sub(reservation.0);
        let full = Full { wanted: bytes, capacity: self.capacity };
        let mut missing = (self.used.saturating_add(more)).saturating_sub(self.capacity);
        let mut idle: Vec<(&Key, &Entry)> =
            self.entries.iter().filter(|(_, entry)| entry.readers == 0).collect();
        idle.sort_by_key(|(_, entry)| entry.used);
        let mut going = Vec::new();
        for (key, entry) in idle {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(entry.size);
            going.push(Removed { key: key.clone(), file: entry.file.clone() });
        }
        if missing > 0 {
            return Err(full);
        }
        for removed in &going {
            self.remove(&removed.key);
        }
        self.used += more;
        reservation.0 += more;
        Ok(going)
    }

    /// Gives a reservation back.
    pub fn cancel(&mut self, reservation: &mut Reservation) {
        self.used = self.used.saturating_sub(std::mem::take(&mut reservation.0));
    }

    /// Enters a download; the file that it replaces goes. Its reservation must be
    /// given back before.
    pub fn enter(
        &mut self,
        key: Key,
        file: String,
        size: u64,
        validators: Validators,
    ) -> Option<Removed> {
        let old = self.remove(&key);
        self.clock += 1;
        self.used += size;
        let entry = Entry { file, size, validators, readers: 0, used: self.clock };
        self.entries.insert(key, entry);
        old
    }

    /// Strikes an entry out; its file goes.
    pub fn remove(&mut self, key: &Key) -> Option<Removed> {
        let entry = self.entries.remove(key)?;
        self.used = self.used.saturating_sub(entry.size);
        Some(Removed { key: key.clone(), file: entry.file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uri: &str) -> Key {
        Key { user: None, uri: uri.into() }
    }

    fn enter(book: &mut Book, uri: &str, size: u64) {
        let mut reservation = Reservation::default();
        book.reserve(&mut reservation, size).unwrap();
        book.cancel(&mut reservation);
        assert_eq!(book.enter(key(uri), format!("c-{uri}"), size, Validators::default()), None);
    }

    fn names(removed: Vec<Removed>) -> Vec<String> {
        removed.into_iter().map(|removed| removed.key.uri).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut book = Book::new(100);
        for uri in ["a", "b", "c"] {
            enter(&mut book, uri, 30);
        }
        book.hold(&key("a")).unwrap();
        book.release(&key("a"), "c-a");
        let mut reservation = Reservation::default();
        assert_eq!(names(book.reserve(&mut reservation, 10).unwrap()), Vec::<String>::new());
        assert_eq!(names(book.reserve(&mut reservation, 50).unwrap()), ["b", "c"]);
        assert_eq!(book.used(), 80);
        book.cancel(&mut reservation);
        assert_eq!(book.used(), 30);
    }

    #[test]
    fn what_is_read_stays() {
        let mut book = Book::new(100);
        enter(&mut book, "a", 60);
        enter(&mut book, "b", 40);
        let held = book.hold(&key("a")).unwrap();
        let mut reservation = Reservation::default();
        let full = Full { wanted: 50, capacity: 100 };
        assert_eq!(book.reserve(&mut reservation, 50), Err(full));
        assert_eq!(book.used(), 100, "a refusal changes nothing");
        book.release(&key("a"), &held.file);
        assert_eq!(names(book.reserve(&mut reservation, 50).unwrap()), ["b", "a"]);
        assert!(book.reserve(&mut reservation, 101).is_err());
    }

    #[test]
    fn replacing_an_entry_does_not_confuse_its_readers() {
        let mut book = Book::new(100);
        enter(&mut book, "a", 60);
        let old = book.hold(&key("a")).unwrap();
        let removed = book.enter(key("a"), "c-new".into(), 70, Validators::default());
        assert_eq!(removed.map(|removed| removed.file).as_deref(), Some("c-a"));
        assert_eq!(book.used(), 70);
        let new = book.hold(&key("a")).unwrap();
        book.release(&key("a"), &old.file);
        let mut reservation = Reservation::default();
        assert!(book.reserve(&mut reservation, 60).is_err(), "the new one is still read");
        book.release(&key("a"), &new.file);
        assert!(book.reserve(&mut reservation, 60).is_ok());
    }

    #[test]
    fn users_are_apart_and_nothing_fits_into_no_cache() {
        let mut book = Book::new(0);
        assert!(book.reserve(&mut Reservation::default(), 1).is_err());
        assert!(book.reserve(&mut Reservation::default(), 0).is_ok());
        let of = |user: &str| Key { user: Some(user.into()), uri: "a".into() };
        book.enter(of("x"), "c1-a".into(), 0, Validators::default());
        assert!(book.hold(&of("y")).is_none() && book.hold(&key("a")).is_none());
    }
}
