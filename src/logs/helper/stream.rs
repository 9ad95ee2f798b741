//! One stream of one container, from its pipe to where it goes.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::pipe;
use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;

use super::Tools;
use super::journal::{self, Journal};
use super::sink::Sink;
use crate::logs::order::{self, Order};

/// Most bytes that are looked at before they are taken: a pipe's size.
const WINDOW: u64 = 64 << 10;

/// A stream under way.
pub(super) struct Stream {
    pipe: Receiver,
    files: Option<Sink>,
    journal: Option<Journal>,
    tools: Arc<Tools>,
}

impl Stream {
    /// Opens what the order names. A sandbox that is gone is no error: the task must
    /// not hang because nobody empties its pipe.
    ///
    /// # Errors
    /// The pipe cannot be opened.
    pub(super) fn open(
        directory: &Path,
        order: &Order,
        index: usize,
        tools: Arc<Tools>,
    ) -> io::Result<Stream> {
        let name = order::STREAMS[index];
        let pipe = pipe::reader(&order::pipe(directory, name))?;
        let files = order.files.as_ref().and_then(|files| {
            let opened = Sink::open(order, files[index].clone(), name);
            let told = |error| eprintln!("{}: failed to open {name}: {error}", order.container);
            opened.map_err(told).ok()
        });
        let journal = order.journal.clone().map(|journal| Journal::new(journal, name));
        let pipe = Receiver::from_owned_fd(pipe)?;
        Ok(Stream { pipe, files, journal, tools })
    }

    /// Works until nobody can write any more and the pipe is empty.
    ///
    /// # Errors
    /// The pipe cannot be read.
    pub(super) async fn run(mut self) -> io::Result<()> {
        loop {
            // In this order: what is written before the end is seen after it.
            let closed = pipe::closed(self.pipe.as_fd())?;
            let waiting = pipe::waiting(self.pipe.as_fd())?;
            if waiting == 0 && closed {
                return Ok(());
            }
            if waiting > 0 && self.advance(waiting, closed).await? {
                // Others want their turn.
                tokio::task::yield_now().await;
                continue;
            }
            let ready = self.pipe.ready(Interest::READABLE).await?;
            // Forgotten before the pipe is looked at again, so that nothing is missed.
            let _ = self.pipe.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            if ready.is_read_closed() {
                // The runtime never forgets an end, though a pipe may be opened again.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Handles what waits; `false` if that was nothing yet: half a line.
    async fn advance(&mut self, waiting: u64, closed: bool) -> io::Result<bool> {
        let pipe = self.pipe.as_fd();
        let mut count = waiting.min(WINDOW);
        if let Some(journal) = &mut self.journal {
            let bytes = match self.tools.peek.look(pipe, usize::try_from(count).unwrap_or(0)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                other => other?,
            };
            let (lines, taken) = journal::lines(&bytes, closed && bytes.len() as u64 == waiting);
            journal.send(&lines).await;
            count = taken as u64;
        }
        if count == 0 {
            return Ok(false);
        }
        match &mut self.files {
            Some(files) => files.take(pipe, count, &self.tools).await?,
            None => {
                self.tools.discard(pipe, count)?;
            }
        }
        Ok(true)
    }
}
