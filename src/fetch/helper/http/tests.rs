//! The client against servers of a few lines on loopback.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::fetch::message::{Task, VERSION};

/// Serves one answer per connection and tells the requests.
fn serve(answers: Vec<Vec<u8>>) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    let server = std::thread::spawn(move || {
        let one = |answer: Vec<u8>| {
            let (mut stream, _) = listener.accept().expect("accept");
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut buffer).expect("a request");
                assert!(count > 0, "the request ends");
                request.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(&answer).expect("answer");
            String::from_utf8_lossy(&request).into_owned()
        };
        answers.into_iter().map(one).collect()
    });
    (port, server)
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\n\r\n{body}").into_bytes()
}

fn job(url: &str, variables: &[(&str, &str)]) -> Job {
    Job {
        version: VERSION,
        uri: url.to_owned(),
        task: Task::Fill { known: None },
        user: None,
        sandbox: "/nowhere".into(),
        frameworks_home: None,
        environment: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        stall_secs: 1,
        size_limit: 100,
    }
}

/// What comes of a download: the text, or the error.
fn fetch(job: &Job, known: Option<&Validators>) -> Result<(String, Outcome), String> {
    let path = std::env::temp_dir().join(format!(
        "fetch-http-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let mut sink = Sink::new(file.expect("open"), job.size_limit, false);
    let outcome = download(job, &job.uri, &mut sink, known);
    let text = std::fs::read_to_string(&path).expect("text");
    std::fs::remove_file(&path).expect("remove");
    outcome.map(|outcome| (text, outcome)).map_err(|failure| kernel::chain(&failure))
}

fn text(answers: Vec<Vec<u8>>, path: &str) -> (Result<String, String>, Vec<String>) {
    let (port, server) = serve(answers);
    let result = fetch(&job(&format!("http://127.0.0.1:{port}{path}"), &[]), None);
    (result.map(|(text, _)| text), server.join().expect("served"))
}

#[test]
fn bodies_of_every_framing() {
    let chunks = "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n";
    let rows = [
        ("200 OK\r\nContent-Length: 5", "hello and more", "hello"),
        ("200 OK\r\nTransfer-Encoding: chunked", chunks, "hello!"),
        ("200 OK", "until the end", "until the end"),
        ("200 OK\r\nContent-Length: 0", "", ""),
    ];
    for (head, body, expected) in rows {
        let (got, requests) = text(vec![answer(head, body)], "/a b?c=d#frag");
        assert_eq!(got.as_deref(), Ok(expected), "{head}");
        assert!(requests[0].starts_with("GET /a%20b?c=d HTTP/1.1\r\nHost: 127.0.0.1:"));
    }
    let early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(text(vec![early.to_vec()], "/").0.as_deref(), Ok("ok"));
}

#[test]
fn refusals_say_why() {
    let rows = [
        (answer("404 Not Found", "no"), "received HTTP return code 404"),
        (answer("204 No Content", ""), "received HTTP return code 204"),
        (b"SSH-2.0-x\r\n\r\n".to_vec(), "did not answer in HTTP"),
        (answer("200 OK\r\nContent-Length: x", ""), "its Content-Length is 'x'"),
        (answer("200 OK\r\nContent-Length: 101", ""), "larger than the limit of 100 bytes"),
        (answer("200 OK", &"x".repeat(101)), "larger than the limit of 100 bytes"),
        (answer("200 OK\r\nTransfer-Encoding: chunked", "zz\r\n"), "'zz' is no size of a chunk"),
        (answer("302 Found\r\nLocation: ftp://x/y", ""), "only http and https are known here"),
        (Vec::new(), "broke: unexpected end of file"),
    ];
    for (answer, expected) in rows {
        let error = text(vec![answer], "/").0.expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("bind");
    let error = fetch(&job(&format!("http://{unused}/"), &[]), None).err().expect("refused");
    assert!(
        error.contains(&format!("failed to connect to {unused}: Connection refused")),
        "{error}"
    );
}

#[test]
fn redirects_are_followed_without_the_password() {
    let (second, elsewhere) = serve(vec![answer("200 OK\r\nContent-Length: 2", "ok")]);
    let away = answer(&format!("302 Found\r\nLocation: http://127.0.0.1:{second}/b"), "");
    let stay = answer("307 Here\r\nLocation: ./x", "");
    let (first, server) = serve(vec![stay, away]);
    let job = job(&format!("http://me:secret@127.0.0.1:{first}/a/c"), &[]);
    assert_eq!(fetch(&job, None).expect("fetched").0, "ok");
    let asked = server.join().expect("served");
    assert!(asked[0].contains("Authorization: Basic bWU6c2VjcmV0"), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /a/./x ") && asked[1].contains("Authorization"));
    assert!(!elsewhere.join().expect("served")[0].contains("Authorization"));

    let round = answer("302 Found\r\nLocation: /", "");
    let error = text(vec![round; REDIRECTS + 1], "/").0.expect_err("for ever");
    assert!(error.contains("more than 20 redirects"), "{error}");
}

#[test]
fn what_broke_goes_on_where_it_broke() {
    let tagged = "Content-Length: 10\r\nETag: \"v1\"";
    let half = answer(&format!("200 OK\r\n{tagged}"), "hello");
    let rest =
        answer("206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5", "world");
    let (got, requests) = text(vec![half.clone(), rest], "/");
    assert_eq!(got.as_deref(), Ok("helloworld"));
    assert!(requests[1].contains("Range: bytes=5-\r\nIf-Range: \"v1\"\r\n"), "{}", requests[1]);
    // It has changed meanwhile, or nobody can tell: from the start.
    let other = answer("200 OK\r\nContent-Length: 3\r\nETag: \"v2\"", "new");
    assert_eq!(text(vec![half, other.clone()], "/").0.as_deref(), Ok("new"));
    let untagged = answer("200 OK\r\nContent-Length: 10", "hello");
    let (got, requests) = text(vec![untagged, other], "/");
    assert_eq!(got.as_deref(), Ok("new"));
    assert!(!requests[1].contains("Range"), "{}", requests[1]);
}

#[test]
fn silence_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound");
    let error = fetch(&job(&format!("http://{address}/"), &[]), None).err().expect("stalled");
    assert!(error.contains("no progress from") && error.contains("for 1 s"), "{error}");
}

#[test]
fn what_is_known_is_asked_about() {
    let (etag, modified) = (Some("\"v1\"".into()), Some("yesterday".into()));
    let known = Validators { etag, modified, mode: None };
    let (port, server) = serve(vec![answer("304 Not Modified\r\nETag: \"v1\"", "")]);
    let url = format!("http://127.0.0.1:{port}/");
    let (_, outcome) = fetch(&job(&url, &[]), Some(&known)).expect("fetched");
    assert!(matches!(outcome, Outcome::Unchanged));
    let asked = &server.join().expect("served")[0];
    assert!(asked.contains("If-None-Match: \"v1\"\r\nIf-Modified-Since: yesterday\r\n"));

    let new = answer("200 OK\r\nLast-Modified: today\r\nContent-Length: 1", "x");
    let (port, _server) = serve(vec![new]);
    let url = format!("http://127.0.0.1:{port}/");
    let (text, outcome) = fetch(&job(&url, &[]), Some(&known)).expect("fetched");
    let Outcome::Complete(seen) = outcome else { panic!("it is new") };
    assert_eq!((text.as_str(), seen.etag, seen.modified.as_deref()), ("x", None, Some("today")));
}

#[test]
fn proxies_get_the_whole_url() {
    let (port, server) = serve(vec![answer("200 OK\r\nContent-Length: 2", "ok")]);
    let proxy = format!("http://me:pw@127.0.0.1:{port}");
    let through = job("http://nowhere.invalid/a", &[("http_proxy", &proxy)]);
    assert_eq!(fetch(&through, None).expect("fetched").0, "ok");
    let asked = &server.join().expect("served")[0];
    assert!(
        asked.starts_with("GET http://nowhere.invalid/a HTTP/1.1\r\nHost: nowhere.invalid\r\n")
    );
    assert!(asked.contains("Proxy-Authorization: Basic bWU6cHc="), "{asked}");

    let (port, server) = serve(vec![answer("403 Forbidden", "")]);
    let proxy = format!("127.0.0.1:{port}");
    let through = job("https://nowhere.invalid/a", &[("https_proxy", &proxy)]);
    let error = fetch(&through, None).err().expect("refused");
    assert!(error.contains("answered 403 to CONNECT nowhere.invalid:443"), "{error}");
    assert!(server.join().expect("served")[0].starts_with("CONNECT nowhere.invalid:443 HTTP/1.1"));
}

/// A certificate for 127.0.0.1, and its key, as one file in `dir`.
fn certificate(dir: &std::path::Path) -> std::path::PathBuf {
    let file = dir.join("both.pem");
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=fetch-test"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&file)
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = std::fs::read(dir.join("cert.pem")).expect("a certificate");
    let opened = File::options().append(true).open(&file);
    opened.expect("a key").write_all(&certificate).expect("write");
    file
}

/// A server that is ended with the test.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tls_trusts_whom_it_is_told_to_trust() {
    let dir = std::env::temp_dir().join(format!("fetch-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("temp dir");
    let both = certificate(&dir);
    std::fs::write(dir.join("hello"), "over TLS").expect("write");
    let script = "import http.server, ssl, sys
s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1])
s.socket = c.wrap_socket(s.socket, server_side=True)
print(s.server_port, flush=True)
s.serve_forever()";
    let child = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&both)
        .current_dir(&dir)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut server = Server(child.expect("run python3"));
    let mut port = String::new();
    let output = server.0.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut port).expect("a port");
    let (port, trusted) = (port.trim(), dir.join("cert.pem"));
    let mut job = job(
        &format!("https://127.0.0.1:{port}/hello"),
        &[("SSL_CERT_FILE", trusted.to_str().expect("text"))],
    );
    job.stall_secs = 60;
    assert_eq!(fetch(&job, None).expect("fetched").0, "over TLS");
    // Nobody else, and nobody of another name.
    job.uri = format!("https://localhost:{port}/hello");
    let error = fetch(&job, None).err().expect("another name");
    assert!(error.contains("failed to set up TLS") && error.contains("certificate"), "{error}");
    let other = dir.join("other");
    std::fs::create_dir_all(&other).expect("mkdir");
    certificate(&other);
    let other = other.join("cert.pem").display().to_string();
    job.environment.insert("SSL_CERT_FILE".into(), other);
    job.uri = format!("https://127.0.0.1:{port}/hello");
    let error = fetch(&job, None).err().expect("not trusted");
    assert!(error.contains("failed to set up TLS"), "{error}");
    job.environment.insert("SSL_CERT_FILE".into(), "/nonexistent".into());
    let error = fetch(&job, None).err().expect("no authorities");
    assert!(error.contains("failed to read the certificates in '/nonexistent'"), "{error}");
    drop(server);
    std::fs::remove_dir_all(&dir).expect("remove");
}

#[test]
fn urls() {
    let url = Url::parse("http://[::1]:8080?x=y#z").expect("a URL");
    assert_eq!((url.host.as_str(), url.port, url.target.as_str()), ("::1", 8080, "/?x=y"));
    assert_eq!(url.authority(), "[::1]:8080");
    let base = Url::parse("https://host/a/b?c").expect("a URL");
    let rows = [
        ("d", "https://host/a/d"),
        ("/d", "https://host/d"),
        ("?d", "https://host/a/b?d"),
        ("//other/d", "https://other/d"),
        ("http://other:81/d", "http://other:81/d"),
    ];
    for (location, expected) in rows {
        assert_eq!(base.join(location).expect(location), Url::parse(expected).expect("a URL"));
    }
    for bad in ["host/a", "http://", "http:///a", "http://host:0/", "http://host:x/", "ftp://h/"] {
        assert!(Url::parse(bad).is_err(), "{bad}");
    }
}
