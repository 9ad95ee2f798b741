//! Sockets: listening, answering, asking.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::{fail, for_ever, say};

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const WORD: &[u8] = b"hello";

/// Binds to each address, and for TCP listens.
pub fn listen(protocol: &str, addresses: &[String]) -> ! {
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    for address in addresses {
        let opened = match protocol {
            "tcp" => std::net::TcpListener::bind(address).and_then(|socket| {
                let port = socket.local_addr()?.port();
                held.push(Box::new(socket));
                Ok(port)
            }),
            "udp" => std::net::UdpSocket::bind(address).and_then(|socket| {
                let port = socket.local_addr()?.port();
                held.push(Box::new(socket));
                Ok(port)
            }),
            _ => fail("a protocol is tcp or udp"),
        };
        match opened {
            Ok(port) => say(format_args!("listening {port}")),
            Err(e) => say(format_args!("errno {}", e.raw_os_error().unwrap_or(0))),
        }
    }
    std::hint::black_box(&held);
    for_ever()
}

/// Answers every word.
pub fn echo(protocol: &str, address: &str) -> ! {
    let wrong = |e: std::io::Error| -> ! { fail(format_args!("{address}: {e}")) };
    let mut buffer = [0; 1 << 16];
    if protocol == "udp" {
        let socket = UdpSocket::bind(address).unwrap_or_else(|e| wrong(e));
        say("ready");
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    }
    let listener = TcpListener::bind(address).unwrap_or_else(|e| wrong(e));
    say("ready");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
    }
    for_ever()
}

/// Asks once.
pub fn connect(protocol: &str, address: &str) {
    match ask(protocol, address) {
        Ok((word, port)) => say(format_args!("answer {word} from {port}")),
        Err(e) => say(format_args!("failed: {e}")),
    }
}

fn ask(protocol: &str, address: &str) -> std::io::Result<(String, u16)> {
    let wrong = |_| std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let to: SocketAddr = address.parse().map_err(wrong)?;
    let mut buffer = [0; WORD.len()];
    let own = if protocol == "udp" {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(WORD)?;
        socket.recv(&mut buffer)?;
        socket.local_addr()?
    } else {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(WORD)?;
        stream.read_exact(&mut buffer)?;
        stream.local_addr()?
    };
    Ok((String::from_utf8_lossy(&buffer).into_owned(), own.port()))
}

/// Sends bytes and takes them back.
pub fn transfer(address: &str, bytes: Option<u64>) {
    let bytes = bytes.unwrap_or(0);
    let wrong = |e: std::io::Error| -> ! { fail(format_args!("{address}: {e}")) };
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| wrong(e));
    let mut sending = stream.try_clone().unwrap_or_else(|e| wrong(e));
    let start = std::time::Instant::now();
    std::thread::spawn(move || {
        let block = [b'x'; 1 << 14];
        let mut left = bytes;
        while left > 0 {
            let length = left.min(block.len() as u64) as usize;
            if sending.write_all(&block[..length]).is_err() {
                return;
            }
            left -= length as u64;
        }
    });
    let (mut buffer, mut back) = ([0; 1 << 14], 0);
    while back < bytes {
        match stream.read(&mut buffer) {
            Ok(0) => fail("the other end has closed"),
            Ok(length) => back += length as u64,
            Err(e) => wrong(e),
        }
    }
    say(format_args!("{:.3}", start.elapsed().as_secs_f64()));
}

/// Tries to reach `to` from a port that is not its own, reaches it from those that
/// are, then answers on both of its ports.
pub fn mapped(word: &str, to: &str, own: &str, foreign: &str) -> ! {
    let wrong = |e: std::io::Error| -> ! { fail(format_args!("{word}: {e}")) };
    let any = |port: &str| format!("0.0.0.0:{port}");
    let strange = UdpSocket::bind(any(foreign)).unwrap_or_else(|e| wrong(e));
    for _ in 0..3 {
        let _ = strange.send_to(format!("{word} foreign").as_bytes(), to);
    }
    let mine = UdpSocket::bind(any(own)).unwrap_or_else(|e| wrong(e));
    mine.set_read_timeout(Some(Duration::from_millis(200))).unwrap_or_else(|e| wrong(e));
    let mut buffer = [0; 64];
    // Datagrams may be lost where hundreds ask at once.
    let heard = (0..300).any(|_| {
        let _ = mine.send_to(format!("{word} own").as_bytes(), to);
        mine.recv(&mut buffer).is_ok()
    });
    if !heard {
        fail(format_args!("{word}: {to} does not answer"));
    }
    let greet = || {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(format!("{word}\n").as_bytes())?;
        line(&stream)
    };
    greet().unwrap_or_else(|e| wrong(e));
    let listen = |port: &str| TcpListener::bind(any(port)).unwrap_or_else(|e| wrong(e));
    let listeners = [own, foreign].map(listen);
    say("ready");
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let answer = asked(&stream, word).unwrap_or_else(|e| format!("failed: {e}"));
                    let _ = stream.write_all(format!("{answer}\n").as_bytes());
                }
            });
        }
    });
    for_ever()
}

/// `who` is answered with the word, `ask ADDRESS` with what is said there.
fn asked(stream: &TcpStream, word: &str) -> std::io::Result<String> {
    let question = line(stream)?;
    let Some(address) = question.strip_prefix("ask ") else { return Ok(word.to_owned()) };
    let mut other = TcpStream::connect(address)?;
    other.set_read_timeout(Some(PATIENCE))?;
    other.write_all(b"who\n")?;
    line(&other)
}

/// A line, without its end.
fn line(stream: &TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    std::io::BufReader::new(stream).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}
