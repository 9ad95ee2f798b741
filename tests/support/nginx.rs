//! nginx in Debian, as a root file system that is made once and kept in the target
//! directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::provisioner::Digest;

/// Makes it; what it is made of depends on nothing else.
const SCRIPT: &str = include_str!("../scripts/nginx.sh");

fn script() -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/nginx.sh"));
    command
}

fn place() -> PathBuf {
    let name = format!("nginx-{}.tar", &Digest::of(SCRIPT.as_bytes()).hex()[..12]);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Whether it is there or can be made: from Debian's packages, by debootstrap.
#[must_use]
pub fn can_be_had() -> bool {
    place().is_file() || script().arg("check").status().is_ok_and(|status| status.success())
}

/// The archive.
///
/// # Panics
/// When it cannot be made; the message has debootstrap's last words.
#[must_use]
pub fn archive() -> PathBuf {
    let place = place();
    if !place.is_file() {
        let made = script().arg("make").arg(&place).output().expect("run bash");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    place
}
