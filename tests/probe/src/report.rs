//! `probe report`: everything that a process can see of its container, as sorted
//! facts `KEY VALUE`, one a line. Two containers are alike if their reports are.
//!
//! Numbers that differ from launch to launch (pids, mount ids, device numbers of
//! anonymous file systems) are left out; namespaces keep theirs, so that the reader
//! can tell a new one from the host's.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Prints the report; of each of `paths` what it is and whether it can be written.
pub fn report(paths: &[String]) {
    let mut facts = Vec::new();
    status(&mut facts);
    namespaces(&mut facts);
    mounts(&mut facts);
    lines(&mut facts, "cgroup", "/proc/self/cgroup");
    lines(&mut facts, "limit", "/proc/self/limits");
    lines(&mut facts, "oom_score_adj", "/proc/self/oom_score_adj");
    lines(&mut facts, "hostname", "/proc/sys/kernel/hostname");
    lines(&mut facts, "clock", "/proc/self/timens_offsets");
    for setting in ["kernel/domainname", "kernel/msgmax", "net/core/somaxconn"] {
        lines(&mut facts, setting, &format!("/proc/sys/{setting}"));
    }
    for (name, value) in std::env::vars() {
        facts.push(format!("env {name}={value}"));
    }
    facts.push(format!("args {:?}", std::env::args().collect::<Vec<_>>()));
    let cwd = std::env::current_dir().map(|dir| dir.display().to_string());
    facts.push(format!("cwd {}", cwd.unwrap_or_else(|error| error.to_string())));
    // SAFETY: the calls read this process' own ids.
    let leads = unsafe { libc::getsid(0) == libc::getpid() && libc::getpgrp() == libc::getpid() };
    facts.push(format!("session leader {leads}"));
    // SAFETY: zeroed is a valid utsname to write to.
    let mut names = unsafe { std::mem::zeroed::<libc::utsname>() };
    // SAFETY: the call fills it in; a filter may refuse.
    let answer = unsafe { libc::uname(&raw mut names) };
    facts.push(format!("uname answers {answer}"));
    for number in 0..16 {
        // SAFETY: plain fcntl; a closed descriptor is an error.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
            facts.push(format!("fd {number}"));
        }
    }
    for directory in ["/", "/dev"] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // A host's directories change while two containers look.
            if !paths.is_empty() {
                path(&mut facts, &entry.path().to_string_lossy(), false);
            }
        }
    }
    for name in paths {
        path(&mut facts, name, true);
    }
    facts.sort();
    for fact in facts {
        super::say(fact);
    }
}

fn lines(facts: &mut Vec<String>, key: &str, file: &str) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| error.to_string());
    facts.extend(text.lines().map(|line| format!("{key} {line}")));
}

fn status(facts: &mut Vec<String>) {
    const KEYS: [&str; 14] = [
        "Uid",
        "Gid",
        "Groups",
        "Umask",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "SigBlk",
        "SigIgn",
        "Threads",
    ];
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if KEYS.contains(&key) {
            let value: Vec<&str> = value.split_whitespace().collect();
            facts.push(format!("status {key} {}", value.join(" ")));
        }
    }
}

fn namespaces(facts: &mut Vec<String>) {
    for kind in ["mnt", "uts", "ipc", "pid", "net", "cgroup", "user", "time"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}"));
        let link = link.map(|link| link.display().to_string()).unwrap_or_default();
        facts.push(format!("namespace {kind} {link}"));
    }
}

/// Mount point, root, kind, source and options; of the propagation its kind.
fn mounts(facts: &mut Vec<String>) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(dash) = fields.iter().position(|field| *field == "-") else { continue };
        let tags: Vec<&str> =
            fields[6..dash].iter().map(|tag| tag.split(':').next().unwrap_or(tag)).collect();
        facts.push(format!(
            "mount {} root={} {} {} tags={} source={} super={}",
            fields[4],
            fields[3],
            fields[dash + 1],
            fields[5],
            tags.join(","),
            fields[dash + 2],
            fields.get(dash + 3).unwrap_or(&""),
        ));
    }
}

/// With `count`, of a directory the number of entries, too.
fn path(facts: &mut Vec<String>, name: &str, count: bool) {
    let Ok(data) = fs::symlink_metadata(name) else {
        facts.push(format!("path {name} missing"));
        return;
    };
    let kind = data.file_type();
    let what = if kind.is_symlink() {
        let target = fs::read_link(name).map(|to| to.display().to_string()).unwrap_or_default();
        facts.push(format!("path {name} link to {target}"));
        return;
    } else if kind.is_dir() {
        // What /proc holds changes by the moment.
        let count = count && !Path::new(name).starts_with("/proc");
        let entries = count.then(|| fs::read_dir(name).map(Iterator::count).ok());
        format!("directory entries {entries:?}")
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {}:{}", libc::major(data.rdev()), libc::minor(data.rdev()))
    } else {
        "file".to_owned()
    };
    let text = CString::new(name).unwrap_or_default();
    // SAFETY: a C string that outlives the call.
    let writable = unsafe { libc::access(text.as_ptr(), libc::W_OK) } == 0;
    let (mode, uid, gid) = (data.permissions().mode() & 0o7777, data.uid(), data.gid());
    facts.push(format!("path {name} {what} mode {mode:o} owner {uid}:{gid} writable {writable}"));
}
