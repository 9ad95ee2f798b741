//! The wire against recordings of the real Mesos and against bad input: byte
//! equality of libprocess messages and answers, link semantics, limits, pipelining.
//!
//! Everything runs in this process on loopback ports of its own.

#[path = "../support/mod.rs"]
mod support;

#[path = "wire/http.rs"]
mod http;
#[path = "wire/libprocess.rs"]
mod libprocess;
#[path = "wire/post.rs"]
mod post;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead::wire::http::{Limits, Request, Response, Service, StatusCode, serve};
use bulkhead::wire::libprocess::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// A daemon with the processes of a master and an agent that remembers messages.
#[derive(Default)]
struct Recorder {
    messages: Mutex<Vec<Message>>,
    /// Process ids that exist; empty means all.
    processes: Vec<&'static str>,
}

impl Recorder {
    fn taken(&self) -> Vec<Message> {
        std::mem::take(&mut self.messages.lock().expect("no test panics while recording"))
    }
}

#[async_trait]
impl Service for Recorder {
    async fn call(&self, mut request: Request) -> Response {
        match request.path.as_str() {
            "/version" => Response::json("{\"version\":\"1.12.0\"}"),
            "/health" => Response::empty(StatusCode::OK),
            "/large" => Response::json(format!("[{}]", "1,".repeat(5000) + "1")),
            "/huge" => Response::bytes("application/octet-stream", vec![7u8; 64 << 20]),
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Response::text(StatusCode::OK, "slow")
            }
            "/stream" => {
                let (sender, receiver) = mpsc::channel(1);
                tokio::spawn(async move {
                    for part in ["1\na", "2\nbc"] {
                        let _ = sender.send(part.into()).await;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
                Response::stream("application/json", receiver)
            }
            "/echo" => match request.bytes().await {
                Ok(body) => Response::bytes("application/octet-stream", body),
                Err(response) => response,
            },
            _ => Response::not_found(),
        }
    }

    fn message(&self, message: Message) -> bool {
        let known = self.processes.is_empty() || self.processes.contains(&message.to.as_str());
        if known {
            self.messages.lock().expect("no test panics while recording").push(message);
        }
        known
    }
}

/// A running server; ends when dropped.
struct Server {
    address: SocketAddr,
    recorder: Arc<Recorder>,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(recorder: Recorder, limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("bound");
        let recorder = Arc::new(recorder);
        let (stop, stopped) = oneshot::channel::<()>();
        let service: Arc<dyn Service> = Arc::new(Arc::clone(&recorder));
        let done = tokio::spawn(serve(listener, service, limits, async {
            let _ = stopped.await;
        }));
        Server { address, recorder, stop: Some(stop), done }
    }

    async fn plain() -> Server {
        Server::start(Recorder::default(), Limits::default()).await
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    /// Sends raw bytes, ends the sending side and returns everything that came back.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.dial().await;
        // The server may refuse and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_until_quiet(&mut stream).await
    }
}

/// What arrives until the other side closes or says nothing for a while.
async fn read_until_quiet(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0u8; 64 << 10];
    while let Ok(Ok(n)) =
        tokio::time::timeout(Duration::from_millis(400), stream.read(&mut buffer)).await
    {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Whether the other side has closed, waiting up to `limit`.
async fn closed_within(stream: &mut TcpStream, limit: Duration) -> bool {
    let mut buffer = [0u8; 4096];
    tokio::time::timeout(limit, async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    })
    .await
    .is_ok()
}

/// Replaces the value of the only header that may differ from a recording.
fn without_date(text: &str) -> String {
    text.split_inclusive("\r\n")
        .map(|line| if line.starts_with("Date: ") { "Date: x\r\n" } else { line })
        .collect()
}
