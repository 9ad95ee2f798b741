//! Endpoints that master and agent serve alike, and their routes.
//!
//! [`Common::routes`] adds them to a daemon's table, [`Common::answer`] serves
//! what was found there. The only place of `daemon` that knows status codes.

mod files;
pub mod help;

use std::sync::Arc;
use std::time::Instant;

use mesos::json::Writer;

use super::files::Files;
use super::flags::Flags;
use super::logging::Logging;
use super::metrics::Metrics;
use super::prometheus::{Exposition, MEDIA_TYPE};
use super::{units, version};
use crate::wire::http::routes::Routes;
use crate::wire::http::{Request, Response, StatusCode};

/// An endpoint both daemons have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/files/browse`
    Browse,
    /// `/files/read`
    Read,
    /// `/files/download`
    Download,
    /// `/files/debug`
    Debug,
    /// `/metrics/snapshot`
    Metrics,
    /// `/metrics`, for Prometheus
    Prometheus,
    /// `/system/stats.json`
    System,
    /// `/logging/toggle`
    Logging,
    /// `/version`
    Version,
    /// `/flags`
    Flags,
    /// `/health`
    Health,
    /// `/__processes__`
    Processes,
}

/// What the common endpoints show.
#[derive(Clone)]
pub struct Common {
    /// Attached files.
    pub files: Files,
    /// All metrics.
    pub metrics: Metrics,
    /// The logger.
    pub logging: Logging,
    /// The flags of this start.
    pub flags: Arc<Flags>,
}

impl Common {
    /// Adds the common endpoints to the table of the daemon whose own process is
    /// `daemon` (`master`, `slave(1)`); `wrap` makes the daemon's handler of one.
    #[must_use]
    pub fn routes<T>(table: Routes<T>, daemon: &str, wrap: impl Fn(Endpoint) -> T) -> Routes<T> {
        table
            .add("files", "browse", wrap(Endpoint::Browse))
            .add("files", "read", wrap(Endpoint::Read))
            .add("files", "download", wrap(Endpoint::Download))
            .add("files", "debug", wrap(Endpoint::Debug))
            .add("metrics", "snapshot", wrap(Endpoint::Metrics))
            .add("metrics", "", wrap(Endpoint::Prometheus))
            .add("system", "stats.json", wrap(Endpoint::System))
            .add("logging", "toggle", wrap(Endpoint::Logging))
            .add("version", "", wrap(Endpoint::Version))
            .add("__processes__", "", wrap(Endpoint::Processes))
            .add(daemon, "flags", wrap(Endpoint::Flags))
            .add(daemon, "health", wrap(Endpoint::Health))
    }

    /// Serves one of them.
    pub async fn answer(&self, endpoint: Endpoint, request: &Request) -> Response {
        let response = match endpoint {
            Endpoint::Browse | Endpoint::Read | Endpoint::Download | Endpoint::Debug => {
                files::answer(&self.files, endpoint, request).await
            }
            Endpoint::Metrics => self.metrics(request),
            Endpoint::Prometheus => prometheus(request, &self.metrics.exposition(Instant::now())),
            Endpoint::System => Response::json(system()),
            Endpoint::Logging => self.toggle(request),
            Endpoint::Version => Response::json(version_json()),
            Endpoint::Flags => Response::json(self.flags.to_json()),
            Endpoint::Health => Response::empty(StatusCode::OK),
            Endpoint::Processes => Response::json(&b"[]"[..]),
        };
        response.jsonp(request.query.get("jsonp"))
    }

    /// compat: nothing here takes long enough for the timeout to matter.
    fn metrics(&self, request: &Request) -> Response {
        if let Some(timeout) = request.query.get("timeout")
            && let Err(error) = units::parse_duration(timeout)
        {
            return bad_request(format!("Invalid timeout '{timeout}': {error}.\n"));
        }
        let mut out = Writer::new();
        out.object(|out| {
            for (name, value) in self.metrics.snapshot(Instant::now()) {
                out.key(&name).double(value);
            }
        });
        Response::json(out.into_bytes())
    }

    fn toggle(&self, request: &Request) -> Response {
        let (level, duration) = match (request.query.get("level"), request.query.get("duration")) {
            (None, None) => {
                return Response::text(StatusCode::OK, format!("{}\n", self.logging.verbosity()));
            }
            (Some(_), None) => return bad_request("Expecting 'duration=value' in query.\n"),
            (None, Some(_)) => return bad_request("Expecting 'level=value' in query.\n"),
            (Some(level), Some(duration)) => (level, duration),
        };
        let Ok(verbosity) = level.parse::<i64>() else {
            return bad_request(format!("Failed to convert '{level}' to number.\n"));
        };
        let Ok(verbosity) = u64::try_from(verbosity) else {
            return bad_request(format!("Invalid level '{level}'.\n"));
        };
        match units::parse_duration(duration) {
            Ok(duration) => {
                self.logging.toggle(verbosity, duration);
                Response::empty(StatusCode::OK)
            }
            Err(error) => bad_request(format!("{error}.\n")),
        }
    }
}

/// The answer of `/metrics`; a longer path is none of ours.
#[must_use]
pub fn prometheus(request: &Request, exposition: &Exposition) -> Response {
    match request.raw_path().trim_matches('/') {
        "metrics" => Response::bytes(MEDIA_TYPE, exposition.render()),
        _ => Response::not_found(),
    }
}

fn bad_request(message: impl Into<String>) -> Response {
    Response::text(StatusCode::BAD_REQUEST, message)
}

fn system() -> Vec<u8> {
    let mut out = Writer::new();
    out.object(|out| {
        if let Ok((one, five, fifteen)) = kernel::machine::load() {
            out.key("avg_load_15min").double(fifteen);
            out.key("avg_load_1min").double(one);
            out.key("avg_load_5min").double(five);
        }
        if let Ok(cpus) = kernel::machine::cpus() {
            out.key("cpus_total").uint(u64::from(cpus));
        }
        if let Ok(memory) = kernel::machine::memory() {
            out.key("mem_free_bytes").uint(memory.free);
            out.key("mem_total_bytes").uint(memory.total);
        }
    });
    out.into_bytes()
}

fn version_json() -> Vec<u8> {
    let mut out = Writer::new();
    out.sorted_message(version::info());
    out.into_bytes()
}

#[cfg(test)]
mod tests;
