//! A stream to a server: through a proxy if the environment names one as curl
//! understands it, and through TLS if the URL says so.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::url::{Url, decode, split_port};
use super::{HttpError, body, trust};

/// Where systems keep the authorities that they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Longest time to connect to one address.
const CONNECT: Duration = Duration::from_secs(60);

/// Bytes both ways.
pub(super) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// What is known of a server besides the authorities of the system.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Files with more authorities, PEM.
    pub authorities: Vec<PathBuf>,
    /// Files with our certificate and its key, PEM, for servers that ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whoever it says it is, it is.
    pub unchecked: bool,
}

/// What requests need to know besides the request.
#[derive(Debug)]
pub struct Environment<'a> {
    /// Environment variables: proxies, authorities.
    pub variables: &'a BTreeMap<String, String>,
    /// Longest time without a byte.
    pub stall: Option<Duration>,
    trust: Trust,
    /// Made once: a system has hundreds of authorities.
    tls: OnceLock<Arc<ClientConfig>>,
}

impl<'a> Environment<'a> {
    /// With the variables of the job; `stall_secs` 0: no limit.
    #[must_use]
    pub fn new(variables: &'a BTreeMap<String, String>, stall_secs: u64) -> Environment<'a> {
        let stall = (stall_secs > 0).then(|| Duration::from_secs(stall_secs));
        Environment { variables, stall, trust: Trust::default(), tls: OnceLock::new() }
    }

    /// The same for a server of which more is known.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Environment<'a> {
        Environment { trust, tls: OnceLock::new(), ..self }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, HttpError> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(trust::config(&self.trust, || authorities(self))?);
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The proxy for `url`: `http_proxy` only in lower case, as curl has it.
    fn proxy(&self, url: &Url) -> Option<&'a str> {
        let excluded = self.get("no_proxy").or_else(|| self.get("NO_PROXY")).unwrap_or("");
        if is_excluded(&url.host, excluded) {
            return None;
        }
        let own = if url.tls {
            self.get("https_proxy").or_else(|| self.get("HTTPS_PROXY"))
        } else {
            self.get("http_proxy")
        };
        own.or_else(|| self.get("all_proxy")).or_else(|| self.get("ALL_PROXY"))
    }
}

/// Whether `no_proxy` names the host or a domain it is in.
fn is_excluded(host: &str, list: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    list.split([',', ' ']).map(|item| item.trim().to_ascii_lowercase()).any(|item| {
        let item = item.trim_start_matches('.');
        let tail = || host.strip_suffix(item).is_some_and(|head| head.ends_with('.'));
        item == "*" || (!item.is_empty() && (host == item || tail()))
    })
}

/// A way to the server.
pub(super) struct Connection {
    pub stream: Box<dyn Stream>,
    /// The request line names the whole URL, and these headers go along.
    pub to_proxy: bool,
    pub headers: Vec<(&'static str, String)>,
}

/// Connects.
pub(super) fn connect(url: &Url, environment: &Environment<'_>) -> Result<Connection, HttpError> {
    let Some(text) = environment.proxy(url) else {
        let stream = dial(&url.host, url.port, environment.stall)?;
        let stream = if url.tls { secure(stream, url, environment)? } else { Box::new(stream) };
        return Ok(Connection { stream, to_proxy: false, headers: Vec::new() });
    };
    let proxy = proxy_of(text)?;
    let stream = dial(&proxy.host, proxy.port, environment.stall)?;
    let headers: Vec<_> =
        proxy.user.iter().map(|user| ("Proxy-Authorization", basic(user))).collect();
    if !url.tls {
        return Ok(Connection { stream: Box::new(stream), to_proxy: true, headers });
    }
    let target = format!("{}:{}", bracketed(&url.host), url.port);
    let status = body::tunnel(&stream, &target, &headers)?;
    if status != 200 {
        let why = format!("it answered {status} to CONNECT {target}");
        return Err(HttpError::Proxy { proxy: proxy.authority(), why });
    }
    Ok(Connection { stream: secure(stream, url, environment)?, to_proxy: false, headers: vec![] })
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The value of an authorization header for `user:password`.
#[must_use]
pub fn basic(user: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
}

/// `[http://][user:password@]host[:port]`.
fn proxy_of(text: &str) -> Result<Url, HttpError> {
    let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let bad = |why: &str| HttpError::Proxy { proxy: shown.to_owned(), why: why.to_owned() };
    let rest = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(bad(&format!("{scheme} proxies are not supported yet"))),
    };
    let rest = rest.split('/').next().unwrap_or("");
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(decode(user)), host),
        None => (None, rest),
    };
    // curl's default port.
    let (host, port) = split_port(host, 1080).ok_or_else(|| bad("its port is none"))?;
    if host.is_empty() {
        return Err(bad("it has no host"));
    }
    Ok(Url { tls: false, user, host, port, target: "/".into() })
}

