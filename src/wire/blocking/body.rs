//! One request and the head and body of its answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::HttpError;
use super::connect::{Environment, Stream, basic, connect};
use super::url::Url;

/// Largest head of an answer in bytes, and most headers in it.
const LARGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 128;

/// The head of an answer.
#[derive(Debug, Default)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// All headers of that name, which is in lower case.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Where the content of a 206 starts.
    #[must_use]
    pub fn range_start(&self) -> Option<u64> {
        let range = self.header("content-range")?.strip_prefix("bytes ")?;
        range.split('-').next()?.trim().parse().ok()
    }

    fn has_no_body(&self) -> bool {
        matches!(self.status, 100..200 | 204 | 304)
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// Chunks; so many bytes of this one are left, `None` before the next.
    Chunks(Option<u64>),
    /// The end of the connection.
    Close,
    Ended,
}

/// The body of an answer, still coming.
pub struct Body {
    stream: BufReader<Box<dyn Stream>>,
    framing: Framing,
    host: String,
    stall_secs: u64,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Sends a GET; the answer's head.
///
/// # Errors
/// [`HttpError`]; a status like 404 is an answer.
pub fn get(
    url: &Url,
    environment: &Environment<'_>,
    headers: &[(&str, String)],
) -> Result<(Head, Body), HttpError> {
    send(&Request { method: "GET", url, headers, form: None }, environment)
}

/// What to ask a server.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// In upper case.
    pub method: &'a str,
    /// Whom, and for what.
    pub url: &'a Url,
    /// Besides `Host` and the like; `Accept` and `Authorization` replace ours.
    pub headers: &'a [(&'a str, String)],
    /// The body, as forms of web pages are sent.
    pub form: Option<&'a str>,
}

/// Sends a request; the answer's head.
///
/// # Errors
/// [`HttpError`]; a status like 404 is an answer.
pub fn send(
    request: &Request<'_>,
    environment: &Environment<'_>,
) -> Result<(Head, Body), HttpError> {
    let (url, headers) = (request.url, request.headers);
    let connection = connect(url, environment)?;
    let host = url.authority();
    let stall_secs = environment.stall.map_or(0, |stall| stall.as_secs());
    let target = match connection.to_proxy {
        true => format!("http://{host}{}", url.target),
        false => url.target.clone(),
    };
    let (method, version) = (request.method, env!("CARGO_PKG_VERSION"));
    let mut text = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bulkhead/{version}\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n"
    );
    let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let own = url.user.iter().map(|user| ("Authorization", basic(user)));
    let own = own.chain([("Accept", "*/*".to_owned())]).filter(|(name, _)| !has(name));
    for (name, value) in own.chain(connection.headers) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(form) = request.form {
        let length = form.len();
        text.push_str(&format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n"
        ));
    }
    text.push_str("\r\n");
    text.push_str(request.form.unwrap_or_default());
    let mut stream = connection.stream;
    let sent = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    sent.map_err(|error| broken(&host, stall_secs, error))?;
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let head = loop {
        let head = read_head(&mut stream, &host, stall_secs)?;
        if !(100..200).contains(&head.status) {
            break head;
        }
    };
    let framing = framing(&head, &host)?;
    Ok((head, Body { stream, framing, host, stall_secs }))
}

/// Asks a proxy for a tunnel; the status of its answer.
pub(super) fn tunnel(
    mut stream: &TcpStream,
    target: &str,
    headers: &[(&str, String)],
) -> Result<u16, HttpError> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let sent = stream.write_all(request.as_bytes());
    sent.map_err(|error| broken("the proxy", 0, error))?;
    // Byte by byte: what follows the head belongs to TLS.
    let stream = BufReader::with_capacity(1, stream);
    Ok(read_head(stream, "the proxy", 0)?.status)
}

