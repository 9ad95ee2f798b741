//! A small HTTP/1.1 client: whole answers, streamed answers, RecordIO events.
//!
//! Used by the command line, by executors towards their agent, by the docker
//! containerizer over a unix socket, by load tools and by tests. One [`Client`]
//! talks to one host over one kept-alive connection and dials again when that is
//! gone. No redirects, no TLS, no proxies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use mesos::recordio::{Decoder, RecordError};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex, mpsc};

/// Why there is no answer, or not all of it.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there, or not in time.
    #[error("failed to connect to {host}: {message}")]
    Connect {
        /// Host and port as given.
        host: String,
        /// The system's words.
        message: String,
    },
    /// The path or a header cannot be sent.
    #[error("failed to build request {path}: {message}")]
    Request {
        /// The path as given.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The connection ended before the answer did.
    #[error("failed to exchange {path} with {host}: {message}")]
    Exchange {
        /// Host and port as given.
        host: String,
        /// The path as given.
        path: String,
        /// What happened.
        message: String,
    },
    /// No answer within the client's time limit.
    #[error("no answer to {path} from {host} within {limit:?}")]
    Timeout {
        /// Host and port as given.
        host: String,
        /// The path as given.
        path: String,
        /// The limit.
        limit: Duration,
    },
    /// The events of a stream are not RecordIO.
    #[error("failed to read event stream: {0}")]
    Record(#[source] RecordError),
    /// The stream ended inside an event.
    #[error("event stream ended inside a record")]
    Truncated,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text, broken UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// A connection that speaks HTTP no more.
pub type Duplex = TokioIo<hyper::upgrade::Upgraded>;

/// What to send. The length and `Host` are added.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    method: Method,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: Bytes,
}

impl<'a> Call<'a> {
    /// A GET of `path`, query included.
    #[must_use]
    pub fn get(path: &'a str) -> Call<'a> {
        Call { method: Method::GET, path, headers: Vec::new(), body: Bytes::new() }
    }

    /// A POST with a body of the given type.
    #[must_use]
    pub fn post(path: &'a str, content_type: &'a str, body: impl Into<Bytes>) -> Call<'a> {
        let headers = vec![("content-type", content_type)];
        Call { method: Method::POST, path, headers, body: body.into() }
    }

    /// Another method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Call<'a> {
        self.method = method;
        self
    }

    /// Another body, of a type given as a header or of none.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Call<'a> {
        self.body = body.into();
        self
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: &'a str) -> Call<'a> {
        self.headers.push((name, value));
        self
    }

    fn build(self, host: &str) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
        let bad = |message: String| ClientError::Request { path: self.path.to_owned(), message };
        let mut request = hyper::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse().map_err(|e| bad(format!("{e}")))?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|e| bad(e.to_string()))?);
        for (name, value) in self.headers {
            let parsed = HeaderName::try_from(name).ok().zip(HeaderValue::from_str(value).ok());
            let (name, value) =
                parsed.ok_or_else(|| bad(format!("header '{name}: {value}' is not valid")))?;
            headers.append(name, value);
        }
        Ok(request)
    }
}

