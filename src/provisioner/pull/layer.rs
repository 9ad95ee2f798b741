//! One layer: decompressed, hashed and unpacked while it comes.
//!
//! Two threads: one reads and decompresses, the other hashes and writes. Nothing of the
//! archive is trusted: paths stay below the layer ([`kernel::beneath::layer`]), content
//! and entries are counted, and what is no part of an image's files is refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use kernel::beneath::BeneathError;
use kernel::beneath::layer::{Attributes, Layer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::tar::{Entry, Kind, Reader};
use crate::fetch::Frames;
use crate::provisioner::reference::Digest;

/// Most files, links and directories of a layer.
const MOST_ENTRIES: u64 = 2_000_000;
/// How much larger than its archive a layer may be: a factor, and bytes that are always
/// fine. Honest ones have a factor of 3, an archive of zeros one of 1,000.
const LARGEST_RATIO: u64 = 100;
const ALWAYS: u64 = 256 << 20;
/// Bytes that go from one thread to the other at a time, and how many such pieces wait.
const PIECE: usize = 128 << 10;
const PIECES: usize = 16;
/// Prefix of names that say what is gone, and the name that says that all is.
const GONE: &[u8] = b".wh.";
const ALL_GONE: &[u8] = b".wh..wh..opq";

/// Why a layer is not unpacked.
#[derive(Debug, Error)]
pub(super) enum LayerError {
    #[error("failed to read it")]
    Read { source: io::Error },
    #[error("'{}' in it is refused: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    #[error("'{}' in it would leave the image", path.display())]
    Escapes { path: PathBuf },
    #[error("failed to write '{}'", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("it is larger than {limit} bytes, which is {why}")]
    TooLarge { limit: u64, why: &'static str },
    #[error("it has more than {MOST_ENTRIES} entries")]
    TooMany,
    #[error("its content is {found}, not {wanted} as the configuration of the image says")]
    Content { wanted: Digest, found: Digest },
}

/// What a layer turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    /// Sum of its files in bytes.
    pub bytes: u64,
    /// It hides all layers below it.
    pub hides: bool,
}

/// What a layer may weigh.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    /// Bytes left for all layers of the image (`--docker_image_size_limit`).
    pub image: &'a AtomicU64,
    /// Size of the archive in bytes.
    pub archive: u64,
}

impl Budget<'_> {
    /// Takes `bytes`, of `before` for this layer.
    fn take(&self, before: u64, bytes: u64) -> Result<u64, LayerError> {
        let limit = self.archive.saturating_mul(LARGEST_RATIO).saturating_add(ALWAYS);
        let after = before.saturating_add(bytes);
        if after > limit {
            let why = "too much for the size of its archive";
            return Err(LayerError::TooLarge { limit, why });
        }
        let left = self.image.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        match left {
            Ok(_) => Ok(after),
            Err(_) => Err(LayerError::TooLarge {
                limit: before + self.image.load(Relaxed),
                why: "what is left for it (--docker_image_size_limit)",
            }),
        }
    }
}

/// Unpacks what `source` gives into the empty directory `into`, and checks that it is
/// `wanted`.
///
/// # Errors
/// [`LayerError`]; what was unpacked is left for the caller to remove.
pub(super) fn apply(
    source: &mut (dyn Read + Send),
    into: &Path,
    wanted: Digest,
    budget: &Budget<'_>,
) -> Result<Applied, LayerError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(PIECES);
        let (used, free) = channel();
        scope.spawn(move || decompress(source, &sender, &free));
        let mut reader = Reader::new(Pieces::new(receiver, used));
        let applied = Writer::open(into)?.unpack(&mut reader, budget)?;
        // What follows the archive counts for the digest.
        let mut pieces = reader.into_inner();
        io::copy(&mut pieces, &mut io::sink()).map_err(|source| LayerError::Read { source })?;
        let found = Digest::new(pieces.hash.finalize().into());
        if found != wanted {
            return Err(LayerError::Content { wanted, found });
        }
        Ok(applied)
    })
}

type Piece = io::Result<Vec<u8>>;

