//! The bare floor: the least that any launcher must do for the same container.
//!
//! One `clone` with shared memory, system calls, `execve`: no plan, no shim, no
//! record, no error report, no privileges dropped. In the benchmark's own
//! process, so it also lacks the second process that lets a container outlive it.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::scene::{DEVICES, Instance, MASKED, PROTECTED, Scene};

const STACK: usize = 64 * 1024;

/// Everything that the child needs, made before it exists: it must not allocate.
struct Prepared {
    tasks: Vec<CString>,
    root: CString,
    overlay: CString,
    masked: Vec<CString>,
    protected: Vec<CString>,
    devices: Vec<(CString, u64)>,
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// Runs one container to its end.
pub fn run(scene: &Scene, stack: &mut [u8]) {
    let instance = scene.create();
    let prepared = prepare(&instance);
    let flags = libc::CLONE_VM
        | libc::CLONE_VFORK
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::SIGCHLD;
    let mut status = 0;
    // SAFETY: the stack is ours until the child has executed (CLONE_VFORK), which
    // only makes system calls on what `prepared` keeps alive.
    unsafe {
        let top = stack.as_mut_ptr().add(STACK).cast::<c_void>();
        let argument = (&raw const prepared).cast_mut().cast::<c_void>();
        let pid = libc::clone(child, top, flags, argument);
        assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
    }
    assert_eq!(status, 0, "the floor's container failed");
    instance.remove();
}

/// A stack for [`run`].
pub fn stack() -> Vec<u8> {
    vec![0; STACK]
}

fn prepare(instance: &Instance) -> Prepared {
    let strings = |list: &[&str]| list.iter().map(|path| text(Path::new(path))).collect();
    let overlay = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        instance.lower.display(),
        instance.upper.display(),
        instance.work.display(),
    );
    Prepared {
        tasks: instance.cgroups.iter().map(|path| text(&path.join("tasks"))).collect(),
        root: text(&instance.upper),
        overlay: CString::new(overlay).expect("no NUL"),
        masked: strings(&MASKED),
        protected: strings(&PROTECTED),
        devices: DEVICES
            .iter()
            .map(|(path, minor)| (text(Path::new(path)), libc::makedev(1, *minor)))
            .collect(),
    }
}

/// Ends the child if a step failed.
unsafe fn must(result: c_int) {
    if result < 0 {
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(1) };
    }
}

extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `run` passes a `Prepared` and is stopped until we are done.
    let prepared = unsafe { &*argument.cast::<Prepared>() };
    // SAFETY: system calls on live C strings only.
    unsafe {
        for path in &prepared.tasks {
            let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            must(fd);
            must(libc::write(fd, c"0".as_ptr().cast(), 1) as c_int);
            libc::close(fd);
        }
        mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_SLAVE | libc::MS_REC, ptr::null());
        let (root, overlay) = (prepared.root.as_ptr(), c"overlay".as_ptr());
        mount(overlay, root, overlay, 0, prepared.overlay.as_ptr());
        must(libc::chdir(root));
        let here = c".".as_ptr();
        must(libc::syscall(libc::SYS_pivot_root, here, here) as c_int);
        must(libc::umount2(here, libc::MNT_DETACH));
        must(libc::chdir(c"/".as_ptr()));
        fill(prepared);
        must(libc::setsid());
        let _ = kernel::sched::set_slice(0);
        let argv: [*const c_char; 3] = [c"/bin/busybox".as_ptr(), c"true".as_ptr(), ptr::null()];
        let envp: [*const c_char; 1] = [ptr::null()];
        libc::execve(argv[0], argv.as_ptr(), envp.as_ptr());
        libc::_exit(1)
    }
}

/// The mounts and nodes inside the new root.
unsafe fn fill(prepared: &Prepared) {
    let none = ptr::null();
    // SAFETY: as in `child`.
    unsafe {
        let safe = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), safe, none);
        let (tmpfs, mode) = (c"tmpfs".as_ptr(), c"mode=755".as_ptr());
        mount(tmpfs, c"/dev".as_ptr(), tmpfs, libc::MS_NOSUID, mode);
        must(libc::mkdir(c"/dev/pts".as_ptr(), 0o755));
        let (devpts, data) = (c"devpts".as_ptr(), c"newinstance,ptmxmode=0666".as_ptr());
        mount(devpts, c"/dev/pts".as_ptr(), devpts, libc::MS_NOSUID, data);
        must(libc::mkdir(c"/dev/shm".as_ptr(), 0o755));
        mount(tmpfs, c"/dev/shm".as_ptr(), tmpfs, libc::MS_NOSUID, c"mode=1777".as_ptr());
        mount(c"sysfs".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), safe | libc::MS_RDONLY, none);
        for (path, device) in &prepared.devices {
            must(libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, *device));
        }
        for path in &prepared.masked {
            if libc::access(path.as_ptr(), libc::F_OK) == 0 {
                mount(c"/dev/null".as_ptr(), path.as_ptr(), none, libc::MS_BIND, none);
            }
        }
        for path in &prepared.protected {
            let flags = libc::MS_BIND | libc::MS_REC;
            if libc::mount(path.as_ptr(), path.as_ptr(), none, flags, none.cast()) == 0 {
                let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
                mount(none, path.as_ptr(), none, flags, none);
            }
        }
    }
}

unsafe fn mount(
    source: *const c_char,
    target: *const c_char,
    kind: *const c_char,
    flags: libc::c_ulong,
    data: *const c_char,
) {
    // SAFETY: the caller passes C strings or null.
    unsafe { must(libc::mount(source, target, kind, flags, data.cast())) };
}
