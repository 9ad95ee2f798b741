//! The storage thread: writes checkpoints in order and reports each.

use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::agent::core::event::{Event, Seq};
use crate::agent::handle::Mail;
use crate::checkpoint::{Record, Store};

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
                let event = match store.write(&record) {
                    Ok(()) => Event::Persisted(seq),
                    Err(error) => Event::PersistFailed { seq, error: error.to_string() },
                };
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
