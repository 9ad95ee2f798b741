//! Our own terminal, for commands in a container that get it in the place of theirs.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use kernel::terminal::{Modes, Window, window};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// Signals that end us, and must not leave the terminal raw.
const ENDING: [SignalKind; 4] =
    [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];

/// The terminal is raw: what is typed goes to the container as it is, `^C` included.
/// It is as it was when this is dropped, and after a panic.
#[derive(Debug)]
pub struct Raw(Modes);

impl Raw {
    /// Makes it so.
    pub fn begin() -> Result<Raw, CliError> {
        let modes = Modes::of(io::stdin().as_fd()).map_err(failed("read the modes of"))?;
        let raw = Raw(modes);
        // A release aborts on a panic, without dropping anything.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = modes.apply(io::stdin().as_fd());
            before(panic);
        }));
        modes.raw().apply(io::stdin().as_fd()).map_err(failed("change the modes of"))?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no care.
        let _ = self.0.apply(io::stdin().as_fd());
    }
}

fn failed(verb: &'static str) -> impl Fn(io::Error) -> CliError {
    move |source| CliError::Io { verb, path: PathBuf::from("the terminal"), source }
}

/// Whether what we read is typed.
pub fn is_typed() -> bool {
    io::stdin().is_terminal()
}

/// The size of our terminal, wherever one is.
pub fn size() -> Option<Window> {
    let stdin = window(io::stdin().as_fd());
    let any = stdin.or_else(|_| window(io::stdout().as_fd()));
    any.or_else(|_| window(io::stderr().as_fd())).ok()
}

/// What the agent is told of a terminal.
pub fn tty_info(size: Option<Window>) -> Value {
    match size {
        Some(Window { rows, columns }) => {
            json!({ "window_size": { "rows": rows, "columns": columns } })
        }
        None => json!({}),
    }
}

/// The sizes of our terminal, one after the other.
#[derive(Debug)]
pub struct Sizes {
    changes: Signal,
    told: bool,
}

impl Sizes {
    /// Begins with the one it has now.
    pub fn new() -> Result<Sizes, CliError> {
        let changes = signal(SignalKind::window_change()).map_err(failed("watch"))?;
        Ok(Sizes { changes, told: false })
    }

    /// The next one.
    pub async fn next(&mut self) -> Window {
        loop {
            if std::mem::replace(&mut self.told, true) && self.changes.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            if let Some(size) = size() {
                return size;
            }
        }
    }
}

/// Signals that would end us.
#[derive(Debug)]
pub struct Ending(Vec<(SignalKind, Signal)>);

impl Ending {
    /// From here on they are waited for.
    pub fn new() -> Result<Ending, CliError> {
        let watch = |kind| signal(kind).map(|signal| (kind, signal));
        ENDING
            .into_iter()
            .map(watch)
            .collect::<io::Result<_>>()
            .map(Ending)
            .map_err(failed("watch"))
    }

    /// The first that comes; the exit code that says so, as shells do.
    pub async fn code(&mut self) -> u8 {
        std::future::poll_fn(|context| {
            for (kind, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
                    return std::task::Poll::Ready(128 + number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_the_agent_reads_them() {
        let size = Window { rows: 24, columns: 80 };
        let told = json!({ "window_size": { "rows": 24, "columns": 80 } });
        assert_eq!((tty_info(Some(size)), tty_info(None)), (told, json!({})));
    }

    #[tokio::test]
    async fn signals_are_exit_codes() {
        let mut ending = Ending::new().expect("signals");
        let mut kill = tokio::process::Command::new("kill");
        let own = std::process::id().to_string();
        assert!(kill.args(["-QUIT", &own]).status().await.expect("kill").success());
        assert_eq!(ending.code().await, 131);
    }
}
