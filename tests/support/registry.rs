//! Images made in memory, Debian's registry on loopback, and a shelf: a server of a few
//! lines that says whatever a registry never would.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead::provisioner::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::support::TempDir;
pub use crate::support::free_port;

/// How long a registry may take to answer.
const READY: Duration = Duration::from_secs(60);

/// A layer as it is and as it travels.
#[derive(Debug, Clone)]
pub struct Layer {
    pub plain: Vec<u8>,
    pub packed: Vec<u8>,
    pub media_type: &'static str,
}

/// One entry of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub kind: EntryType,
    /// Of a file, or where a link leads.
    pub content: &'a [u8],
    pub mode: u32,
    pub owner: u64,
}

/// A file of root's.
#[must_use]
pub const fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { name, kind: EntryType::Regular, content, mode: 0o644, owner: 0 }
}

/// A link.
#[must_use]
pub const fn link<'a>(name: &'a str, kind: EntryType, target: &'a str) -> Entry<'a> {
    Entry { name, kind, content: target.as_bytes(), mode: 0o777, owner: 0 }
}

/// The archive of a layer.
///
/// # Panics
/// Names are longer than 100 bytes.
#[must_use]
pub fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let bytes = header.as_mut_bytes();
        bytes[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        let is_file = entry.kind == EntryType::Regular;
        if !is_file {
            bytes[157..157 + entry.content.len()].copy_from_slice(entry.content);
        }
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner);
        header.set_gid(entry.owner);
        header.set_mtime(1_000_000_000);
        header.set_device_major(1).expect("GNU");
        header.set_device_minor(1).expect("GNU");
        let content = if is_file { entry.content } else { &[] };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

