//! HTTP and TCP probes on the loopback address of a container's network.
//!
//! Plain HTTP is asked by this process: no `curl` per probe. Only the status line
//! counts, redirects are not followed. TLS is left to `curl`, as in Mesos.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use kernel::namespaces;
use tokio::net::{TcpSocket, TcpStream};

use super::core::{Attempt, Outcome, Probe};

/// Makes an HTTP or TCP probe in the network of the process `pid`; `None` is this
/// process' own. Commands are not for here.
pub async fn perform(attempt: &Attempt, pid: Option<u32>) -> Outcome {
    let probing = async {
        match &attempt.probe {
            Probe::Http { port, path, tls: true, ipv6 } => {
                let host = if *ipv6 { "[::1]" } else { "127.0.0.1" };
                curl(format!("https://{host}:{port}{path}"), attempt.limit, pid).await
            }
            Probe::Http { port, path, tls: false, ipv6 } => {
                http(*port, path, *ipv6, pid).await.map(Outcome::Status)
            }
            Probe::Tcp { port, ipv6 } => {
                Ok(Outcome::Connected(connect(*port, *ipv6, pid).await.is_ok()))
            }
            Probe::Command(_) => Err("a command runs in the task's container".to_owned()),
        }
    };
    let answer = match attempt.limit {
        Some(limit) => match tokio::time::timeout(limit, probing).await {
            Ok(answer) => answer,
            // compat: a TCP probe that is too slow is a failed probe, without a result.
            Err(_) => Err(format!("no answer within {}", words(limit))),
        },
        None => probing.await,
    };
    answer.unwrap_or_else(Outcome::Failed)
}

/// `0.5 s`, `20 s`.
pub(crate) fn words(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}

async fn connect(port: u32, ipv6: bool, pid: Option<u32>) -> Result<TcpStream, String> {
    let port = u16::try_from(port).map_err(|_| format!("there is no port {port}"))?;
    let socket = if ipv6 { TcpSocket::new_v6 } else { TcpSocket::new_v4 };
    let address: IpAddr =
        if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let failed = |error: std::io::Error| format!("failed to connect to port {port}: {error}");
    let socket = match pid {
        None => socket().map_err(failed)?,
        // A socket stays in the network in which it was made.
        Some(pid) => {
            namespaces::in_network_of(pid, socket).and_then(|socket| socket).map_err(failed)?
        }
    };
    socket.connect(SocketAddr::new(address, port)).await.map_err(failed)
}

async fn http(port: u32, path: &str, ipv6: bool, pid: Option<u32>) -> Result<u16, String> {
    let stream = connect(port, ipv6, pid).await?;
    let path = if path.is_empty() { "/" } else { path };
    let host = if ipv6 { format!("[::1]:{port}") } else { format!("127.0.0.1:{port}") };
    let request = hyper::Request::get(path)
        .header("host", host)
        .header("user-agent", concat!("bulkhead/", env!("CARGO_PKG_VERSION")))
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the path '{path}' cannot be asked for: {error}"))?;
    let failed = |error: hyper::Error| format!("failed to ask port {port}: {error}");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let asking = sender.send_request(request);
    // The connection is worked on here, so that it ends with this probe.
    let (mut connection, mut asking) = (std::pin::pin!(connection), std::pin::pin!(asking));
    let answer = tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = &mut connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(error),
        },
    };
    answer.map(|answer| answer.status().as_u16()).map_err(failed)
}

/// Certificates are not verified: the task's own is rarely signed for `127.0.0.1`.
async fn curl(url: String, limit: Option<Duration>, pid: Option<u32>) -> Result<Outcome, String> {
    let run = move || {
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "-S", "-L", "-k", "-g", "-w", "%{http_code}", "-o", "/dev/null"]);
        if let Some(limit) = limit {
            command.arg("--max-time").arg(limit.as_secs_f64().to_string());
        }
        command.arg(url).stdin(Stdio::null()).output()
    };
    let running = tokio::task::spawn_blocking(move || match pid {
        None => run(),
        Some(pid) => namespaces::in_network_of(pid, run).and_then(|output| output),
    });
    let failed =
        |error: std::io::Error| format!("failed to run 'curl', which asks by https: {error}");
    let output = running.await.map_err(|error| error.to_string())?.map_err(failed)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let code = String::from_utf8_lossy(&output.stdout).trim().parse();
    code.map(Outcome::Status).map_err(|_| "'curl' does not say the status".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::checks::Kind;

    fn attempt(probe: Probe, limit: u64) -> Attempt {
        Attempt { kind: Kind::Health, round: 1, probe, limit: Some(Duration::from_millis(limit)) }
    }

    /// Answers every request with `answer`; an empty one is never sent.
    async fn server(answer: &'static str) -> u32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    kept.push(stream);
                }
            }
        });
        port
    }

    fn get(port: u32, path: &str) -> Probe {
        Probe::Http { port, path: path.into(), tls: false, ipv6: false }
    }

    #[tokio::test]
    async fn the_status_line_is_what_counts() {
        for (answer, status) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", 204),
            ("HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n", 302),
            ("HTTP/1.0 500 Oops\r\n\r\nbroken", 500),
        ] {
            let port = server(answer).await;
            let outcome = perform(&attempt(get(port, "/health?x=1"), 5000), None).await;
            assert_eq!(outcome, Outcome::Status(status), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_a_failure_that_says_why() {
        let silent = server("").await;
        let noise = server("what?\r\n\r\n").await;
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            u32::from(listener.local_addr().unwrap().port())
        };
        for (probe, wanted) in [
            (get(silent, "/"), "no answer within 0.2 s"),
            (get(noise, "/"), "failed to ask port"),
            (get(closed, "/"), "refused"),
            (get(70_000, "/"), "there is no port 70000"),
            (get(silent, "/a b"), "cannot be asked for"),
        ] {
            match perform(&attempt(probe, 200), None).await {
                Outcome::Failed(why) => assert!(why.contains(wanted), "{why} ~ {wanted}"),
                other => panic!("{other:?}, not {wanted}"),
            }
        }
    }

    #[tokio::test]
    async fn a_connection_is_all_that_tcp_asks_for() {
        let port = server("").await;
        let open = perform(&attempt(Probe::Tcp { port, ipv6: false }, 1000), None).await;
        assert_eq!(open, Outcome::Connected(true));
        let none = Probe::Tcp { port: 70_000, ipv6: false };
        assert_eq!(perform(&attempt(none, 1000), None).await, Outcome::Connected(false));
    }
}
