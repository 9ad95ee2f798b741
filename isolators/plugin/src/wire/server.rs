//! The plugin's end of the socket: listens, reads calls, writes answers.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesos::bulkhead::plugin::{Call, Event, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{Encoding, LONGEST, PATH};

/// What a call is answered with.
#[derive(Debug)]
pub enum Answer {
    /// One message.
    Response(Box<Response>),
    /// Events until the agent goes away.
    Stream(mpsc::Receiver<Event>),
}

/// Who answers. Calls of different connections come at the same time.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers one call.
    async fn serve(&self, call: Call) -> Answer;
}

/// Listens on a socket that only the owner may use. A socket file that nobody
/// listens on any more is replaced.
///
/// # Errors
/// The path cannot be used, or somebody listens there.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        let message = format!("somebody serves '{}' already", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made under another name: nobody connects before the mode is right.
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&draft, path)?;
    Ok(listener)
}

/// Serves `path` until accepting fails for good.
///
/// # Errors
/// The path cannot be used.
pub async fn listen(path: &Path, service: Arc<dyn Service>) -> io::Result<()> {
    let listener = bind(path).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(Arc::clone(&service), request));
            // Its error is the agent's going away, which is nobody's fault.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    service: Arc<dyn Service>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Out>, Infallible> {
    if request.uri().path() != PATH {
        return Ok(plain(StatusCode::NOT_FOUND, format!("calls go to {PATH}\n")));
    }
    if request.method() != Method::POST {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "calls are POSTed\n".into()));
    }
    let media = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    let reading = Encoding::of(media(header::CONTENT_TYPE));
    let writing = match media(header::ACCEPT) {
        None | Some("*/*") => reading,
        accepted => Encoding::of(accepted),
    };
    let body = match Limited::new(request.into_body(), LONGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(plain(StatusCode::BAD_REQUEST, format!("{error}\n"))),
    };
    let call: Call = match reading.decode(&body) {
        Ok(call) => call,
        Err(message) => {
            return Ok(plain(
                StatusCode::BAD_REQUEST,
                format!("Failed to parse Call: {message}\n"),
            ));
        }
    };
    let out = match service.serve(call).await {
        Answer::Response(response) => Out::Whole(Some(writing.encode(&*response).into())),
        Answer::Stream(events) => Out::Events(writing, events),
    };
    let mut response = hyper::Response::new(out);
    let media = header::HeaderValue::from_static(writing.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

fn plain(status: StatusCode, text: String) -> hyper::Response<Out> {
    let mut response = hyper::Response::new(Out::Whole(Some(text.into())));
    *response.status_mut() = status;
    response
}

/// A body: whole, or events as RecordIO.
enum Out {
    Whole(Option<Bytes>),
    Events(Encoding, mpsc::Receiver<Event>),
}

impl Body for Out {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Out::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Out::Events(encoding, events) => events.poll_recv(context).map(|event| {
                let mut record = Vec::new();
                mesos::recordio::encode(&encoding.encode(&event?), &mut record);
                Some(Ok(Frame::data(record.into())))
            }),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Out::Whole(bytes) => {
                let len = bytes.as_ref().map_or(0, Bytes::len);
                hyper::body::SizeHint::with_exact(len as u64)
            }
            Out::Events(..) => hyper::body::SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Out::Whole(None))
    }
}