impl Layer {
    /// Not compressed.
    #[must_use]
    pub fn plain(plain: Vec<u8>) -> Layer {
        let packed = plain.clone();
        Layer { plain, packed, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    /// # Panics
    /// Never: it is in memory.
    #[must_use]
    pub fn gzip(plain: Vec<u8>) -> Layer {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).expect("in memory");
        let packed = encoder.finish().expect("in memory");
        Layer { plain, packed, media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
    }

    #[must_use]
    pub fn zstd(plain: Vec<u8>) -> Layer {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let packed = ruzstd::encoding::compress_to_vec(plain.as_slice(), level);
        Layer { plain, packed, media_type: "application/vnd.oci.image.layer.v1.tar+zstd" }
    }
}

/// An image.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
    pub manifest: Vec<u8>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Parcel {
    /// Of layers, bottom first.
    #[must_use]
    pub fn new(layers: Vec<Layer>) -> Parcel {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&layer.plain)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": ["A=b"], "Cmd": ["/bin/sh"], "User": "7" },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string()
        .into_bytes();
        let descriptor = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|l| descriptor(l.media_type, &l.packed)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        Parcel { config, layers, manifest }
    }

    /// Of one layer with one file.
    #[must_use]
    pub fn small(content: &str) -> Parcel {
        Parcel::new(vec![Layer::gzip(tar(&[file("file", content.as_bytes())]))])
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    /// All that a registry keeps of it, by path below `/v2/<repository>/`.
    #[must_use]
    pub fn shelved(&self, repository: &str, tag: &str) -> BTreeMap<String, Vec<u8>> {
        let blobs = self.layers.iter().map(|layer| &layer.packed).chain([&self.config]);
        let at = |bytes: &Vec<u8>| format!("/v2/{repository}/blobs/{}", Digest::of(bytes));
        let mut all: BTreeMap<_, _> = blobs.map(|bytes| (at(bytes), bytes.clone())).collect();
        for version in [tag.to_owned(), Digest::of(&self.manifest).to_string()] {
            all.insert(format!("/v2/{repository}/manifests/{version}"), self.manifest.clone());
        }
        all
    }
}

/// A list of images by platform.
#[must_use]
pub fn index(rows: &[(&Parcel, &str, &str)]) -> Vec<u8> {
    let manifests: Vec<Value> = rows
        .iter()
        .map(|(parcel, os, architecture)| {
            json!({
                "mediaType": MANIFEST,
                "digest": Digest::of(&parcel.manifest),
                "size": parcel.manifest.len(),
                "platform": { "os": os, "architecture": architecture },
            })
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string().into()
}

/// How a registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Open,
    /// User `me`, password `secret`.
    Basic,
    /// By tokens of the service at this port.
    Token(u16),
    /// Open, by TLS with a certificate that an authority signed, `ca.pem`.
    Tls,
    /// Open, by TLS with a certificate that signs itself.
    SelfSigned,
}

/// Debian's registry at work; dropped, it is gone.
#[derive(Debug)]
pub struct Registry {
    pub host: String,
    pub guard: Guard,
    pub dir: TempDir,
    child: Child,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a key and a certificate for 127.0.0.1 that signs itself: `cert.pem`, `key.pem`.
///
/// # Panics
/// Without openssl.
pub fn certificate(dir: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=bulkhead-test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("run openssl").success());
}

/// Replaces the certificate by one of an authority of its own, `ca.pem`.
fn sign(dir: &Path) {
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("write");
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
                  -keyout ca.key -out ca.pem && \
                  openssl req -new -key key.pem -subj /CN=registry -out request && \
                  openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                  -extfile names -out cert.pem";
    let made =
        Command::new("sh").args(["-c", script]).current_dir(dir).stderr(Stdio::null()).status();
    assert!(made.expect("run openssl").success());
}

impl Registry {
    /// Starts one with nothing in it.
    ///
    /// # Panics
    /// It does not answer in time; the message has its log.
    #[must_use]
    pub fn start(guard: Guard) -> Registry {
        let dir = TempDir::new("registry");
        certificate(dir.path());
        std::fs::copy(dir.path().join("cert.pem"), dir.path().join("ca.pem")).expect("copy");
        if guard == Guard::Tls {
            sign(dir.path());
        }
        let port = free_port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            path("data")
        );
        match guard {
            Guard::Open => {}
            Guard::Tls | Guard::SelfSigned => config.push_str(&format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                path("cert.pem"),
                path("key.pem")
            )),
            Guard::Basic => {
                // bcrypt of `secret`.
                let line = "me:$2y$05$TaubJ4d9ZS.4f2vGnvKg5O5e/qUGMoJYNhw6Sl7E.L/e9F3Zfjb0G\n";
                std::fs::write(path("htpasswd"), line).expect("write");
                let users = path("htpasswd");
                config.push_str(&format!("auth:\n  htpasswd:\n    realm: r\n    path: {users}\n"));
            }
            Guard::Token(service) => config.push_str(&format!(
                "auth:\n  token:\n    realm: http://127.0.0.1:{service}/token\n    service: here\n    \
                 issuer: tests\n    rootcertbundle: {}\n",
                path("cert.pem")
            )),
        }
        std::fs::write(path("config.yml"), config).expect("write");
        let log = std::fs::File::create(path("log")).expect("a log");
        let child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("run docker-registry");
        let registry = Registry { host: format!("127.0.0.1:{port}"), guard, dir, child };
        let deadline = Instant::now() + READY;
        while TcpStream::connect(&registry.host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer:\n{}", registry.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How often something with `text` in its request was asked for.
    #[must_use]
    pub fn asked(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains("\"GET ") && line.contains(text)).count()
    }

    /// `docker_config` with the credentials that it takes.
    #[must_use]
    pub fn credentials(&self) -> Value {
        json!({ "auths": { &self.host: { "auth": "bWU6c2VjcmV0" } } })
    }

    /// Its authority, where an agent looks for it below `certificates`.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn trust(&self, certificates: &Path) {
        self.trust_as(certificates, &self.host);
    }

    /// The same for another name of it.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn trust_as(&self, certificates: &Path, host: &str) {
        let dir = certificates.join(host);
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::copy(self.dir.path().join("ca.pem"), dir.join("ca.crt")).expect("copy");
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "--cacert"]).arg(self.dir.path().join("ca.pem"));
        if let Guard::Basic = self.guard {
            command.args(["-u", "me:secret"]);
        }
        if let Guard::Token(port) = self.guard {
            let query = format!("http://127.0.0.1:{port}/token?scope=push");
            let answer = Command::new("curl").args(["-sS", "-u", "me:secret", &query]).output();
            let answer: Value =
                serde_json::from_slice(&answer.expect("run curl").stdout).expect("a token");
            let token = answer["token"].as_str().expect("a token");
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        let output = command.args(arguments).output().expect("run curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}\n{}", self.log());
        text
    }

    fn url(&self, path: &str) -> String {
        let scheme =
            if matches!(self.guard, Guard::Tls | Guard::SelfSigned) { "https" } else { "http" };
        format!("{scheme}://{}/v2/{path}", self.host)
    }

    fn put(&self, url: &str, media_type: &str, bytes: &[u8]) {
        let body = self.dir.path().join("body");
        std::fs::write(&body, bytes).expect("write");
        let (body, kind) = (format!("@{}", body.display()), format!("Content-Type: {media_type}"));
        self.curl(&["-X", "PUT", "-H", &kind, "--data-binary", &body, url]);
    }

    /// Puts an image there.
    ///
    /// # Panics
    /// The registry refuses it.
    pub fn push(&self, repository: &str, tag: &str, parcel: &Parcel) {
        for bytes in parcel.layers.iter().map(|layer| &layer.packed).chain([&parcel.config]) {
            let head = self.curl(&[
                "-X",
                "POST",
                "-D",
                "-",
                "-o",
                "/dev/null",
                "-H",
                "Content-Length: 0",
                &self.url(&format!("{repository}/blobs/uploads/")),
            ]);
            let location = head.lines().find_map(|line| {
                line.strip_prefix("Location: ").or(line.strip_prefix("location: "))
            });
            let location = location.expect("a location").trim();
            let url = format!("{location}&digest={}", Digest::of(bytes));
            self.put(&url, "application/octet-stream", bytes);
        }
        self.put_manifest(repository, tag, MANIFEST, &parcel.manifest);
    }

    /// Puts a manifest there.
    ///
    /// # Panics
    /// The registry refuses it.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        self.put(&self.url(&format!("{repository}/manifests/{tag}")), media_type, bytes);
    }
}

