//! Asking registries: who is asked first, how they are trusted, who we are for them.
//!
//! Authorization goes only to the host that asked for it, not to where it redirects.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::auth::{self, Credentials};
use super::manifest::{ACCEPT, LARGEST_MANIFEST};
use super::{PullError, RegistryError};
use crate::provisioner::message::{Endpoint, Job, Security};
use crate::provisioner::reference::Digest;
use crate::wire::blocking::{
    Body, Environment, Head, HttpError, REDIRECTS, Request, Trust, Url, send,
};

/// Largest answer of a service of tokens in bytes.
const LARGEST_TOKEN: usize = 1 << 20;
/// Attempts at a manifest, and the first pause between two; it doubles.
const ATTEMPTS: u32 = 4;
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// The registries that may have an image.
#[derive(Debug)]
pub(super) struct Registry<'a> {
    hosts: Vec<Host<'a>>,
    repository: String,
}

#[derive(Debug)]
struct Host<'a> {
    endpoint: Endpoint,
    environment: Environment<'a>,
    files: &'a [Value],
    /// Whether it speaks TLS, once that is known.
    tls: Mutex<Option<bool>>,
    /// What it accepted, or what it is offered first.
    authorization: Mutex<Option<String>>,
}

/// What is asked for.
struct Wanted<'a> {
    path: &'a str,
    accept: Option<&'a str>,
    offset: u64,
}

impl<'a> Registry<'a> {
    /// The endpoints of a job.
    pub fn new(job: &'a Job, endpoints: &[Endpoint], certificates: &Path) -> Registry<'a> {
        let host = |endpoint: &Endpoint| {
            let trust = trust(certificates, endpoint);
            Host {
                endpoint: endpoint.clone(),
                environment: Environment::new(&job.environment, job.stall_secs).trusting(trust),
                files: &job.credentials,
                tls: Mutex::default(),
                authorization: Mutex::default(),
            }
        };
        let hosts = endpoints.iter().map(host).collect();
        Registry { hosts, repository: job.reference.repository.clone() }
    }

    /// A manifest by tag or digest, and the host that had it.
    pub fn manifest(&self, version: &str) -> Result<(Vec<u8>, usize), PullError> {
        let path = format!("/v2/{}/manifests/{version}", self.repository);
        let wanted = Wanted { path: &path, accept: Some(ACCEPT), offset: 0 };
        let mut failure = None;
        for (index, host) in self.hosts.iter().enumerate() {
            match host.patiently(&wanted, |body| body.whole(LARGEST_MANIFEST)) {
                Ok(bytes) => return Ok((bytes, index)),
                // The registry itself is asked last, and what it says counts.
                Err(error) => failure = Some((host, error)),
            }
        }
        let (host, error) = failure.expect("a registry has a host");
        Err(PullError::Manifest {
            version: version.to_owned(),
            host: host.endpoint.host.clone(),
            source: Box::new(error),
        })
    }

    /// A small blob in whole; its digest is checked.
    pub fn blob(&self, first: usize, digest: Digest, limit: usize) -> Result<Vec<u8>, PullError> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let wanted = Wanted { path: &path, accept: None, offset: 0 };
        let host = &self.hosts[first];
        let bytes = host.patiently(&wanted, |body| body.whole(limit));
        let bytes = bytes.map_err(|source| PullError::Blob { digest, source: Box::new(source) })?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(PullError::Digest { what: "configuration", wanted: digest, found });
        }
        Ok(bytes)
    }

    /// A blob from `offset` on, or from the start where a server cannot do that: the
    /// second tells which.
    pub fn open(
        &self,
        host: usize,
        digest: Digest,
        offset: u64,
    ) -> Result<(Body, u64), RegistryError> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let host = &self.hosts[host];
        let (head, body) = host.get(&Wanted { path: &path, accept: None, offset })?;
        match head.status {
            200 => Ok((body, 0)),
            206 if head.range_start() == Some(offset) => Ok((body, offset)),
            status => Err(host.refused(status, body)),
        }
    }
}

