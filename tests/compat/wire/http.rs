//! The HTTP server: recorded raw requests, bad clients, limits, pipelining, drain.

use std::time::{Duration, Instant};

use bulkhead::wire::client::{Call, Client};
use bulkhead::wire::http::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Recorder, Server, closed_within, read_until_quiet, without_date};

fn limits() -> Limits {
    Limits {
        body: 1000,
        head: 16 << 10,
        head_time: Duration::from_millis(300),
        body_idle: Duration::from_millis(300),
        body_time: Duration::from_secs(2),
        write_time: Duration::from_millis(500),
        ..Limits::default()
    }
}

const VERSION: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 20\r\n\
                       Content-Type: application/json\r\n\r\n{\"version\":\"1.12.0\"}";

#[tokio::test]
async fn raw_requests_of_the_recordings() {
    let server = Server::plain().await;
    let no_host = server.exchange(b"GET /version HTTP/1.1\r\n\r\n").await;
    assert_eq!(without_date(&no_host), VERSION);
    let old = server.exchange(b"GET /version HTTP/1.0\r\n\r\n").await;
    assert!(old.ends_with("\r\n\r\n{\"version\":\"1.12.0\"}"), "{old}");
    // The real one closes without a word here.
    let garbage = server.exchange(b"NONSENSE\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{garbage}");
    let head = server.exchange(b"HEAD /health HTTP/1.1\r\n\r\n").await;
    assert_eq!(without_date(&head), "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n");
    for path in ["/master/../master/state", "/%2e%2e/x", "/a/%2e%2e/x"] {
        let answer = server.exchange(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n404 Not Found."), "{path}: {answer}");
    }
    let star = server.exchange(b"OPTIONS * HTTP/1.1\r\n\r\n").await;
    assert!(star.ends_with("Request URL path must start with '/'"), "{star}");
}

#[tokio::test]
async fn garbage_never_stops_the_server() {
    let server = Server::plain().await;
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /version HTTP/9.9\r\n\r\n",
        b"GET /a b c HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /%zz%00%ff HTTP/1.1\r\n\r\n",
    ] {
        let answer = server.exchange(bytes).await;
        let shown = String::from_utf8_lossy(bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    assert!(server.exchange(b"GET /version HTTP/1.1\r\n\r\n").await.contains("1.12.0"));
}

#[tokio::test]
async fn oversized_heads_and_bodies_are_refused() {
    let server = Server::start(Recorder::default(), limits()).await;
    let long = format!("GET /version HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
    let answer = server.exchange(long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("GET /version HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101));
    let answer = server.exchange(many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let body = "x".repeat(1001);
    let announced = format!("POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n{body}");
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{body}\r\n0\r\n\r\n"
    );
    for request in [announced, chunked] {
        let answer = server.exchange(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{answer}");
        assert!(answer.ends_with("request body is over the limit of 1000 bytes."), "{answer}");
    }
    let exact = format!("POST /echo HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{}", &body[1..]);
    assert!(server.exchange(exact.as_bytes()).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_still_sending_a_refused_body_gets_the_answer() {
    let server = Server::start(Recorder::default(), limits()).await;
    let request =
        format!("POST /echo HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000));
    let answer = server.exchange(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn half_open_and_slow_clients_are_cut() {
    let server = Server::start(Recorder::default(), limits()).await;
    let soon = Duration::from_secs(2);

    let mut slow_head = server.dial().await;
    slow_head.write_all(b"GET /version HT").await.expect("open");
    let answer = read_until_quiet(&mut slow_head).await;
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(closed_within(&mut slow_head, soon).await);

    let mut slow_body = server.dial().await;
    slow_body
        .write_all(b"POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        .await
        .expect("open");
    let answer = read_until_quiet(&mut slow_body).await;
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(closed_within(&mut slow_body, soon).await);

    // Takes one answer much larger than the socket buffers and does not read it.
    let mut stuck = server.dial().await;
    stuck.write_all(b"GET /huge HTTP/1.1\r\n\r\n").await.expect("open");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(soon, stuck.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the server gave up on the client");
    assert!(rest.len() < 64 << 20, "the answer was not finished");
}

#[tokio::test]
async fn quiet_connections_stay_open() {
    let server = Server::start(Recorder::default(), limits()).await;
    let mut silent = server.dial().await;
    let mut used = server.dial().await;
    used.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.expect("open");
    read_until_quiet(&mut used).await;
    assert!(!closed_within(&mut used, Duration::from_millis(800)).await);
    assert!(!closed_within(&mut silent, Duration::from_millis(100)).await);
    used.write_all(b"GET /version HTTP/1.1\r\n\r\n").await.expect("open");
    assert_eq!(without_date(&read_until_quiet(&mut used).await), VERSION);
}

#[tokio::test]
async fn every_request_has_its_own_time() {
    let server = Server::start(Recorder::default(), limits()).await;
    let mut stream = server.dial().await;
    // Always in the middle of some head, never for long in the same one.
    stream.write_all(b"GET /health HT").await.expect("open");
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        stream.write_all(b"TP/1.1\r\n\r\nGET /health HT").await.expect("open");
    }
    stream.write_all(b"TP/1.1\r\nConnection: close\r\n\r\n").await.expect("open");
    let answers = read_until_quiet(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 6, "{answers}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::plain().await;
    let answer = server
        .exchange(
            b"GET /slow HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody\
              POST /master/m HTTP/1.1\r\nLibprocess-From: x@127.0.0.1:9\r\n\r\n\
              GET /nope HTTP/1.1\r\n\r\nGET /version HTTP/1.1\r\n\r\n",
        )
        .await;
    let codes: Vec<&str> = answer
        .match_indices("HTTP/1.1 ")
        .map(|(at, found)| &answer[at + found.len()..at + found.len() + 3])
        .collect();
    assert_eq!(codes, ["200", "200", "202", "404", "200"]);
    assert!(answer.find("slow").expect("first") < answer.find("body").expect("second"));
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() {
    let server = Server::plain().await;
    let client = Client::to(server.address);
    for (path, accept, gzipped) in [
        ("/large", "gzip", true),
        ("/large", "deflate, gzip;q=0.5", true),
        ("/large", "*", true),
        ("/large", "gzip;q=0", false),
        ("/large", "identity", false),
        ("/version", "gzip", false),
    ] {
        let reply =
            client.call(Call::get(path).header("accept-encoding", accept)).await.expect("answer");
        assert_eq!(reply.header("content-encoding") == Some("gzip"), gzipped, "{path} {accept}");
        assert_eq!(reply.body.starts_with(&[0x1f, 0x8b]), gzipped, "{path} {accept}");
    }
    assert!(client.call(Call::get("/large")).await.expect("answer").body.starts_with(b"[1,"));
}

#[tokio::test]
async fn streams_arrive_chunk_by_chunk() {
    let server = Server::plain().await;
    let raw = server.exchange(b"GET /stream HTTP/1.1\r\n\r\n").await;
    assert_eq!(
        without_date(&raw),
        "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: application/json\r\n\r\n3\r\n1\na\r\n4\r\n2\nbc\r\n0\r\n\r\n"
    );
    let answer = Client::to(server.address).stream(Call::get("/stream")).await.expect("answer");
    let mut events = answer.events(10);
    assert_eq!(events.next().await.expect("valid"), Some(b"a".to_vec()));
    assert_eq!(events.next().await.expect("valid"), Some(b"bc".to_vec()));
    assert_eq!(events.next().await.expect("valid"), None);
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let limits = Limits { connections: 2, ..limits() };
    let server = Server::start(Recorder::default(), limits).await;
    let (mut one, _two) = (server.dial().await, server.dial().await);
    one.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.expect("open");
    read_until_quiet(&mut one).await;
    let answer = server.exchange(b"").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    drop(one);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(server.exchange(b"GET /health HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn open_requests_end_before_the_server_does() {
    let mut server = Server::plain().await;
    let mut stream = server.dial().await;
    let mut idle = server.dial().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\n\r\n").await.expect("open");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    drop(server.stop.take());
    let answer = read_until_quiet(&mut stream).await;
    assert!(answer.ends_with("slow"), "{answer}");
    assert!(closed_within(&mut idle, Duration::from_secs(1)).await);
    (&mut server.done).await.expect("serve does not panic");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
