//! HTTP as it stands on the wire: heads in their order, bodies, and event streams.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use mesos::recordio::Decoder;

/// Everything up to the empty line, and how long it is with that line.
fn head(bytes: &[u8]) -> Option<(String, usize)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), end + 4))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// An answer: its head and body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status line and headers, without `Date`.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads recorded bytes.
    ///
    /// # Panics
    /// When there is no head.
    #[must_use]
    pub fn recorded(bytes: &[u8]) -> Answer {
        let (head, at) = head(bytes).expect("a recorded head");
        Answer { head: without_date(&head), body: bytes[at..].to_vec() }
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn without_date(head: &str) -> String {
    let lines = head.split("\r\n").filter(|l| !l.starts_with("Date: "));
    lines.collect::<Vec<_>>().join("\r\n")
}

fn connect(address: &str, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    stream.write_all(request).expect("the daemon reads");
    stream
}

fn read_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> (String, usize) {
    let mut part = [0; 4096];
    loop {
        if let Some(found) = head(bytes) {
            return found;
        }
        let n = stream.read(&mut part).expect("an answer");
        assert!(n > 0, "closed without an answer: {}", String::from_utf8_lossy(bytes));
        bytes.extend_from_slice(&part[..n]);
    }
}

/// Sends a request on a connection of its own; returns the whole answer.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn exchange(address: &str, request: &[u8]) -> Answer {
    let mut stream = connect(address, request);
    let mut bytes = Vec::new();
    let (head, at) = read_head(&mut stream, &mut bytes);
    let length = header(&head, "Content-Length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(at);
    let have = body.len();
    body.resize(length.max(have), 0);
    stream.read_exact(&mut body[have..]).expect("the whole body");
    Answer { head: without_date(&head), body }
}

/// An answer that goes on: its head, and its records as they come.
pub struct Stream {
    /// Status line and headers, without `Date`.
    pub head: String,
    records: mpsc::Receiver<Vec<u8>>,
}

impl Stream {
    /// Sends a request whose answer is a chunked stream of records.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn open(address: &str, request: &[u8]) -> Stream {
        let mut stream = connect(address, request);
        let mut bytes = Vec::new();
        let (head, at) = read_head(&mut stream, &mut bytes);
        let mut rest = bytes.split_off(at);
        let (sender, records) = mpsc::channel();
        std::thread::spawn(move || {
            let mut decoder = Decoder::new(16 << 20);
            let mut part = [0; 4096];
            loop {
                while let Some((chunk, used)) = chunk(&rest) {
                    decoder.feed(&chunk);
                    rest.drain(..used);
                    while let Ok(Some(record)) = decoder.next_record() {
                        if sender.send(record).is_err() {
                            return;
                        }
                    }
                    if chunk.is_empty() {
                        return;
                    }
                }
                match stream.read(&mut part) {
                    Ok(n @ 1..) => rest.extend_from_slice(&part[..n]),
                    _ => return,
                }
            }
        });
        Stream { head: without_date(&head), records }
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The next record, if one comes in time.
    #[must_use]
    pub fn next(&self, patience: Duration) -> Option<Vec<u8>> {
        self.records.recv_timeout(patience).ok()
    }
}

/// The first whole chunk and the bytes it took.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = bytes.windows(2).position(|w| w == b"\r\n")?;
    let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?, 16).ok()?;
    let data = bytes.get(line + 2..line + 2 + size)?;
    bytes.get(line + 4 + size - 1)?;
    Some((data.to_vec(), line + 4 + size))
}
