//! The sending half: one connection per peer, order, links and their end.

use std::net::SocketAddr;
use std::time::Duration;

use bulkhead::wire::libprocess::{Post, Upid, frame};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::closed_within;

const SOON: Duration = Duration::from_secs(5);
const OWN: &str = "127.0.0.1:5050";

fn post() -> (Post, UnboundedReceiver<Upid>) {
    let (exited, reports) = unbounded_channel();
    (Post::new(own(), exited), reports)
}

fn own() -> SocketAddr {
    OWN.parse().expect("an address")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(SOON, listener.accept()).await.expect("somebody dials").expect("accepted").0
}

async fn expect_bytes(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0u8; expected.len()];
    timeout(SOON, stream.read_exact(&mut got)).await.expect("in time").expect("open");
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

#[tokio::test]
async fn messages_arrive_in_order_on_one_connection() {
    let (post, mut reports) = post();
    let (listener, address) = listen().await;
    let (one, two) = (Upid::new("slave(1)", address), Upid::new("slave(2)", address));
    post.link(&one);
    let mut expected = Vec::new();
    for i in 0..500u32 {
        let to = if i % 2 == 0 { &one } else { &two };
        let body = Bytes::from(vec![b'x'; i as usize]);
        expected.extend_from_slice(&frame(&Upid::new("master", own()), to, "a.B", &body));
        post.send("master", to, "a.B", body);
    }
    let mut stream = accept(&listener).await;
    // Whatever a receiver answers is thrown away.
    stream.write_all(b"HTTP/1.1 202 Accepted\r\n\r\nnonsense").await.expect("open");
    expect_bytes(&mut stream, &expected).await;
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
    assert!(reports.try_recv().is_err());
}

#[tokio::test]
async fn the_end_of_a_connection_is_reported_once_per_link() {
    let (post, mut reports) = post();
    let (listener, address) = listen().await;
    let mut linked = [Upid::new("a", address), Upid::new("b", address)];
    for upid in linked.iter().chain(&linked) {
        post.link(upid);
    }
    let gone = Upid::new("c", address);
    post.link(&gone);
    post.unlink(&gone);
    drop(accept(&listener).await);
    let mut seen = Vec::new();
    while let Ok(Some(upid)) = timeout(Duration::from_millis(500), reports.recv()).await {
        seen.push(upid);
    }
    seen.sort();
    linked.sort();
    assert_eq!(seen, linked);

    // The next message dials again; without a link its end is nobody's business.
    post.send("master", &linked[0], "m", Bytes::new());
    let mut stream = accept(&listener).await;
    let from = Upid::new("master", own());
    expect_bytes(&mut stream, &frame(&from, &linked[0], "m", b"")).await;
    drop(stream);
    assert!(timeout(Duration::from_millis(200), reports.recv()).await.is_err());
}

#[tokio::test]
async fn an_unreachable_peer_is_exited() {
    let (post, mut reports) = post();
    let (listener, address) = listen().await;
    drop(listener);
    let upid = Upid::new("slave(1)", address);
    post.send("master", &upid, "lost", Bytes::new());
    post.link(&upid);
    let report = timeout(SOON, reports.recv()).await.expect("in time");
    assert_eq!(report, Some(upid));
}

#[tokio::test(start_paused = true)]
async fn sockets_without_links_do_not_stay() {
    let (post, mut reports) = post();
    let (listener, address) = listen().await;
    let upid = Upid::new("scheduler-1", address);
    post.send("master", &upid, "m", Bytes::new());
    let mut first = accept(&listener).await;
    assert!(closed_within(&mut first, Duration::from_secs(60)).await);

    post.send("master", &upid, "m", Bytes::new());
    let mut second = accept(&listener).await;
    post.link(&upid);
    assert!(!closed_within(&mut second, Duration::from_secs(600)).await);
    assert!(reports.try_recv().is_err());
}

#[tokio::test]
async fn what_was_sent_before_the_end_still_arrives() {
    let (post, _reports) = post();
    let (listener, address) = listen().await;
    let upid = Upid::new("slave(1)", address);
    post.send("master", &upid, "last", Bytes::from_static(b"words"));
    drop(post);
    let mut stream = accept(&listener).await;
    let from = Upid::new("master", own());
    expect_bytes(&mut stream, &frame(&from, &upid, "last", b"words")).await;
    assert!(closed_within(&mut stream, SOON).await);
}

#[tokio::test]
async fn a_peer_that_does_not_read_counts_as_exited() {
    let (exited, mut reports) = unbounded_channel();
    let post = Post::bounded(own(), exited, 1 << 20);
    let (listener, address) = listen().await;
    let peer = Upid::new("a", address);
    post.link(&peer);
    let mut deaf = accept(&listener).await;
    let body = Bytes::from(vec![b'x'; 64 << 10]);
    // The kernel takes some megabytes, too, before the queue begins to grow.
    let mut sent = 0;
    let report = loop {
        post.send("master", &peer, "a.B", body.clone());
        sent += body.len();
        assert!(sent < 256 << 20, "nothing is held back");
        if let Ok(report) = timeout(Duration::from_millis(1), reports.recv()).await {
            break report.expect("the post is open");
        }
    };
    assert_eq!(report, peer);
    // What was under way ends; a new message goes over a new connection.
    let mut rest = Vec::new();
    let ended = timeout(SOON * 6, deaf.read_to_end(&mut rest)).await.expect("in time");
    assert!(ended.is_err() || rest.len() < sent, "{} of {sent} bytes", rest.len());
    post.send("master", &peer, "a.B", Bytes::from_static(b"again"));
    let mut next = accept(&listener).await;
    let expected = frame(&Upid::new("master", own()), &peer, "a.B", b"again");
    expect_bytes(&mut next, &expected).await;
    assert!(reports.try_recv().is_err(), "reported once");
}
