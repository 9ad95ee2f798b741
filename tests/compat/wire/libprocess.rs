//! Recorded libprocess conversations: received, answered and framed again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead::wire::http::Limits;
use bulkhead::wire::libprocess::{Upid, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Recorder, Server, support, without_date};
use crate::require;

/// Every recorded connection that carries messages, as pairs of files.
fn recordings() -> Vec<(PathBuf, PathBuf)> {
    let root = support::golden().expect("required").join("libprocess");
    let mut found = Vec::new();
    for capture in std::fs::read_dir(root).expect("recordings").flatten() {
        for file in std::fs::read_dir(capture.path()).expect("a capture").flatten() {
            let sent = file.path();
            let name = sent.to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".c2s.bin") else { continue };
            let bytes = std::fs::read(&sent).expect("readable");
            if bytes.starts_with(b"POST ") && contains(&bytes, b"\r\nLibprocess-From: ") {
                found.push((sent.clone(), PathBuf::from(format!("{stem}.s2c.bin"))));
            }
        }
    }
    found.sort();
    found
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|w| w == wanted)
}

fn header<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.find(name).expect("header is there") + name.len();
    text[start..].split("\r\n").next().expect("split gives one part")
}

async fn replay(sent: &Path, answered: &Path) {
    let shown = sent.display();
    let bytes = std::fs::read(sent).expect("readable");
    let server = Server::start(Recorder::default(), Limits::default()).await;
    let mut stream = server.dial().await;
    stream.write_all(&bytes).await.expect("the server reads");
    let expected = std::fs::read(answered).unwrap_or_default();
    let mut answers = vec![0u8; expected.len()];
    stream.read_exact(&mut answers).await.expect("as many answers as the real daemon gave");
    assert_eq!(
        without_date(&String::from_utf8_lossy(&answers)),
        without_date(&String::from_utf8_lossy(&expected)),
        "{shown}: answers"
    );

    let text = String::from_utf8_lossy(&bytes);
    let host = header(&text, "\r\nHost: ").parse().expect("an address");
    let mut again = Vec::new();
    let begun = Instant::now();
    // Some recordings have no answers to wait for.
    while again.len() < bytes.len() && begun.elapsed() < Duration::from_secs(5) {
        tokio::task::yield_now().await;
        for message in server.recorder.taken() {
            let to = Upid::new(message.to, host);
            again.extend_from_slice(&frame(&message.from, &to, &message.name, &message.body));
        }
    }
    assert!(again == bytes, "{shown}: framing differs from the recording");
}

#[tokio::test]
async fn recorded_conversations_replay_byte_for_byte() {
    require!(golden);
    let recordings = recordings();
    assert!(recordings.len() >= 15, "only {} recorded connections found", recordings.len());
    for (sent, answered) in &recordings {
        replay(sent, answered).await;
    }
}

async fn one(
    server: &Server,
    request: &[u8],
) -> (String, Vec<bulkhead::wire::libprocess::Message>) {
    let answer = server.exchange(request).await;
    (answer, server.recorder.taken())
}

#[tokio::test]
async fn strangers_and_broken_senders() {
    let recorder = Recorder { processes: vec!["master", "slave(1)"], ..Recorder::default() };
    let server = Server::start(recorder, Limits::default()).await;

    let (answer, messages) = one(&server, b"POST /nobody/mesos.internal.PingSlaveMessage HTTP/1.1\r\nUser-Agent: libprocess/x@127.0.0.1:9\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(
        without_date(&answer),
        "HTTP/1.1 404 Not Found\r\nDate: x\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 14\r\n\r\n404 Not Found."
    );
    assert!(messages.is_empty());

    let (answer, messages) = one(&server, b"POST /master/mesos.internal.RegisterSlaveMessage HTTP/1.1\r\nUser-Agent: libprocess/nonsense\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    assert_eq!(messages[0].from, Upid::default());

    let (answer, messages) = one(&server, b"POST /slave%281%29/a.B HTTP/1.1\r\nLibprocess-From:  x@127.0.0.1:9 \r\nUser-Agent: curl\r\nContent-Length: 2\r\n\r\n\xff\xff").await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    assert_eq!(messages[0].to, "slave(1)");
    assert_eq!(messages[0].name, "a.B");
    assert_eq!(messages[0].from, "x@127.0.0.1:9".parse().expect("valid"));
    assert_eq!(messages[0].body.as_ref(), b"\xff\xff");

    // Not a POST: an ordinary request, whatever it claims.
    let (answer, messages) =
        one(&server, b"GET /version HTTP/1.1\r\nLibprocess-From: x@127.0.0.1:9\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(messages.is_empty());
}

#[tokio::test]
async fn claimed_addresses_are_checked_when_asked_for() {
    let limits = Limits { require_peer_address_ip_match: true, ..Limits::default() };
    let server = Server::start(Recorder::default(), limits).await;
    let message =
        |from: &str| format!("POST /master/m HTTP/1.1\r\nLibprocess-From: {from}\r\n\r\n");

    let (answer, messages) = one(&server, message("x@127.0.0.1:9").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(messages.len(), 1);

    let (answer, messages) = one(&server, message("x@192.0.2.1:9").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains(
        "UPID IP address validation failed: Message from x@192.0.2.1:9 was sent from IP 127.0.0.1"
    ));
    assert!(messages.is_empty());
}

#[tokio::test]
async fn gzipped_messages_are_inflated() {
    use std::io::Write;
    let server = Server::plain().await;
    let mut packed = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::default());
    encoder.write_all(b"a protobuf").expect("in memory");
    encoder.finish().expect("in memory");
    let mut request = format!(
        "POST /master/m HTTP/1.1\r\nLibprocess-From: x@127.0.0.1:9\r\nContent-Encoding: gzip\r\n\
         Content-Length: {}\r\n\r\n",
        packed.len()
    )
    .into_bytes();
    request.extend_from_slice(&packed);
    let (_, messages) = one(&server, &request).await;
    assert_eq!(messages[0].body.as_ref(), b"a protobuf");
}
