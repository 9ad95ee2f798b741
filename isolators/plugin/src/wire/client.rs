//! The agent's end of the socket: kept-alive connections, deadlines, streams.
//!
//! HTTP/1.1 answers in order, so a slow call occupies its connection only; the
//! next call takes an idle one or dials. No call is sent twice.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use mesos::bulkhead::plugin::{Call, Event, Response};
use mesos::recordio::Decoder;
use thiserror::Error;
use tokio::net::UnixStream;

use super::{Encoding, LONGEST, PATH, name_of};

/// Most idle connections that are kept.
const IDLE: usize = 8;

/// Why there is no answer that can be used.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens there.
    #[error("failed to connect to '{}'", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The connection ended before the answer did.
    #[error("failed to exchange {call}: {message}")]
    Broken {
        /// Type of the call.
        call: &'static str,
        /// What happened.
        message: String,
    },
    /// No answer in time.
    #[error("no answer to {call} within {limit:?}")]
    Deadline {
        /// Type of the call.
        call: &'static str,
        /// The plugin's deadline.
        limit: Duration,
    },
    /// An answer that is none.
    #[error("failed to understand the answer to {call}: {message}")]
    Garbage {
        /// Type of the call.
        call: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The plugin answered with an error: its verdict, not its failure.
    #[error("{message}")]
    Refused {
        /// The plugin's words.
        message: String,
    },
    /// It is known to be away; nothing was sent.
    #[error("the plugin is away: {reason}")]
    Away {
        /// Since what happened.
        reason: String,
    },
}

impl CallError {
    /// With its cause in one line, for people.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl CallError {
    /// Whether the plugin has not said what it thinks.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        !matches!(self, CallError::Refused { .. })
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// The way to one plugin.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    encoding: Encoding,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// A client of the socket at `path`. Nothing is dialled yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, encoding: Encoding) -> Client {
        Client { path: path.into(), encoding, idle: Mutex::default() }
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets idle connections: they lead to a process that is gone.
    pub fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sends a call and reads its answer, all within `limit`.
    ///
    /// # Errors
    /// [`CallError`]; an `error` in the response is [`CallError::Refused`].
    pub async fn call(&self, call: &Call, limit: Duration) -> Result<Response, CallError> {
        let name = name_of(call);
        let body = Bytes::from(self.encoding.encode(call));
        let answer = tokio::time::timeout(limit, self.exchange(name, body)).await;
        let body = answer.unwrap_or(Err(CallError::Deadline { call: name, limit }))?;
        let garbage = |message| CallError::Garbage { call: name, message };
        let response: Response = self.encoding.decode(&body).map_err(garbage)?;
        if let Some(error) = response.error {
            return Err(CallError::Refused { message: error.message });
        }
        match response.r#type() == call.r#type() {
            true => Ok(response),
            false => Err(garbage(format!("it is one to {}", response.r#type().as_str_name()))),
        }
    }

    async fn exchange(&self, call: &'static str, body: Bytes) -> Result<Bytes, CallError> {
        let broken = |e: hyper::Error| CallError::Broken { call, message: chain(&e) };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut connection, reused) = match idle {
            Some(connection) if connection.is_ready() => (connection, true),
            _ => (self.dial().await?, false),
        };
        let mut answer = connection.send_request(self.request(body.clone())).await;
        // A kept connection that was closed before the call could be seen.
        if reused && answer.as_ref().is_err_and(|e| e.is_canceled() || e.is_closed()) {
            connection = self.dial().await?;
            answer = connection.send_request(self.request(body)).await;
        }
        let (head, body) = answer.map_err(broken)?.into_parts();
        let body = collect(call, body).await?;
        if !head.status.is_success() {
            let text = String::from_utf8_lossy(&body[..body.len().min(1000)]).into_owned();
            return Err(CallError::Garbage { call, message: format!("{}: {text}", head.status) });
        }
        if connection.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(connection);
            }
        }
        Ok(body)
    }

    /// Sends a call whose answer is a stream of events.
    ///
    /// # Errors
    /// [`CallError`] if the stream does not begin within `limit`.
    pub async fn stream(&self, call: &Call, limit: Duration) -> Result<Events, CallError> {
        let name = name_of(call);
        let body = Bytes::from(self.encoding.encode(call));
        let start = async {
            let mut connection = self.dial().await?;
            let answer = connection.send_request(self.request(body)).await;
            let broken = |e: hyper::Error| CallError::Broken { call: name, message: chain(&e) };
            let (head, body) = answer.map_err(broken)?.into_parts();
            if !head.status.is_success() {
                let message = head.status.to_string();
                return Err(CallError::Garbage { call: name, message });
            }
            let (encoding, decoder) = (self.encoding, Decoder::new(LONGEST));
            Ok(Events { encoding, body, decoder, _connection: connection })
        };
        let started = tokio::time::timeout(limit, start).await;
        started.unwrap_or(Err(CallError::Deadline { call: name, limit }))
    }

    fn request(&self, body: Bytes) -> hyper::Request<Full<Bytes>> {
        let mut request = hyper::Request::post(PATH).body(Full::new(body)).expect("a constant uri");
        let media = header::HeaderValue::from_static(self.encoding.media_type());
        let headers = request.headers_mut();
        headers.insert(header::HOST, header::HeaderValue::from_static("plugin"));
        headers.insert(header::ACCEPT, media.clone());
        headers.insert(header::CONTENT_TYPE, media);
        request
    }

    async fn dial(&self) -> Result<Connection, CallError> {
        let failed = |source| CallError::Connect { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).await.map_err(failed)?;
        let made = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|e| failed(std::io::Error::other(e)))?;
        // Ends when the sender and the body are dropped; its error reaches them.
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn collect(call: &'static str, body: Incoming) -> Result<Bytes, CallError> {
    let collected = Limited::new(body, LONGEST).collect().await;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|e| CallError::Broken { call, message: e.to_string() })
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The events of a WATCH.
#[derive(Debug)]
pub struct Events {
    encoding: Encoding,
    body: Incoming,
    decoder: Decoder,
    _connection: Connection,
}

impl Events {
    /// The next event; `None` when the stream ended. May be dropped while it waits.
    ///
    /// # Errors
    /// [`CallError`]; the stream is of no use any more.
    pub async fn next(&mut self) -> Result<Option<Event>, CallError> {
        let call = "WATCH";
        loop {
            let garbage = |message: String| CallError::Garbage { call, message };
            let record = self.decoder.next_record().map_err(|e| garbage(e.to_string()))?;
            if let Some(record) = record {
                return self.encoding.decode(&record).map(Some).map_err(garbage);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(CallError::Broken { call, message: chain(&e) }),
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.decoder.feed(bytes);
                    }
                }
            }
        }
    }
}
