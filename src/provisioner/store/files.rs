//! What the store keeps on its disk.
//!
//! ```text
//! <docker_store_dir>
//!   lock                     held by the agent that uses the store
//!   images/<id>              configurations as they came, by their digest
//!   references/<hash>.json   a name, the image it means; its time is that of the last use
//!   layers/<diff id>/rootfs  a layer, unpacked, as overlay reads it
//!   layers/<diff id>/layer.json
//!   locks/<diff id>          held by the pull that unpacks the layer
//!   staging/<pull>/          what is not whole; swept when the agent starts
//! ```
//!
//! Everything is renamed into its place when it is whole, so a process may die at any
//! point. What a machine that loses power had not written yet is known by the boot that
//! a layer's record names until the layer is on the disk (`flush`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use kernel::boot::BootId;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::provisioner::image::{ImageConfig, ParsedConfig};
use crate::provisioner::reference::{Digest, Reference};

/// Directory of a layer's files, and its record beside.
pub(in crate::provisioner) const TREE: &str = "rootfs";
const RECORD: &str = "layer.json";
/// Where a pull leaves the configuration.
pub(in crate::provisioner) const CONFIG: &str = "config";

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::provisioner) struct LayerRecord {
    /// Sum of its files in bytes.
    pub bytes: u64,
    /// It hides all layers below it.
    pub hides: bool,
    /// The boot in which it was written, until it is on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl LayerRecord {
    /// Of a layer that was written now.
    pub fn new(bytes: u64, hides: bool) -> LayerRecord {
        LayerRecord { bytes, hides, boot: Some(boot()) }
    }

    fn is_whole(&self) -> bool {
        self.boot.as_ref().is_none_or(|written| *written == boot())
    }
}

/// This boot, in text; empty if the system does not say.
fn boot() -> String {
    BootId::read().map(|id| format!("{:032x}", u128::from_be_bytes(id.0))).unwrap_or_default()
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReferenceRecord {
    pub reference: Reference,
    pub id: Digest,
    pub manifest: Option<Digest>,
    /// When the image was used last.
    #[serde(skip, default = "SystemTime::now")]
    pub used: SystemTime,
}

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub images: Vec<(Digest, ParsedConfig)>,
    pub references: Vec<ReferenceRecord>,
    pub layers: Vec<(Digest, LayerRecord)>,
}

/// An operation on the store that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub verb: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

fn failed<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Failed + 'a {
    move |source| Failed { verb, path: path.to_owned(), source }
}

/// The lock of a layer.
pub(in crate::provisioner) fn lock(store: &Path, layer: Digest) -> PathBuf {
    store.join("locks").join(layer.hex())
}

fn layer_dir(store: &Path, layer: Digest) -> PathBuf {
    store.join("layers").join(layer.hex())
}

/// The files of a layer.
pub(super) fn tree(store: &Path, layer: Digest) -> PathBuf {
    layer_dir(store, layer).join(TREE)
}

/// What is known of a layer; `None`: it is not there, or not whole.
pub(in crate::provisioner) fn layer(store: &Path, layer: Digest) -> Option<LayerRecord> {
    let bytes = fs::read(layer_dir(store, layer).join(RECORD)).ok()?;
    let record: LayerRecord = serde_json::from_slice(&bytes).ok()?;
    record.is_whole().then_some(record)
}

/// Whether a layer is there.
pub(in crate::provisioner) fn has_layer(store: &Path, digest: Digest) -> bool {
    layer(store, digest).is_some()
}