/// A client of one host.
#[derive(Debug)]
pub struct Client {
    host: String,
    /// Dialled instead of `host`.
    socket: Option<PathBuf>,
    timeout: Duration,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client of `host`, a text like `127.0.0.1:5050` or `master.example:5050`.
    /// Nothing is dialled yet. Whole answers must arrive within 30 seconds.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Client {
        let timeout = Duration::from_secs(30);
        Client { host: host.into(), socket: None, timeout, connection: Mutex::default() }
    }

    /// A client of whoever listens on the unix socket at `path`.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Client {
        Client { socket: Some(path.into()), ..Client::new("localhost") }
    }

    /// The same for an address.
    #[must_use]
    pub fn to(address: SocketAddr) -> Client {
        Client::new(address.to_string())
    }

    /// Another limit for connecting, for whole answers and for the head of streams.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// Sends a call and collects the answer. Calls of one client follow each other.
    ///
    /// # Errors
    /// [`ClientError`]; a status like 404 is an answer, not an error.
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, ClientError> {
        let path = call.path.to_owned();
        self.limited(&path, async {
            let mut slot = self.connection.lock().await;
            let (mut sender, reused) = match slot.take() {
                Some(sender) if sender.is_ready() => (sender, true),
                _ => (self.dial().await?, false),
            };
            let mut response = sender.send_request(call.clone().build(&self.host)?).await;
            if reused && response.as_ref().is_err_and(unsent) {
                sender = self.dial().await?;
                response = sender.send_request(call.build(&self.host)?).await;
            }
            let response = response.map_err(|e| self.exchange(&path, &e))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| self.exchange(&path, &e))?.to_bytes();
            if sender.ready().await.is_ok() {
                *slot = Some(sender);
            }
            Ok(Reply { status: head.status, headers: head.headers, body })
        })
        .await
    }

    /// Sends a call on a connection of its own and returns once the head of the
    /// answer is there; the body follows in [`Streaming`].
    ///
    /// # Errors
    /// [`ClientError`]; a status like 404 is an answer, not an error.
    pub async fn stream(&self, call: Call<'_>) -> Result<Streaming, ClientError> {
        let path = call.path.to_owned();
        self.limited(&path, async {
            let mut sender = self.dial().await?;
            let response = sender
                .send_request(call.build(&self.host)?)
                .await
                .map_err(|e| self.exchange(&path, &e))?;
            let (head, body) = response.into_parts();
            Ok(Streaming {
                status: head.status,
                headers: head.headers,
                body,
                host: self.host.clone(),
                path: path.clone(),
                _sender: sender,
            })
        })
        .await
    }

    /// Sends a call whose body follows piece by piece, on a connection of its own. The
    /// answer may come before the body has ended; nothing limits how long that takes.
    ///
    /// # Errors
    /// [`ClientError`]; a status like 404 is an answer, not an error.
    pub async fn upload(
        &self,
        call: Call<'_>,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Reply, ClientError> {
        let path = call.path.to_owned();
        let request = call.build(&self.host)?.map(|_| Pieces(pieces));
        let mut sender = self.limited(&path, self.dial()).await?;
        let response = sender.send_request(request).await;
        let (head, body) = response.map_err(|e| self.exchange(&path, &e))?.into_parts();
        let body = body.collect().await.map_err(|e| self.exchange(&path, &e))?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// Sends a call on a connection of its own that the other side is to turn into a
    /// plain stream of bytes, both ways. The stream, or the answer if it does not.
    ///
    /// # Errors
    /// [`ClientError`]; a status like 404 is an answer, not an error.
    pub async fn upgrade(&self, call: Call<'_>) -> Result<Result<Duplex, Reply>, ClientError> {
        let path = call.path.to_owned();
        self.limited(&path, async {
            let mut sender = self.dial().await?;
            let call = call.header("connection", "Upgrade").header("upgrade", "tcp");
            let request: hyper::Request<Full<Bytes>> = call.build(&self.host)?;
            let response = sender.send_request(request).await;
            let response = response.map_err(|e| self.exchange(&path, &e))?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let upgraded = hyper::upgrade::on(response).await;
                let upgraded = upgraded.map_err(|e| self.exchange(&path, &e))?;
                return Ok(Ok(TokioIo::new(upgraded)));
            }
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| self.exchange(&path, &e))?.to_bytes();
            Ok(Err(Reply { status: head.status, headers: head.headers, body }))
        })
        .await
    }

    async fn limited<T>(
        &self,
        path: &str,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            Err(ClientError::Timeout {
                host: self.host.clone(),
                path: path.to_owned(),
                limit: self.timeout,
            })
        })
    }

    async fn dial<B>(&self) -> Result<SendRequest<B>, ClientError>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let name = || match &self.socket {
            Some(path) => path.display().to_string(),
            None => self.host.clone(),
        };
        let failed = |message: String| ClientError::Connect { host: name(), message };
        // Each connection ends when the sender and the body are dropped; its error
        // reaches them.
        if let Some(path) = &self.socket {
            let stream = UnixStream::connect(path).await.map_err(|e| failed(e.to_string()))?;
            let made = handshake(TokioIo::new(stream)).await;
            let (sender, connection) = made.map_err(|e| failed(e.to_string()))?;
            tokio::spawn(connection.with_upgrades());
            return Ok(sender);
        }
        let stream = TcpStream::connect(&self.host).await.map_err(|e| failed(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn exchange(&self, path: &str, error: &hyper::Error) -> ClientError {
        let (host, path) = (self.host.clone(), path.to_owned());
        ClientError::Exchange { host, path, message: error.to_string() }
    }
}

/// A body that comes piece by piece.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Whether a kept-alive connection turned out to be closed before the request
/// could have been seen.
fn unsent(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed()
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Streaming {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    body: Incoming,
    host: String,
    path: String,
    _sender: SendRequest<Full<Bytes>>,
}

impl Streaming {
    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// [`ClientError::Exchange`] when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| ClientError::Exchange {
                host: self.host.clone(),
                path: self.path.clone(),
                message: e.to_string(),
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The rest of the body, for answers that turned out to be an error.
    ///
    /// # Errors
    /// As [`Streaming::next`].
    pub async fn rest(mut self) -> Result<Bytes, ClientError> {
        let mut all = Vec::new();
        while let Some(part) = self.next().await? {
            all.extend_from_slice(&part);
        }
        Ok(all.into())
    }

    /// The body as RecordIO; records of more than `max` bytes are an error.
    #[must_use]
    pub fn events(self, max: usize) -> Events {
        Events { stream: self, decoder: Decoder::new(max) }
    }
}

/// Events of a RecordIO answer.
#[derive(Debug)]
pub struct Events {
    stream: Streaming,
    decoder: Decoder,
}

impl Events {
    /// The next event, `None` when the stream ended between two.
    ///
    /// # Errors
    /// [`ClientError`] when the stream breaks or is not RecordIO.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(record) = self.decoder.next_record().map_err(ClientError::Record)? {
                return Ok(Some(record));
            }
            match self.stream.next().await? {
                Some(bytes) => self.decoder.feed(&bytes),
                None if self.decoder.is_partial() => return Err(ClientError::Truncated),
                None => return Ok(None),
            }
        }
    }

    /// The answer around the events.
    #[must_use]
    pub fn answer(&self) -> &Streaming {
        &self.stream
    }
}
