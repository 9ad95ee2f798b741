//! Signals a daemon acts on. Called by its main loop; what follows is its choice.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM` or `SIGINT`: stop, leaving containers alone.
    Stop,
    /// `SIGUSR1`: an agent ends its tasks and leaves the cluster for good.
    Leave,
    /// `SIGHUP`: open log files again.
    Reopen,
}

/// The signals of this process, from the moment this value exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    user1: Stream,
    hangup: Stream,
}

impl Signals {
    /// Takes over the signals. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Safe to drop and call again.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.user1.recv() => Signal::Leave,
            _ = self.hangup.recv() => Signal::Reopen,
        }
    }
}
