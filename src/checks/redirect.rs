//! Where an answer of an HTTP probe sends on to. Pure.
//!
//! References are resolved as `curl -L` does it, which is what Mesos asks with.

use http::uri::Authority;

/// Most hops of one probe, as with `curl`.
pub const MAX_HOPS: usize = 50;

/// What is asked by plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, from the first slash on.
    pub path: String,
}

impl Target {
    /// The value of `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        let Target { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The next thing to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// By plain HTTP.
    Plain(Target),
    /// By HTTPS: the whole URL.
    Tls(String),
}

/// What `location` means in an answer of `from`.
///
/// # Errors
/// Why it cannot be followed, naming it.
pub fn resolve(from: &Target, location: &str) -> Result<Next, String> {
    let reference = location.trim().split('#').next().unwrap_or_default().replace(' ', "%20");
    let scheme = reference.split_once("://").filter(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if let Some((scheme, rest)) = scheme {
        return match scheme.to_ascii_lowercase().as_str() {
            "http" => absolute(rest, location),
            "https" => Ok(Next::Tls(reference)),
            _ => Err(format!("the redirect to '{location}' is to neither http nor https")),
        };
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return absolute(rest, location);
    }
    let (base, _) = from.path.split_once('?').unwrap_or((&from.path, ""));
    let path = if reference.starts_with('/') {
        reference
    } else if reference.starts_with('?') || reference.is_empty() {
        format!("{base}{reference}")
    } else {
        let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{directory}/{reference}")
    };
    Ok(Next::Plain(Target { path: without_dots(&path), ..from.clone() }))
}

/// `host:port/path`.
fn absolute(rest: &str, location: &str) -> Result<Next, String> {
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let bad = || format!("the redirect to '{location}' names no host");
    let authority: Authority = authority.parse().map_err(|_| bad())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let after = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = match after[authority.host().len()..].strip_prefix(':') {
        Some("") | None => 80,
        Some(port) => port.parse().map_err(|_| bad())?,
    };
    if host.is_empty() {
        return Err(bad());
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Next::Plain(Target { host, port, path: without_dots(&path) }))
}

/// The path without `.` and `..`; the query stays.
fn without_dots(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (n, segment) in segments.iter().enumerate() {
        let last = n + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16, path: &str) -> Target {
        Target { host: host.into(), port, path: path.into() }
    }

    #[test]
    fn references_lead_where_curl_goes() {
        let from = target("127.0.0.1", 8080, "/a/b?x=1");
        for (location, host, port, path) in [
            ("/c", "127.0.0.1", 8080, "/c"),
            ("c", "127.0.0.1", 8080, "/a/c"),
            ("../c/./d/..", "127.0.0.1", 8080, "/c/"),
            ("../../../c", "127.0.0.1", 8080, "/c"),
            ("?y=2", "127.0.0.1", 8080, "/a/b?y=2"),
            ("#top", "127.0.0.1", 8080, "/a/b"),
            ("c?u=http://h/", "127.0.0.1", 8080, "/a/c?u=http://h/"),
            ("/a b", "127.0.0.1", 8080, "/a%20b"),
            ("http://h.example/x", "h.example", 80, "/x"),
            ("HTTP://h.example:81", "h.example", 81, "/"),
            ("http://h.example?q", "h.example", 80, "/?q"),
            ("http://[::1]:82/x", "::1", 82, "/x"),
            ("//other:83/x", "other", 83, "/x"),
        ] {
            let wanted = Next::Plain(target(host, port, path));
            assert_eq!(resolve(&from, location), Ok(wanted), "{location}");
        }
        let tls = "https://h.example/x?y";
        assert_eq!(resolve(&from, tls), Ok(Next::Tls(tls.into())));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let from = target("127.0.0.1", 8080, "/");
        for location in ["ftp://h/x", "http:///x", "http://h:99999/", "http://:80/"] {
            let why = resolve(&from, location).expect_err(location);
            assert!(why.contains(location), "{why}");
        }
    }

    #[test]
    fn hosts_are_written_as_urls_have_them() {
        assert_eq!(target("::1", 80, "/").authority(), "[::1]:80");
        assert_eq!(target("h", 81, "/").authority(), "h:81");
    }
}
