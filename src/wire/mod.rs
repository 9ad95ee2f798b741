//! Bytes in, typed messages out: the HTTP server and client of both daemons and
//! the libprocess messages that masters, agents, V0 schedulers and V0 executors
//! send each other over the same port.
//!
//! * [`http`]: the server ([`http::serve`]), requests, responses, routing.
//! * [`libprocess`]: process addresses, framing, [`libprocess::Post`].
//! * [`client`]: a small HTTP client with RecordIO event streams.
//! * [`blocking`]: one request after another, for helper processes; TLS, proxies.
//!
//! Knows nothing of masters and agents; what a path means is decided above.

pub mod blocking;
pub mod client;
pub mod http;
pub mod libprocess;
mod percent;
