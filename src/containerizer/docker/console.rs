//! The terminal of a container's first process. The engine has it.
//!
//! A connection carries there what clients type, and back what is shown to those who look;
//! it is made anew when it breaks, and by each further agent. What is shown is also in the
//! engine's log, and only from there it goes to the sandbox (see `output`), so nothing of
//! that is lost meanwhile.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kernel::terminal::Window;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::container::Container;
use super::engine::{Engine, Screen};
use super::guests::resize;
use crate::containerizer::LaunchRequest;
use crate::containerizer::terminal::{self, Terminal};
use crate::wire::client::Duplex;

/// Wait before connecting again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the last words may take after the container has ended.
const LINGER: Duration = Duration::from_secs(2);

/// Whether a container has a terminal.
pub(super) fn is_wanted(request: &LaunchRequest) -> bool {
    request.container.as_ref().is_some_and(|info| info.tty_info.is_some())
}

impl Container {
    /// Its terminal, for all who attach themselves. `first`: it has just been started, so
    /// that its size is still to be set.
    pub(super) fn console(&self, first: bool) -> Option<Arc<Terminal>> {
        if !is_wanted(&self.request) {
            return None;
        }
        // A size that is none was refused before.
        let asked = terminal::wanted(&self.request).ok().flatten();
        let window = asked.filter(|_| first).unwrap_or_default();
        let engine = Arc::clone(&self.shared.engine);
        open(engine, &self.name, window, self.ended.subscribe())
            .inspect_err(|error| warn!(container = %self.key, %error, "its terminal is not open"))
            .ok()
    }
}

/// Opens our end, and holds the connection until `ended` turns true.
fn open(
    engine: Arc<Engine>,
    name: &str,
    window: Window,
    ended: watch::Receiver<bool>,
) -> io::Result<Arc<Terminal>> {
    let (terminal, far) = Terminal::elsewhere(window)?;
    let terminal = Arc::new(terminal);
    let line =
        Line { name: name.to_owned(), typed: far.typed, shown: Sender::from_owned_fd(far.shown)? };
    let nowhere = File::options().write(true).open("/dev/null")?;
    tokio::spawn(terminal::copy(Arc::clone(&terminal), nowhere.into()));
    let of = Screen::Container(name.to_owned());
    tokio::spawn(resize(Arc::clone(&engine), of, far.sizes));
    tokio::spawn(line.hold(engine, ended));
    Ok(terminal)
}

/// The connection.
struct Line {
    name: String,
    typed: Receiver,
    shown: Sender,
}

impl Line {
    async fn hold(mut self, engine: Arc<Engine>, mut ended: watch::Receiver<bool>) {
        loop {
            match engine.attach(&self.name).await {
                Ok(connection) => self.pass(connection, &mut ended).await,
                Err(error) if error.is_missing() => return,
                Err(error) => {
                    let error = kernel::chain(&error);
                    debug!(container = self.name, error, "its terminal is not reached");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                // Nobody who could tell of an end is one as well.
                _ = ended.wait_for(|ended| *ended) => return,
            }
        }
    }

    /// Passes on what goes either way until the connection breaks.
    async fn pass(&mut self, connection: Duplex, ended: &mut watch::Receiver<bool>) {
        let (mut from, mut to) = tokio::io::split(connection);
        let over = async {
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            _ = tokio::io::copy(&mut from, &mut self.shown) => {}
            _ = tokio::io::copy(&mut self.typed, &mut to) => {}
            () = over => {}
        }
    }
}