fn read_head(mut stream: impl BufRead, host: &str, stall_secs: u64) -> Result<Head, HttpError> {
    let not_http = |why: &str| HttpError::NotHttp { host: host.to_owned(), why: why.to_owned() };
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        let left = (LARGEST_HEAD - before) as u64;
        let read = (&mut stream).take(left).read_until(b'\n', &mut bytes);
        read.map_err(|error| broken(host, stall_secs, error))?;
        match &bytes[before..] {
            [] if before == 0 => return Err(broken(host, 0, io::ErrorKind::UnexpectedEof.into())),
            b"\r\n" | b"\n" if before > 0 => break,
            line if !line.ends_with(b"\n") => return Err(not_http("its head does not end")),
            _ => {}
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&bytes) {
        Ok(status) if status.is_complete() => {}
        Ok(_) => return Err(not_http("its head is not complete")),
        Err(error) => return Err(not_http(&error.to_string())),
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    let pair = |h: &httparse::Header<'_>| (h.name.to_ascii_lowercase(), text(h.value));
    let headers = response.headers.iter().map(pair).collect();
    Ok(Head { status: response.code.unwrap_or(0), headers })
}

fn framing(head: &Head, host: &str) -> Result<Framing, HttpError> {
    if head.has_no_body() {
        return Ok(Framing::Ended);
    }
    let encoding = head.header("transfer-encoding").unwrap_or("").to_ascii_lowercase();
    if encoding.split(',').any(|coding| coding.trim() == "chunked") {
        return Ok(Framing::Chunks(None));
    }
    match head.header("content-length") {
        None => Ok(Framing::Close),
        Some(length) => match length.parse() {
            Ok(0) => Ok(Framing::Ended),
            Ok(length) => Ok(Framing::Length(length)),
            Err(_) => {
                let why = format!("its Content-Length is '{length}'");
                Err(HttpError::NotHttp { host: host.to_owned(), why })
            }
        },
    }
}

fn broken(host: &str, stall_secs: u64, source: io::Error) -> HttpError {
    use io::ErrorKind::{TimedOut, WouldBlock};
    let host = host.to_owned();
    match source.kind() {
        TimedOut | WouldBlock => HttpError::Stalled { host, secs: stall_secs },
        // rustls' own words are inside.
        _ => match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => HttpError::NotTls { host },
            Some(error) => HttpError::Tls(format!("{host}: {error}")),
            None => HttpError::Broken { host, source },
        },
    }
}

impl Body {
    /// The size of the body, if the server said it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Ended => Some(0),
            Framing::Chunks(_) | Framing::Close => None,
        }
    }

    /// The next bytes; 0 at the end.
    ///
    /// # Errors
    /// [`HttpError::Stalled`], [`HttpError::Broken`], [`HttpError::NotHttp`]
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        loop {
            let most = match self.framing {
                Framing::Ended => return Ok(0),
                Framing::Chunks(None) => {
                    self.next_chunk()?;
                    continue;
                }
                Framing::Close => buffer.len(),
                Framing::Length(left) | Framing::Chunks(Some(left)) => {
                    usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len())
                }
            };
            let read = match self.stream.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| self.broken(error))?,
            };
            self.framing = match (self.framing, read as u64) {
                (Framing::Close, 0) => Framing::Ended,
                (Framing::Close, _) => Framing::Close,
                (_, 0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                (Framing::Length(left), read) if left == read => Framing::Ended,
                (Framing::Length(left), read) => Framing::Length(left - read),
                (Framing::Chunks(Some(left)), read) if left == read => {
                    self.line()?;
                    Framing::Chunks(None)
                }
                (Framing::Chunks(Some(left)), read) => Framing::Chunks(Some(left - read)),
                (other, _) => other,
            };
            return Ok(read);
        }
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Body::read`]; [`HttpError::TooLarge`].
    pub fn whole(mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        let too_large = || HttpError::TooLarge { host: self.host.clone(), limit };
        if self.length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let too_large = too_large();
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(bytes),
                count if bytes.len() + count > limit => return Err(too_large),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn next_chunk(&mut self) -> Result<(), HttpError> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| {
            let why = format!("'{line}' is no size of a chunk");
            HttpError::NotHttp { host: self.host.clone(), why }
        })?;
        if size == 0 {
            // Trailers.
            while !self.line()?.is_empty() {}
            self.framing = Framing::Ended;
        } else {
            self.framing = Framing::Chunks(Some(size));
        }
        Ok(())
    }

    /// A line of the framing.
    fn line(&mut self) -> Result<String, HttpError> {
        let mut bytes = Vec::new();
        let read = (&mut self.stream).take(4096).read_until(b'\n', &mut bytes);
        read.map_err(|error| self.broken(error))?;
        if !bytes.ends_with(b"\n") {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    fn broken(&self, error: io::Error) -> HttpError {
        broken(&self.host, self.stall_secs, error)
    }
}
