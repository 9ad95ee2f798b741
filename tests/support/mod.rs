//! What several test programs share: prerequisites, golden recordings, temp dirs.
//!
//! Included with `#[path]`; used by `tests/` only. Starts no daemons: that is
//! `cluster.rs` beside it.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};

/// Returns from the test as SKIPPED unless all prerequisites are there, e.g.
/// `require!(root, cgroup2)`; with `REQUIRE_ALL=1` a missing one is an error.
///
/// Names: `root`, `cgroup` (any writable hierarchy with cpu, memory and pids),
/// `ipvlan` (the kernel has it),
/// `cgroup1`, `cgroup2` (pure v2 with controllers), `xfs`, `ext4` (directories
/// with project quotas: `$BULKHEAD_XFS`, `$BULKHEAD_EXT4`), `vm_v1` (the VM suite
/// of that name), `real_speed` (no emulated processor), `compiler` (of C, which the
/// VMs have not), `fq_codel` (a queue of the kernel's; the VMs have it), `docker` (the engine), `docker_registry`, `cni_plugins`, `nft`,
/// `overlay`, `golden`, `busybox`, or any program as `program_NAME`.
#[macro_export]
macro_rules! require {
    ($($what:ident),+ $(,)?) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
        let name = name.trim_end_matches("::{{closure}}");
        let missing: Vec<&str> = [$(stringify!($what)),+]
            .into_iter()
            .filter(|what| !$crate::support::have(what))
            .collect();
        if !missing.is_empty() {
            $crate::support::skip(name, &missing.join(", "));
            return;
        }
    }};
}

/// Whether the kernel, or a module of it, has interfaces of that kind upon others.
fn has_links(kind: &str) -> bool {
    let line = format!(
        "modprobe {kind} 2>/dev/null; ip link add below type veth peer name aside && \
         ip link add link below name above type {kind} 2>/dev/null"
    );
    // In a network of its own, which goes with it.
    let tried = std::process::Command::new("unshare").args(["--net", "sh", "-c", &line]).status();
    tried.is_ok_and(|status| status.success())
}

/// Whether a prerequisite of [`require!`] is there.
#[must_use]
pub fn have(what: &str) -> bool {
    match what {
        "root" => std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t0"))),
        "cgroup1" => Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists(),
        "cgroup2" => std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|s| s.contains("memory") && s.contains("pids")),
        "cgroup" => have("cgroup1") || have("cgroup2"),
        "xfs" => std::env::var_os("BULKHEAD_XFS").is_some(),
        "ext4" => std::env::var_os("BULKHEAD_EXT4").is_some(),
        // Where the kernel has it, nearly everybody makes it the default.
        "fq_codel" => std::fs::read_to_string("/proc/sys/net/core/default_qdisc")
            .is_ok_and(|kind| kind.trim() == "fq_codel"),
        "real_speed" => std::env::var_os("BULKHEAD_VM").is_none(),
        "vm_v1" => std::env::var("BULKHEAD_VM").as_deref() == Ok("v1"),
        "compiler" => have("cc"),
        "mkfs_ext4" => have("program_mkfs.ext4"),
        "overlay" => {
            std::fs::read_to_string("/proc/filesystems").is_ok_and(|s| s.contains("overlay"))
        }
        "golden" => golden().is_some(),
        "docker_registry" => have("docker-registry"),
        "nft" => Path::new("/usr/sbin/nft").is_file(),
        "ipvlan" => has_links("ipvlan"),
        "cni_plugins" => Path::new("/usr/lib/cni/bridge").is_file(),
        // The engine, not only the command.
        "docker" => have("dockerd") || Path::new("/usr/sbin/dockerd").is_file(),
        program => {
            // `program_docker_registry`: where the name is no identifier.
            let plain = program.strip_prefix("program_").map(|name| name.replace('_', "-"));
            let program = plain.as_deref().unwrap_or(program);
            std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).is_file()))
        }
    }
}

/// A port of the loopback that nothing listens on. Outgoing connections get none like it,
/// so that it is still free for a daemon that comes back after its death.
#[must_use]
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run side by side begin far from each other: a daemon's port must not
    // be taken by another test while it is dead.
    let own = u16::try_from(std::process::id() % 200).unwrap_or(0) * 100;
    let ports = std::iter::repeat_with(|| {
        10_000 + own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000
    });
    let mut free =
        ports.take(20_000).filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a free port")
}

/// What a machine has or has not, and no package brings: one of the VM suites
/// has it, so that its absence here is no error.
const LAYOUTS: [&str; 9] =
    ["cgroup1", "cgroup2", "xfs", "ext4", "vm_v1", "real_speed", "compiler", "ipvlan", "fq_codel"];

/// Records the test as skipped; an error where everything is required and the
/// missing thing can be installed.
///
/// # Panics
/// With `REQUIRE_ALL=1`.
pub fn skip(test: &str, missing: &str) {
    let is_layout = |what: &str| {
        LAYOUTS.contains(&what)
            || what.starts_with("the cgroup controller ")
            || what == "a cgroup2 mount"
    };
    let elsewhere = missing.split(", ").all(is_layout);
    assert!(
        elsewhere || std::env::var("REQUIRE_ALL").as_deref() != Ok("1"),
        "{test} needs {missing}, and REQUIRE_ALL=1"
    );
    eprintln!("SKIPPED: {test}: needs {missing}");
    if let Some(list) = std::env::var_os("BULKHEAD_SKIPPED")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(list)
    {
        let _ = writeln!(file, "{test}: needs {missing}");
    }
}

/// The recordings of real daemons: `$BULKHEAD_GOLDEN`, or `shared/golden`
/// beside the checkout.
#[must_use]
pub fn golden() -> Option<PathBuf> {
    let dir = std::env::var_os("BULKHEAD_GOLDEN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"),
        PathBuf::from,
    );
    dir.is_dir().then_some(dir)
}

/// A directory of one test, removed when dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh directory whose name carries `name` and the pid.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bulkhead-{name}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("create the test's directory");
        Self(dir)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What ends in the background may still write there for a moment.
        for _ in 0..50 {
            let _ = std::fs::remove_dir_all(&self.0);
            if !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
