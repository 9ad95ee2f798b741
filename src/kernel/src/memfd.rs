//! Sealed anonymous files: bytes that nobody can change any more.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Error;

const SEALS: libc::c_int =
    libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
/// `MFD_EXEC` (6.3): asks for an executable file where the default is not.
const MFD_EXEC: libc::c_uint = 0x10;

/// A sealed file with `bytes`, close-on-exec.
///
/// # Errors
/// If the file cannot be made, filled or sealed.
pub fn sealed(name: &CStr, bytes: &[u8]) -> Result<OwnedFd, Error> {
    make(name, bytes, 0)
}

/// A sealed file that can be executed, where `vm.memfd_noexec` permits.
///
/// # Errors
/// If the file cannot be made, filled or sealed.
pub fn executable(name: &CStr, bytes: &[u8]) -> Result<OwnedFd, Error> {
    match make(name, bytes, MFD_EXEC) {
        // Before 6.3 the flag is unknown and every memfd is executable.
        Err(error) if error.errno() == Some(libc::EINVAL) => make(name, bytes, 0),
        other => other,
    }
}

/// A file with `bytes` that can be written to, close-on-exec.
///
/// # Errors
/// If the file cannot be made or filled.
pub fn writable(name: &CStr, bytes: &[u8]) -> Result<OwnedFd, Error> {
    Ok(filled(name, bytes, 0)?.into())
}

fn make(name: &CStr, bytes: &[u8], flags: libc::c_uint) -> Result<OwnedFd, Error> {
    let file = filled(name, bytes, flags | libc::MFD_ALLOW_SEALING)?;
    // SAFETY: plain fcntl on an open descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
        let name = name.to_string_lossy();
        return Err(Error::new("seal the memory file", name, io::Error::last_os_error()));
    }
    Ok(file.into())
}

fn filled(name: &CStr, bytes: &[u8], flags: libc::c_uint) -> Result<File, Error> {
    let flags = flags | libc::MFD_CLOEXEC;
    let object = || name.to_string_lossy().into_owned();
    // SAFETY: `name` is a C string; the call keeps no pointer.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(Error::last("create the memory file", object()));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).map_err(|e| Error::new("write the memory file", object(), e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::io::Seek;

    #[test]
    fn a_sealed_file_can_be_read_but_not_written() {
        let mut file = File::from(sealed(c"test", b"hello").expect("memfd"));
        let mut text = String::new();
        file.rewind().expect("rewind");
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "hello");
        assert_eq!(file.write(b"x").expect_err("sealed").raw_os_error(), Some(libc::EPERM));
        assert_eq!(file.set_len(0).expect_err("sealed").raw_os_error(), Some(libc::EPERM));
    }
}
