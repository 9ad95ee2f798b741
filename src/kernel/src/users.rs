//! Users and groups by name, from the host's name service.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use crate::Error;

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

const LARGEST: usize = 1 << 20;

/// The user called `name`; `None` if there is none.
///
/// # Errors
/// If the name service fails, or the name has a NUL.
pub fn by_name(name: &str) -> Result<Option<User>, Error> {
    let text = CString::new(name).map_err(|e| Error::new("look up user", name, e.into()))?;
    lookup(name, |entry, buffer, size, result| {
        // SAFETY: `lookup` passes room for the entry and `size` bytes of buffer.
        unsafe { libc::getpwnam_r(text.as_ptr(), entry, buffer, size, result) }
    })
}

/// The user with `uid`; `None` if there is none.
///
/// # Errors
/// If the name service fails.
pub fn by_uid(uid: u32) -> Result<Option<User>, Error> {
    lookup(&uid.to_string(), |entry, buffer, size, result| {
        // SAFETY: `lookup` passes room for the entry and `size` bytes of buffer.
        unsafe { libc::getpwuid_r(uid, entry, buffer, size, result) }
    })
}

type Query<'a> = &'a dyn Fn(
    *mut libc::passwd,
    *mut libc::c_char,
    libc::size_t,
    *mut *mut libc::passwd,
) -> libc::c_int;

fn lookup(
    object: &str,
    query: impl Fn(
        *mut libc::passwd,
        *mut libc::c_char,
        libc::size_t,
        *mut *mut libc::passwd,
    ) -> libc::c_int,
) -> Result<Option<User>, Error> {
    let query: Query<'_> = &query;
    let mut buffer = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut result = ptr::null_mut();
        let errno = query(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut result);
        match errno {
            libc::ERANGE if buffer.len() < LARGEST => buffer.resize(buffer.len() * 4, 0),
            0 | libc::ENOENT | libc::ESRCH if result.is_null() => return Ok(None),
            0 => {
                // SAFETY: filled in by the query, strings inside `buffer`.
                let entry = unsafe { entry.assume_init() };
                return Ok(Some(User {
                    name: text(entry.pw_name),
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                    home: text(entry.pw_dir),
                }));
            }
            libc::EINTR => {}
            errno => {
                let source = io::Error::from_raw_os_error(errno);
                return Err(Error::new("look up user", object, source));
            }
        }
    }
}

fn text(string: *const libc::c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the name service returns C strings that live in the caller's buffer.
    unsafe { std::ffi::CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// All groups of the user, the primary one included.
///
/// # Errors
/// If the name has a NUL or the group list does not settle.
pub fn groups(user: &User) -> Result<Vec<u32>, Error> {
    let name = CString::new(user.name.as_str())
        .map_err(|e| Error::new("look up groups of", &user.name, e.into()))?;
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    // The list may grow between two calls, so try more than twice.
    for _ in 0..8 {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: `groups` has room for `count` ids.
        let found =
            unsafe { libc::getgrouplist(name.as_ptr(), user.gid, groups.as_mut_ptr(), &mut count) };
        let count = count.max(0) as usize;
        if found >= 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
    Err(Error::new("look up groups of", &user.name, io::ErrorKind::InvalidData.into()))
}

/// The id of the group called `name`; `None` if there is none.
///
/// # Errors
/// If the name service fails, or the name has a NUL.
pub fn group_by_name(name: &str) -> Result<Option<u32>, Error> {
    nix::unistd::Group::from_name(name)
        .map(|group| group.map(|group| group.gid.as_raw()))
        .map_err(|e| Error::new("look up group", name, e.into()))
}

/// Makes this process `uid`, `gid` and exactly `groups` for good: it has all of root's
/// rights before and none after, unless `uid` is 0. For processes of one thread.
///
/// # Errors
/// If the kernel refuses.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Error> {
    use nix::unistd::{Gid, Uid};
    let refused = |verb| move |e: nix::Error| Error::new(verb, uid.to_string(), e.into());
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::unistd::setgroups(&groups).map_err(refused("set the groups of user"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(refused("set the group of user"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(refused("become user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_both_ways() {
        let root = by_name("root").expect("lookup").expect("root");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(by_uid(0).expect("lookup"), Some(root.clone()));
        assert!(groups(&root).expect("groups").contains(&0));
        assert_eq!(group_by_name("root").expect("lookup"), Some(0));
    }

    #[test]
    fn nobody_is_called_like_this() {
        assert_eq!(by_name("no-such-user-here").expect("lookup"), None);
        assert_eq!(group_by_name("no-such-group-here").expect("lookup"), None);
        assert!(by_name("a\0b").is_err());
    }
}
