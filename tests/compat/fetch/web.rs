//! An HTTP server of one test: pages that behave badly on request, and what was asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a page behaves.
#[derive(Debug, Clone, Default)]
pub enum Manner {
    /// At once and whole.
    #[default]
    Plain,
    /// Half of it, then nothing until the client leaves or the page is [`Web::put`] again.
    Stalls,
    /// Half of it, then the connection breaks, but only the first time.
    BreaksOnce,
    /// Another status.
    Status(u16),
}

#[derive(Debug, Clone, Default)]
struct Page {
    body: Vec<u8>,
    etag: Option<String>,
    manner: Manner,
}

#[derive(Debug, Default)]
struct State {
    pages: BTreeMap<String, Page>,
    asked: Vec<String>,
    stalled: usize,
}

/// The server; ends with the process.
#[derive(Debug, Clone)]
pub struct Web {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Web {
    pub fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("bound").port();
        let web = Web { port, state: Arc::default() };
        let server = web.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that leaves is no failure.
                std::thread::spawn(move || drop(server.serve(stream)));
            }
        });
        web
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The URL of a page.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Sets a page with an entity tag of its content.
    pub fn put(&self, path: &str, body: &[u8]) {
        let sum: u64 = body.iter().map(|b| u64::from(*b)).sum();
        let etag = Some(format!("\"{}-{sum}\"", body.len()));
        let page = Page { body: body.to_vec(), etag, manner: Manner::Plain };
        self.state().pages.insert(path.to_owned(), page);
    }

    /// Makes a page behave in another way.
    pub fn behave(&self, path: &str, manner: Manner) {
        self.state().pages.get_mut(path).expect("a page").manner = manner;
    }

    /// Requests for a page so far: its answers' statuses.
    pub fn asked(&self, path: &str) -> Vec<String> {
        let state = self.state();
        state
            .asked
            .iter()
            .filter_map(|a| a.strip_prefix(&format!("{path} ")))
            .map(str::to_owned)
            .collect()
    }

    /// Clients that wait for the rest of a page.
    pub fn stalled(&self) -> usize {
        self.state().stalled
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => request.extend_from_slice(&buffer[..count]),
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let Some(page) = self.state().pages.get(&path).cloned() else {
            return self.answer(&mut stream, &path, "404 Not Found", &[], b"");
        };
        let header = |name: &str| {
            let line = request.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")));
            line.map(str::to_owned)
        };
        let tag = page.etag.clone().unwrap_or_default();
        let etag = format!("ETag: {tag}");
        let (half, all) = (page.body.len() / 2, page.body.len());
        if let Manner::Status(status) = page.manner {
            return self.answer(&mut stream, &path, &format!("{status} Status"), &[], b"");
        }
        if header("If-None-Match").is_some_and(|known| known == tag) {
            return self.answer(&mut stream, &path, "304 Not Modified", &[&etag], b"");
        }
        if let Some(range) = header("Range") {
            let from = range.trim_start_matches("bytes=").trim_end_matches('-').parse();
            let from: usize = from.unwrap_or(0).min(all);
            let place = format!("Content-Range: bytes {from}-{}/{all}", all - 1);
            return self.answer(
                &mut stream,
                &path,
                "206 Partial",
                &[&etag, &place],
                &page.body[from..],
            );
        }
        match page.manner {
            Manner::Plain | Manner::Status(_) => {
                self.answer(&mut stream, &path, "200 OK", &[&etag], &page.body)
            }
            Manner::BreaksOnce => {
                self.behave(&path, Manner::Plain);
                self.head(&mut stream, &path, "200 OK", &[&etag], all)?;
                stream.write_all(&page.body[..half])
            }
            Manner::Stalls => {
                self.head(&mut stream, &path, "200 OK", &[&etag], all)?;
                stream.write_all(&page.body[..half])?;
                self.state().stalled += 1;
                let ended = self.hold(&mut stream, &path);
                self.state().stalled -= 1;
                if ended { Ok(()) } else { stream.write_all(&page.body[half..]) }
            }
        }
    }

    /// Waits until the client leaves (true) or the page behaves.
    fn hold(&self, stream: &mut TcpStream, path: &str) -> bool {
        let limit = Some(std::time::Duration::from_millis(20));
        stream.set_read_timeout(limit).expect("a socket");
        loop {
            match stream.read(&mut [0; 16]) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => return true,
            }
            if matches!(self.state().pages[path].manner, Manner::Plain) {
                return false;
            }
        }
    }

    fn head(
        &self,
        stream: &mut TcpStream,
        path: &str,
        status: &str,
        headers: &[&str],
        length: usize,
    ) -> std::io::Result<()> {
        let code = status.split(' ').next().unwrap_or("");
        self.state().asked.push(format!("{path} {code}"));
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())
    }

    fn answer(
        &self,
        stream: &mut TcpStream,
        path: &str,
        status: &str,
        headers: &[&str],
        body: &[u8],
    ) -> std::io::Result<()> {
        self.head(stream, path, status, headers, body.len())?;
        stream.write_all(body)
    }
}
