//! A container's terminal: asked for in its plan, taken from its shim before it
//! executes anything, and taken again by each further agent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use isolators::plan::Spec;
use kernel::terminal::Window;
use oci_spec::runtime::BoxBuilder;
use tokio::time::timeout;
use tracing::warn;

use super::container::Container;
use crate::containerizer::terminal::{self, Terminal};
use crate::containerizer::{Class, Output};
use crate::launch::{self, Running};

/// How long the last output is waited for after the end of a container.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for a terminal of this size. An engine that has none says so.
pub(super) fn ask(spec: &mut Spec, window: Window) {
    let Some(mut process) = spec.process().clone() else { return };
    let size = BoxBuilder::default().height(window.rows).width(window.columns);
    process.set_terminal(Some(true)).set_console_size(size.build().ok());
    spec.set_process(Some(process));
}

impl Container {
    /// Its terminal goes to who started the session, or to the sandbox and to all who
    /// attach themselves.
    pub(super) fn take_terminal(&mut self, taken: launch::Terminal) -> io::Result<()> {
        let terminal = Terminal::new(taken.master)?;
        if let Class::Debug(output) = &self.request.class {
            if let Output::Terminal(lent) = output {
                lent.put(terminal);
            }
            return Ok(());
        }
        let terminal = Arc::new(terminal);
        let (copied, hold) = (Arc::clone(&terminal), taken.hold);
        self.copying = Some(tokio::spawn(async move {
            terminal::copy(copied, taken.output).await;
            drop(hold);
        }));
        self.view.send_modify(|view| view.terminal = Some(terminal));
        Ok(())
    }

    /// Takes the terminal of a running container over from the agent before. Of a guest
    /// it is left to end with it.
    pub(super) fn adopt_terminal(&mut self, running: &Running) {
        if self.is_guest() || !matches!(terminal::wanted(&self.request), Ok(Some(_))) {
            return;
        }
        if let Err(error) = running.terminal().and_then(|taken| self.take_terminal(taken)) {
            warn!(container = %self.key, %error, "its terminal cannot be taken over");
        }
    }

    /// Waits until all that was written to its terminal is where it belongs, before
    /// anybody hears of the end.
    pub(super) async fn drain_terminal(&mut self) {
        if let Some(mut copying) = self.copying.take()
            && timeout(PATIENCE, &mut copying).await.is_err()
        {
            warn!(container = %self.key, "somebody still has its terminal");
            copying.abort();
        }
        self.view.send_modify(|view| view.terminal = None);
    }
}
