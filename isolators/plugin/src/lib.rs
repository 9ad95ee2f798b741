//! Isolators in their own process: both ends of the plugin protocol.
//!
//! * For authors: [`serve`]: an isolator on a unix socket in a few lines.
//! * For the agent: [`manifest`] (the plugins' files), [`remote`] (a plugin as an
//!   isolator; supervised, with a deadline and a failure policy).
//! * For both sides of the table: [`check`], the conformance suite over a socket.
//! * For both: [`messages`] and [`wire`]; docs/plugins.md shows them by example.
//!
//! Knows the isolators' contract and the messages; never the agent.

#![forbid(unsafe_code)]

pub mod check;
mod hooks;
mod ledger;
pub mod manifest;
pub mod messages;
pub mod remote;
pub mod serve;
mod shared;
mod supervisor;
pub mod wire;

pub use ledger::{Pending, Report};
pub use manifest::{Manifest, Policy};
pub use remote::RemoteIsolator;
pub use serve::Plugin;
