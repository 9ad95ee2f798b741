//! An HTTP server for tests of checks: every request gets the status of
//! the moment.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A server on a port of its own; it stops when dropped.
#[derive(Debug)]
pub struct Door {
    /// Where it listens.
    pub port: u16,
    /// The status of its answers.
    pub status: Arc<AtomicU16>,
    /// Connections so far.
    pub visits: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// A server that answers 200.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (status, visits) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let closed = Arc::new(AtomicBool::new(false));
        let seen = (Arc::clone(&status), Arc::clone(&visits), Arc::clone(&closed));
        let thread = std::thread::spawn(move || {
            let (status, visits, closed) = seen;
            for stream in listener.incoming().flatten() {
                if closed.load(Ordering::Relaxed) {
                    return;
                }
                visits.fetch_add(1, Ordering::Relaxed);
                answer(stream, status.load(Ordering::Relaxed));
            }
        });
        Self { port, status, visits, closed, thread: Some(thread) }
    }
}

fn answer(mut stream: TcpStream, status: u16) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let _ = stream.read(&mut [0; 4096]);
    let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
