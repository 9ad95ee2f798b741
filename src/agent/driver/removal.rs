//! Deleting collected directories. Blocking.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::agent::gc::Garbage;
use crate::checkpoint::WorkDir;

/// Deletes a directory and its twin under `meta`. Never enters a mount: a path
/// with something mounted below it stays and is reported.
pub(super) fn remove(work: &WorkDir, garbage: &Garbage) -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| format!("failed to read '/proc/self/mountinfo': {e}"))?;
    for path in paths(work, garbage) {
        if let Some(mount) = mounted_below(&mounts, &path) {
            return Err(format!("'{mount}' is still mounted below '{}'", path.display()));
        }
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(format!("failed to remove '{}': {e}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn paths(work: &WorkDir, garbage: &Garbage) -> [PathBuf; 2] {
    match garbage {
        Garbage::Run(run) => [work.sandbox(run), work.meta_run(run)],
        Garbage::Executor { agent, framework, executor } => [
            work.executor(agent, framework, executor),
            work.meta_executor(agent, framework, executor),
        ],
        Garbage::Framework { agent, framework } => {
            [work.framework(agent, framework), work.meta_framework(agent, framework)]
        }
        Garbage::Agent(agent) => [work.agent(agent), work.meta_agent(agent)],
    }
}

/// The first mount point at or below `path` in the text of `mountinfo`.
fn mounted_below(mountinfo: &str, path: &Path) -> Option<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| point.replace("\\040", " "))
        .find(|point| Path::new(point).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_the_path_is_found_and_a_namesake_is_not() {
        let mounts = "36 35 98:0 / /w/slaves/a/box rw - ext4 /dev/sda rw\n\
                      37 35 98:0 / /w/slaves/ab rw - ext4 /dev/sda rw\n";
        assert_eq!(
            mounted_below(mounts, Path::new("/w/slaves/a")).as_deref(),
            Some("/w/slaves/a/box")
        );
        assert_eq!(mounted_below(mounts, Path::new("/w/slaves/b")), None);
    }
}
