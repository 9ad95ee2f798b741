//! `bulkhead-helper oci`: makes and starts one container with libcontainer.
//!
//! Started by the shim with an empty environment, the container's standard streams
//! and, if it must wait for the agent, the launch socket; no other descriptor. It
//! has one thread, makes the container, publishes its pid, starts it and ends; the
//! shim goes on with the container. If the agent is dead it finishes all the same,
//! unless it was to wait: then it ends the container.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use kernel::pidfd::Pidfd;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use super::finish::finish;
use super::message::{self, Message, Root, VERSION, file};
use super::mount;
use super::workload::Workload;
use crate::launch::program::{SAYS_WAITING, SOCKET_FD};
use crate::launch::record;

/// Runs `version`, `run BUNDLE` or `finish BUNDLE`.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let result = match words.as_slice() {
        ["version"] => {
            println!("{VERSION}");
            Ok(())
        }
        ["run", bundle] => {
            let bundle = Path::new(bundle);
            listen(bundle);
            run(bundle).inspect_err(|text| complain(bundle, text))
        }
        ["finish", bundle] => {
            finish(Path::new(bundle)).inspect_err(|text| eprintln!("bulkhead-helper: {text}"))
        }
        _ => {
            eprintln!("usage: bulkhead-helper oci version|run BUNDLE|finish BUNDLE");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// libcontainer's errors often hide the kernel's answer, which it logs instead, in
/// the process that failed: that goes to a file of the bundle.
fn listen(bundle: &Path) {
    // Without it errors are less clear, no more.
    let Ok(file) = File::create(bundle.join(file::LOG)) else { return };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(std::sync::Mutex::new(file))
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
}

/// Leaves the reason for the agent: the error, and the first that was logged.
fn complain(bundle: &Path, text: &str) {
    let log = std::fs::read_to_string(bundle.join(file::LOG)).unwrap_or_default();
    let first = log.lines().next().unwrap_or_default();
    let first = first.trim().trim_start_matches("ERROR").trim();
    let text = if first.is_empty() { text.to_owned() } else { format!("{text} ({first})") };
    // Without it the agent says that there is no reason.
    let _ = std::fs::write(bundle.join(file::ERROR), text);
}

/// The error and its causes, each once: libcontainer's say those of others in part.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

fn run(bundle: &Path) -> Result<(), String> {
    let message = message::read(bundle)?;
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let record = record::open(&message.record).map_err(failed("open the exit record"))?;
    let socket = message.wait.then(socket).transpose().map_err(failed("take the socket"))?;
    let mut options = OpenOptions::new();
    let procfs = options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open("/proc")
        .map_err(failed("open /proc"))?;
    make_root(&message, &bundle.join(file::ROOT)).map_err(failed("mount the root"))?;
    if message.own_proc {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount::mount("proc", Path::new("/proc"), "proc", flags, "")
            .map_err(failed("mount /proc"))?;
    }
    let mut container = create(bundle, &message)?;
    let pid = container.pid().ok_or("the container has no process")?;
    let started = (|| {
        let pid = u32::try_from(pid.as_raw()).map_err(|_| "a strange pid".to_owned())?;
        let host = pid_on_host(&procfs, pid).map_err(failed("find the container's pid"))?;
        let followed = if message.own_pids { pid } else { host };
        record::publish(&record, host, followed).map_err(failed("write the exit record"))?;
        if let Some(mut socket) = socket {
            let mut word = [SAYS_WAITING];
            socket.write_all(&word).map_err(failed("tell the agent"))?;
            socket.read_exact(&mut word).map_err(failed("wait for the release"))?;
        }
        container.start().map_err(|error| chain(&error))
    })();
    if started.is_err() {
        // SAFETY: integers; the pid is our child's, alive or not yet reaped.
        unsafe { libc::kill(pid.as_raw(), libc::SIGKILL) };
    }
    started
}

/// The inherited socket to the agent, for nobody else.
fn socket() -> io::Result<UnixStream> {
    // SAFETY: plain fcntl on an inherited descriptor.
    if unsafe { libc::fcntl(SOCKET_FD, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: inherited, and owned by nobody else in this process.
    Ok(unsafe { UnixStream::from_raw_fd(SOCKET_FD) })
}

/// The root file system, in a mount namespace that ends with us and the container.
fn make_root(message: &Message, target: &Path) -> io::Result<()> {
    mount::leave_the_hosts()?;
    match &message.root {
        Root::Directory => {}
        Root::Host => mount::mount("/", target, "", libc::MS_BIND | libc::MS_REC, "")?,
        Root::Overlay(options) => mount::mount("overlay", target, "overlay", 0, options)?,
    }
    if message.cover_dev {
        mount::mount("tmpfs", &target.join("dev"), "tmpfs", libc::MS_NOEXEC, "mode=755")?;
    }
    Ok(())
}

fn create(bundle: &Path, message: &Message) -> Result<Container, String> {
    let workload = Workload {
        executable: message.executable.clone(),
        system_calls: message.system_calls.clone(),
        die_with_shim: !message.own_pids,
    };
    // The state directory is this container's alone, so one name serves all.
    ContainerBuilder::new("container".to_owned(), SyscallType::default())
        .with_executor(workload)
        .with_root_path(bundle.join(file::STATE))
        .and_then(|builder| {
            // A sibling: the container's process is the shim's child from its birth.
            let builder = builder.as_init(bundle).with_systemd(false).with_detach(true);
            builder.as_sibling(true).with_no_pivot(message.no_pivot).build()
        })
        .map_err(|error| chain(&error))
}

/// The pid of our `pid` as the agent sees it: a pidfd's description in the agent's
/// procfs says so.
fn pid_on_host(procfs: &File, pid: u32) -> io::Result<u32> {
    let process = Pidfd::open(pid)?;
    let path = format!(
        "/proc/self/fd/{}/self/fdinfo/{}",
        procfs.as_raw_fd(),
        std::os::fd::AsFd::as_fd(&process).as_raw_fd()
    );
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let found = line.and_then(|pid| pid.trim().parse::<u32>().ok());
    found.filter(|pid| *pid != 0).ok_or_else(|| io::ErrorKind::NotFound.into())
}
