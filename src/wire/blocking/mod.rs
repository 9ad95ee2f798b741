//! A blocking HTTP/1.1 client for helper processes: one request on one connection,
//! proxies as curl has them, TLS.
//!
//! Blocking on purpose: the time limit of a read is the stall timeout. Redirects,
//! retries and what an answer means are the caller's (`fetch`, `provisioner`).

mod body;
mod connect;
mod trust;
mod url;

use std::io;

use thiserror::Error;

pub use self::body::{Body, Head, Request, get, send};
pub use self::connect::{Environment, Trust, basic};
pub use self::url::{Url, decode};

/// Redirects that are followed.
pub const REDIRECTS: usize = 20;

/// Why a server did not give what it was asked for.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum HttpError {
    #[error("'{url}' is no URL: {why}")]
    Url { url: String, why: &'static str },
    #[error("failed to find the address of '{host}'")]
    Resolve { host: String, source: io::Error },
    #[error("failed to connect to {host}")]
    Connect { host: String, source: io::Error },
    #[error("the proxy {proxy} is not usable: {why}")]
    Proxy { proxy: String, why: String },
    #[error("failed to set up TLS: {0}")]
    Tls(String),
    #[error("{host} does not speak TLS")]
    NotTls { host: String },
    #[error("no progress from {host} for {secs} s (--fetcher_stall_timeout)")]
    Stalled { host: String, secs: u64 },
    #[error("the connection to {host} broke")]
    Broken { host: String, source: io::Error },
    #[error("{host} did not answer in HTTP: {why}")]
    NotHttp { host: String, why: String },
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge { host: String, limit: usize },
    #[error("received HTTP return code {status}")]
    Status { status: u16 },
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
}

impl HttpError {
    /// The next attempt may go well.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, HttpError::Broken { .. } | HttpError::Connect { .. })
    }

    /// The server says that there is no such thing.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, HttpError::Status { status: 404 | 410 })
    }
}
