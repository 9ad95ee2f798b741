//! Room that is ours already: files that become checkpoints when the disk is full.
//!
//! Each is allocated, so that writing into it needs no block, and exists, so that
//! renaming it into place needs no inode. Space that was merely given back would be
//! taken by whoever filled the disk. Only what is owed may use it
//! ([`super::Record::is_owed`]). The storage task makes and takes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::files::StorageError;

/// Bytes of each file: no larger checkpoint can be rescued.
pub(super) const SLOT: u64 = 16 * 1024;
/// How many there are on a disk that is large enough.
const SLOTS: u64 = 256;
/// The share of the file system that they may take, as a divisor.
const SHARE: u64 = 100;

/// How many files a file system of `total` bytes gets.
pub(super) fn slots(total: u64) -> u64 {
    (total / SHARE / SLOT).clamp(4, SLOTS)
}

/// How many are left.
pub(super) fn left(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.flatten().count() as u64)
}

/// Makes what is missing, as far as there is plenty of room. What fails is tried
/// again at the next call.
pub(super) fn refill(dir: &Path) -> Result<(), StorageError> {
    fs::create_dir_all(dir)
        .map_err(|source| StorageError::CreateDir { path: dir.to_owned(), source })?;
    let failed = |source| StorageError::Write { path: dir.to_owned(), source };
    let space = kernel::machine::space(dir).map_err(failed)?;
    let wanted = slots(space.total);
    let missing = wanted.saturating_sub(left(dir));
    if missing == 0 || space.available < missing * SLOT * 2 {
        return Ok(());
    }
    for number in 0..wanted {
        let path = dir.join(number.to_string());
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = match made {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(source) => return Err(failed(source)),
        };
        if let Err(source) = allocate(&file) {
            let _ = fs::remove_file(&path);
            return Err(failed(source));
        }
    }
    Ok(())
}

fn allocate(mut file: &File) -> io::Result<()> {
    match kernel::machine::allocate(file, SLOT) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            file.write_all(&vec![0; usize::try_from(SLOT).unwrap_or(0)])
        }
        other => other,
    }
}

/// Makes `path` hold `bytes` out of a file of the reserve; `None` if none is left or
/// all are too small.
pub(super) fn use_for(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<Option<File>> {
    if bytes.len() as u64 > SLOT {
        return Ok(None);
    }
    let Some(slot) = any(dir) else { return Ok(None) };
    let mut file = OpenOptions::new().write(true).open(&slot)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    fs::rename(&slot, path)?;
    Ok(Some(file))
}

fn any(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().next().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn small_disks_give_little() {
        for (total, count) in [(0, 4), (8 << 20, 5), (1 << 30, 256), (1 << 40, 256)] {
            assert_eq!(slots(total), count, "{total}");
        }
    }

    #[test]
    fn files_are_made_used_and_made_again() {
        let dir = std::env::temp_dir().join(format!("reserve-{}", std::process::id()));
        let reserve = dir.join("reserve");
        refill(&reserve).unwrap();
        let full = left(&reserve);
        assert!(full >= 4);
        for entry in fs::read_dir(&reserve).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().blocks() * 512 >= SLOT);
        }
        let target = dir.join("checkpoint");
        fs::write(&target, "old").unwrap();
        assert!(use_for(&reserve, &target, b"new!").unwrap().is_some());
        assert_eq!(fs::read(&target).unwrap(), b"new!");
        assert_eq!(left(&reserve), full - 1);
        let large = vec![0; SLOT as usize + 1];
        assert!(use_for(&reserve, &target, &large).unwrap().is_none());
        refill(&reserve).unwrap();
        assert_eq!(left(&reserve), full);
        fs::remove_dir_all(dir).unwrap();
    }
}
