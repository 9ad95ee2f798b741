//! The hook: what the plan asks for and OCI cannot say, done in the container's
//! namespaces after its mounts and before its root is changed.
//!
//! Runs in a process of its own with all privileges of the helper; the container's
//! program does not run yet.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::message::{self, Operation, file};
use super::mount;

/// Does it for the container of `bundle`.
pub(super) fn finish(bundle: &Path) -> Result<(), String> {
    let message = message::read(bundle)?;
    let spec = Spec::load(bundle.join(file::CONFIG)).map_err(|error| error.to_string())?;
    let root = spec.root().as_ref().map(|root| root.path().clone());
    let root = root.ok_or("the configuration names no root")?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    if message.cover_dev {
        uncover(&root, &spec).map_err(failed("uncover /dev"))?;
    } else {
        // libcontainer's own addition; the plan did not ask for it.
        let kcore = root.join("dev/kcore");
        if fs::read_link(&kcore).is_ok_and(|target| target == Path::new("/proc/kcore")) {
            fs::remove_file(&kcore).map_err(failed("remove /dev/kcore"))?;
        }
    }
    std::os::unix::fs::chroot(&root).map_err(failed("change the root"))?;
    std::env::set_current_dir("/").map_err(failed("change to the root"))?;
    // Modes are what the plan says.
    // SAFETY: an integer, cannot fail.
    unsafe { libc::umask(0) };
    for operation in &message.operations {
        run(operation).map_err(failed(&format!("{operation:?}")))?;
    }
    Ok(())
}

/// Takes away the directory that libcontainer filled in place of the host's /dev,
/// and puts the mounts that the plan wants below /dev onto the real one.
fn uncover(root: &Path, spec: &Spec) -> io::Result<()> {
    let dev = root.join("dev");
    let mut kept: Vec<(PathBuf, std::os::fd::OwnedFd)> = Vec::new();
    for entry in spec.mounts().iter().flatten() {
        let Ok(below) = entry.destination().strip_prefix("/dev") else { continue };
        // A mount on another one of ours came along with that.
        let target = dev.join(below);
        if !kept.iter().any(|(known, _)| target.starts_with(known)) {
            kept.push((target.clone(), mount::pick_up(&target)?));
        }
    }
    mount::detach(&dev)?;
    kept.iter().try_for_each(|(target, tree)| mount::put_down(tree, target))
}

/// As the `linux` engine does it; what exists already is fine.
fn run(operation: &Operation) -> io::Result<()> {
    let result = match operation {
        Operation::Mkdir { path, mode, recursive } => {
            if *recursive && let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            DirBuilder::new().mode(*mode).create(path)
        }
        Operation::Symlink { target, link } => symlink(target, link),
        Operation::Rename { from, to } => return fs::rename(from, to),
        Operation::Nothing => Ok(()),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