impl Host<'_> {
    /// Asks until it is answered, as long as the next attempt may go well.
    fn patiently<T>(
        &self,
        wanted: &Wanted<'_>,
        read: impl Fn(Body) -> Result<T, HttpError>,
    ) -> Result<T, RegistryError> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let result = self.get(wanted).and_then(|(head, body)| match head.status {
                200 => Ok(read(body)?),
                status => Err(self.refused(status, body)),
            });
            match result {
                Err(error) if error.is_passing() && attempt < ATTEMPTS => std::thread::sleep(pause),
                other => return other,
            }
            pause *= 2;
        }
        unreachable!("it ends with the last attempt")
    }

    fn refused(&self, status: u16, body: Body) -> RegistryError {
        // `{"errors":[{"code":"...","message":"..."}]}`, as registries explain themselves.
        let explained = body.whole(64 << 10).ok().and_then(|bytes| {
            let value: Value = serde_json::from_slice(&bytes).ok()?;
            let error = &value["errors"][0];
            let text = error["message"].as_str().or(error["code"].as_str())?;
            Some(format!(": {}", text.chars().take(200).collect::<String>()))
        });
        let host = self.endpoint.host.clone();
        RegistryError::Status { host, status, explained: explained.unwrap_or_default() }
    }

    /// The answer to a GET, by TLS or without, as this host is to be spoken to.
    fn get(&self, wanted: &Wanted<'_>) -> Result<(Head, Body), RegistryError> {
        let known = *self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        let ways: &[bool] = match (known, self.endpoint.security) {
            (Some(true), _) | (None, Security::Tls) => &[true],
            (Some(false), _) | (None, Security::Plain) => &[false],
            (None, Security::TlsOrPlain | Security::Insecure) => &[true, false],
        };
        for (index, tls) in ways.iter().enumerate() {
            match self.authorized(*tls, wanted) {
                Err(RegistryError::Http(HttpError::NotTls { .. } | HttpError::Connect { .. }))
                    if index + 1 < ways.len() => {}
                Ok(answer) => {
                    *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(*tls);
                    return Ok(answer);
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last way ends it")
    }

    /// The answer, after having said who we are if that is asked for.
    fn authorized(&self, tls: bool, wanted: &Wanted<'_>) -> Result<(Head, Body), RegistryError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (head, body) = self.follow(tls, wanted, known.as_deref())?;
        if head.status != 401 {
            return Ok((head, body));
        }
        drop(body);
        // One asks; others that wait for the same answer take it over.
        let mut slot = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if *slot == known {
            *slot = Some(self.authorize(&head, tls)?);
        }
        let fresh = slot.clone();
        drop(slot);
        let (head, body) = self.follow(tls, wanted, fresh.as_deref())?;
        if head.status == 401 {
            return Err(RegistryError::Denied { host: self.endpoint.host.clone() });
        }
        Ok((head, body))
    }

    fn url(&self, tls: bool, path: &str) -> Result<Url, RegistryError> {
        let scheme = if tls { "https" } else { "http" };
        Ok(Url::parse(&format!("{scheme}://{}{path}", self.endpoint.host))?)
    }

    /// Asks, and asks elsewhere as long as the answer is a redirect.
    fn follow(
        &self,
        tls: bool,
        wanted: &Wanted<'_>,
        authorization: Option<&str>,
    ) -> Result<(Head, Body), RegistryError> {
        let origin = self.url(tls, wanted.path)?;
        let mut url = origin.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = Vec::new();
            headers.extend(wanted.accept.map(|accept| ("Accept", accept.to_owned())));
            if wanted.offset > 0 {
                headers.push(("Range", format!("bytes={}-", wanted.offset)));
            }
            let home = (&url.host, url.port, url.tls) == (&origin.host, origin.port, origin.tls);
            if let Some(authorization) = authorization.filter(|_| home) {
                headers.push(("Authorization", authorization.to_owned()));
            }
            let request = Request { method: "GET", url: &url, headers: &headers, form: None };
            let (head, body) = send(&request, &self.environment)?;
            match (head.status, head.header("location")) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    url = url.join(location)?;
                    self.check_plain(&url)?;
                }
                _ => return Ok((head, body)),
            }
        }
        Err(HttpError::Redirects.into())
    }

    /// A registry that is spoken to by TLS must not send us where there is none.
    fn check_plain(&self, url: &Url) -> Result<(), RegistryError> {
        if url.tls || self.endpoint.security != Security::Tls {
            return Ok(());
        }
        let (host, target) = (self.endpoint.host.clone(), url.authority());
        Err(RegistryError::Downgrade { host, target })
    }

    /// The value of `Authorization` by what a 401 asks for.
    fn authorize(&self, head: &Head, tls: bool) -> Result<String, RegistryError> {
        let host = &self.endpoint.host;
        let known = auth::lookup(self.files, host, self.environment.variables)?;
        if let Some(Credentials::Token(token)) = &known {
            return Ok(format!("Bearer {token}"));
        }
        let asked: Vec<auth::Challenge> =
            head.headers("www-authenticate").flat_map(auth::challenges).collect();
        if let Some(bearer) = asked.iter().find(|challenge| challenge.scheme == "bearer") {
            return self.token(bearer, known.as_ref(), tls);
        }
        if asked.iter().any(|challenge| challenge.scheme == "basic") {
            let header = known.as_ref().and_then(Credentials::header);
            return header.ok_or_else(|| RegistryError::NoCredentials { host: host.clone() });
        }
        let schemes: Vec<String> = asked.into_iter().map(|challenge| challenge.scheme).collect();
        Err(RegistryError::Schemes { host: host.clone(), schemes: schemes.join(", ") })
    }

    /// Gets a token from the service that a registry names.
    fn token(
        &self,
        challenge: &auth::Challenge,
        known: Option<&Credentials>,
        tls: bool,
    ) -> Result<String, RegistryError> {
        let wrong = |why: &str| RegistryError::Token {
            host: self.endpoint.host.clone(),
            why: why.to_owned(),
        };
        let parameter = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let realm = parameter("realm").ok_or_else(|| wrong("it does not say where"))?;
        let mut query = Vec::new();
        for name in ["service", "scope"] {
            query.extend(parameter(name).map(|value| format!("{name}={}", encoded(value))));
        }
        let (mut method, mut form, mut headers) = ("GET", None, Vec::new());
        let mut address = realm.to_owned();
        match known {
            Some(Credentials::Identity(token)) => {
                query.push("grant_type=refresh_token&client_id=bulkhead".to_owned());
                query.push(format!("refresh_token={}", encoded(token)));
                (method, form) = ("POST", Some(query.join("&")));
            }
            known => {
                let mark = if realm.contains('?') { '&' } else { '?' };
                address = format!("{realm}{mark}{}", query.join("&"));
                headers.extend(
                    known.and_then(Credentials::header).map(|value| ("Authorization", value)),
                );
            }
        }
        let url = Url::parse(&address)?;
        if tls {
            // What was asked for by TLS must not be answered in the clear.
            self.check_plain(&url)?;
        }
        let request = Request { method, url: &url, headers: &headers, form: form.as_deref() };
        let (head, body) = send(&request, &self.environment)?;
        if head.status == 401 || head.status == 403 {
            return Err(match known {
                Some(_) => RegistryError::Denied { host: self.endpoint.host.clone() },
                None => RegistryError::NoCredentials { host: self.endpoint.host.clone() },
            });
        }
        if head.status != 200 {
            return Err(wrong(&format!("it answered {}", head.status)));
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = body.whole(LARGEST_TOKEN)?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|_| wrong("its answer is no JSON of a token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| wrong("its answer has no token"))?;
        if token.contains(['\r', '\n']) {
            return Err(wrong("its token has line ends"));
        }
        Ok(format!("Bearer {token}"))
    }
}

/// What `<certificates>/<host>/` says, as for Docker: `*.crt` are authorities, `*.cert`
/// and `*.key` of one name are ours.
fn trust(certificates: &Path, endpoint: &Endpoint) -> Trust {
    let dir = certificates.join(&endpoint.host);
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    let with = |extension: &str| {
        let wanted = extension.to_owned();
        files.iter().filter(move |path| path.extension().is_some_and(|e| *e == *wanted)).cloned()
    };
    let client = with("cert").map(|path| (path.clone(), path.with_extension("key")));
    Trust {
        authorities: with("crt").collect(),
        client: client.into_iter().find(|(_, key)| key.exists()),
        unchecked: endpoint.security == Security::Insecure,
    }
}

/// Percent-encodes a value of a query or a form.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

/// Environment variables of the agent that reach the helper: proxies, authorities, and
/// what programs for credentials need.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars()
        .filter(|(name, _)| !name.starts_with("MESOS_") && !name.starts_with("LIBPROCESS_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_queries() {
        assert_eq!(encoded("repository:a/b:pull&x=é"), "repository%3Aa%2Fb%3Apull%26x%3D%C3%A9");
    }

    #[test]
    fn certificates_are_found_as_by_docker() {
        let dir = std::env::temp_dir().join(format!("pull-certs-{}", std::process::id()));
        let host = dir.join("h:5000");
        std::fs::create_dir_all(&host).expect("mkdir");
        for name in ["ca.crt", "b.crt", "lost.cert", "me.cert", "me.key", "readme"] {
            std::fs::write(host.join(name), "").expect("write");
        }
        let endpoint = Endpoint { host: "h:5000".into(), security: Security::Tls };
        let found = trust(&dir, &endpoint);
        assert_eq!(found.authorities, [host.join("b.crt"), host.join("ca.crt")]);
        assert_eq!(found.client, Some((host.join("me.cert"), host.join("me.key"))));
        assert!(!found.unchecked);
        let other = Endpoint { host: "h".into(), security: Security::Insecure };
        let found = trust(&dir, &other);
        assert!(found.authorities.is_empty() && found.client.is_none() && found.unchecked);
        std::fs::remove_dir_all(&dir).expect("remove");
    }
}
