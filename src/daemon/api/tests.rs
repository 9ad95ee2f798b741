//! The endpoints both daemons share, against recordings and bad input.

use super::*;
use crate::daemon::files::FilesError;
use crate::daemon::flags::{Flag, Kind};
use crate::wire::http::{HeaderMap, Method};
use std::path::{Path, PathBuf};

const TABLE: &[Flag] = &[Flag::new("help", Kind::Bool, Some("false"), "Help.")];

fn common() -> Common {
    let flags = Flags::parse(TABLE, [], []).expect("defaults fit");
    Common {
        files: Files::new(),
        metrics: Metrics::new(),
        logging: Logging::silent(),
        flags: Arc::new(flags),
    }
}

async fn get(common: &Common, endpoint: Endpoint, query: &str) -> (u16, String) {
    let uri = format!("/x?{query}").parse().expect("a URI");
    let request = Request::new(Method::GET, &uri, HeaderMap::new(), "");
    let response = common.answer(endpoint, &request).await;
    let body = response.whole_body().cloned().unwrap_or_default();
    (response.code().as_u16(), String::from_utf8(body.to_vec()).expect("text"))
}

struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Temp {
        let dir = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sandbox/sub")).expect("temp dir");
        std::fs::write(dir.join("secret"), "outside").expect("temp file");
        std::fs::write(dir.join("sandbox/stdout"), "started\ntick\ntick\n").expect("temp file");
        Temp(dir.canonicalize().expect("exists"))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn files_answer_as_recorded() {
    let temp = Temp::new("files");
    let common = common();
    common.files.attach(&temp.0.join("sandbox"), "/virtual/latest/").expect("exists");
    std::os::unix::fs::symlink("../secret", temp.0.join("sandbox/climbs")).expect("link");
    std::fs::write(temp.0.join("sandbox/binary"), [b'a', 0xff, 0, b'"']).expect("temp file");
    let v = "path=/virtual/latest";
    let rows: &[(Endpoint, String, u16, &str)] = &[
        (Endpoint::Browse, String::new(), 400, "Expecting 'path=value' in query.\n"),
        (Endpoint::Read, "path=".into(), 400, "Expecting 'path=value' in query.\n"),
        (Endpoint::Download, String::new(), 400, "Expecting 'path=value' in query.\n"),
        (Endpoint::Browse, format!("{v}/stdout"), 200, "[]"),
        (Endpoint::Browse, "path=/".into(), 404, ""),
        (Endpoint::Browse, "path=/../etc".into(), 404, ""),
        (Endpoint::Read, "path=/etc/passwd".into(), 404, ""),
        (Endpoint::Download, "path=/etc/passwd".into(), 404, "404 Not Found."),
        (Endpoint::Read, "path=%00".into(), 404, ""),
        (Endpoint::Read, format!("{v}/a%00b"), 404, ""),
        (Endpoint::Read, format!("{v}/none"), 404, ""),
        (Endpoint::Read, v.into(), 400, "Cannot read a directory.\n"),
        (Endpoint::Download, v.into(), 400, "Cannot download a directory.\n"),
        (
            Endpoint::Read,
            format!("{v}/stdout&offset=x"),
            400,
            "Failed to parse offset: Failed to convert 'x' to number.\n",
        ),
        (
            Endpoint::Read,
            format!("{v}/stdout&offset=0&length=x"),
            400,
            "Failed to parse length: Failed to convert 'x' to number.\n",
        ),
        (Endpoint::Read, format!("{v}/stdout&offset=-2"), 400, "Negative offset provided: -2.\n"),
        (Endpoint::Read, format!("{v}/stdout"), 200, r#"{"data":"","offset":18}"#),
        (Endpoint::Read, format!("{v}/stdout&offset=-1"), 200, r#"{"data":"","offset":18}"#),
        (
            Endpoint::Read,
            format!("{v}/stdout&offset=0"),
            200,
            r#"{"data":"started\ntick\ntick\n","offset":0}"#,
        ),
        (
            Endpoint::Read,
            format!("{v}/stdout&offset=5&length=10"),
            200,
            r#"{"data":"ed\ntick\nti","offset":5}"#,
        ),
        (
            Endpoint::Read,
            format!("{v}/stdout&offset=0&length=1&jsonp=cb"),
            200,
            r#"cb({"data":"s","offset":0})"#,
        ),
        (Endpoint::Read, format!("{v}/stdout&offset=99"), 200, r#"{"data":"","offset":99}"#),
    ];
    for (endpoint, query, code, body) in rows {
        let (got, text) = get(&common, *endpoint, query).await;
        assert_eq!((got, text.as_str()), (*code, *body), "{endpoint:?} {query}");
    }
    let (code, text) = get(&common, Endpoint::Read, &format!("{v}/climbs&offset=0")).await;
    assert_eq!(code, 400);
    assert!(text.ends_with("/sandbox/climbs' is inaccessible.\n"), "{text}");
}

#[tokio::test]
async fn listings_have_the_recorded_members() {
    let temp = Temp::new("listing");
    let common = common();
    std::os::unix::fs::symlink("stdout", temp.0.join("sandbox/link")).expect("link");
    std::os::unix::fs::symlink("../secret", temp.0.join("sandbox/climbs")).expect("link");
    std::os::unix::fs::symlink("none", temp.0.join("sandbox/dangling")).expect("link");
    common.files.attach(&temp.0.join("sandbox"), "/v").expect("exists");
    let (_, text) = get(&common, Endpoint::Browse, "path=/v/").await;
    let listing: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let listing = listing.as_array().expect("an array");
    let row = |i: usize| {
        let file = listing[i].as_object().expect("an object");
        let names: Vec<&str> = file.keys().map(String::as_str).collect();
        assert_eq!(names, ["gid", "mode", "mtime", "nlink", "path", "size", "uid"]);
        let mode = file["mode"].as_str().expect("text");
        (file["path"].as_str().expect("text"), mode.chars().next(), file["size"].as_u64())
    };
    assert_eq!(listing.len(), 4);
    // The link out of the sandbox shows nothing of what it points to.
    assert_eq!(row(0), ("/v/climbs", Some('l'), Some(9)));
    assert_eq!(row(1), ("/v/link", Some('-'), Some(18)));
    assert_eq!(row(2), ("/v/stdout", Some('-'), Some(18)));
    assert_eq!((row(3).0, row(3).1), ("/v/sub", Some('d')));
    assert!(listing[2]["mtime"].is_f64());

    let (_, debug) = get(&common, Endpoint::Debug, "").await;
    assert_eq!(debug, format!("{{\"/v\":\"{}/sandbox\"}}", temp.0.display()));
    common.files.detach("/v/");
    assert_eq!(get(&common, Endpoint::Debug, "").await.1, "{}");
}

#[tokio::test]
async fn reads_are_clipped_and_bytes_survive() {
    let temp = Temp::new("bytes");
    let files = Files::new();
    let path = temp.0.join("sandbox/large");
    std::fs::write(&path, vec![0xffu8; 200_000]).expect("temp file");
    files.attach(&path, "/log").expect("exists");
    let piece = files.read("/log", Some(100_000), None).expect("readable");
    assert_eq!((piece.size, piece.data.len()), (200_000, 65_536));
    assert!(piece.data.iter().all(|b| *b == 0xff));
    assert_eq!(files.read("/log/x", Some(0), None), Err(FilesError::NotFound));
    assert!(files.attach(Path::new("/no/such"), "/x").is_err());
    let download = files.download("/log").expect("readable");
    assert_eq!((download.size, download.name.as_str()), (200_000, "large"));
}

#[tokio::test]
async fn metrics_logging_and_the_rest() {
    let common = common();
    common.metrics.counter("b").increment();
    common.metrics.gauge("a").set(0.5);
    for (endpoint, query, code, body) in [
        (Endpoint::Metrics, "", 200, "{\"a\":0.5,\"b\":1.0}"),
        (Endpoint::Metrics, "timeout=1secs", 200, "{\"a\":0.5,\"b\":1.0}"),
        (
            Endpoint::Metrics,
            "timeout=abc",
            400,
            "Invalid timeout 'abc': Failed to convert '' to number.\n",
        ),
        (
            Endpoint::Metrics,
            "timeout=1parsec",
            400,
            "Invalid timeout '1parsec': Unknown duration unit 'parsec'; supported units are 'ns', \
             'us', 'ms', 'secs', 'mins', 'hrs', 'days', and 'weeks'.\n",
        ),
        (Endpoint::Logging, "", 200, "0\n"),
        (Endpoint::Logging, "level=1", 400, "Expecting 'duration=value' in query.\n"),
        (Endpoint::Logging, "duration=1secs", 400, "Expecting 'level=value' in query.\n"),
        (Endpoint::Logging, "level=x&duration=1secs", 400, "Failed to convert 'x' to number.\n"),
        (Endpoint::Logging, "level=-1&duration=1secs", 400, "Invalid level '-1'.\n"),
        (Endpoint::Logging, "level=9&duration=1secs", 200, ""),
        (Endpoint::Logging, "", 200, "9\n"),
        (Endpoint::Flags, "", 200, "{\"flags\":{\"help\":\"false\"}}"),
        (Endpoint::Health, "", 200, ""),
    ] {
        let (got, text) = get(&common, endpoint, query).await;
        assert_eq!((got, text.as_str()), (code, body), "{endpoint:?} {query}");
    }
    let (_, version) = get(&common, Endpoint::Version, "").await;
    assert!(version.starts_with("{\"build_date\":\"20"), "{version}");
    assert!(version.ends_with("\"version\":\"1.12.0\"}"), "{version}");
    let (_, system) = get(&common, Endpoint::System, "jsonp=x").await;
    assert!(system.starts_with("x({\"avg_load_15min\":"), "{system}");
    assert!(system.contains(",\"cpus_total\":"), "{system}");
}
