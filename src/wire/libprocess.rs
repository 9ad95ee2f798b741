//! libprocess: the addresses and the framing of daemon-to-daemon messages.
//!
//! A message is one HTTP/1.1 POST to `/<process id>/<message name>` whose body is
//! a binary protobuf. Messages travel one way: an answer is a message of its own
//! to the address in `Libprocess-From`. [`Post`] sends; [`super::http::serve`]
//! receives and hands messages to its service. What a message means is decided
//! by the master, the agent or the executor that gets it.

mod post;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderMap, Method};
use thiserror::Error;

pub use post::Post;

/// The address of a libprocess process: `id@ip:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Upid {
    /// Name of the process, for example `master` or `slave(1)`.
    pub id: String,
    /// Where its host listens.
    pub address: SocketAddr,
}

impl Upid {
    /// An address from its two parts.
    #[must_use]
    pub fn new(id: impl Into<String>, address: SocketAddr) -> Upid {
        Upid { id: id.into(), address }
    }
}

impl Default for Upid {
    /// `@0.0.0.0:0`, what libprocess prints for an address it could not read.
    fn default() -> Self {
        Upid { id: String::new(), address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) }
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

/// Why a text is not a [`Upid`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpidError {
    /// No `@` between the process id and the address.
    #[error("expected id@ip:port, got '{0}'")]
    Separator(String),
    /// The id holds a character that cannot travel in a request line or header.
    #[error("process id of '{0}' contains a space or a control character")]
    Id(String),
    /// What follows the `@` is not `ip:port`. Host names are not resolved here.
    #[error("expected ip:port after the '@' of '{0}'")]
    Address(String),
}

impl FromStr for Upid {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        let (id, address) =
            text.rsplit_once('@').ok_or_else(|| UpidError::Separator(text.to_owned()))?;
        if id.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(UpidError::Id(text.escape_default().to_string()));
        }
        let address = address.parse().map_err(|_| UpidError::Address(text.to_owned()))?;
        Ok(Upid { id: id.to_owned(), address })
    }
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it sent this; `@0.0.0.0:0` if the claim cannot be read. Nothing
    /// proves it unless `require_peer_address_ip_match` is on, and then only the ip.
    pub from: Upid,
    /// Process id of the receiver, percent-decoded.
    pub to: String,
    /// Full protobuf name, for example `mesos.internal.RegisterSlaveMessage`.
    pub name: String,
    /// The protobuf, not yet looked at.
    pub body: Bytes,
}

/// The bytes of one message, exactly as libprocess writes them: a body travels
/// as one chunk, an empty one has no body headers at all.
#[must_use]
pub fn frame(from: &Upid, to: &Upid, name: &str, body: &[u8]) -> Vec<u8> {
    let slash = if to.id.is_empty() { "" } else { "/" };
    let head = format!(
        "POST /{id}{slash}{name} HTTP/1.1\r\n\
         User-Agent: libprocess/{from}\r\n\
         Libprocess-From: {from}\r\n\
         Connection: Keep-Alive\r\n\
         Host: {host}\r\n",
        id = to.id,
        host = to.address,
    );
    let mut out = Vec::with_capacity(head.len() + body.len() + 48);
    out.extend_from_slice(head.as_bytes());
    if body.is_empty() {
        out.extend_from_slice(b"\r\n");
        return out;
    }
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n0\r\n\r\n");
    out
}

const FROM: &str = "libprocess-from";
const AGENT_PREFIX: &str = "libprocess/";

/// The sender of a libprocess message, or `None` if the request is plain HTTP.
///
/// compat: an unreadable sender is the default address, not an error.
#[must_use]
pub fn sender(method: &Method, headers: &HeaderMap) -> Option<Upid> {
    if method != Method::POST {
        return None;
    }
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let claimed = match header(FROM) {
        Some(from) => from,
        None if headers.contains_key(FROM) => "",
        None => header("user-agent")?.strip_prefix(AGENT_PREFIX)?,
    };
    Some(claimed.parse().unwrap_or_default())
}

/// Splits the raw path of a message into receiver (decoded) and message name (as is).
#[must_use]
pub fn target(raw_path: &str) -> (String, &str) {
    let path = raw_path.strip_prefix('/').unwrap_or(raw_path);
    let (id, name) = path.split_once('/').unwrap_or((path, ""));
    (super::percent::percent_decode(id).unwrap_or_else(|| id.to_owned()), name)
}
