//! The program under test inside containers.
//!
//! `probe VERB [ARG]` does one thing that a limit, a namespace or a recovery is
//! tested with, and prints what happened as plain lines. Built static where the
//! target allows, so that it runs in any root file system. Tests read its output
//! or, better, the kernel's view of it.

mod network;
mod report;

use std::io::Write as _;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: probe VERB [ARG]
  burn [SECONDS]     burn cpu in one thread (default: for ever), print cpu seconds used
  memhog MB          touch MB megabytes, print `touched MB`, then sleep for ever
  forkbomb           fork until refused, print `forked N`, then sleep for ever
  env                print the environment, sorted
  ls PATH            print the names in PATH, sorted
  cat PATH           print a file
  exit N             exit with status N
  kill-self SIGNAL   die of a signal
  sleep SECONDS      sleep
  ignore-term        ignore SIGTERM, print `ready`, sleep for ever
  orphan SECONDS     leave a double-forked child that sleeps, print its pid, exit
  zombies N          leave N dead children of dead parents, then sleep for ever
  write PATH MB      write MB megabytes, print `wrote N` bytes
  fds                print the open file descriptors
  listen PROTOCOL ADDRESS...
                     bind to each (tcp: and listen), print `listening PORT` or `errno N`
                     for each, then sleep for ever
  echo PROTOCOL ADDRESS
                     print `ready`, answer with what comes, for ever
  connect PROTOCOL ADDRESS
                     send a word, print `answer WORD from PORT` or `failed: ...`
  transfer ADDRESS BYTES
                     send as many to who echoes over TCP, print the seconds until all are back
  mapped WORD ADDRESS OWN FOREIGN
                     reach ADDRESS from both ports and another, print `ready`, answer on both:
                     `who` with the word, `ask ADDRESS` with what is said there
  trace PID          try to trace a process, print `traced` or `errno N`
  ids                print pid, ppid, uid, gid, groups
  report [PATH...]   print all that a container is: see report.rs";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize| args.get(i).map(String::as_str);
    let number = |i: usize| arg(i).and_then(|a| a.parse::<u64>().ok());
    match (arg(0), number(1)) {
        (Some("burn"), seconds) => burn(seconds.map(Duration::from_secs)),
        (Some("memhog"), Some(mb)) => memhog(mb),
        (Some("forkbomb"), _) => forkbomb(),
        (Some("env"), _) => env(),
        (Some("ls"), _) if args.len() == 2 => ls(&args[1]),
        (Some("cat"), _) if args.len() == 2 => cat(&args[1]),
        (Some("exit"), Some(n)) => std::process::exit(i32::try_from(n).unwrap_or(255)),
        (Some("kill-self"), Some(signal)) => kill_self(signal),
        (Some("sleep"), Some(seconds)) => std::thread::sleep(Duration::from_secs(seconds)),
        (Some("ignore-term"), _) => ignore_term(),
        (Some("orphan"), Some(seconds)) => orphan(Duration::from_secs(seconds)),
        (Some("zombies"), Some(n)) => zombies(n),
        (Some("write"), _) if args.len() == 3 => write(&args[1], number(2).unwrap_or(0)),
        (Some("fds"), _) => fds(),
        (Some("listen"), _) if args.len() > 2 => network::listen(&args[1], &args[2..]),
        (Some("echo"), _) if args.len() == 3 => network::echo(&args[1], &args[2]),
        (Some("connect"), _) if args.len() == 3 => network::connect(&args[1], &args[2]),
        (Some("transfer"), _) if args.len() == 3 => network::transfer(&args[1], number(2)),
        (Some("mapped"), _) if args.len() == 5 => {
            network::mapped(&args[1], &args[2], &args[3], &args[4])
        }
        (Some("trace"), Some(pid)) => trace(pid),
        (Some("ids"), _) => ids(),
        (Some("report"), _) => report::report(&args[1..]),
        _ => fail(USAGE),
    }
}

fn fail(message: impl std::fmt::Display) -> ! {
    eprintln!("{message}");
    std::process::exit(2);
}

fn say(line: impl std::fmt::Display) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

