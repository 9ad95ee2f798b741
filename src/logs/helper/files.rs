//! One stream's files in a sandbox: written up to their cap, then renamed.
//!
//! The sandbox belongs to the task, which may put anything in our way: names are
//! looked up below the open directory, never through links, and a full file that
//! cannot be renamed is dropped, so that the cap holds whatever happens.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use kernel::directory::Directory;
use kernel::{memfd, pipe};
use tokio::process::Command;

use super::Tools;
use crate::logs::order;
use crate::logs::rotation::{Step, renames, step};

/// How long logrotate may take for one file.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files of one stream.
#[derive(Debug)]
pub(super) struct Files {
    directory: Directory,
    sandbox: PathBuf,
    name: &'static str,
    owner: Option<(u32, u32)>,
    order: order::Files,
    file: File,
    /// Bytes that could not be written, and why, not yet told in the file.
    lost: Option<(u64, io::Error)>,
}

impl Files {
    pub(super) fn open(
        order: &order::Order,
        files: order::Files,
        name: &'static str,
    ) -> io::Result<Files> {
        let directory = Directory::open(&order.sandbox)?;
        let file = directory.file(name, order.owner)?;
        let (sandbox, owner) = (order.sandbox.clone(), order.owner);
        Ok(Files { directory, sandbox, name, owner, order: files, file, lost: None })
    }

    /// Moves `count` bytes out of the pipe: into the files, or if a file cannot take
    /// them, away, because a full disk must not stop the task. Returns early if they
    /// are not there.
    ///
    /// # Errors
    /// The pipe cannot be read.
    pub(super) async fn take(
        &mut self,
        pipe: BorrowedFd<'_>,
        count: u64,
        tools: &Tools,
    ) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            // Asked each time: the task may write to the file, or cut it, by its name.
            let size = self.file.metadata().map_or(0, |metadata| metadata.len());
            let moved = match step(size, left, self.order.max_size) {
                Step::Rotate => match self.rotate().await {
                    Ok(()) => continue,
                    Err(error) => self.lose(pipe, left, error, tools)?,
                },
                Step::Write(_) if self.tell_loss(size) => continue,
                Step::Write(count) => match self.write(pipe, size, count, tools) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => self.lose(pipe, count, error, tools)?,
                    Ok(moved) => moved,
                },
            };
            if moved == 0 {
                return Ok(());
            }
            left = left.saturating_sub(moved);
        }
        Ok(())
    }

    fn write(&self, pipe: BorrowedFd<'_>, size: u64, count: u64, tools: &Tools) -> io::Result<u64> {
        match pipe::splice(pipe, self.file.as_fd(), Some(size), count) {
            // A file system that pipes cannot be spliced to.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let bytes = tools.peek.look(pipe, count)?;
                self.file.write_all_at(&bytes, size)?;
                tools.discard(pipe, bytes.len() as u64)
            }
            other => other,
        }
    }

    fn lose(
        &mut self,
        pipe: BorrowedFd<'_>,
        count: u64,
        error: io::Error,
        tools: &Tools,
    ) -> io::Result<u64> {
        let moved = tools.discard(pipe, count)?;
        let before = self.lost.take().map_or(0, |(bytes, _)| bytes);
        if before == 0 {
            eprintln!("failed to write {}/{}: {error}", self.sandbox.display(), self.name);
        }
        self.lost = Some((before + moved, error));
        Ok(moved)
    }

    /// Says in the file what is missing before this place; `true` if it did.
    fn tell_loss(&mut self, size: u64) -> bool {
        let Some((bytes, error)) = &self.lost else { return false };
        let text = format!("\n[bulkhead: {bytes} bytes of output are lost here: {error}]\n");
        let fits = size + text.len() as u64 <= self.order.max_size;
        let told = fits && self.file.write_all_at(text.as_bytes(), size).is_ok();
        if told {
            self.lost = None;
        }
        told
    }

    /// Begins a new file.
    async fn rotate(&mut self) -> io::Result<()> {
        if let Some(options) = self.order.options.clone() {
            if let Err(error) = self.run_logrotate(&options).await {
                eprintln!("failed to rotate {}/{}: {error}", self.sandbox.display(), self.name);
            }
            self.file = self.directory.file(self.name, self.owner)?;
            if self.file.metadata()?.len() == 0 {
                return Ok(());
            }
            // It did nothing, or failed: the cap holds all the same.
        }
        let exists = |name: &str| self.directory.exists(name);
        for (from, to) in renames(self.name, self.order.keep, exists) {
            // Something is in the way: what cannot be moved is dropped.
            let _ = self.directory.rename(&from, &to);
        }
        self.file = self.directory.replace(self.name, self.owner)?;
        Ok(())
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
