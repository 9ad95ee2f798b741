//! Network namespaces that are kept by a file: made before there is a process in them,
//! there as long as the file is. Some are made ahead ([`Spares`]).

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, failpoint, mounts};

/// Of the file system whose files are namespaces (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;

/// Namespaces that are ready.
const READY: usize = 2;
/// How long one stays ready: what it took over from the machine's own settings may be
/// another by then.
const PATIENCE: Duration = Duration::from_secs(600);

/// Files below `/proc/sys/net` and what is written to them in a new namespace.
pub type Settings = &'static [(&'static str, &'static str)];

/// Network namespaces made ahead of their containers, with their loopback up: making one
/// takes longer than all else of a launch that has none. This process has them open and
/// nobody else knows of them, so they go with it.
#[derive(Debug, Default)]
pub struct Spares {
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<(OwnedFd, Instant)>,
    /// Of those that are being made.
    making: usize,
}

impl Spares {
    /// None yet; all will have these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Spares {
        Spares { settings, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a network namespace of its own by a mount on the file `handle`, which is made:
    /// one that is ready, or a new one. Blocking.
    ///
    /// # Errors
    /// If the kernel refuses; the file may be left, and nothing else.
    pub fn create(&self, handle: &Path) -> Result<(), Error> {
        let object = || handle.display().to_string();
        File::create(handle).map_err(|e| Error::new("create", object(), e))?;
        failpoint!("cni.namespace_half");
        let ready = self.take(Instant::now());
        let namespace = ready.map_or_else(|| apart(|| fresh(self.settings)), Ok)?;
        bind(&format!("/proc/self/fd/{}", namespace.as_raw_fd()), handle)
    }

    /// One that is ready and not too old; those that are go.
    fn take(&self, now: Instant) -> Option<OwnedFd> {
        let mut state = self.state();
        state.ready.retain(|(_, made)| now.duration_since(*made) < PATIENCE);
        state.ready.pop().map(|(namespace, _)| namespace)
    }

    /// Makes ready what is missing, on a thread that stands back. Does not wait for it.
    pub fn fill(self: &Arc<Self>) {
        let mut state = self.state();
        if state.ready.len() + state.making >= READY {
            return;
        }
        state.making += 1;
        drop(state);
        let spares = Arc::clone(self);
        let work = move || {
            crate::sched::background();
            let made = fresh(spares.settings);
            let mut state = spares.state();
            state.making -= 1;
            // One that cannot be made is not missed until it is needed, and then told.
            state.ready.extend(made.ok().map(|namespace| (namespace, Instant::now())));
        };
        let thread = std::thread::Builder::new().name("netns-ahead".into());
        if thread.spawn(work).is_err() {
            self.state().making -= 1;
        }
    }
}

/// A new network namespace with its loopback up; the calling thread is in it.
fn fresh(settings: Settings) -> Result<OwnedFd, Error> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::new("make", "a network namespace", e.into()))?;
    up(c"lo")?;
    set(settings)?;
    let own = "/proc/thread-self/ns/net";
    File::open(own).map(OwnedFd::from).map_err(|e| Error::new("open", own, e))
}

/// Keeps the network namespace of the process `pid` by a mount on the file `handle`, which
/// is made. `settings` are files below `/proc/sys/net` and what is written to them there.
///
/// # Errors
/// If the kernel refuses; the file may be left, and what it keeps.
pub fn keep(handle: &Path, pid: u32, settings: &[(&str, &str)]) -> Result<(), Error> {
    let object = || handle.display().to_string();
    File::create(handle).map_err(|e| Error::new("create", object(), e))?;
    bind(&format!("/proc/{pid}/ns/net"), handle)?;
    match settings {
        [] => Ok(()),
        _ => inside(handle, || set(settings)),
    }
}

/// Keeps `namespace` by a mount on `handle`, which is there.
fn bind(namespace: &str, handle: &Path) -> Result<(), Error> {
    mount(Some(namespace), handle, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| {
        Error::new("keep a network namespace at", handle.display().to_string(), e.into())
    })
}

/// Writes to files below `/proc/sys/net` of this thread's namespace.
fn set(settings: &[(&str, &str)]) -> Result<(), Error> {
    for (file, value) in settings {
        let path = Path::new("/proc/sys/net").join(file);
        fs::write(&path, value).map_err(|e| Error::new("write", path.display().to_string(), e))?;
    }
    Ok(())
}

/// Whether a namespace is kept at `handle`.
#[must_use]
pub fn is_kept(handle: &Path) -> bool {
    nix::sys::statfs::statfs(handle).is_ok_and(|found| found.filesystem_type().0 == NSFS)
}

