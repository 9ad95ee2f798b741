//! The little of URLs that a GET needs. Pure.

use super::HttpError;

/// An http or https URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is https.
    pub tls: bool,
    /// `user:password`, percent-decoded.
    pub user: Option<String>,
    /// A name or an address, without brackets.
    pub host: String,
    /// As given, or the scheme's.
    pub port: u16,
    /// Path and query, as sent.
    pub target: String,
}

impl Url {
    /// Reads a URL; what may not stand in a request is percent-encoded.
    ///
    /// # Errors
    /// [`HttpError::Url`]
    pub fn parse(text: &str) -> Result<Url, HttpError> {
        let bad = |why| HttpError::Url { url: text.to_owned(), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(bad("only http and https are known here")),
        };
        let rest = rest.split('#').next().unwrap_or("");
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(decode(user)), host),
            None => (None, authority),
        };
        let default = if tls { 443 } else { 80 };
        let (host, port) = split_port(authority, default).ok_or_else(|| bad("its port is none"))?;
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if host.is_empty() || host.contains(odd) {
            return Err(bad("it has no host"));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Url { tls, user, host, port, target: format!("{slash}{}", encode(target)) })
    }

    /// Where a redirect leads.
    ///
    /// # Errors
    /// [`HttpError::Url`]
    pub fn join(&self, location: &str) -> Result<Url, HttpError> {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.target.split('?').next().unwrap_or("/");
        let absolute = if location.contains("://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{}{location}", self.authority())
        } else if location.starts_with('?') {
            format!("{scheme}://{}{path}{location}", self.authority())
        } else {
            let dir = &path[..=path.rfind('/').unwrap_or(0)];
            format!("{scheme}://{}{dir}{location}", self.authority())
        };
        let mut url = Url::parse(&absolute)?;
        // Whoever we are sent to must not learn the password.
        if url.user.is_none() && (&url.host, url.port, url.tls) == (&self.host, self.port, self.tls)
        {
            url.user.clone_from(&self.user);
        }
        Ok(url)
    }

    /// The value of `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

/// Host and port of `host`, `host:port`, `[address]` or `[address]:port`.
pub(super) fn split_port(authority: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None | Some("") => default,
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
    };
    Some((host.to_owned(), port))
}

/// Percent-encodes what may not stand in a request line.
fn encode(target: &str) -> String {
    let mut encoded = String::with_capacity(target.len());
    for byte in target.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            0x21..=0x7e => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Resolves percent-encoding; what is none stays.
#[must_use]
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let digits = bytes.get(index + 1..index + 3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) if bytes[index] == b'%' => {
                decoded.push(byte);
                index += 3;
            }
            _ => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
