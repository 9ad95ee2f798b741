//! HTTP and TCP probes on the loopback address of a container's network.
//!
//! Plain HTTP is asked by this process: no `curl` per probe. Only the status line
//! counts, and redirects are followed as `curl -L` does. TLS is left to `curl`, as in
//! Mesos.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use kernel::namespaces;
use tokio::net::{TcpSocket, TcpStream};

use super::core::{Attempt, Outcome, Probe};
use super::redirect::{self, MAX_HOPS, Next, Target};

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
                http(*port, path, *ipv6, attempt.limit, pid).await
            }
            Probe::Tcp { port, ipv6 } => Ok(Outcome::Connected(match number(*port) {
                Ok(port) => connect(SocketAddr::new(loopback(*ipv6), port), pid).await.is_ok(),
                Err(_) => false,
            })),
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

fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

fn number(port: u32) -> Result<u16, String> {
    u16::try_from(port).map_err(|_| format!("there is no port {port}"))
}

async fn connect(address: SocketAddr, pid: Option<u32>) -> Result<TcpStream, String> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6 } else { TcpSocket::new_v4 };
    let failed = |error: std::io::Error| match address.ip().is_loopback() {
        true => format!("failed to connect to port {}: {error}", address.port()),
        false => format!("failed to connect to {address}: {error}"),
    };
    let socket = match pid {
        None => socket().map_err(failed)?,
        // A socket stays in the network in which it was made.
        Some(pid) => {
            namespaces::in_network_of(pid, socket).and_then(|socket| socket).map_err(failed)?
        }
    };
    socket.connect(address).await.map_err(failed)
}

/// Asks, and goes where answers send on to, until one does not.
async fn http(
    port: u32,
    path: &str,
    ipv6: bool,
    limit: Option<Duration>,
    pid: Option<u32>,
) -> Result<Outcome, String> {
    let path = if path.is_empty() { "/" } else { path }.to_owned();
    let mut target = Target { host: loopback(ipv6).to_string(), port: number(port)?, path };
    for _ in 0..=MAX_HOPS {
        let (status, location) = ask(&target, pid).await?;
        let Some(location) = location.filter(|_| (300..400).contains(&status)) else {
            return Ok(Outcome::Status(status));
        };
        target = match redirect::resolve(&target, &location)? {
            Next::Plain(target) => target,
            Next::Tls(url) => return curl(url, limit, pid).await,
        };
    }
    Err(format!("more than {MAX_HOPS} redirects, the last one to {}", target.path))
}

/// The addresses of a host, looked up in the network of the process `pid`.
async fn addresses(target: &Target, pid: Option<u32>) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = target.host.parse() {
        return Ok(vec![SocketAddr::new(ip, target.port)]);
    }
    let host = target.host.clone();
    let pair = (host.clone(), target.port);
    let look = move || pair.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let looking = tokio::task::spawn_blocking(move || match pid {
        None => look(),
        Some(pid) => namespaces::in_network_of(pid, look).and_then(|found| found),
    });
    let found = looking.await.map_err(|error| error.to_string())?;
    found.map_err(|error| format!("failed to look up '{host}': {error}"))
}

async fn dial(target: &Target, pid: Option<u32>) -> Result<TcpStream, String> {
    let mut why = format!("'{}' has no address", target.host);
    for address in addresses(target, pid).await? {
        match connect(address, pid).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Status and `Location` of one answer.
async fn ask(target: &Target, pid: Option<u32>) -> Result<(u16, Option<String>), String> {
    let path = &target.path;
    let request = hyper::Request::get(path)
        .header("host", target.authority())
        .header("user-agent", concat!("bulkhead/", env!("CARGO_PKG_VERSION")))
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the path '{path}' cannot be asked for: {error}"))?;
    let stream = dial(target, pid).await?;
    let failed = |error: hyper::Error| format!("failed to ask port {}: {error}", target.port);
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
    let answer = answer.map_err(failed)?;
    let location = answer.headers().get("location");
    let location = location.map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
    Ok((answer.status().as_u16(), location))
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
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", 302),
            ("HTTP/1.1 204 Look elsewhere\r\nlocation: /there\r\n\r\n", 204),
            ("HTTP/1.0 500 Oops\r\n\r\nbroken", 500),
        ] {
            let port = server(answer).await;
            let outcome = perform(&attempt(get(port, "/health?x=1"), 5000), None).await;
            assert_eq!(outcome, Outcome::Status(status), "{answer:?}");
        }
    }

    /// Answers a path with what stands beside it, others with 404.
    async fn site(pages: Vec<(&'static str, String)>) -> u32 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let n = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..n]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or("").to_owned();
                let page = pages.iter().find(|(name, _)| *name == path).map(|(_, answer)| answer);
                let answer = match page.map(String::as_str) {
                    Some("") => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
                    Some(location) => format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n"),
                    None => "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn redirects_are_followed_as_far_as_curl_goes() {
        let other = site(vec![("/well", String::new())]).await;
        let port = site(vec![
            ("/near", "there/".into()),
            ("/there/", "/well?x=1".into()),
            ("/well?x=1", String::new()),
            ("/far", format!("http://localhost:{other}/well")),
            ("/lost", "/nowhere".into()),
            ("/round", "/round".into()),
            ("/strange", "gopher://h/".into()),
        ])
        .await;
        let ask = |path: &'static str| async move {
            perform(&attempt(get(port, path), 10_000), None).await
        };
        assert_eq!(ask("/near").await, Outcome::Status(200));
        assert_eq!(ask("/far").await, Outcome::Status(200));
        assert_eq!(ask("/lost").await, Outcome::Status(404));
        for (path, wanted) in [("/round", "more than 50 redirects"), ("/strange", "gopher://h/")] {
            match ask(path).await {
                Outcome::Failed(why) => assert!(why.contains(wanted), "{why}"),
                other => panic!("{path}: {other:?}"),
            }
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
