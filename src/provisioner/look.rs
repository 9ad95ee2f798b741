//! Reading a file of an image whose layers are not mounted.
//!
//! From the topmost layer down to the first that has it, or that removes it or one of
//! its directories. No link leads out of its layer; a link into another layer leads
//! nowhere.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kernel::beneath::{self, BeneathError, Node};

/// More than that is not read, in bytes.
const LARGEST: u64 = 1 << 20;

/// The content of `path`, relative to the root of an image with these layers, bottom
/// first; empty if there is none.
///
/// # Errors
/// It is there and cannot be read, is no file or too large.
pub fn text(layers: &[PathBuf], path: &Path) -> io::Result<String> {
    for layer in layers.iter().rev() {
        match beneath::find(layer, path) {
            Ok(node) if is_whiteout(&node) => return Ok(String::new()),
            Ok(node) => return read(&node),
            Err(BeneathError::NotFound { .. }) => {}
            Err(BeneathError::Escapes { .. }) => return Ok(String::new()),
            Err(BeneathError::Open { source, .. }) => return Err(source),
        }
        if hides(layer, path) {
            return Ok(String::new());
        }
    }
    Ok(String::new())
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
    let above = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
    above.into_iter().any(|dir| match beneath::find(layer, dir) {
        Ok(node) => !node.is_dir() || is_opaque(&layer.join(dir)),
        Err(_) => false,
    })
}

fn is_opaque(dir: &Path) -> bool {
    let value =
        std::fs::File::open(dir).and_then(|dir| kernel::xattr::get(&dir, kernel::layers::OPAQUE));
    value.is_ok_and(|value| value.as_deref() == Some(b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_layer_that_has_it_counts() {
        let dir = std::env::temp_dir().join(format!("look-{}", std::process::id()));
        let layers = ["0", "1", "2"].map(|name| dir.join(name));
        for layer in &layers {
            std::fs::create_dir_all(layer).unwrap();
        }
        let path = Path::new("etc/passwd");
        assert_eq!(text(&layers, path).unwrap(), "");
        for (layer, content) in layers.iter().zip(["old", "new"]) {
            std::fs::create_dir(layer.join("etc")).unwrap();
            std::fs::write(layer.join(path), content).unwrap();
        }
        assert_eq!(text(&layers, path).unwrap(), "new");
        assert_eq!(text(&layers[..1], path).unwrap(), "old");
        // Links stay in their layer.
        std::fs::remove_file(layers[1].join(path)).unwrap();
        std::os::unix::fs::symlink("/etc/../etc/shadow", layers[1].join(path)).unwrap();
        std::fs::write(layers[1].join("etc/shadow"), "inside").unwrap();
        assert_eq!(text(&layers, path).unwrap(), "inside");
        // A file in the place of the directory removes all that was in it.
        std::fs::write(layers[2].join("etc"), "").unwrap();
        assert_eq!(text(&layers, path).unwrap(), "");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