/// Decompresses by what the content begins with, until nobody wants more.
fn decompress(
    source: &mut (dyn Read + Send),
    pieces: &SyncSender<Piece>,
    free: &Receiver<Vec<u8>>,
) {
    let result = opened(source).and_then(|mut content| {
        loop {
            let mut piece = free.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let mut have = 0;
            while have < piece.len() {
                match content.read(&mut piece[have..]) {
                    Ok(0) => break,
                    Ok(count) => have += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            piece.truncate(have);
            let done = have == 0;
            if done || pieces.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    });
    if let Err(error) = result {
        let _ = pieces.send(Err(error));
    }
}

/// The content behind whatever compression there is.
pub(super) fn opened<'a>(source: &'a mut (dyn Read + Send)) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    (&mut *source).take(4).read_to_end(&mut magic)?;
    let gzip = magic.starts_with(&[0x1f, 0x8b]);
    let zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let all = BufReader::with_capacity(PIECE, Cursor::new(magic).chain(source));
    Ok(if gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(all))
    } else if zstd {
        Box::new(Frames::new(all))
    } else {
        Box::new(all)
    })
}

/// The pieces of the other thread, hashed as they are read.
struct Pieces {
    receiver: Receiver<Piece>,
    /// Where pieces go back to, to be filled again.
    used: Sender<Vec<u8>>,
    piece: Cursor<Vec<u8>>,
    hash: Sha256,
}

impl Pieces {
    fn new(receiver: Receiver<Piece>, used: Sender<Vec<u8>>) -> Pieces {
        Pieces { receiver, used, piece: Cursor::default(), hash: Sha256::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.fill_buf()?.is_empty() {
            match self.receiver.recv() {
                Ok(piece) => {
                    let old = std::mem::replace(&mut self.piece, Cursor::new(piece?));
                    let _ = self.used.send(old.into_inner());
                }
                Err(_) => return Ok(0),
            }
            self.hash.update(self.piece.get_ref());
        }
        self.piece.read(buffer)
    }
}

/// Writes the entries of one layer.
struct Writer {
    layer: Layer,
    bytes: u64,
    hides: bool,
    buffer: Vec<u8>,
}

impl Writer {
    fn open(into: &Path) -> Result<Writer, LayerError> {
        let layer = Layer::open(into).map_err(failed(into))?;
        Ok(Writer { layer, bytes: 0, hides: false, buffer: vec![0; PIECE] })
    }

    fn unpack(
        mut self,
        reader: &mut Reader<Pieces>,
        budget: &Budget<'_>,
    ) -> Result<Applied, LayerError> {
        let mut entries = 0;
        while let Some(mut entry) = reader.next().map_err(|source| LayerError::Read { source })? {
            entries += 1;
            if entries > MOST_ENTRIES {
                return Err(LayerError::TooMany);
            }
            let path = tamed(&entry.path)?;
            entry.xattrs = kept(&path, std::mem::take(&mut entry.xattrs))?;
            self.entry(&path, &entry, reader, budget)?;
        }
        self.layer.finish().map_err(failed(Path::new(".")))?;
        Ok(Applied { bytes: self.bytes, hides: self.hides })
    }

    fn entry(
        &mut self,
        path: &Path,
        entry: &Entry,
        reader: &mut Reader<Pieces>,
        budget: &Budget<'_>,
    ) -> Result<(), LayerError> {
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        if let Some(gone) = name.strip_prefix(GONE) {
            return self.gone(path, name, gone);
        }
        let with = Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            time: entry.time,
            xattrs: &entry.xattrs,
        };
        match entry.kind {
            Kind::Directory => self.layer.directory(path, &with).map_err(failed(path)),
            _ if name.is_empty() => {
                Err(refused(path, "the image's own directory must be a directory"))
            }
            Kind::File => {
                self.bytes = budget.take(self.bytes, entry.size)?;
                let mut file = self.layer.file(path).map_err(failed(path))?;
                self.content(path, entry, &mut file, reader)?;
                self.layer.finish_file(path, &file, &with).map_err(failed(path))
            }
            Kind::Symlink if entry.target.as_os_str().is_empty() => {
                Err(refused(path, "it is a link to nothing"))
            }
            Kind::Symlink => self.layer.symlink(path, &entry.target, &with).map_err(failed(path)),
            Kind::HardLink => {
                let target = tamed(&entry.target)?;
                let linked = self.layer.hard_link(path, &target);
                linked.map_err(|error| link_failed(path, &entry.target, error))
            }
            Kind::Pipe => self.layer.pipe(path, &with).map_err(failed(path)),
            // As overlay writes it down, and some who pack what overlay has.
            Kind::Device { major: 0, minor: 0, block: false } => {
                self.layer.whiteout(path).map_err(failed(path))
            }
            // Each container gets a /dev of its own.
            Kind::Device { .. } if path.starts_with("dev") => Ok(()),
            Kind::Device { major, minor, .. } => {
                Err(refused(path, &format!("it is a device ({major}:{minor}) outside of /dev")))
            }
        }
    }

