//! A file system of one's own: ext4 as Debian makes it, in a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted below a directory of the test; thawed and unmounted at the end.
pub struct Disk(PathBuf);

impl Disk {
    /// A new one of `bytes`, which are taken as they are written.
    pub fn new(dir: &Path, bytes: u64) -> Disk {
        let (image, target) = (dir.join("disk.img"), dir.join("disk"));
        std::fs::File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        std::fs::create_dir(&target).expect("a directory");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&target));
        Disk(target)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// From now on who writes to it sleeps in the kernel and takes no signal at all.
    #[allow(dead_code, reason = "not every test does")]
    pub fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(&self.0));
    }

    #[allow(dead_code, reason = "not every test does")]
    pub fn thaw(&self) {
        run(Command::new("fsfreeze").arg("-u").arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let quiet = |command: &mut Command| {
            let _ = command.arg(&self.0).stderr(Stdio::null()).status();
        };
        if std::thread::panicking() {
            quiet(Command::new("fsfreeze").arg("-u"));
        }
        quiet(Command::new("umount").arg("-l"));
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}
