//! The HTTP/1.1 server of both daemons.
//!
//! [`serve`] accepts connections, enforces [`Limits`], tells libprocess messages
//! from requests and hands both to a [`Service`]. Handlers see whole values:
//! [`Request`] in, [`Response`] out. Routing by Mesos' rules is in [`routes`],
//! media types in [`media`]. What a path does is decided by the service.

mod body;
mod date;
mod guard;
mod gzip;
pub mod media;
mod request;
mod response;
pub mod routes;
mod server;

use std::sync::Arc;

use async_trait::async_trait;

pub use date::{civil, utc};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
pub use request::{BodyError, BodyStream, Query, Request, parse_form};
pub use response::Response;
pub use server::{Limits, serve};

use super::libprocess::Message;

/// What a daemon does with requests and messages.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Dropped when the client goes away, so whatever must
    /// happen anyway belongs into a task of its own.
    async fn call(&self, request: Request) -> Response;

    /// Takes a libprocess message; must not block. `false`: no such process,
    /// answered with 404.
    fn message(&self, _message: Message) -> bool {
        false
    }
}

#[async_trait]
impl<T: Service> Service for Arc<T> {
    async fn call(&self, request: Request) -> Response {
        (**self).call(request).await
    }

    fn message(&self, message: Message) -> bool {
        (**self).message(message)
    }
}
