//! Response bodies in hyper's terms.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::guard::Busy;

/// What a response carries.
#[derive(Debug)]
pub(super) enum Payload {
    Whole(Bytes),
    /// Of known length if there is one, chunked otherwise.
    Stream(mpsc::Receiver<Bytes>, Option<u64>),
}

/// A [`Payload`] on its way out.
pub(super) struct OutBody {
    payload: Payload,
    busy: Option<Busy>,
}

impl OutBody {
    pub(super) fn new(payload: Payload) -> OutBody {
        OutBody { payload, busy: None }
    }

    /// Keeps the connection marked as busy until hyper is done with this body.
    pub(super) fn hold(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.payload {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Stream(receiver, _) => loop {
                match receiver.poll_recv(cx) {
                    // An empty chunk would end a chunked body.
                    Poll::Ready(Some(bytes)) if bytes.is_empty() => {}
                    Poll::Ready(item) => return Poll::Ready(item.map(|b| Ok(Frame::data(b)))),
                    Poll::Pending => return Poll::Pending,
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.payload, Payload::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Stream(_, Some(length)) => SizeHint::with_exact(*length),
            Payload::Stream(_, None) => SizeHint::default(),
        }
    }
}
