//! What is in the store and who uses it, in memory. Owned by the store, behind its lock;
//! what changes here was changed on the disk before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::files::{self, Found, LayerRecord, ReferenceRecord};
use super::{Digest, Listed, Reference, StoredImage};
use crate::provisioner::gc::Candidate;
use crate::provisioner::image::ParsedConfig;

/// Uses that are no further apart are one.
const SAME_USE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Book {
    images: BTreeMap<Digest, ParsedConfig>,
    references: BTreeMap<Reference, ReferenceRecord>,
    pub layers: BTreeMap<Digest, LayerRecord>,
    /// Leases of images.
    leases: BTreeMap<Digest, usize>,
    /// Images that were asked for since something else changed.
    asked: BTreeMap<Reference, Arc<StoredImage>>,
}

impl Book {
    /// What was found, but for images that lack a layer; those names are the second.
    pub fn new(found: Found) -> (Book, Vec<Reference>) {
        let mut book = Book {
            images: found.images.into_iter().collect(),
            layers: found.layers.into_iter().collect(),
            ..Book::default()
        };
        let mut lost = Vec::new();
        for record in found.references {
            if book.is_whole(record.id) {
                book.references.insert(record.reference.clone(), record);
            } else {
                lost.push(record.reference);
            }
        }
        (book, lost)
    }

    fn is_whole(&self, id: Digest) -> bool {
        self.images
            .get(&id)
            .is_some_and(|image| image.diff_ids.iter().all(|layer| self.layers.contains_key(layer)))
    }

    /// Enters a pulled image; its layers are read from the disk. `false`: one is missing.
    pub fn enter(&mut self, store: &Path, parsed: ParsedConfig, record: ReferenceRecord) -> bool {
        self.asked.clear();
        for layer in &parsed.diff_ids {
            match files::layer(store, *layer) {
                Some(known) => self.layers.insert(*layer, known),
                None => return false,
            };
        }
        self.images.insert(record.id, parsed);
        self.references.insert(record.reference.clone(), record);
        true
    }

    /// An image by name.
    pub fn find(&mut self, store: &Path, reference: &Reference) -> Option<Arc<StoredImage>> {
        if let Some(image) = self.asked.get(reference) {
            return Some(Arc::clone(image));
        }
        let image = self.stored(store, self.references.get(reference)?)?;
        self.asked.insert(reference.clone(), Arc::clone(&image));
        Some(image)
    }

    /// An image by what it is, under one of its names; its name may mean another image by
    /// now.
    pub fn find_id(&self, store: &Path, id: Digest) -> Option<Arc<StoredImage>> {
        if let Some(record) = self.references.values().find(|record| record.id == id) {
            return self.stored(store, record);
        }
        let repository = "unnamed".to_owned();
        let reference = Reference { registry: None, repository, tag: None, digest: Some(id) };
        let record =
            ReferenceRecord { reference, id, manifest: None, used: SystemTime::UNIX_EPOCH };
        self.stored(store, &record)
    }

    fn stored(&self, store: &Path, record: &ReferenceRecord) -> Option<Arc<StoredImage>> {
        let image = self.images.get(&record.id)?;
        let mut layers: Vec<Digest> = Vec::new();
        // From the top: what is there again further down adds nothing, and what is below
        // a layer that hides all is not seen.
        for layer in image.diff_ids.iter().rev() {
            if !layers.contains(layer) {
                layers.push(*layer);
            }
            if self.layers.get(layer)?.hides {
                break;
            }
        }
        layers.reverse();
        let bytes = layers.iter().filter_map(|layer| self.layers.get(layer)).map(|l| l.bytes).sum();
        Some(Arc::new(StoredImage {
            reference: record.reference.clone(),
            id: record.id,
            manifest: record.manifest,
            config: image.config.clone(),
            layers: layers.into_iter().map(|layer| files::tree(store, layer)).collect(),
            bytes,
        }))
    }

    /// Notes a use, if the name still means this image and no use was noted just before.
    pub fn touch(&mut self, image: &StoredImage, at: SystemTime) -> bool {
        let record = self.references.get_mut(&image.reference);
        let record = record.filter(|record| record.id == image.id);
        // A clock that was set back is news as well.
        let is_news = |record: &&mut ReferenceRecord| {
            !at.duration_since(record.used).is_ok_and(|since| since < SAME_USE)
        };
        record.filter(is_news).map(|record| record.used = at).is_some()
    }

    pub fn lease(&mut self, id: Digest) {
        *self.leases.entry(id).or_default() += 1;
    }

