//! runc and crun, with the same limits and namespaces and a plain root directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::scene::{DEVICES, MASKED, PROTECTED, Scene};

/// Writes the bundle's `config.json`.
pub fn write_config(scene: &Scene) {
    let types = ["pid", "mount", "ipc", "uts"];
    let namespaces: Vec<Value> = types.iter().map(|kind| json!({ "type": kind })).collect();
    let devices: Vec<Value> = DEVICES
        .iter()
        .map(|(path, minor)| {
            json!({"path": path, "type": "c", "major": 1, "minor": minor, "fileMode": 0o666})
        })
        .collect();
    let mount = |kind: &str, target: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/",
            "args": ["/bin/busybox", "true"], "env": ["PATH=/bin"],
        },
        "root": {"path": "rootfs"},
        "mounts": [
            mount("proc", "/proc", &["nosuid", "nodev", "noexec"]),
            mount("tmpfs", "/dev", &["nosuid", "mode=755"]),
            mount("devpts", "/dev/pts", &["nosuid", "newinstance", "ptmxmode=0666"]),
            mount("tmpfs", "/dev/shm", &["nosuid", "mode=1777"]),
            mount("sysfs", "/sys", &["nosuid", "nodev", "noexec", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{}/oci", scene.name),
            "namespaces": namespaces, "devices": devices,
            "maskedPaths": MASKED, "readonlyPaths": PROTECTED,
            "resources": {
                "devices": [{"allow": true, "access": "rwm"}],
                "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
                "memory": {"limit": 67_108_864, "reservation": 67_108_864},
                "pids": {"limit": 64},
            },
        },
    });
    fs::write(scene.bundle().join("config.json"), config.to_string()).expect("write config.json");
}

/// Runs one container to its end; what the runtime said, if it failed.
pub fn run(scene: &Scene, runtime: &str) -> Result<(), String> {
    let output = Command::new(runtime)
        .arg("--root")
        .arg(scene.dir.join(runtime))
        .args(["run", "--bundle"])
        .arg(scene.bundle())
        .arg(&scene.name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// The v1 hugetlb hierarchy, which crun wants on hybrid hosts; undone when dropped.
pub struct Hugetlb {
    mounted: bool,
    made: bool,
}

const HUGETLB: &str = "/sys/fs/cgroup/hugetlb";

impl Hugetlb {
    pub fn mount() -> Hugetlb {
        if Path::new(HUGETLB).join("tasks").exists() {
            return Hugetlb { mounted: false, made: false };
        }
        let made = fs::create_dir(HUGETLB).is_ok();
        let mount = ["-t", "cgroup", "-o", "hugetlb", "cgroup", HUGETLB];
        let mounted = Command::new("mount").args(mount).status().is_ok_and(|s| s.success());
        Hugetlb { mounted, made }
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(HUGETLB).status();
        }
        if self.made {
            let _ = fs::remove_dir(HUGETLB);
        }
    }
}