/// Makes a staged layer count.
///
/// # Errors
/// The system's.
pub(in crate::provisioner) fn commit_layer(
    store: &Path,
    staged: &Path,
    layer: Digest,
    record: &LayerRecord,
) -> io::Result<()> {
    fs::write(staged.join(RECORD), serde_json::to_vec(record)?)?;
    match fs::rename(staged, layer_dir(store, layer)) {
        // Another one was first, or what is there is not whole: then it goes.
        Err(error) if is_taken(&error) && has_layer(store, layer) => Ok(()),
        Err(error) if is_taken(&error) => {
            fs::rename(layer_dir(store, layer), staged.with_extension("broken"))?;
            fs::rename(staged, layer_dir(store, layer))
        }
        other => other,
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// The files of one store.
#[derive(Debug)]
pub(super) struct Files {
    pub dir: PathBuf,
    serial: AtomicU64,
    _lock: File,
}

impl Files {
    /// Takes the store; `None`: another agent has it.
    pub fn open(dir: &Path) -> Result<Option<Files>, Failed> {
        use std::os::unix::fs::DirBuilderExt;
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let dir = dir.canonicalize().map_err(failed("find", dir))?;
        for part in ["images", "references", "layers", "locks", "staging"] {
            let path = dir.join(part);
            // Programs of images may run as root: nobody else may reach them here.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(failed("create", &path))?;
        }
        let path = dir.join("lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        if !kernel::lock::try_lock(&lock).map_err(failed("lock", &path))? {
            return Ok(None);
        }
        Ok(Some(Files { dir, serial: AtomicU64::new(0), _lock: lock }))
    }

    /// Removes what is not whole and reads what is.
    pub fn read(&self) -> Result<Found, Failed> {
        self.sweep("staging")?;
        self.sweep("locks")?;
        let mut found = Found::default();
        for (path, name) in self.names("layers")? {
            match Digest::from_hex(&name).and_then(|d| Some((d, layer(&self.dir, d)?))) {
                Some(known) => found.layers.push(known),
                None => {
                    warn!(layer = name, "removing a layer that is not whole");
                    remove(&path);
                }
            }
        }
        for (path, name) in self.names("images")? {
            let read = Digest::from_hex(&name).and_then(|digest| {
                let bytes = fs::read(&path).ok().filter(|bytes| Digest::of(bytes) == digest)?;
                Some((digest, ImageConfig::parse(&bytes).ok()?))
            });
            match read {
                Some(known) => found.images.push(known),
                None => {
                    warn!(image = name, "removing the configuration of an image, which is damaged");
                    remove(&path);
                }
            }
        }
        for (path, name) in self.names("references")? {
            let read = fs::read(&path).ok();
            let record: Option<ReferenceRecord> =
                read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match record.filter(|record| reference_name(&record.reference) == name) {
                Some(mut record) => {
                    let used = path.metadata().and_then(|data| data.modified());
                    record.used = used.unwrap_or(record.used);
                    found.references.push(record);
                }
                None => {
                    warn!(reference = name, "removing the name of an image, which is damaged");
                    remove(&path);
                }
            }
        }
        Ok(found)
    }

    fn names(&self, part: &str) -> Result<Vec<(PathBuf, String)>, Failed> {
        let dir = self.dir.join(part);
        let entries = fs::read_dir(&dir).map_err(failed("list", &dir))?;
        let named =
            |entry: fs::DirEntry| (entry.path(), entry.file_name().to_string_lossy().into_owned());
        Ok(entries.flatten().map(named).collect())
    }

    fn sweep(&self, part: &str) -> Result<(), Failed> {
        for (path, _) in self.names(part)? {
            remove(&path);
        }
        Ok(())
    }

    /// A new directory below `staging`.
    pub fn stage(&self) -> Result<PathBuf, Failed> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("staging").join(format!("{}-{serial}", std::process::id()));
        fs::create_dir(&path).map_err(failed("create", &path))?;
        Ok(path)
    }

    /// Makes the configuration that a pull left count.
    pub fn commit_image(&self, staging: &Path, id: Digest) -> Result<ParsedConfig, Failed> {
        let staged = staging.join(CONFIG);
        let bytes = fs::read(&staged).map_err(failed("read", &staged))?;
        let damaged = |text: &str| {
            failed("read", &staged)(io::Error::new(io::ErrorKind::InvalidData, text.to_owned()))
        };
        if Digest::of(&bytes) != id {
            return Err(damaged("its digest is another one"));
        }
        let parsed = ImageConfig::parse(&bytes).map_err(|error| damaged(&kernel::chain(&error)))?;
        let path = self.dir.join("images").join(id.hex());
        fs::rename(&staged, &path).map_err(failed("rename", &staged))?;
        Ok(parsed)
    }

    /// Makes a name mean an image.
    pub fn commit_reference(&self, staging: &Path, record: &ReferenceRecord) -> Result<(), Failed> {
        let staged = staging.join("reference");
        let bytes = serde_json::to_vec(record).map_err(|e| failed("write", &staged)(e.into()))?;
        fs::write(&staged, bytes).map_err(failed("write", &staged))?;
        fs::rename(&staged, self.reference(&record.reference)).map_err(failed("rename", &staged))
    }

    fn reference(&self, reference: &Reference) -> PathBuf {
        self.dir.join("references").join(reference_name(reference))
    }

    /// Notes that an image was used.
    pub fn touch(&self, reference: &Reference, at: SystemTime) {
        let path = self.reference(reference);
        let touched =
            File::options().write(true).open(&path).and_then(|file| file.set_modified(at));
        if let Err(error) = touched {
            // It is kept in memory all the same.
            warn!(path = %path.display(), %error, "failed to note the use of an image");
        }
    }

    /// Forgets a name.
    pub fn remove_reference(&self, reference: &Reference) -> Result<(), Failed> {
        unlink(&self.reference(reference))
    }

    /// Forgets an image.
    pub fn remove_image(&self, id: Digest) -> Result<(), Failed> {
        unlink(&self.dir.join("images").join(id.hex()))
    }

    /// All layers on the disk, and their sizes in bytes.
    pub fn layers(&self) -> Result<Vec<(Digest, u64)>, Failed> {
        let digests = self.names("layers")?.into_iter().filter_map(|(_, n)| Digest::from_hex(&n));
        let size = |digest| layer(&self.dir, digest).map_or(0, |record| record.bytes);
        Ok(digests.map(|digest| (digest, size(digest))).collect())
    }

    /// Takes a layer out of the store; it is gone, and its files are in `into`.
    pub fn take_layer(&self, layer: Digest, into: &Path) -> Result<(), Failed> {
        let path = layer_dir(&self.dir, layer);
        match fs::rename(&path, into.join(layer.hex())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("rename", &path)),
        }
    }

    /// Writes layers to the disk and says so in their records. Blocking, for long.
    pub fn flush(&self, layers: &[Digest]) -> Result<(), Failed> {
        let fresh: Vec<(Digest, LayerRecord)> = layers
            .iter()
            .filter_map(|digest| Some((*digest, layer(&self.dir, *digest)?)))
            .filter(|(_, record)| record.boot.is_some())
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        kernel::beneath::layer::flush(&self.dir).map_err(failed("flush", &self.dir))?;
        for (digest, record) in fresh {
            let path = layer_dir(&self.dir, digest).join(RECORD);
            let staged = path.with_extension("new");
            let bytes = serde_json::to_vec(&LayerRecord { boot: None, ..record });
            let bytes = bytes.map_err(|e| failed("write", &staged)(e.into()))?;
            let written = fs::write(&staged, bytes).and_then(|()| fs::rename(&staged, &path));
            match written {
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(failed("write", &path))?,
            }
        }
        Ok(())
    }
}

fn reference_name(reference: &Reference) -> String {
    format!("{}.json", Digest::of(reference.to_string().as_bytes()).hex())
}

fn unlink(path: &Path) -> Result<(), Failed> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("remove", path)),
    }
}

/// Removes a tree whatever is in it; what stays is told, and swept when the agent starts.
pub(super) fn remove(path: &Path) {
    if let Err(error) = kernel::remove::tree(path, &mut |_| true) {
        warn!(error = %kernel::chain(&error), "something is left in the image store");
    }
}
