//! Outgoing libprocess messages, as the driver sees them.

use std::str::FromStr as _;

use crate::agent::core::event::WireMessage;
use crate::wire::libprocess::{Post, Upid};

/// Where messages leave. Neither call waits or fails: libprocess promises no
/// delivery.
pub trait Outbox: Send + Sync {
    /// Sends as the agent.
    fn send(&self, to: &str, message: WireMessage);
    /// Keeps a connection to `to`; its end is told through
    /// [`crate::agent::Handle::peer_exited`].
    fn link(&self, to: &str);
}

/// The real one.
#[derive(Clone)]
pub struct PostOutbox {
    post: Post,
    id: String,
}

impl PostOutbox {
    /// Sends as process `id`, usually `slave(1)`.
    pub fn new(post: Post, id: &str) -> Self {
        PostOutbox { post, id: id.to_owned() }
    }
}

fn upid(to: &str) -> Option<Upid> {
    let parsed = Upid::from_str(to);
    if let Err(error) = &parsed {
        tracing::warn!(to, %error, "cannot send to a malformed address");
    }
    parsed.ok()
}

impl Outbox for PostOutbox {
    fn send(&self, to: &str, message: WireMessage) {
        if let Some(to) = upid(to) {
            self.post.send(&self.id, &to, &message.name, message.body);
        }
    }

    fn link(&self, to: &str) {
        if let Some(to) = upid(to) {
            self.post.link(&to);
        }
    }
}
