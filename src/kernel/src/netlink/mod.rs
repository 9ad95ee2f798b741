//! Netlink: asking the kernel about its network, and changing it.
//!
//! Owns the sockets and the wire form of what goes over them. No child processes:
//! what `ip`, `ss` and `tc` do is done here. A [`Socket`] belongs to the network
//! that it was opened in, for good; to work in another one, open it there
//! (`namespaces::in_network_of`, or [`Socket::open_in`]). Blocks for as long as the
//! kernel needs to answer.
//!
//! * [`message`]: requests and replies as bytes. Pure.
//! * [`Socket`]: sends a request, reads its answer or the whole list.
//! * [`link`]: interfaces; [`address`]: their addresses; [`route`]: routes.
//! * [`diag`]: sockets of others: who listens where.

pub mod address;
pub mod diag;
pub mod link;
pub mod message;
pub mod route;
mod socket;

pub use socket::{Family, Refusal, Socket};
