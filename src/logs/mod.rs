//! Where the output of containers goes: size caps, rotation, the journal.
//!
//! ```text
//! task --stdout--> named pipe --splice--> logger process --> sandbox/stdout, stdout.1, ...
//!      --stderr--> named pipe ----------/                \-> systemd's journal
//! ```
//!
//! Without a logger a task writes straight to the files of its sandbox, and nothing
//! of this runs. With one, each stream is a named pipe in the container's runtime
//! directory, with an [`order::Order`] beside it that says where its bytes belong.
//! One `bulkhead-helper logger` per agent carries the orders out ([`helper`]); the
//! agent starts it, and starts it again should it die ([`client`]). It outlives the
//! agent and keeps nothing in memory that is not also in a pipe or a file, so it may
//! be killed at any time (docs/decisions/0031).
//!
//! * [`settings`], [`options`], [`rotation`]: what is asked for, and when files change
//!   names. Pure.
//! * [`files`]: the files of one stream. [`order`]: what the agent tells the logger.
//! * [`helper`]: the logger process. [`client`]: the agent's side.

pub mod client;
pub mod files;
pub mod helper;
pub mod options;
pub mod order;
pub mod rotation;
pub mod settings;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whether `program`, a path or a name on `PATH`, can be executed.
#[must_use]
pub fn is_program(program: &Path) -> bool {
    let executable = |path: &Path| {
        path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return executable(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| executable(&directory.join(program)))
}

/// What is said when options need a program that is not there.
#[must_use]
pub fn no_logrotate(program: &Path) -> String {
    format!(
        "these logrotate options need the program '{}', which cannot be executed: install it or \
         use only 'rotate COUNT'",
        program.display()
    )
}
