//! Tar archives: ustar, GNU and pax.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{Archive, Entry, EntryType};

use super::UnpackError;
use super::writer::Writer;

pub(super) fn unpack(reader: impl Read, writer: &mut Writer<'_>) -> Result<(), UnpackError> {
    let mut archive = Archive::new(reader);
    for entry in archive.entries().map_err(UnpackError::Read)? {
        one(entry.map_err(UnpackError::Read)?, writer)?;
    }
    // What follows the last block belongs to nobody, but a broken checksum of the
    // compression is only found at its end.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(UnpackError::Read)?;
    Ok(())
}

fn one(mut entry: Entry<'_, impl Read>, writer: &mut Writer<'_>) -> Result<(), UnpackError> {
    let path = entry.path().map_err(UnpackError::Read)?.into_owned();
    let bad = |source| UnpackError::Entry { path: path.clone(), source };
    let header = entry.header();
    let mode = header.mode().map_err(bad)?;
    let time = header
        .mtime()
        .ok()
        .and_then(|secs| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs)));
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
            // Before POSIX a directory was a file with a slash at the end.
            if path.as_os_str().as_encoded_bytes().ends_with(b"/") =>
        {
            writer.directory(&path, mode)
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            writer.file(&path, mode, time, &mut entry)
        }
        EntryType::Directory => writer.directory(&path, mode),
        EntryType::Symlink => writer.symlink(&path, &target(&entry, &path)?),
        EntryType::Link => writer.hard_link(&path, &target(&entry, &path)?),
        EntryType::Char | EntryType::Block => writer.leave_out(&path, "a device"),
        EntryType::Fifo => writer.leave_out(&path, "a named pipe"),
        EntryType::XGlobalHeader => Ok(()),
        other => writer.leave_out(&path, &format!("entries of type {other:?} are not known")),
    }
}

fn target(entry: &Entry<'_, impl Read>, path: &Path) -> Result<PathBuf, UnpackError> {
    let bad = |source| UnpackError::Entry { path: path.to_owned(), source };
    let none = || bad(std::io::Error::new(std::io::ErrorKind::InvalidData, "a link to nothing"));
    Ok(entry.link_name().map_err(bad)?.ok_or_else(none)?.into_owned())
}
