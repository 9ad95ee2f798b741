//! Open-file-description locks: held by the open file, whoever inherits it,
//! until its last descriptor is gone.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the write lock on the whole file without waiting; `false` if another
/// open file holds it.
///
/// # Errors
/// As `fcntl(F_OFD_SETLK)`.
pub fn try_lock(file: &File) -> io::Result<bool> {
    let lock = whole_file();
    // SAFETY: `lock` lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        e => Err(e),
    }
}

/// Whether another open file holds a lock.
///
/// # Errors
/// As `fcntl(F_OFD_GETLK)`.
pub fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    // SAFETY: `lock` lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_open_file_at_a_time_and_duplicates_keep_it() {
        let path = std::env::temp_dir().join(format!("bulkhead-lock-{}", std::process::id()));
        let first = File::create(&path).expect("create");
        let second = File::options().write(true).open(&path).expect("open");
        assert!(try_lock(&first).expect("lock"));
        assert!(try_lock(&first).expect("again"));
        assert!(!try_lock(&second).expect("refused"));
        let copy = first.try_clone().expect("dup");
        drop(first);
        assert!(is_locked(&second).expect("query"));
        drop(copy);
        assert!(!is_locked(&second).expect("query"));
        fs::remove_file(&path).expect("remove");
    }
}