/// What a shelf answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status line and headers, without the length.
    pub head: String,
    pub body: Vec<u8>,
    /// Ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// Then waits so long before the connection ends.
    pub pause: Duration,
}

impl Answer {
    #[must_use]
    pub fn ok(body: Vec<u8>) -> Answer {
        Answer { head: "200 OK".into(), body, cut: None, pause: Duration::ZERO }
    }

    #[must_use]
    pub fn status(head: &str) -> Answer {
        Answer { head: head.into(), ..Answer::ok(Vec::new()) }
    }
}

/// A server that answers what it is told to.
#[derive(Debug)]
pub struct Shelf {
    pub host: String,
    /// Heads of all requests so far.
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Shelf {
    /// Serves until the test program ends. The handler gets path and head.
    ///
    /// # Panics
    /// There is no port.
    #[must_use]
    pub fn start(handler: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Shelf {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let host = listener.local_addr().expect("bound").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (handler, log) = (Arc::new(handler), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*handler, &log));
            }
        });
        Shelf { host, requests }
    }

    /// Serves files by path; others are 404.
    #[must_use]
    pub fn of(files: BTreeMap<String, Vec<u8>>) -> Shelf {
        Shelf::start(move |path, head| ranged(&files, path, head))
    }

    /// How many requests had `text` in their heads.
    ///
    /// # Panics
    /// A handler did.
    #[must_use]
    pub fn asked(&self, text: &str) -> usize {
        self.requests.lock().expect("whole").iter().filter(|head| head.contains(text)).count()
    }
}

