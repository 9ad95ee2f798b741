//! Looking into an image whose layers are not mounted.
//!
//! From the topmost layer down to the first that has a path, or that removes it or one
//! of the directories above it. No link leads out of its layer; a link into another
//! layer leads nowhere.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kernel::beneath::{self, BeneathError, Node};

/// More than that is not read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Something that will be mounted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// As the container sees it.
    pub path: PathBuf,
    /// A directory or a file.
    pub is_dir: bool,
}

/// What has to be made for a [`Point`] that an image has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Relative to the root.
    path: PathBuf,
    is_dir: bool,
    /// Directories above it, the topmost first, and where the image has them.
    above: Vec<(PathBuf, Option<PathBuf>)>,
}

/// The content of `path`, relative to the root of an image with these layers, bottom
/// first; empty if there is none.
///
/// # Errors
/// It is there and cannot be read, is no file or too large.
pub fn text(layers: &[PathBuf], path: &Path) -> io::Result<String> {
    match visible(layers, path)? {
        Some((_, node)) => read(&node),
        None => Ok(String::new()),
    }
}

/// Which of `points` the image has not; those behind links are left to whoever mounts.
///
/// # Errors
/// A layer cannot be read.
pub fn missing(layers: &[PathBuf], points: &[Point]) -> io::Result<Vec<Missing>> {
    let mut all = Vec::new();
    for point in points {
        let path = point.path.strip_prefix("/").unwrap_or(&point.path);
        if visible(layers, path)?.is_some() {
            continue;
        }
        let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
        parents.retain(|dir| !dir.as_os_str().is_empty());
        parents.reverse();
        let mut above = Vec::new();
        let mut straight = true;
        for dir in parents {
            let found = visible(layers, dir)?.map(|(layer, _)| layer.join(dir));
            straight &= !is_link(layers, dir);
            above.push((dir.to_owned(), found));
        }
        if straight {
            all.push(Missing { path: path.to_owned(), is_dir: point.is_dir, above });
        }
    }
    Ok(all)
}

impl Missing {
    /// Makes it in the directory that is written to, so that nothing has to be copied up
    /// when it is mounted on.
    ///
    /// # Errors
    /// The system's.
    pub fn make(&self, upper: &Path) -> io::Result<()> {
        let existing = |made: io::Result<()>| match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        };
        for (dir, image) in &self.above {
            let place = upper.join(dir);
            if existing(fs::create_dir(&place))?
                && let Some(image) = image
            {
                let kept = kernel::layers::copy::attributes(image, &place);
                kept.map_err(|error| io::Error::other(kernel::chain(&error)))?;
            }
        }
        let place = upper.join(&self.path);
        if self.is_dir {
            existing(fs::create_dir(place)).map(drop)
        } else {
            existing(fs::File::create_new(place).map(drop)).map(drop)
        }
    }
}

/// Whether the topmost thing of that name is a link, wherever it leads.
fn is_link(layers: &[PathBuf], path: &Path) -> bool {
    let there = |layer: &PathBuf| fs::symlink_metadata(layer.join(path)).ok();
    layers.iter().rev().find_map(there).is_some_and(|meta| meta.is_symlink())
}

/// What a path is in the image, and the layer that has it.
fn visible<'a>(layers: &'a [PathBuf], path: &Path) -> io::Result<Option<(&'a Path, Node)>> {
    for layer in layers.iter().rev() {
        match beneath::find_inside(layer, path) {
            Ok(node) if is_whiteout(&node) => return Ok(None),
            Ok(node) => return Ok(Some((layer, node))),
            Err(BeneathError::NotFound { .. }) => {}
            Err(BeneathError::Escapes { .. }) => return Ok(None),
            Err(BeneathError::Open { source, .. }) => return Err(source),
        }
        if hides(layer, path) {
            return Ok(None);
        }
    }
    Ok(None)
}

fn read(node: &Node) -> io::Result<String> {
    let mut bytes = Vec::new();
    node.open()?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        let text = format!("it is larger than {LARGEST} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_whiteout(node: &Node) -> bool {
    let stat = node.stat();
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

/// Whether a directory above `path` is, in this layer, one that hides those below, or
/// no directory at all.
fn hides(layer: &Path, path: &Path) -> bool {
    let mut above = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
    above.any(|dir| match beneath::find_inside(layer, dir) {
        Ok(node) => !node.is_dir() || is_opaque(&layer.join(dir)),
        Err(_) => false,
    })
}

fn is_opaque(dir: &Path) -> bool {
    let value =
        fs::File::open(dir).and_then(|dir| kernel::xattr::get(&dir, kernel::layers::OPAQUE));
    value.is_ok_and(|value| value.as_deref() == Some(b"y"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn layers(name: &str) -> (PathBuf, [PathBuf; 3]) {
        let dir = std::env::temp_dir().join(format!("look-{name}-{}", std::process::id()));
        let layers = ["0", "1", "2"].map(|name| dir.join(name));
        for layer in &layers {
            fs::create_dir_all(layer).unwrap();
        }
        (dir, layers)
    }

    #[test]
    fn the_topmost_layer_that_has_it_counts() {
        let (dir, layers) = layers("text");
        let path = Path::new("etc/passwd");
        assert_eq!(text(&layers, path).unwrap(), "");
        for (layer, content) in layers.iter().zip(["old", "new"]) {
            fs::create_dir(layer.join("etc")).unwrap();
            fs::write(layer.join(path), content).unwrap();
        }
        assert_eq!(text(&layers, path).unwrap(), "new");
        assert_eq!(text(&layers[..1], path).unwrap(), "old");
        // Links stay in their layer.
        fs::remove_file(layers[1].join(path)).unwrap();
        symlink("/etc/../etc/shadow", layers[1].join(path)).unwrap();
        fs::write(layers[1].join("etc/shadow"), "inside").unwrap();
        assert_eq!(text(&layers, path).unwrap(), "inside");
        // A file in the place of the directory removes all that was in it.
        fs::write(layers[2].join("etc"), "").unwrap();
        assert_eq!(text(&layers, path).unwrap(), "");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_mounted_on_is_made_where_it_is_missing() {
        let (dir, layers) = layers("points");
        fs::create_dir_all(layers[0].join("etc")).unwrap();
        fs::set_permissions(layers[0].join("etc"), fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(layers[1].join("hosts"), "").unwrap();
        fs::create_dir(layers[1].join("proc")).unwrap();
        symlink("/elsewhere", layers[2].join("mnt")).unwrap();
        let point = |path: &str, is_dir| Point { path: path.into(), is_dir };
        let points = [
            point("/proc", true),
            point("/dev", true),
            point("/etc/resolv.conf", false),
            point("/hosts", false),
            point("/mnt/x", true),
            point("/a/b", true),
        ];
        let missing = missing(&layers, &points).unwrap();
        let paths: Vec<_> = missing.iter().map(|m| m.path.display().to_string()).collect();
        assert_eq!(paths, ["dev", "etc/resolv.conf", "a/b"]);
        let upper = dir.join("upper");
        fs::create_dir(&upper).unwrap();
        for _ in 0..2 {
            missing.iter().for_each(|missing| missing.make(&upper).unwrap());
        }
        assert!(upper.join("etc/resolv.conf").is_file() && upper.join("a/b").is_dir());
        let mode = fs::metadata(upper.join("etc")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o711);
        assert!(!upper.join("mnt").exists() && !upper.join("hosts").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
