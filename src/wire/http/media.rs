//! Media types: what a request carries and what its sender wants back.
//!
//! The rules and the words are those of the scheduler, executor and operator
//! APIs. One difference on purpose: parameters behind a type are ignored, so
//! `application/json; charset=utf-8` is JSON and not refused.

use http::{HeaderMap, StatusCode};

use super::Response;

/// One message as JSON.
pub const JSON: &str = "application/json";
/// One message as binary protobuf.
pub const PROTOBUF: &str = "application/x-protobuf";
/// A stream of messages.
pub const RECORDIO: &str = "application/recordio";
/// Type of the messages inside a RecordIO request.
pub const MESSAGE_CONTENT_TYPE: &str = "Message-Content-Type";
/// Header of an answer to input that was not taken: who should read it has stopped.
pub const READER_GONE: &str = "bulkhead-reader-gone";
/// Wanted type of the messages inside a RecordIO response.
pub const MESSAGE_ACCEPT: &str = "Message-Accept";

/// How one message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Media {
    /// Mesos' JSON dialect.
    Json,
    /// Binary protobuf.
    Protobuf,
}

impl Media {
    /// The media type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Json => JSON,
            Media::Protobuf => PROTOBUF,
        }
    }
}

/// A body: one message, or RecordIO holding messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One message.
    Single(Media),
    /// RecordIO, framed by the caller.
    Stream(Media),
}

impl Shape {
    /// How the messages are written.
    #[must_use]
    pub fn media(self) -> Media {
        match self {
            Shape::Single(media) | Shape::Stream(media) => media,
        }
    }
}

/// What a `Content-Type` names, without its parameters.
fn content_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|v| v.to_str().unwrap_or_default())
}

fn media_of(value: &str) -> Option<Media> {
    let name = content_type(value);
    [Media::Json, Media::Protobuf].into_iter().find(|m| name.eq_ignore_ascii_case(m.as_str()))
}

/// The quality a list header gives to `candidate`: its own or that of `*`.
/// `None` if neither is listed; 1 for a missing or unreadable `q`.
pub(super) fn quality(list: &str, candidate: &str) -> Option<f32> {
    find(list, candidate).or_else(|| find(list, "*"))
}

fn find(list: &str, candidate: &str) -> Option<f32> {
    list.split(',').find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(candidate) {
            return None;
        }
        let q = parts.find_map(|p| p.split_once('=').filter(|(n, _)| n.trim() == "q"));
        Some(q.map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0)))
    })
}

/// Whether the header `name` allows `media_type`; an absent header allows all.
#[must_use]
pub fn accepts(headers: &HeaderMap, name: &str, media_type: &str) -> bool {
    let Some(list) = text(headers, name) else { return true };
    let kind = media_type.split('/').next().unwrap_or_default();
    find(list, media_type)
        .or_else(|| find(list, &format!("{kind}/*")))
        .or_else(|| find(list, "*/*"))
        .is_some_and(|q| q > 0.0)
}

/// How the body of a call is written: scheduler, executor and master APIs.
///
/// # Errors
/// 400 without a `Content-Type`, 415 with another one.
pub fn request_media(headers: &HeaderMap) -> Result<Media, Response> {
    let value = text(headers, "content-type").ok_or_else(missing_content_type)?;
    media_of(value)
        .ok_or_else(|| unsupported(format!("Expecting 'Content-Type' of {JSON} or {PROTOBUF}")))
}

/// What the answer or the events of a call should be: scheduler, executor and
/// master APIs. JSON wins if both are allowed, whatever the quality.
///
/// # Errors
/// 406 if neither is.
pub fn response_media(headers: &HeaderMap) -> Result<Media, Response> {
    accepted(headers, "accept").ok_or_else(|| {
        not_acceptable(format!("Expecting 'Accept' to allow '{PROTOBUF}' or '{JSON}'"))
    })
}

/// How the body of a call to the agent's operator API is written.
///
/// # Errors
/// 400 for missing headers, 415 for types that do not fit.
pub fn request_shape(headers: &HeaderMap) -> Result<Shape, Response> {
    let value = text(headers, "content-type").ok_or_else(missing_content_type)?;
    let inner = text(headers, MESSAGE_CONTENT_TYPE);
    if let Some(media) = media_of(value) {
        if inner.is_some() {
            return Err(unsupported(format!(
                "Expecting '{MESSAGE_CONTENT_TYPE}' to be not set for non-streaming requests"
            )));
        }
        return Ok(Shape::Single(media));
    }
    if !content_type(value).eq_ignore_ascii_case(RECORDIO) {
        return Err(unsupported(format!(
            "Expecting 'Content-Type' of {JSON} or {PROTOBUF} or {RECORDIO}"
        )));
    }
    let inner = inner.ok_or_else(|| {
        let message =
            format!("Expecting '{MESSAGE_CONTENT_TYPE}' to be set for streaming requests");
        Response::text(StatusCode::BAD_REQUEST, message)
    })?;
    media_of(inner).map(Shape::Stream).ok_or_else(|| {
        unsupported(format!("Expecting '{MESSAGE_CONTENT_TYPE}' of {JSON} or {PROTOBUF}"))
    })
}

/// What the answer of a call to the agent's operator API should be.
///
/// # Errors
/// 406 if nothing we have is allowed.
pub fn response_shape(headers: &HeaderMap) -> Result<Shape, Response> {
    if let Some(media) = accepted(headers, "accept") {
        if headers.contains_key(MESSAGE_ACCEPT) {
            return Err(not_acceptable(format!(
                "Expecting '{MESSAGE_ACCEPT}' to be not set for non-streaming responses"
            )));
        }
        return Ok(Shape::Single(media));
    }
    if !accepts(headers, "accept", RECORDIO) {
        return Err(not_acceptable(format!(
            "Expecting 'Accept' to allow {JSON} or {PROTOBUF} or {RECORDIO}"
        )));
    }
    accepted(headers, MESSAGE_ACCEPT).map(Shape::Stream).ok_or_else(|| {
        not_acceptable(format!("Expecting '{MESSAGE_ACCEPT}' to allow {JSON} or {PROTOBUF}"))
    })
}

fn accepted(headers: &HeaderMap, name: &str) -> Option<Media> {
    [Media::Json, Media::Protobuf].into_iter().find(|m| accepts(headers, name, m.as_str()))
}

fn missing_content_type() -> Response {
    Response::text(StatusCode::BAD_REQUEST, "Expecting 'Content-Type' to be present")
}

fn unsupported(message: String) -> Response {
    Response::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

fn not_acceptable(message: String) -> Response {
    Response::text(StatusCode::NOT_ACCEPTABLE, message)
}
