//! Unmodified pymesos, from its package index, as scheduler and as executor.
//!
//! The virtual environment is made once under the target directory; only the C
//! extension `http_parser` is replaced, by `pymesos/http_parser`.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{Cluster, Options, binary};

/// Python of an environment with pymesos, or `None` where it cannot be made.
fn python() -> Option<PathBuf> {
    let dir = binary("pymesos-venv");
    let python = dir.join("bin/python3");
    let usable = |python: &Path| {
        let code = "import pymesos.utils, addict, six";
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/pymesos");
        Command::new(python)
            .args(["-c", code])
            .env("PYTHONPATH", here)
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if usable(&python) {
        return Some(python);
    }
    let _ = std::fs::remove_dir_all(&dir);
    let made = Command::new("python3").args(["-m", "venv"]).arg(&dir).status().ok()?.success();
    let installed = made
        && Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["pymesos==0.3.15", "addict==2.4.0", "six==1.17.0"])
            .status()
            .ok()?
            .success();
    (installed && usable(&python)).then_some(python)
}

/// Runs one scenario of `scheduler.py` on a cluster of its own.
fn scenario(name: &str) {
    let Some(python) = python() else {
        support::skip(&format!("pymesos::{name}"), "pymesos from the Python package index");
        return;
    };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/pymesos");
    let cluster = Cluster::start(&format!("pymesos-{name}"), Options::default());
    let output = Command::new("timeout")
        .arg("200")
        .arg(python)
        .arg(dir.join("scheduler.py"))
        .args([cluster.master.as_str(), name])
        .env("PYTHONPATH", &dir)
        .output()
        .expect("run the scheduler");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "scenario {name}: {}\n{text}", output.status);
}

#[test]
fn pymesos_runs_200_tasks() {
    require!(root, cgroup);
    scenario("tasks");
}

#[test]
fn pymesos_kills_a_task() {
    require!(root, cgroup);
    scenario("kill");
}

#[test]
fn pymesos_is_an_executor() {
    require!(root, cgroup);
    scenario("executor");
}

#[test]
fn pymesos_is_an_executor_without_resources() {
    require!(root, cgroup);
    scenario("bare");
}

#[test]
fn pymesos_fails_over() {
    require!(root, cgroup);
    scenario("failover");
}