/// Lets go of the namespace at `handle`, and removes the file. It is gone when the
/// last process in it is. One that is gone already is fine.
///
/// # Errors
/// If the kernel refuses.
pub fn release(handle: &Path) -> Result<(), Error> {
    while is_kept(handle) {
        mounts::detach(handle)?;
    }
    match fs::remove_file(handle) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", handle.display().to_string(), error))
        }
        _ => Ok(()),
    }
}

/// Does `work` in the network namespace at `handle`, on a thread of its own that is
/// never used for anything else.
///
/// # Errors
/// There is no such namespace, or it may not be entered.
pub fn inside<T: Send>(
    handle: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let object = || handle.display().to_string();
    let file = File::open(handle).map_err(|e| Error::new("open", object(), e))?;
    apart(|| {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::new("enter the network namespace", object(), e.into()))?;
        work()
    })
}

/// Does `work` in a new network namespace, which ends with it.
///
/// # Errors
/// If the kernel refuses.
pub fn anew<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::new("make", "a network namespace", e.into()))?;
        work()
    })
}

/// Does `work` on a thread of its own.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".into());
        let failed = |e| Error::new("start", "a thread", e);
        let started = thread.spawn_scoped(scope, work).map_err(failed)?;
        started.join().unwrap_or_else(|_| Err(failed(io::Error::other("it was cut short"))))
    })
}

/// Brings an interface of this thread's namespace up.
///
/// # Errors
/// There is none of that name.
fn up(name: &CStr) -> Result<(), Error> {
    let failed = |verb| Error::last(verb, format!("the interface {}", name.to_string_lossy()));
    // SAFETY: integers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed("look at"));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(room)) {
        *to = *from as libc::c_char;
    }
    // SAFETY: an open socket and an ifreq that lives through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(failed("look at"));
    }
    // SAFETY: the call above has filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: as above.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(failed("bring up"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_ready_is_taken_and_not_when_it_is_old() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let spares = Arc::new(Spares::new(&[]));
        let fill = || {
            for _ in 0..2 * READY {
                spares.fill();
            }
            let by = Instant::now() + Duration::from_secs(60);
            while spares.state().making > 0 {
                assert!(Instant::now() < by, "they are not made");
                std::thread::sleep(Duration::from_millis(1));
            }
            spares.state().ready.len()
        };
        assert!(spares.take(Instant::now()).is_none());
        assert_eq!(fill(), READY);
        let of = |namespace: &OwnedFd| nix::sys::stat::fstat(namespace).expect("stat").st_ino;
        let taken = spares.take(Instant::now()).expect("ready");
        assert_ne!(of(&taken), fs::metadata("/proc/self/ns/net").expect("ours").ino());
        assert_eq!(fill(), READY);
        assert!(spares.state().ready.iter().all(|(one, _)| of(one) != of(&taken)));
        assert!(spares.take(Instant::now() + PATIENCE).is_none());
        assert!(spares.state().ready.is_empty());
    }

    #[test]
    fn a_namespace_is_made_entered_and_let_go() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let handle = std::env::temp_dir().join(format!("netns-{}", std::process::id()));
        let spares = Arc::new(Spares::new(&[("ipv4/ip_unprivileged_port_start", "7")]));
        spares.create(&handle).expect("made");
        assert!(is_kept(&handle));
        let there = inside(&handle, || {
            let read = |path: &str| fs::read_to_string(path).expect("readable");
            Ok((
                fs::read_link("/proc/thread-self/ns/net").expect("a link"),
                read("/proc/thread-self/net/dev"),
                read("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
                read("/proc/thread-self/net/fib_trie"),
            ))
        });
        let (link, devices, setting, routes) = there.expect("entered");
        assert_ne!(link, fs::read_link("/proc/self/ns/net").expect("a link"));
        assert!(devices.contains("lo:") && !devices.contains("eth"), "{devices}");
        assert_eq!(setting, "7\n");
        // Only a loopback that is up has an address.
        assert!(routes.contains("127.0.0.1"), "{routes}");
        let copy = handle.with_extension("copy");
        keep(&copy, std::process::id(), &[]).expect("kept");
        let kept = inside(&copy, || Ok(fs::read_link("/proc/thread-self/ns/net").expect("a link")));
        assert_eq!(kept.expect("entered"), fs::read_link("/proc/self/ns/net").expect("a link"));
        release(&copy).expect("let go");
        release(&handle).expect("let go");
        release(&handle).expect("twice");
        assert!(!handle.exists());
        assert!(inside(&handle, || Ok(())).is_err());
        let new = anew(|| Ok(fs::read_to_string("/proc/thread-self/net/dev").expect("readable")));
        assert!(!new.expect("a new one").contains("eth"));
    }
}
