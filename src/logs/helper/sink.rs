//! Bytes of a pipe into one stream's files, up to their cap.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use kernel::pipe;

use super::Tools;
use crate::logs::files::Files;
use crate::logs::order;
use crate::logs::rotation::{Step, step};

/// The files of one stream.
#[derive(Debug)]
pub(super) struct Sink {
    files: Files,
    /// Bytes that could not be written, and why, not yet told in the file.
    lost: Option<(u64, io::Error)>,
}

impl Sink {
    pub(super) fn open(
        order: &order::Order,
        files: order::Files,
        name: &'static str,
    ) -> io::Result<Sink> {
        let files = Files::open(&order.sandbox, order.owner, files, name)?;
        Ok(Sink { files, lost: None })
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
            let size = self.files.size();
            let moved = match step(size, left, self.files.max_size()) {
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

    async fn rotate(&mut self) -> io::Result<()> {
        if let Some(error) = self.files.rotate().await? {
            eprintln!("failed to rotate {}: {error}", self.files.path().display());
        }
        Ok(())
    }

    fn write(&self, pipe: BorrowedFd<'_>, size: u64, count: u64, tools: &Tools) -> io::Result<u64> {
        match pipe::splice(pipe, self.files.file().as_fd(), Some(size), count) {
            // A file system that pipes cannot be spliced to.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let bytes = tools.peek.look(pipe, count)?;
                self.files.file().write_all_at(&bytes, size)?;
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
            eprintln!("failed to write {}: {error}", self.files.path().display());
        }
        self.lost = Some((before + moved, error));
        Ok(moved)
    }

    /// Says in the file what is missing before this place; `true` if it did.
    fn tell_loss(&mut self, size: u64) -> bool {
        let Some((bytes, error)) = &self.lost else { return false };
        let text = format!("\n[bulkhead: {bytes} bytes of output are lost here: {error}]\n");
        let fits = size + text.len() as u64 <= self.files.max_size();
        let told = fits && self.files.file().write_all_at(text.as_bytes(), size).is_ok();
        if told {
            self.lost = None;
        }
        told
    }
}
