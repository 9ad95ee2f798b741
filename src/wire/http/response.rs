//! Responses as handlers make them, and how they become bytes on the wire.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::mpsc;

use super::body::{OutBody, Payload};
use super::media::Media;

/// Media type of JSON bodies.
pub const JSON: &str = "application/json";
/// Media type of messages for people.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// One HTTP response. The server adds `Date`, the length and gzip.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The type comes before the length.
    type_first: bool,
    pub(super) body: Payload,
}

impl Response {
    fn new(status: StatusCode, content_type: Option<&str>, body: Payload) -> Response {
        let content_type = content_type.and_then(|t| HeaderValue::from_str(t).ok());
        Response { status, content_type, headers: Vec::new(), type_first: false, body }
    }

    /// 200 with a JSON document.
    #[must_use]
    pub fn json(body: impl Into<Bytes>) -> Response {
        Response::new(StatusCode::OK, Some(JSON), Payload::Whole(body.into()))
    }

    /// A message for people, usually why the request was refused.
    #[must_use]
    pub fn text(status: StatusCode, message: impl Into<String>) -> Response {
        Response::new(status, Some(TEXT), Payload::Whole(message.into().into()))
    }

    /// A status and nothing else.
    #[must_use]
    pub fn empty(status: StatusCode) -> Response {
        Response::new(status, None, Payload::Whole(Bytes::new()))
    }

    /// 200 with a body of any type.
    #[must_use]
    pub fn bytes(content_type: &str, body: impl Into<Bytes>) -> Response {
        Response::new(StatusCode::OK, Some(content_type), Payload::Whole(body.into()))
    }

    /// 200 with the answer to a call of a v1 API.
    #[must_use]
    pub fn answer(media: Media, body: impl Into<Bytes>) -> Response {
        Response { type_first: true, ..Response::bytes(media.as_str(), body) }
    }

    /// 200 with a body that goes on until the sender is dropped. Each item is one
    /// HTTP chunk. The sender's `closed()` completes when the client has left.
    #[must_use]
    pub fn stream(content_type: &str, body: mpsc::Receiver<Bytes>) -> Response {
        Response::new(StatusCode::OK, Some(content_type), Payload::Stream(body, None))
    }

    /// 200 with a body that comes in pieces but whose length in bytes is known.
    #[must_use]
    pub fn sized(content_type: &str, length: u64, body: mpsc::Receiver<Bytes>) -> Response {
        Response::new(StatusCode::OK, Some(content_type), Payload::Stream(body, Some(length)))
    }

    /// 404 as libprocess says it.
    #[must_use]
    pub fn not_found() -> Response {
        Response::text(StatusCode::NOT_FOUND, "404 Not Found.")
    }

    /// 405 as libprocess says it: what would be right, and what came instead.
    #[must_use]
    pub fn method_not_allowed(allowed: &[&str], received: &http::Method) -> Response {
        let quoted: Vec<String> = allowed.iter().map(|m| format!("'{m}'")).collect();
        let message = format!(
            "405 Method Not Allowed. Expecting one of {{ {} }}, but received '{received}'.",
            quoted.join(", ")
        );
        Response::text(StatusCode::METHOD_NOT_ALLOWED, message)
            .header(header::ALLOW, &allowed.join(", "))
    }

    /// 307 to `location`.
    #[must_use]
    pub fn redirect(location: &str) -> Response {
        Response::empty(StatusCode::TEMPORARY_REDIRECT).header(header::LOCATION, location)
    }

    /// The same with another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Response {
        self.status = status;
        self
    }

    /// The same with one more header. A value that cannot be a header is left out.
    #[must_use]
    pub fn header(mut self, name: impl TryInto<HeaderName>, value: &str) -> Response {
        if let (Ok(name), Ok(value)) = (name.try_into(), HeaderValue::from_str(value)) {
            self.headers.push((name, value));
        }
        self
    }

    /// The status, for metrics and tests.
    #[must_use]
    pub fn code(&self) -> StatusCode {
        self.status
    }

    /// The media type of the body.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        self.content_type.as_ref().and_then(|v| v.to_str().ok())
    }

    /// A header added by the handler.
    #[must_use]
    pub fn get_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.as_str() == name).and_then(|(_, v)| v.to_str().ok())
    }

    /// The body if it is whole, for tests and in-process callers.
    #[must_use]
    pub fn whole_body(&self) -> Option<&Bytes> {
        match &self.body {
            Payload::Whole(bytes) => Some(bytes),
            Payload::Stream(..) => None,
        }
    }

    /// A JSON document wrapped as `callback(document)` if there is a callback.
    /// compat: libprocess' JSONP; anything but whole JSON stays as it is.
    #[must_use]
    pub fn jsonp(mut self, callback: Option<&str>) -> Response {
        let Some(callback) = callback.filter(|c| !c.is_empty()) else { return self };
        let is_json = self.media_type() == Some(JSON);
        if let (true, Payload::Whole(body)) = (is_json, &self.body) {
            let mut wrapped = Vec::with_capacity(body.len() + callback.len() + 2);
            wrapped.extend_from_slice(callback.as_bytes());
            wrapped.push(b'(');
            wrapped.extend_from_slice(body);
            wrapped.push(b')');
            self.body = Payload::Whole(wrapped.into());
            self.content_type = Some(HeaderValue::from_static("text/javascript"));
        }
        self
    }

    /// For hyper, with the headers in the order the real Mesos sends them.
    pub(super) fn into_wire(self, date: HeaderValue) -> hyper::Response<OutBody> {
        let mut out = hyper::Response::new(());
        *out.status_mut() = self.status;
        let headers = out.headers_mut();
        headers.insert(header::DATE, date);
        let length = match &self.body {
            Payload::Whole(bytes) => Some(bytes.len() as u64),
            Payload::Stream(_, length) => *length,
        };
        let set_length = |headers: &mut http::HeaderMap| match length {
            Some(n) => headers.insert(header::CONTENT_LENGTH, HeaderValue::from(n)),
            None => headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        };
        // compat: messages, pages and answers to calls name their type first, documents
        // their length.
        let text = self.type_first
            || self.content_type.as_ref().is_some_and(|t| {
                t.as_bytes().starts_with(b"text/plain") || t.as_bytes().starts_with(b"text/html")
            });
        if !text {
            set_length(headers);
        }
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if let Some(content_type) = self.content_type {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        if text {
            set_length(headers);
        }
        out.map(|()| OutBody::new(self.body))
    }
}