/// A file, or the rest of it that is asked for.
#[must_use]
pub fn ranged(files: &BTreeMap<String, Vec<u8>>, path: &str, head: &str) -> Answer {
    let Some(bytes) = files.get(path) else { return Answer::status("404 Not Found") };
    let range = head.lines().find_map(|line| line.strip_prefix("Range: bytes="));
    match range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok()) {
        None => Answer::ok(bytes.clone()),
        Some(start) => {
            let last = bytes.len() - 1;
            let head = format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{last}/{}",
                bytes.len()
            );
            Answer { head, ..Answer::ok(bytes[start..].to_vec()) }
        }
    }
}

fn serve(mut stream: TcpStream, handler: &dyn Fn(&str, &str) -> Answer, log: &Mutex<Vec<String>>) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
        // Somebody speaks TLS: what servers without it say then.
        if request.first() == Some(&0x16) {
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
            return;
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("").to_owned();
    if let Ok(mut log) = log.lock() {
        log.push(head.clone());
    }
    let answer = handler(&path, &head);
    let length = answer.body.len();
    let text = format!("HTTP/1.1 {}\r\nContent-Length: {length}\r\n\r\n", answer.head);
    let end = answer.cut.unwrap_or(length).min(length);
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.write_all(&answer.body[..end]);
    let _ = stream.flush();
    std::thread::sleep(answer.pause);
}

/// The service of tokens for [`Guard::Token`], with the key of a registry that starts
/// later: give it the directory once it is known.
#[derive(Debug)]
pub struct Tokens {
    pub port: u16,
    key: Arc<Mutex<Option<PathBuf>>>,
}

impl Tokens {
    /// Serves whoever is `me` with `secret`; others may pull what is below `public`.
    #[must_use]
    pub fn start() -> Tokens {
        let key: Arc<Mutex<Option<PathBuf>>> = Arc::default();
        let signing = Arc::clone(&key);
        let shelf = Shelf::start(move |path, head| {
            let dir = signing.lock().expect("whole").clone().expect("a key");
            let known = head.contains("Authorization: Basic bWU6c2VjcmV0");
            let public = path.contains("public");
            if !known && !public {
                return Answer::status("401 Unauthorized");
            }
            let actions = if known { json!(["pull", "push"]) } else { json!(["pull"]) };
            let names = ["public/x", "private/x"];
            let names = names.iter().filter(|name| known || name.starts_with("public"));
            let access: Vec<Value> = names
                .map(|name| json!({ "type": "repository", "name": name, "actions": actions }))
                .collect();
            Answer::ok(json!({ "token": signed(&dir, &access) }).to_string().into_bytes())
        });
        let port = shelf.host.rsplit(':').next().and_then(|port| port.parse().ok());
        Tokens { port: port.expect("a port"), key }
    }

    /// Signs with this registry's key.
    ///
    /// # Panics
    /// A handler did.
    pub fn sign_for(&self, registry: &Registry) {
        *self.key.lock().expect("whole") = Some(registry.dir.path().to_owned());
    }
}

/// A JSON web token.
fn signed(dir: &Path, access: &[Value]) -> String {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let pem = std::fs::read_to_string(dir.join("cert.pem")).expect("a certificate");
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [body] });
    let claims = json!({
        "iss": "tests", "sub": "me", "aud": "here", "jti": "1",
        "iat": now - 60, "nbf": now - 60, "exp": now + 600, "access": access,
    });
    let text = format!(
        "{}.{}",
        encode(head.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let mut signer = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", "key.pem"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run openssl");
    signer.stdin.take().expect("piped").write_all(text.as_bytes()).expect("write");
    let signature = signer.wait_with_output().expect("signed").stdout;
    format!("{text}.{}", encode(&signature))
}
