//! Accepting connections and turning requests and messages into service calls.
//!
//! One task per connection; requests of a connection are answered in order, also
//! when they are pipelined. The only state shared between connections is whether
//! there are too many.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::body::{OutBody, Payload};
use super::guard::{Guarded, State, Times};
use super::request::{BodyLimits, Parts, Source};
use super::{Request, Response, Service, date, gzip};
use crate::wire::libprocess::{self, Message};

/// What the server puts up with. The defaults fit both daemons.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest request body in bytes, also after inflating; more is 413.
    pub body: usize,
    /// Longest request line plus headers in bytes; more is 431.
    pub head: usize,
    /// Most headers of one request; more is 431.
    pub headers: usize,
    /// From the first byte of a request to the end of its headers.
    pub head_time: Duration,
    /// Longest silence inside a request body that is collected; then 408.
    pub body_idle: Duration,
    /// Longest time for collecting a request body; then 408.
    pub body_time: Duration,
    /// Longest time in which a client takes nothing of its answer.
    pub write_time: Duration,
    /// Most connections; more are answered with 503 and closed.
    pub connections: usize,
    /// How long open requests may go on after the shutdown signal.
    pub drain: Duration,
    /// Refuse messages whose claimed ip is not that of the connection (libprocess'
    /// option of the same name).
    pub require_peer_address_ip_match: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 64 << 20,
            head: 64 << 10,
            headers: 100,
            head_time: Duration::from_secs(30),
            body_idle: Duration::from_secs(30),
            body_time: Duration::from_secs(300),
            write_time: Duration::from_secs(120),
            connections: 50_000,
            drain: Duration::from_secs(2),
            require_peer_address_ip_match: false,
        }
    }
}

/// Pause after a failed accept: usually no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// hyper refuses to work with less.
const MIN_BUFFER: usize = 8 << 10;

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

struct Shared {
    service: Arc<dyn Service>,
    limits: Limits,
    crowded: Arc<AtomicBool>,
}

/// Serves until `shutdown` completes, then lets open requests end for
/// [`Limits::drain`] and closes the rest.
pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn Service>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared { service, limits, crowded: Arc::default() });
    let (drain, draining) = watch::channel(());
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {
                // One in eight free again is enough room not to cut quiet ones.
                if connections.len() * 8 < shared.limits.connections * 7 {
                    shared.crowded.store(false, Ordering::Relaxed);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if connections.len() >= shared.limits.connections {
                        shared.crowded.store(true, Ordering::Relaxed);
                        warn!(%peer, limit = shared.limits.connections, "too many connections");
                        let _ = stream.try_write(FULL);
                        continue;
                    }
                    let shared = Arc::clone(&shared);
                    connections.spawn(connection(shared, stream, peer, draining.clone()));
                }
                Err(error) => {
                    warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    drop(drain);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.limits.drain, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    mut draining: watch::Receiver<()>,
) {
    // Fails only for sockets that are already gone.
    let _ = stream.set_nodelay(true);
    let limits = &shared.limits;
    let state: Arc<State> = Arc::default();
    let times = Times { head: limits.head_time, write: limits.write_time };
    let io = Guarded::new(stream, Arc::clone(&state), Arc::clone(&shared.crowded), times);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (shared, state) = (Arc::clone(&shared), Arc::clone(&state));
        async move { Ok::<_, Infallible>(answer(&shared, &state, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .max_headers(limits.headers)
        .max_header_size(limits.head)
        .max_buf_size(limits.head.max(MIN_BUFFER))
        .title_case_headers(true)
        // Not `pipeline_flush`: it holds back the 400 after garbage (hyper 1.12).
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = draining.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%peer, error = %chain(&error), "connection ended");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn answer(
    shared: &Shared,
    state: &Arc<State>,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
) -> hyper::Response<OutBody> {
    let busy = state.busy();
    let (parts, incoming) = request.into_parts();
    let limits = BodyLimits {
        bytes: shared.limits.body,
        idle: shared.limits.body_idle,
        total: shared.limits.body_time,
    };
    let gzipped = Request::accepts_gzip(&parts.headers);
    let sender = libprocess::sender(&parts.method, &parts.headers);
    let head = Parts { method: parts.method, headers: parts.headers, peer };
    let request = Request::build(head, &parts.uri, Source::Wire(incoming), limits);
    let mut response = if let Some(from) = sender {
        state.linked();
        message(shared, from, request).await
    } else if !request.raw_path().starts_with('/') {
        Response::text(StatusCode::BAD_REQUEST, "Request URL path must start with '/'")
    } else if request.raw_path().contains("/..") || request.path.contains("/..") {
        Response::not_found()
    } else {
        shared.service.call(request).await
    };
    if gzipped {
        response = compressed(response).await;
    }
    let date =
        HeaderValue::from_str(&date::imf(SystemTime::now())).expect("a date is printable ASCII");
    let mut out = response.into_wire(date);
    out.body_mut().hold(busy);
    out
}

async fn message(shared: &Shared, from: libprocess::Upid, mut request: Request) -> Response {
    let (to, name) = libprocess::target(request.raw_path());
    let name = name.to_owned();
    let peer = request.peer;
    if shared.limits.require_peer_address_ip_match && from.address.ip() != peer.ip() {
        return Response::text(
            StatusCode::BAD_REQUEST,
            format!(
                "UPID IP address validation failed: Message from {from} was sent from IP {}",
                peer.ip()
            ),
        );
    }
    let body = match request.read().await {
        Ok(body) => body,
        Err(error) => {
            warn!(%peer, %from, name, %error, "libprocess message without its body");
            return Response::from(error);
        }
    };
    if shared.service.message(Message { from, to, name, body }) {
        Response::empty(StatusCode::ACCEPTED)
    } else {
        Response::not_found()
    }
}

async fn compressed(mut response: Response) -> Response {
    let Payload::Whole(body) = &response.body else { return response };
    if body.len() < gzip::THRESHOLD || response.get_header("content-encoding").is_some() {
        return response;
    }
    let Some(packed) = gzip::deflate(Bytes::clone(body)).await else { return response };
    response.body = Payload::Whole(packed);
    response.header(header::CONTENT_ENCODING, "gzip")
}
