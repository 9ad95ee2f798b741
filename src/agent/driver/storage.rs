//! The storage thread: writes checkpoints in order and reports each.
//!
//! A full disk is waited for, not died of: what depends on the record stays
//! undone until there is room, so nothing is promised that could be forgotten,
//! and running containers are not touched. Any other failure ends the agent, as
//! it ends Mesos'.

use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::agent::core::event::{Event, Seq};
use crate::agent::handle::Mail;
use crate::checkpoint::{Record, Store};

/// Between two tries to write on a full disk.
const RETRY: Duration = Duration::from_millis(500);

/// The driver's end of the storage thread. The queue is not bounded: the core
/// hands in a bounded number of records per piece of mail, and mail is bounded.
pub(super) struct Storage {
    queue: Option<mpsc::UnboundedSender<(Seq, Record)>>,
    finished: Option<oneshot::Receiver<()>>,
}

impl Storage {
    pub(super) fn start(store: Store, back: mpsc::Sender<Mail>) -> std::io::Result<Self> {
        let (queue, mut records) = mpsc::unbounded_channel::<(Seq, Record)>();
        let (done, finished) = oneshot::channel();
        thread::Builder::new().name("storage".to_owned()).spawn(move || {
            while let Some((seq, record)) = records.blocking_recv() {
                let mut waiting = false;
                let event = loop {
                    match store.write(&record) {
                        Ok(()) => break Event::Persisted(seq),
                        // A driver that is leaving does not wait for room.
                        Err(error) if error.is_full() && !records.is_closed() => {
                            if !std::mem::replace(&mut waiting, true) {
                                tracing::error!(error = %kernel::chain(&error), "no space left for checkpoints: waiting");
                            }
                            thread::sleep(RETRY);
                        }
                        Err(error) => break Event::PersistFailed { seq, error: kernel::chain(&error) },
                    }
                };
                if waiting {
                    tracing::info!("there is room for checkpoints again");
                }
                // The driver may be gone already: the rest is written all the same.
                let _ = back.blocking_send(Mail::Event(event));
            }
            let _ = done.send(());
        })?;
        Ok(Storage { queue: Some(queue), finished: Some(finished) })
    }

    pub(super) fn write(&self, seq: Seq, record: Record) {
        if let Some(queue) = &self.queue {
            let _ = queue.send((seq, record));
        }
    }

    /// Waits until everything handed in is written.
    pub(super) async fn finish(&mut self) {
        self.queue = None;
        if let Some(finished) = self.finished.take() {
            let _ = finished.await;
        }
    }
}
