//! Failpoints are in builds for tests and not in releases: one program, built both ways.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// As in `failpoint::VARIABLE`, which a release has not.
const VARIABLE: &str = "BULKHEAD_FAILPOINT";

/// Where cargo puts what it builds: this test is `TARGET/PROFILE/deps/NAME`.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(3).unwrap().to_owned()
}

/// Builds the example.
fn build(profile: &str, more: &[&str]) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["build", "--workspace", "--example", "failpoint", "--offline", "--locked"])
        .arg("--target-dir")
        .arg(target())
        .args(more);
    let built = command.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target().join(profile).join("examples/failpoint")
}

fn run(program: &Path, armed: &str) -> Output {
    Command::new(program).env(VARIABLE, armed).output().unwrap()
}

fn mentions_the_variable(program: &Path) -> bool {
    let bytes = std::fs::read(program).unwrap();
    bytes.windows(VARIABLE.len()).any(|part| part == VARIABLE.as_bytes())
}

#[test]
fn a_release_has_no_failpoints() {
    // So the check can fail: a build for tests has the point, and dies there.
    let debug = build("debug", &[]);
    assert_eq!(run(&debug, "launch.begin").status.signal(), Some(9));
    assert_eq!(run(&debug, "launch.pid").stdout, b"passed\n");
    assert!(mentions_the_variable(&debug));

    // What makes it a release, without what makes one slow to build.
    let settings = ["opt-level=0", "lto=false", "codegen-units=16"];
    let settings = settings.map(|setting| format!("--config=profile.release.{setting}"));
    let mut more = vec!["--release"];
    more.extend(settings.iter().map(String::as_str));
    let release = build("release", &more);
    assert_eq!(run(&release, "launch.begin").stdout, b"passed\n");
    assert!(!mentions_the_variable(&release));
}
