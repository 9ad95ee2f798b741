//! Time limits of a server connection, below hyper.
//!
//! hyper's own header timeout also ends connections that are merely quiet. A
//! quiet libprocess connection is a link: its end tells the other side that we
//! died. So this wrapper knows the difference: a request head that has begun must
//! end in time and an answer must be taken in time, while silence between
//! requests is cut only when connections run out, and never for peers that have
//! sent a libprocess message.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Quiet connections are looked at this often, and may be quiet this long when
/// there are too many.
const QUIET: Duration = Duration::from_secs(60);

const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What a connection is doing, shared with the server's request handling.
#[derive(Debug, Default)]
pub(super) struct State {
    phase: AtomicU8,
    /// Requests so far: tells a timer of this request from one of an earlier one.
    requests: AtomicU64,
    linked: AtomicBool,
}

const QUIET_PHASE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

impl State {
    /// A request is being answered from now until the value is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.phase.store(BUSY, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// The peer speaks libprocess.
    pub(super) fn linked(&self) {
        self.linked.store(true, Ordering::Relaxed);
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }
}

/// See [`State::busy`].
#[derive(Debug)]
pub(super) struct Busy(Arc<State>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.phase.store(QUIET_PHASE, Ordering::Relaxed);
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) head: Duration,
    pub(super) write: Duration,
}

/// Which part of which request is being read.
type Phase = (u8, u64);

/// A socket with [`Times`].
pub(super) struct Guarded {
    stream: TcpStream,
    state: Arc<State>,
    crowded: Arc<AtomicBool>,
    times: Times,
    /// Armed for one phase of one request.
    reading: Option<(Phase, Pin<Box<Sleep>>)>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(super) fn new(
        stream: TcpStream,
        state: Arc<State>,
        crowded: Arc<AtomicBool>,
        times: Times,
    ) -> Guarded {
        Guarded { stream, state, crowded, times, reading: None, writing: None }
    }

    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.state.phase();
        let wait = match phase {
            HEAD => self.times.head,
            QUIET_PHASE if !self.state.linked.load(Ordering::Relaxed) => QUIET,
            _ => {
                self.reading = None;
                return Poll::Pending;
            }
        };
        let key = (phase, self.state.requests.load(Ordering::Relaxed));
        let armed = match self.reading.take() {
            Some((armed, timer)) if armed == key => timer,
            _ => Box::pin(sleep(wait)),
        };
        let timer = &mut self.reading.insert((key, armed)).1;
        while timer.as_mut().poll(cx).is_ready() {
            if phase == HEAD {
                // Nothing else is being written: the last answer is out.
                let _ = self.stream.try_write(TOO_SLOW);
                return Poll::Ready(timeout("request head did not arrive in time"));
            }
            if self.crowded.load(Ordering::Relaxed) {
                return Poll::Ready(timeout("quiet connection while connections are scarce"));
            }
            timer.as_mut().reset(Instant::now() + QUIET);
        }
        Poll::Pending
    }

    /// Arms or disarms the write limit around the result of a write.
    fn limit_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.writing = None;
            return poll;
        }
        let limit = self.times.write;
        let timer = self.writing.get_or_insert_with(|| Box::pin(sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(timeout("client does not take the answer"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn timeout(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                let quiet = self.state.phase() == QUIET_PHASE;
                if quiet && buf.filled().len() > before {
                    self.state.phase.store(HEAD, Ordering::Relaxed);
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_quiet(cx).map(Err),
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit_write(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limit_write(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