    pub fn release(&mut self, id: Digest) {
        if let Some(count) = self.leases.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.leases.remove(&id);
            }
        }
    }

    pub fn list(&self, store: &Path) -> Vec<Listed> {
        let listed = |record: &ReferenceRecord| {
            let bytes = self.stored(store, record)?.bytes;
            Some(Listed {
                reference: record.reference.clone(),
                id: record.id,
                manifest: record.manifest,
                bytes,
                used: record.used,
                in_use: self.leases.contains_key(&record.id),
            })
        };
        self.references.values().filter_map(listed).collect()
    }

    /// All names, and the layers of their images, for `gc`.
    pub fn candidates(&self, excluded: &[Reference]) -> Vec<Candidate> {
        let candidate = |record: &ReferenceRecord| Candidate {
            reference: record.reference.clone(),
            id: record.id,
            used: record.used,
            kept: self.leases.contains_key(&record.id) || excluded.contains(&record.reference),
        };
        self.references.values().map(candidate).collect()
    }

    pub fn weights(&self) -> BTreeMap<Digest, Vec<(Digest, u64)>> {
        let weight = |layer: &Digest| (*layer, self.layers.get(layer).map_or(0, |l| l.bytes));
        let image = |(id, image): (&Digest, &ParsedConfig)| {
            (*id, image.diff_ids.iter().map(weight).collect())
        };
        self.images.iter().map(image).collect()
    }

    pub fn forget(&mut self, reference: &Reference) {
        self.asked.clear();
        self.references.remove(reference);
    }

    /// Images that no name means any more and nobody uses; they are forgotten here.
    pub fn nameless(&mut self) -> Vec<Digest> {
        let used = |id: &Digest| {
            self.leases.contains_key(id) || self.references.values().any(|r| r.id == *id)
        };
        let nameless: Vec<Digest> = self.images.keys().filter(|id| !used(id)).copied().collect();
        for id in &nameless {
            self.images.remove(id);
        }
        nameless
    }

    /// Layers that no image has, with their sizes; they are forgotten here.
    pub fn unused_layers(&mut self) -> Vec<(Digest, u64)> {
        let used = |layer: &Digest| self.images.values().any(|i| i.diff_ids.contains(layer));
        let unused: Vec<(Digest, u64)> = self
            .layers
            .iter()
            .filter(|(layer, _)| !used(layer))
            .map(|(l, r)| (*l, r.bytes))
            .collect();
        for (layer, _) in &unused {
            self.layers.remove(layer);
        }
        unused
    }

    /// The layers of an image.
    pub fn layers_of(&self, id: Digest) -> Vec<Digest> {
        self.images.get(&id).map(|image| image.diff_ids.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioner::image::ImageConfig;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn book(layers: &[(&str, bool)], images: &[(&str, &str, &[&str])]) -> (Book, Vec<Reference>) {
        let record = |hides: bool| LayerRecord { bytes: 10, hides, boot: None };
        let found = Found {
            layers: layers.iter().map(|(name, hides)| (digest(name), record(*hides))).collect(),
            images: images
                .iter()
                .map(|(_, id, layers)| {
                    let diff_ids = layers.iter().map(|layer| digest(layer)).collect();
                    (digest(id), ParsedConfig { config: ImageConfig::default(), diff_ids })
                })
                .collect(),
            references: images
                .iter()
                .map(|(name, id, _)| ReferenceRecord {
                    reference: Reference::parse(name).expect(name),
                    id: digest(id),
                    manifest: None,
                    used: SystemTime::UNIX_EPOCH,
                })
                .collect(),
        };
        Book::new(found)
    }

    #[test]
    fn only_what_is_seen_is_mounted_and_nothing_twice() {
        let layers = [("a", false), ("b", false), ("h", true)];
        let rows: [(&str, &str, &[&str]); 3] = [
            ("twice", "1", &["a", "b", "a"]),
            ("hidden", "2", &["a", "h", "b"]),
            ("broken", "3", &["a", "missing"]),
        ];
        let (mut book, lost) = book(&layers, &rows);
        assert_eq!(lost, [Reference::parse("broken").expect("a name")]);
        let mut paths = |name: &str| {
            let image = book.find(Path::new("/s"), &Reference::parse(name).expect(name));
            image.map(|image| (image.layers.clone(), image.bytes))
        };
        let tree = |name: &str| files::tree(Path::new("/s"), digest(name));
        assert_eq!(paths("twice"), Some((vec![tree("b"), tree("a")], 20)));
        assert_eq!(paths("hidden"), Some((vec![tree("h"), tree("b")], 20)));
        assert_eq!(paths("broken"), None);
    }

    #[test]
    fn an_image_is_what_its_name_means_now_and_a_use_is_noted_once_a_second() {
        let rows: [(&str, &str, &[&str]); 2] = [("x", "1", &["a"]), ("y", "2", &["b"])];
        let (mut book, _) = book(&[("a", false), ("b", false)], &rows);
        let (store, x) = (Path::new("/s"), Reference::parse("x").expect("a name"));
        let image = book.find(store, &x).expect("an image");
        assert!(Arc::ptr_eq(&image, &book.find(store, &x).expect("the same")));
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let noted = [500, 1000, 1999, 2000, 100].map(|ms| book.touch(&image, at(ms)));
        assert_eq!(noted, [false, true, false, true, true], "the last after the clock was set");
        book.forget(&x);
        assert!(book.find(store, &x).is_none());
        assert!(!book.touch(&image, at(9000)));
    }

    #[test]
    fn what_nobody_names_or_uses_is_forgotten() {
        let rows: [(&str, &str, &[&str]); 2] = [("x", "1", &["a", "b"]), ("y", "2", &["a", "c"])];
        let (mut book, _) = book(&[("a", false), ("b", false), ("c", false), ("d", false)], &rows);
        let x = Reference::parse("x").expect("a name");
        book.lease(digest("1"));
        book.lease(digest("1"));
        assert!(book.candidates(&[]).iter().any(|one| one.reference == x && one.kept));
        book.forget(&x);
        assert!(book.nameless().is_empty(), "in use");
        book.release(digest("1"));
        assert!(book.nameless().is_empty(), "still in use");
        book.release(digest("1"));
        assert_eq!(book.nameless(), [digest("1")]);
        let mut unused: Vec<Digest> = book.unused_layers().into_iter().map(|(l, _)| l).collect();
        unused.sort();
        let mut expected = [digest("b"), digest("d")];
        expected.sort();
        assert_eq!(unused, expected);
        assert_eq!(book.list(Path::new("/s")).len(), 1);
    }
}
