//! Zip archives: stored and deflated entries.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::UnpackError;
use super::writer::Writer;

/// Longest target of a symbolic link, in bytes: the kernel's.
const LONGEST_LINK: u64 = 4095;

pub(super) fn unpack(file: File, writer: &mut Writer<'_>) -> Result<(), UnpackError> {
    let archive = ZipArchive::new(BufReader::new(file));
    let mut archive = archive.map_err(|error| UnpackError::Read(system(error)))?;
    for index in 0..archive.len() {
        one(&mut archive, index, writer)?;
    }
    Ok(())
}

fn one(
    archive: &mut ZipArchive<BufReader<File>>,
    index: usize,
    writer: &mut Writer<'_>,
) -> Result<(), UnpackError> {
    let raw = archive.by_index_raw(index).map_err(|error| UnpackError::Read(system(error)))?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(raw.name_raw()));
    if raw.encrypted() {
        return Err(UnpackError::Encrypted { path });
    }
    drop(raw);
    let bad = |source| UnpackError::Entry { path: path.clone(), source };
    let mut entry = archive.by_index(index).map_err(|error| bad(system(error)))?;
    let mode = entry.unix_mode();
    if entry.is_dir() {
        // Archives of other systems say nothing, or no permission at all.
        return writer.directory(&path, mode.filter(|mode| mode & 0o777 != 0).unwrap_or(0o755));
    }
    if entry.is_symlink() {
        let mut target = Vec::new();
        entry.by_ref().take(LONGEST_LINK).read_to_end(&mut target).map_err(bad)?;
        return writer.symlink(&path, Path::new(std::ffi::OsStr::from_bytes(&target)));
    }
    let mode = mode.filter(|mode| mode & 0o777 != 0).unwrap_or(0o644);
    writer.file(&path, mode, None, &mut entry)
}

fn system(error: ZipError) -> io::Error {
    match error {
        ZipError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
