//! Directories made of layers: overlays and read-only binds, mounted by the agent, and
//! copies (`copy`).
//!
//! Layers are in overlay's own form: what one removes is a character device 0/0 in it,
//! a directory that hides what is below it has the attribute [`OPAQUE`]. The options of
//! `mount(2)` must fit into a page: the layers of what does not are opened, and named by
//! their descriptors from the working directory `/proc/self/fd`.

pub mod copy;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::Error;

/// The attribute of a directory that hides what is below it; its value is `y`.
pub const OPAQUE: &str = "trusted.overlay.opaque";
/// Bytes of options that `mount(2)` takes, with the NUL at their end.
const PAGE: usize = 4096;

/// Where an overlay is written.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// What was written.
    pub upper: &'a Path,
    /// An empty directory on the same file system.
    pub work: &'a Path,
}

/// Mounts an overlay on `target`; `lower` has the topmost layer first. Without an upper
/// directory it cannot be written, and needs two layers. What is written is not kept
/// over a crash of the machine (`volatile`).
///
/// # Errors
/// As the kernel: a file system that cannot be a layer, too many layers for it.
pub fn mount_overlay(
    target: &Path,
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
) -> Result<(), Error> {
    let paths: Vec<String> = lower.iter().map(|path| escape(path)).collect();
    let options = options(&paths, upper);
    let made = if options.len() < PAGE {
        mount(target, &options)
    } else {
        // A thread of its own, because it changes its working directory.
        let made = std::thread::scope(|s| s.spawn(|| mount_many(target, lower, upper)).join());
        made.unwrap_or_else(|_| Err(io::Error::other("the thread that mounts has panicked")))
    };
    made.map_err(|error| Error::new("mount an overlay on", target.display().to_string(), error))
}

/// Mounts `source` on `target`, so that nothing below it can be written.
///
/// # Errors
/// As the kernel.
pub fn mount_read_only(target: &Path, source: &Path) -> Result<(), Error> {
    let bind = MsFlags::MS_BIND;
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let none = None::<&Path>;
    nix::mount::mount(Some(source), target, none, bind, none)
        .and_then(|()| nix::mount::mount(none, target, none, read_only, none))
        .map_err(|e| Error::new("mount on", target.display().to_string(), e.into()))
}

fn options(lower: &[String], upper: Option<Upper<'_>>) -> String {
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(Upper { upper, work }) = upper {
        let own = format!(",upperdir={},workdir={},volatile", escape(upper), escape(work));
        options.push_str(&own);
    }
    options
}

fn mount(target: &Path, options: &str) -> io::Result<()> {
    let kind = Some("overlay");
    nix::mount::mount(kind, target, kind, MsFlags::empty(), Some(options))?;
    Ok(())
}

/// As [`mount`]; changes the working directory of the calling thread.
fn mount_many(target: &Path, lower: &[PathBuf], upper: Option<Upper<'_>>) -> io::Result<()> {
    let open = |path: &PathBuf| {
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
    };
    let layers: Vec<File> = lower.iter().map(open).collect::<io::Result<_>>()?;
    let names: Vec<String> = layers.iter().map(|file| file.as_raw_fd().to_string()).collect();
    nix::sched::unshare(CloneFlags::CLONE_FS)?;
    nix::unistd::chdir("/proc/self/fd")?;
    mount(target, &options(&names, upper))
}

/// Escapes what separates options and layers.
#[must_use]
pub fn escape(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_is_escaped() {
        assert_eq!(escape(Path::new("/a:b,c\\d")), r"/a\:b\,c\\d");
    }
}
