//! One stream's files in a sandbox: the newest, and how it becomes an old one.
//!
//! The sandbox belongs to the task, which may put anything in our way: names are
//! looked up below the open directory, never through links, and a full file that
//! cannot be renamed is dropped, so that the cap holds whatever happens.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kernel::directory::Directory;
use kernel::memfd;
use tokio::process::Command;

use super::order;
use super::rotation::renames;

/// How long logrotate may take for one file.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files of one stream.
#[derive(Debug)]
pub struct Files {
    directory: Directory,
    sandbox: PathBuf,
    name: &'static str,
    owner: Option<(u32, u32)>,
    order: order::Files,
    file: File,
}

impl Files {
    /// Opens the newest file, which is made if it is missing; written by place.
    ///
    /// # Errors
    /// The system's; a directory is in the way.
    pub fn open(
        sandbox: &Path,
        owner: Option<(u32, u32)>,
        order: order::Files,
        name: &'static str,
    ) -> io::Result<Files> {
        let directory = Directory::open(sandbox)?;
        let file = directory.file(name, owner)?;
        Ok(Files { directory, sandbox: sandbox.to_owned(), name, owner, order, file })
    }

    /// The newest file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length; asked each time: the task may write to the file, or cut it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Most bytes of one file.
    #[must_use]
    pub fn max_size(&self) -> u64 {
        self.order.max_size
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.sandbox.join(self.name)
    }

    /// Begins a new file. Why logrotate did not help, if it did not: the cap holds all
    /// the same.
    ///
    /// # Errors
    /// There is no new file.
    pub async fn rotate(&mut self) -> io::Result<Option<io::Error>> {
        let mut trouble = None;
        if let Some(options) = self.order.options.clone() {
            trouble = self.run_logrotate(&options).await.err();
            self.file = self.directory.file(self.name, self.owner)?;
            if self.file.metadata()?.len() == 0 {
                return Ok(trouble);
            }
        }
        let exists = |name: &str| self.directory.exists(name);
        for (from, to) in renames(self.name, self.order.keep, exists) {
            // Something is in the way: what cannot be moved is dropped.
            let _ = self.directory.rename(&from, &to);
        }
        self.file = self.directory.replace(self.name, self.owner)?;
        Ok(trouble)
    }

    /// Runs logrotate as the files' owner, as Mesos' logger does.
    async fn run_logrotate(&self, options: &str) -> io::Result<()> {
        let failed = |text: String| io::Error::other(text);
        let path = self.sandbox.join(self.name);
        let text = path.to_str().filter(|text| !text.contains(['"', '\\', '*', '?', '[', '\n']));
        let text = text.ok_or_else(|| failed("its path cannot be told to logrotate".into()))?;
        // It is full already, whatever logrotate thinks of its size.
        let config = format!("\"{text}\" {{\n{options}\nsize 1\n}}\n");
        let config = memfd::sealed(c"bulkhead-logrotate", config.as_bytes());
        let config = File::from(config.map_err(|error| error.source)?);
        // Anything else counts as unsafe there.
        config.set_permissions(Permissions::from_mode(0o644))?;
        let mut command = Command::new(&self.order.logrotate);
        command.arg("--state").arg(self.sandbox.join(format!("{}.logrotate.state", self.name)));
        command.arg("/proc/self/fd/0").stdin(config);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        let ended = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = ended.map_err(|_| failed(format!("not done within {PATIENCE:?}")))??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().replace('\n', "; ");
            return Err(failed(format!("logrotate ended with {}: {said}", output.status)));
        }
        Ok(())
    }
}