    /// A name that says that others are gone.
    fn gone(&mut self, path: &Path, name: &[u8], gone: &[u8]) -> Result<(), LayerError> {
        let dir = path.parent().unwrap_or(Path::new(""));
        if name == ALL_GONE {
            if dir.as_os_str().is_empty() {
                self.hides = true;
                return Ok(());
            }
            return self.layer.opaque(dir).map_err(failed(path));
        }
        // Notes that AUFS made for itself.
        if gone.starts_with(GONE) {
            return Ok(());
        }
        if matches!(gone, b"" | b"." | b"..") {
            return Err(refused(path, "it says that nothing is gone"));
        }
        let target = dir.join(std::ffi::OsStr::from_bytes(gone));
        self.layer.whiteout(&target).map_err(failed(path))
    }

    /// Copies the content of a file; zeros become holes.
    fn content(
        &mut self,
        path: &Path,
        entry: &Entry,
        file: &mut File,
        reader: &mut Reader<Pieces>,
    ) -> Result<(), LayerError> {
        let write = |source| LayerError::Write { path: path.to_owned(), source };
        let whole = [(0, entry.size)];
        let pieces = entry.pieces.as_deref().unwrap_or(&whole);
        let (mut end, mut hole) = (0, false);
        for (offset, length) in pieces {
            if *offset != end {
                file.seek(SeekFrom::Start(*offset)).map_err(write)?;
            }
            let mut left = *length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let piece = reader.read(&mut self.buffer[..most]);
                let count = match piece.map_err(|source| LayerError::Read { source })? {
                    0 => {
                        return Err(LayerError::Read {
                            source: io::ErrorKind::UnexpectedEof.into(),
                        });
                    }
                    count => count,
                };
                let piece = &self.buffer[..count];
                hole = count >= 4096 && piece.iter().all(|byte| *byte == 0);
                if hole {
                    file.seek(SeekFrom::Current(count as i64)).map_err(write)?;
                } else {
                    file.write_all(piece).map_err(write)?;
                }
                left -= count as u64;
            }
            end = offset + length;
        }
        if hole || end < entry.size {
            file.set_len(entry.size).map_err(write)?;
        }
        Ok(())
    }
}

fn refused(path: &Path, why: &str) -> LayerError {
    LayerError::Refused { path: path.to_owned(), why: why.to_owned() }
}

/// The path below the layer; a leading `/` or `./` says nothing.
fn tamed(path: &Path) -> Result<PathBuf, LayerError> {
    let mut tamed = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => tamed.push(part),
            _ => return Err(LayerError::Escapes { path: path.to_owned() }),
        }
    }
    Ok(tamed)
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The extended attributes that are an image's: capabilities of programs and those of
/// users. Labels of security modules are the machine's, and what overlay reads into its
/// own would let a layer show what is not in it.
fn kept(path: &Path, xattrs: Xattrs) -> Result<Xattrs, LayerError> {
    let overlay =
        |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    if let Some((name, _)) = xattrs.iter().find(|(name, _)| overlay(name)) {
        let name = String::from_utf8_lossy(name);
        return Err(refused(
            path,
            &format!("it has the attribute '{name}', which is overlay's own"),
        ));
    }
    let ours = |name: &[u8]| name == b"security.capability" || name.starts_with(b"user.");
    Ok(xattrs.into_iter().filter(|(name, _)| ours(name)).collect())
}

fn failed(path: &Path) -> impl Fn(BeneathError) -> LayerError {
    let path = path.to_owned();
    move |error| match error {
        BeneathError::Open { source, .. } => LayerError::Write { path: path.clone(), source },
        BeneathError::Escapes { .. } | BeneathError::NotFound { .. } => {
            LayerError::Escapes { path: path.clone() }
        }
    }
}

/// What a hard link leads to may be missing.
fn link_failed(path: &Path, target: &Path, error: BeneathError) -> LayerError {
    match error {
        BeneathError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let target = target.display();
            refused(path, &format!("it is a hard link to '{target}', which is not in this layer"))
        }
        error => failed(path)(error),
    }
}

#[cfg(test)]
mod tests;