fn dial(host: &str, port: u16, stall: Option<Duration>) -> Result<TcpStream, HttpError> {
    let resolve = |source| HttpError::Resolve { host: host.to_owned(), source };
    let addresses = (host, port).to_socket_addrs().map_err(resolve)?;
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        let limit = stall.map_or(CONNECT, |stall| stall.min(CONNECT));
        let connected = TcpStream::connect_timeout(&address, limit).and_then(|stream| {
            stream.set_read_timeout(stall)?;
            stream.set_write_timeout(stall)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(source) => error = source,
        }
    }
    Err(HttpError::Connect { host: format!("{}:{port}", bracketed(host)), source: error })
}

fn secure(
    stream: TcpStream,
    url: &Url,
    environment: &Environment<'_>,
) -> Result<Box<dyn Stream>, HttpError> {
    let failed = |error: rustls::Error| HttpError::Tls(error.to_string());
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| HttpError::Tls(format!("'{}' is no name of a server", url.host)))?;
    let connection = ClientConnection::new(environment.tls()?, name).map_err(failed)?;
    Ok(Box::new(StreamOwned::new(connection, stream)))
}

/// The authorities of the system, or those of `SSL_CERT_FILE` or `CURL_CA_BUNDLE`.
fn authorities(environment: &Environment<'_>) -> Result<RootCertStore, HttpError> {
    let named = environment.get("CURL_CA_BUNDLE").or_else(|| environment.get("SSL_CERT_FILE"));
    let found = named.or_else(|| BUNDLES.into_iter().find(|path| Path::new(path).exists()));
    let path = found.ok_or_else(|| {
        let text = "this machine has no certificates of authorities; install ca-certificates";
        HttpError::Tls(text.to_owned())
    })?;
    let failed = |e| HttpError::Tls(format!("failed to read the certificates in '{path}': {e}"));
    let mut roots = RootCertStore::empty();
    trust::add(&mut roots, Path::new(path)).map_err(failed)?;
    if roots.is_empty() {
        return Err(HttpError::Tls(format!("there is no usable certificate in '{path}'")));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let variables = |rows: &[(&str, &str)]| -> BTreeMap<String, String> {
            rows.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        let ask = |url: &str, rows: &[(&str, &str)]| {
            let variables = variables(rows);
            let environment = Environment::new(&variables, 0);
            environment.proxy(&Url::parse(url).unwrap()).map(str::to_owned)
        };
        let http = [("http_proxy", "p:1"), ("HTTPS_PROXY", "q:2"), ("no_proxy", ".in.org, x")];
        assert_eq!(ask("http://a/", &http).as_deref(), Some("p:1"));
        assert_eq!(ask("https://a/", &http).as_deref(), Some("q:2"));
        for direct in ["http://b.in.org/", "http://in.org/", "https://x/"] {
            assert_eq!(ask(direct, &http), None, "{direct}");
        }
        assert_eq!(ask("http://begin.org/", &http).as_deref(), Some("p:1"));
        assert_eq!(ask("http://a/", &[("HTTP_PROXY", "p")]), None);
        assert_eq!(ask("http://a/", &[("all_proxy", "p"), ("no_proxy", "*")]), None);

        let proxy = proxy_of("http://me:s%40cret@host/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("host", 1080));
        assert_eq!(proxy.user.as_deref(), Some("me:s@cret"));
        assert_eq!(basic("a:b"), "Basic YTpi");
        let text = proxy_of("socks5://me:secret@host:1").unwrap_err().to_string();
        assert_eq!(text, "the proxy host:1 is not usable: socks5 proxies are not supported yet");
    }
}
