//! What every launcher of the comparison works on: a root file system, v1 cgroups
//! with limits below one subtree per run, directories per container.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub const HIERARCHIES: [&str; 3] = ["cpu", "memory", "pids"];
pub const MASKED: [&str; 4] =
    ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"];
pub const PROTECTED: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Character devices with major number 1.
pub const DEVICES: [(&str, u32); 5] =
    [("/dev/null", 3), ("/dev/zero", 5), ("/dev/full", 7), ("/dev/random", 8), ("/dev/urandom", 9)];

/// The place of one run of the benchmark; removed when dropped.
pub struct Scene {
    pub dir: PathBuf,
    pub name: String,
    next: AtomicU64,
}

/// One container's cgroups and directories.
pub struct Instance {
    pub cgroups: Vec<PathBuf>,
    pub lower: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    dir: PathBuf,
}

fn hierarchy(name: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(name)
}

impl Scene {
    /// Makes the root file system on tmpfs and the cgroup subtrees.
    pub fn new() -> Scene {
        let name = format!("bulkhead_bench_{}", std::process::id());
        let dir = Path::new("/dev/shm").join(&name);
        let root = dir.join("bundle/rootfs");
        for sub in ["bin", "proc", "dev", "sys"] {
            fs::create_dir_all(root.join(sub)).expect("make the root file system");
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = busybox.iter().find(|path| Path::new(path).exists()).expect("busybox");
        fs::copy(busybox, root.join("bin/busybox")).expect("copy busybox");
        for controller in HIERARCHIES {
            fs::create_dir(hierarchy(controller).join(&name)).expect("make the cgroup subtree");
        }
        Scene { dir, name, next: AtomicU64::new(0) }
    }

    /// The bundle of the OCI runtimes; its `rootfs` is also the overlay's layer.
    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Makes the cgroups with their limits, and the upper directories.
    pub fn create(&self) -> Instance {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let dir = self.dir.join(&id);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for path in [&dir, &upper, &work] {
            fs::create_dir(path).expect("make a directory");
        }
        let cgroup = |name| hierarchy(name).join(&self.name).join(&id);
        let cgroups: Vec<PathBuf> = HIERARCHIES.iter().map(|name| cgroup(name)).collect();
        for path in &cgroups {
            fs::create_dir(path).expect("make a cgroup");
        }
        for (path, file, value) in [
            (&cgroups[0], "cpu.shares", "512"),
            (&cgroups[0], "cpu.cfs_period_us", "100000"),
            (&cgroups[0], "cpu.cfs_quota_us", "50000"),
            (&cgroups[1], "memory.limit_in_bytes", "67108864"),
            (&cgroups[1], "memory.soft_limit_in_bytes", "67108864"),
            (&cgroups[2], "pids.max", "64"),
        ] {
            fs::write(path.join(file), value).expect("write a limit");
        }
        Instance { cgroups, lower: self.bundle().join("rootfs"), upper, work, dir }
    }
}

impl Instance {
    /// Path of the exit record.
    pub fn record(&self) -> PathBuf {
        self.dir.join("record")
    }

    /// Removes cgroups and directories.
    pub fn remove(self) {
        for path in &self.cgroups {
            fs::remove_dir(path).expect("remove a cgroup");
        }
        fs::remove_dir_all(&self.dir).expect("remove the directories");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The runtimes make their parent cgroup in every hierarchy and leave it.
        for mounted in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let top = mounted.path().join(&self.name);
            for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(top);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
