//! Extended attributes of open files.

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Largest list of names, and largest value, that the kernel gives, in bytes.
const LARGEST: usize = 64 * 1024;

/// Names of all attributes; none where the file system has no such thing.
///
/// # Errors
/// As `flistxattr`.
pub fn list(file: &impl AsFd) -> io::Result<Vec<String>> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: an open descriptor and no buffer.
    let size = unsafe { libc::flistxattr(fd, std::ptr::null_mut(), 0) };
    if size == 0 || (size < 0 && none()) {
        return Ok(Vec::new());
    }
    let mut buffer = vec![0u8; LARGEST];
    // SAFETY: an open descriptor and a buffer of that length.
    let size = unsafe { libc::flistxattr(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(usize::try_from(size).map_err(|_| io::Error::last_os_error())?);
    let names = buffer.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The value of an attribute; `None` if the file has no such attribute.
///
/// # Errors
/// As `fgetxattr`.
pub fn get(file: &impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let (fd, name) = (file.as_fd().as_raw_fd(), CString::new(name)?);
    let mut buffer = vec![0u8; LARGEST];
    let place: *mut c_void = buffer.as_mut_ptr().cast();
    // SAFETY: an open descriptor, a string, and a buffer of that length.
    let size = unsafe { libc::fgetxattr(fd, name.as_ptr(), place, buffer.len()) };
    if size < 0 {
        return if none() { Ok(None) } else { Err(io::Error::last_os_error()) };
    }
    buffer.truncate(size.unsigned_abs());
    Ok(Some(buffer))
}

/// Sets an attribute.
///
/// # Errors
/// As `fsetxattr`.
pub fn set(file: &impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    let (fd, name) = (file.as_fd().as_raw_fd(), CString::new(name)?);
    let from: *const c_void = value.as_ptr().cast();
    // SAFETY: an open descriptor, a string, and a value of that length.
    match unsafe { libc::fsetxattr(fd, name.as_ptr(), from, value.len(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the last call found no such attribute, or no such thing at all.
fn none() -> bool {
    let error = io::Error::last_os_error().raw_os_error();
    matches!(error, Some(libc::ENODATA | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read() {
        let path = std::env::temp_dir().join(format!("xattr-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(get(&file, "user.absent").unwrap(), None);
        // Not every file system takes attributes of users.
        if set(&file, "user.colour", b"blue").is_ok() {
            assert_eq!(get(&file, "user.colour").unwrap().as_deref(), Some(&b"blue"[..]));
            assert!(list(&file).unwrap().contains(&"user.colour".to_owned()));
        }
        std::fs::remove_file(&path).unwrap();
    }
}
