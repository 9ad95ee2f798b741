//! What the agent tells the logger about a container: a file beside its pipes.
//!
//! The file is written last, when the container's ends of the pipes are open, and
//! stays until the container is forgotten: a logger that starts finds all it has to
//! do by looking for these files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names of the two streams, also of their files in the sandbox.
pub const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The container's name, for messages.
    pub container: String,
    /// Directory of the files.
    pub sandbox: PathBuf,
    /// User and group that own the files.
    pub owner: Option<(u32, u32)>,
    /// Files for standard output and error; `None`: no files.
    pub files: Option<[Files; 2]>,
    /// The journal, if it gets the lines.
    pub journal: Option<Journal>,
}

/// One stream's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Most bytes of one file.
    pub max_size: u64,
    /// Old files to keep.
    pub keep: u32,
    /// Options for logrotate; without them we rotate ourselves.
    #[serde(default)]
    pub options: Option<String>,
    /// The program that takes the options.
    #[serde(default)]
    pub logrotate: PathBuf,
}

impl Files {
    /// One file without a limit.
    #[must_use]
    pub fn unlimited() -> Files {
        Files { max_size: u64::MAX, keep: 0, options: None, logrotate: PathBuf::new() }
    }
}

/// Where the journal listens, and what each line carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// A datagram socket that takes the native protocol.
    pub socket: PathBuf,
    /// Names and values besides `MESSAGE`, `PRIORITY` and `STREAM`.
    pub fields: Vec<(String, String)>,
}

/// An order that cannot be stored or read.
#[derive(Debug, Error)]
#[error("failed to {verb} '{}'", path.display())]
pub struct OrderError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The order's file in a container's runtime directory.
#[must_use]
pub fn file(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// The pipe of a stream in a container's runtime directory.
#[must_use]
pub fn pipe(directory: &Path, stream: &str) -> PathBuf {
    directory.join(format!("{stream}.pipe"))
}

impl Order {
    /// Stores the order in a container's runtime directory, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), OrderError> {
        let (path, temporary) = (file(directory), directory.join(".log"));
        let bytes = serde_json::to_vec(self).expect("texts and numbers only");
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| OrderError { verb: "write", path, source })
    }

    /// Reads the order of a container.
    ///
    /// # Errors
    /// There is none, or it is not one.
    pub fn read(directory: &Path) -> Result<Order, OrderError> {
        let path = file(directory);
        fs::read(&path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(|source| OrderError { verb: "read", path, source })
    }
}

/// Every directory below `root` that has an order.
#[must_use]
pub fn scan(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            if file(&entry.path()).exists() {
                found.push(entry.path());
            }
            open.push(entry.path().join("containers"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_found_again() {
        let root = std::env::temp_dir().join(format!("orders-{}", std::process::id()));
        let nested = root.join("a/containers/b");
        fs::create_dir_all(&nested).unwrap();
        fs::create_dir_all(root.join("c")).unwrap();
        let files = Files { max_size: 4096, keep: 2, options: None, logrotate: "x".into() };
        let order = Order {
            container: "a.b".into(),
            sandbox: "/sandbox".into(),
            owner: Some((1, 2)),
            files: Some([files.clone(), files]),
            journal: None,
        };
        order.write(&nested).unwrap();
        order.write(&root.join("a")).unwrap();
        assert_eq!(Order::read(&nested).unwrap(), order);
        assert!(Order::read(&root.join("c")).is_err());
        let mut found = scan(&root);
        found.sort();
        assert_eq!(found, [root.join("a"), nested]);
        fs::write(file(&root.join("a")), "{").unwrap();
        assert!(Order::read(&root.join("a")).is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
