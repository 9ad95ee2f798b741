//! Requests as handlers see them: decoded path, query, headers, limited body.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use thiserror::Error;

use super::{Response, gzip};
use crate::wire::percent::percent_decode;

/// Decoded name and value pairs, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`, also with `;`. A broken escape is kept as it stands.
    #[must_use]
    pub fn parse(text: &str) -> Query {
        Query(parse_form(text))
    }

    /// The value of `name`; of several the last, as in Mesos.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All pairs in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }
}

/// Reads an `application/x-www-form-urlencoded` text: a query string or a body.
#[must_use]
pub fn parse_form(text: &str) -> Vec<(String, String)> {
    let decode = |s: &str| {
        let spaced = s.replace('+', " ");
        percent_decode(&spaced).unwrap_or(spaced)
    };
    text.split(['&', ';'])
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Why a body did not arrive.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum BodyError {
    /// More than the limit, before or after inflating.
    #[error("request body is over the limit of {0} bytes")]
    TooLarge(usize),
    /// Nothing came for this long.
    #[error("request body did not arrive within {0:?}")]
    Timeout(Duration),
    /// `Content-Encoding: gzip` and then something else.
    #[error("failed to decompress request body: {0}")]
    Gzip(String),
    /// The connection broke or the chunked coding is wrong.
    #[error("failed to read request body: {0}")]
    Read(String),
}

impl BodyError {
    fn status(&self) -> StatusCode {
        match self {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Timeout(_) => StatusCode::REQUEST_TIMEOUT,
            BodyError::Gzip(_) | BodyError::Read(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The answer that says what was wrong with the body; closes the connection, as
/// the rest of the body is still on its way.
impl From<BodyError> for Response {
    fn from(error: BodyError) -> Response {
        Response::text(error.status(), format!("{error}.")).header(header::CONNECTION, "close")
    }
}

/// A client that is still sending what was refused would not see the answer, so
/// the rest is thrown away for this long.
const LINGER: Duration = Duration::from_secs(1);

/// How much of a body is taken and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) bytes: usize,
    pub(super) idle: Duration,
    pub(super) total: Duration,
}

#[derive(Debug)]
pub(super) enum Source {
    Whole(Option<Bytes>),
    Wire(Incoming),
}

/// One HTTP request.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, percent-decoded where that is possible, without the query.
    pub path: String,
    /// What follows the `?`.
    pub query: Query,
    /// All headers.
    pub headers: HeaderMap,
    /// The other end of the connection.
    pub peer: SocketAddr,
    raw_path: String,
    raw_query: Option<String>,
    source: Source,
    limits: BodyLimits,
}

impl Request {
    /// A request with a whole body, for tests and for in-process callers.
    #[must_use]
    pub fn new(method: Method, uri: &Uri, headers: HeaderMap, body: impl Into<Bytes>) -> Request {
        let minute = Duration::from_secs(60);
        let limits = BodyLimits { bytes: usize::MAX, idle: minute, total: minute };
        let parts = Parts { method, headers, peer: SocketAddr::from(([127, 0, 0, 1], 0)) };
        Request::build(parts, uri, Source::Whole(Some(body.into())), limits)
    }

    pub(super) fn build(parts: Parts, uri: &Uri, source: Source, limits: BodyLimits) -> Request {
        let raw_path = uri.path().to_owned();
        Request {
            method: parts.method,
            path: percent_decode(&raw_path).unwrap_or_else(|| raw_path.clone()),
            query: Query::parse(uri.query().unwrap_or_default()),
            headers: parts.headers,
            peer: parts.peer,
            raw_path,
            raw_query: uri.query().map(str::to_owned),
            source,
            limits,
        }
    }

    /// The path as it came, still escaped.
    #[must_use]
    pub fn raw_path(&self) -> &str {
        &self.raw_path
    }

    /// The query as it came, for redirects.
    #[must_use]
    pub fn raw_query(&self) -> Option<&str> {
        self.raw_query.as_deref()
    }

    /// A header as text; `None` if absent or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The whole body, inflated if it came as gzip.
    ///
    /// # Errors
    /// The answer to give: 413 over the limit, 408 when it stalls, 400 otherwise.
    pub async fn bytes(&mut self) -> Result<Bytes, Response> {
        self.read().await.map_err(Response::from)
    }

    /// As [`Request::bytes`], for callers with an answer of their own.
    ///
    /// # Errors
    /// [`BodyError`]
    pub async fn read(&mut self) -> Result<Bytes, BodyError> {
        let limits = self.limits;
        let collected = tokio::time::timeout(limits.total, collect(&mut self.source, limits)).await;
        let body = match collected.unwrap_or(Err(BodyError::Timeout(limits.total))) {
            Ok(body) => body,
            Err(error) => {
                if matches!(error, BodyError::TooLarge(_)) {
                    let _ = tokio::time::timeout(LINGER, discard(&mut self.source)).await;
                }
                return Err(error);
            }
        };
        let gzipped = self
            .header("content-encoding")
            .is_some_and(|coding| coding.trim().eq_ignore_ascii_case("gzip"));
        if !gzipped || body.is_empty() {
            return Ok(body);
        }
        gzip::inflate(&body, limits.bytes)
    }

    /// The body as it arrives, without limits in size or time: for calls that
    /// stream. Not inflated.
    #[must_use]
    pub fn into_stream(self) -> BodyStream {
        BodyStream { source: self.source }
    }

    /// Whether the client takes gzip.
    pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
        let Some(codings) = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok())
        else {
            return false;
        };
        super::media::quality(codings, "gzip").is_some_and(|q| q > 0.0)
    }
}

/// What stands in front of the body, besides the URI.
pub(super) struct Parts {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) peer: SocketAddr,
}

async fn collect(source: &mut Source, limits: BodyLimits) -> Result<Bytes, BodyError> {
    let incoming = match source {
        Source::Whole(bytes) => {
            let bytes = bytes.take().unwrap_or_default();
            return if bytes.len() > limits.bytes {
                Err(BodyError::TooLarge(limits.bytes))
            } else {
                Ok(bytes)
            };
        }
        Source::Wire(incoming) => incoming,
    };
    let announced = hyper::body::Body::size_hint(incoming).lower();
    if announced > limits.bytes as u64 {
        return Err(BodyError::TooLarge(limits.bytes));
    }
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(limits.idle, incoming.frame())
            .await
            .map_err(|_| BodyError::Timeout(limits.idle))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| BodyError::Read(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = joined.len() + first.as_ref().map_or(0, Bytes::len);
        if so_far + data.len() > limits.bytes {
            return Err(BodyError::TooLarge(limits.bytes));
        }
        match first.take() {
            None if joined.is_empty() => first = Some(data),
            None => joined.extend_from_slice(&data),
            Some(start) => {
                joined.extend_from_slice(&start);
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

async fn discard(source: &mut Source) {
    if let Source::Wire(incoming) = source {
        while let Some(Ok(_)) = incoming.frame().await {}
    }
}

/// A body that is still arriving.
#[derive(Debug)]
pub struct BodyStream {
    source: Source,
}

impl BodyStream {
    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        match &mut self.source {
            Source::Whole(bytes) => bytes.take().filter(|b| !b.is_empty()).map(Ok),
            Source::Wire(incoming) => loop {
                match incoming.frame().await? {
                    Err(e) => return Some(Err(BodyError::Read(e.to_string()))),
                    Ok(frame) => {
                        if let Ok(data) = frame.into_data() {
                            return Some(Ok(data));
                        }
                    }
                }
            },
        }
    }
}