fn for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn burn(limit: Option<Duration>) {
    let start = Instant::now();
    let mut x = 1u64;
    while limit.is_none_or(|l| start.elapsed() < l) {
        for _ in 0..100_000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `used` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut used) };
    say(format_args!("{}.{:09}", used.tv_sec, used.tv_nsec));
}

fn memhog(mb: u64) -> ! {
    let mut held = Vec::new();
    for _ in 0..mb {
        let mut block = vec![0u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            page[0] = std::hint::black_box(1);
        }
        held.push(block);
    }
    say(format_args!("touched {mb}"));
    std::hint::black_box(&held);
    for_ever()
}

fn forkbomb() -> ! {
    let mut forked = 0u64;
    loop {
        // SAFETY: one thread; the child only sleeps.
        match unsafe { libc::fork() } {
            0 => for_ever(),
            -1 => break,
            _ => forked += 1,
        }
    }
    say(format_args!("forked {forked}"));
    for_ever()
}

fn env() {
    let mut all: Vec<_> = std::env::vars_os().collect();
    all.sort();
    for (name, value) in all {
        say(format_args!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    }
}

fn ls(path: &str) {
    let entries = std::fs::read_dir(path).unwrap_or_else(|e| fail(format_args!("{path}: {e}")));
    let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        say(name.to_string_lossy());
    }
}

fn cat(path: &str) {
    match std::fs::read(path) {
        Ok(bytes) => {
            let _ = std::io::stdout().write_all(&bytes);
        }
        Err(e) => fail(format_args!("{path}: {e}")),
    }
}

fn trace(pid: u64) {
    // SAFETY: PTRACE_SEIZE takes no pointers.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid as libc::pid_t, 0, 0) } {
        -1 => say(format_args!(
            "errno {}",
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
        )),
        _ => say("traced"),
    }
}

fn kill_self(signal: u64) -> ! {
    // SAFETY: resets one disposition and signals this process; no memory involved.
    unsafe {
        libc::signal(signal as i32, libc::SIG_DFL);
        libc::raise(signal as i32);
    }
    for_ever()
}

fn ignore_term() -> ! {
    // SAFETY: sets one signal to be ignored.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    say("ready");
    for_ever()
}

/// Forks twice, so that the grandchild is adopted by the container's reaper.
fn orphan(life: Duration) {
    // SAFETY: one thread; the children only print, sleep and exit.
    unsafe {
        if libc::fork() == 0 {
            let pid = libc::fork();
            if pid == 0 {
                std::thread::sleep(life);
            } else {
                say(pid);
            }
            libc::_exit(0);
        }
        libc::wait(std::ptr::null_mut());
    }
}

fn zombies(n: u64) -> ! {
    for _ in 0..n {
        orphan(Duration::ZERO);
    }
    say("done");
    for_ever()
}

fn write(path: &str, mb: u64) {
    let mut written = 0u64;
    let result = std::fs::File::create(path).and_then(|mut file| {
        for _ in 0..mb {
            file.write_all(&[b'x'; 1 << 20])?;
            written += 1 << 20;
        }
        file.sync_all()
    });
    say(format_args!("wrote {written}"));
    if let Err(e) = result {
        fail(format_args!("{path}: {e}"));
    }
}

fn fds() {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap_or_else(|e| fail(e));
    let mut open: Vec<(i32, String)> = entries
        .flatten()
        .filter_map(|e| {
            let number = e.file_name().to_str()?.parse().ok()?;
            let target = std::fs::read_link(e.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        // The directory being listed is open too.
        .filter(|(_, target)| !target.starts_with("/proc/"))
        .collect();
    open.sort();
    for (number, target) in open {
        say(format_args!("{number} {target}"));
    }
}

fn ids() {
    let mut groups = [0; 64];
    // SAFETY: the calls read this process' ids; `groups` has room for 64.
    let (pid, ppid, uid, gid, n) = unsafe {
        let n = libc::getgroups(64, groups.as_mut_ptr());
        (libc::getpid(), libc::getppid(), libc::getuid(), libc::getgid(), n)
    };
    let groups = &groups[..usize::try_from(n).unwrap_or(0)];
    say(format_args!("pid {pid} ppid {ppid} uid {uid} gid {gid} groups {groups:?}"));
}
