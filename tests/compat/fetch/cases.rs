//! Mesos' own cases of fetching, good and bad, each with its result.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::web::{Manner, Web};
use super::{PATIENCE, files, log, plain, task, unfinished};
use crate::cluster::{Cluster, Options};
use crate::framework::Framework;
use crate::require;

/// Bytes that no task may fetch more of here.
const LIMIT: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// What Python packs with this script in `dir`.
fn python(dir: &Path, script: &str) {
    let run = Command::new("python3").args(["-c", script]).current_dir(dir).output();
    let run = run.expect("run python3");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// Archives of `hello` and `sub/tool`, which is executable, and hostile ones.
fn pack(dir: &Path) {
    std::fs::create_dir_all(dir.join("sub")).expect("mkdir");
    std::fs::write(dir.join("hello"), "hello\n").expect("write");
    std::fs::write(dir.join("hello.gz"), gzip(b"hello\n")).expect("write");
    std::fs::write(dir.join("bomb.gz"), gzip(&vec![0; 4 * LIMIT])).expect("write");
    std::fs::write(dir.join("bad.zip"), "<html>not an archive</html>").expect("write");
    python(
        dir,
        "import io, tarfile, zipfile, os
open('sub/tool', 'w').write('#!/bin/sh\\necho tool\\n'); os.chmod('sub/tool', 0o755)
for kind in ('', 'gz', 'bz2', 'xz'):
    with tarfile.open('all.tar' + (kind and '.' + kind), 'w:' + kind) as t:
        t.add('hello'); t.add('sub')
with zipfile.ZipFile('all.zip', 'w', zipfile.ZIP_DEFLATED) as z:
    z.write('hello'); z.write('sub/tool')
def entry(t, name, kind=tarfile.REGTYPE, link='', data=b''):
    i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.size = len(data)
    t.addfile(i, io.BytesIO(data))
with tarfile.open('up.tar', 'w') as t: entry(t, '../stolen', data=b'x')
with tarfile.open('link.tar', 'w') as t:
    entry(t, 'out', tarfile.SYMTYPE, '/tmp'); entry(t, 'out/bulkhead-stolen', data=b'x')
with tarfile.open('special.tar', 'w') as t:
    entry(t, 'null', tarfile.CHRTYPE); entry(t, 'hello', data=b'hello\\n')
    i = tarfile.TarInfo('suid'); i.mode = 0o6755; t.addfile(i)
with zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z:
    z.writestr('zeros', bytes(4 << 20))
with zipfile.ZipFile('up.zip', 'w') as z: z.writestr('../stolen', 'x')",
    );
}

fn options(dir: &Path) -> Options {
    Options::default().agent(&[
        &format!("--frameworks_home={}", dir.display()),
        &format!("--fetcher_size_limit={LIMIT}B"),
        "--fetcher_stall_timeout=1secs",
    ])
}

fn one(uri: Value) -> Value {
    json!([uri])
}

/// Tasks that fetch and then look at what they got.
fn good(dir: &str, web: &Web) -> Vec<Value> {
    good_plain(dir, web)
        .into_iter()
        .chain(good_with_fields(dir, web))
        .map(|(name, line, uris)| task(name, &line, uris))
        .collect()
}

const HELLO: &str = "test \"$(cat hello)\" = hello";
const ALL: &str = "test \"$(cat hello)\" = hello && test \"$(sub/tool)\" = tool";

fn good_plain(dir: &str, web: &Web) -> Vec<(&'static str, String, Value)> {
    let sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    vec![
        ("relative", HELLO.into(), plain("hello")),
        ("absolute", HELLO.into(), plain(format!("{dir}/hello"))),
        ("spaces", HELLO.into(), plain(format!("  {dir}/hello"))),
        ("file", HELLO.into(), plain(format!("file://{dir}/hello"))),
        ("localhost", HELLO.into(), plain(format!("file://localhost{dir}/hello"))),
        ("http", format!("{HELLO} && test ! -x hello"), plain(web.url("/hello"))),
        ("resumed", "test \"$(cat broken)\" = hello".into(), plain(web.url("/broken"))),
        ("checksum", HELLO.into(), plain(format!("{}#sha256={sum}", web.url("/hello")))),
        ("tar", ALL.into(), plain(format!("{dir}/all.tar"))),
        ("gz", format!("{ALL} && test -f all.tar.gz"), plain(web.url("/all.tar.gz"))),
        ("bz2", ALL.into(), plain(format!("{dir}/all.tar.bz2"))),
        ("xz", ALL.into(), plain(format!("{dir}/all.tar.xz"))),
        ("zip", format!("{HELLO} && sh sub/tool"), plain(web.url("/all.zip"))),
        ("gzip", format!("{HELLO} && test -f hello.gz"), plain(web.url("/hello.gz"))),
    ]
}

fn good_with_fields(dir: &str, web: &Web) -> Vec<(&'static str, String, Value)> {
    vec![
        (
            "raw",
            "test -f all.tar.gz && test ! -e hello".into(),
            one(json!({ "value": web.url("/all.tar.gz"), "extract": false })),
        ),
        (
            "executable",
            "./sub/tool".into(),
            one(json!({ "value": format!("{dir}/sub/tool"), "executable": true,
                        "output_file": "sub/tool" })),
        ),
        (
            "executable-archive",
            "test -x all.zip && test ! -e hello".into(),
            one(json!({ "value": web.url("/all.zip"), "executable": true })),
        ),
        (
            "output-file",
            "test \"$(cat a/b/c)\" = hello && test ! -e hello".into(),
            one(json!({ "value": web.url("/hello"), "output_file": "a/b/c" })),
        ),
        (
            "output-archive",
            ALL.into(),
            one(json!({ "value": web.url("/all.tgz?token=x y"), "output_file": "my.tgz" })),
        ),
        (
            "cached",
            format!("{HELLO} && test ! -e all.zip"),
            one(json!({ "value": web.url("/all.zip"), "cache": true })),
        ),
        (
            "twice",
            "test \"$(cat hello)\" = hello && cmp hello copy".into(),
            json!([{ "value": web.url("/hello") },
                   { "value": web.url("/hello"), "output_file": "copy" }]),
        ),
        (
            "special",
            format!("{HELLO} && test ! -e null && test -x suid && test ! -u suid"),
            plain(format!("{dir}/special.tar")),
        ),
    ]
}

/// Tasks that cannot fetch, and what is said of it.
fn bad(dir: &str, web: &Web) -> Vec<(&'static str, Value, &'static str)> {
    let local = |name: &str| plain(format!("{dir}/{name}"));
    let zeros = "0".repeat(64);
    vec![
        ("missing", local("none"), "No such file"),
        ("directory", local("sub"), "is not a regular file"),
        ("not-found", plain(web.url("/none")), "received HTTP return code 404"),
        ("error", plain(web.url("/error")), "received HTTP return code 503"),
        ("refused", plain("http://127.0.0.1:1/x"), "failed to connect to 127.0.0.1:1"),
        ("stall", plain(web.url("/stalls")), "no progress from"),
        ("large", plain(web.url("/large")), "larger than the limit of 1048576 bytes"),
        ("bad-archive", local("bad.zip"), "failed to extract archive 'bad.zip'"),
        ("bomb-zip", local("bomb.zip"), "larger than the limit of 1048576 bytes"),
        ("bomb-gz", plain(web.url("/bomb.gz")), "larger than the limit of 1048576 bytes"),
        ("up-tar", local("up.tar"), "'../stolen' would leave the sandbox"),
        ("up-zip", local("up.zip"), "'../stolen' would leave the sandbox"),
        ("link-tar", local("link.tar"), "'out/bulkhead-stolen' would leave the sandbox"),
        ("malformed", plain("http://host"), "malformed URI (missing path)"),
        ("quote", plain("/etc/pass'wd"), "illegal character"),
        ("no-host", plain("http:///x"), "it has no host"),
        ("checksum", plain(format!("{dir}/hello#sha256={zeros}")), "its SHA-256 is 5891b5b5"),
        (
            "output-up",
            one(json!({ "value": "/etc/hosts", "output_file": "../x" })),
            "must be within the sandbox directory",
        ),
        (
            "output-absolute",
            one(json!({ "value": "/etc/hosts", "output_file": "/x" })),
            "must be within the sandbox directory",
        ),
        ("cached", one(json!({ "value": web.url("/none"), "cache": true })), "return code 404"),
        (
            "second",
            json!([{ "value": format!("{dir}/hello") }, { "value": format!("{dir}/none") }]),
            "none': failed to open",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mesos_fetches_is_fetched() {
    require!(root, cgroup, program_python3);
    let home = crate::support::TempDir::new("fetch-home");
    pack(home.path());
    let web = Web::start();
    for name in ["hello", "hello.gz", "all.tar.gz", "all.zip"] {
        web.put(&format!("/{name}"), &std::fs::read(home.path().join(name)).expect("packed"));
    }
    web.put(
        "/all.tgz?token=x%20y",
        &std::fs::read(home.path().join("all.tar.gz")).expect("packed"),
    );
    web.put("/broken", b"hello\n");
    web.behave("/broken", Manner::BreaksOnce);
    let tasks = good(&home.path().display().to_string(), &web);
    let cluster = Cluster::start("fetchgood", options(home.path()));
    let mut framework = Framework::subscribe(&cluster.master, "fetchgood").await;
    let wrong = unfinished(&cluster, &mut framework, tasks).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    assert_eq!(web.asked("/broken"), ["200", "206"]);
    let http = web.url("/hello");
    let to = cluster.sandbox("http").canonicalize().expect("there").join("hello");
    let text = log(&cluster, "http");
    for line in [
        format!("] Fetching URI '{http}'"),
        format!("] Fetched '{http}' to '{}'", to.display()),
        "] Successfully fetched all URIs into '".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    let text = log(&cluster, "special");
    assert!(text.contains("Left out of 'special.tar': 'null': a device"), "{text}");
    let metrics = crate::cluster::get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics["containerizer/fetcher/task_fetches_succeeded"], 22.0);
    assert_eq!(metrics["containerizer/fetcher/task_fetches_failed"], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_fetched_is_told() {
    require!(root, cgroup, program_python3);
    let home = crate::support::TempDir::new("fetch-bad");
    pack(home.path());
    let web = Web::start();
    web.put("/stalls", b"hello\n");
    web.behave("/stalls", Manner::Stalls);
    web.put("/error", b"");
    web.behave("/error", Manner::Status(503));
    web.put("/large", &vec![b'x'; LIMIT + 1]);
    web.put("/bomb.gz", &std::fs::read(home.path().join("bomb.gz")).expect("packed"));
    let rows = bad(&home.path().display().to_string(), &web);
    let cluster = Cluster::start("fetchbad", options(home.path()));
    let mut framework = Framework::subscribe(&cluster.master, "fetchbad").await;
    let tasks = rows.iter().map(|(name, uris, _)| task(name, "true", uris.clone())).collect();
    framework.launch(tasks).await;
    let all = |f: &Framework| rows.iter().all(|(name, ..)| f.end(name).is_some());
    framework.until("all tasks to end", PATIENCE, all).await;
    let mut wrong = Vec::new();
    for (name, uris, expected) in &rows {
        let end = framework.end(name).expect("ended");
        let message = end["message"].as_str().unwrap_or("");
        let last = uris.as_array().and_then(|u| u.last()).expect("a URI");
        let right = end["state"] == "TASK_FAILED"
            && end["reason"] == "REASON_CONTAINER_LAUNCH_FAILED"
            && message.contains("Failed to fetch all URIs for container '")
            && message.contains(last["value"].as_str().unwrap_or("").trim())
            && message.contains(expected);
        if !right {
            wrong.push(format!("{name}: {end}\n{}", log(&cluster, name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let text = log(&cluster, "not-found");
    assert!(text.contains(&format!("] Failed to fetch '{}': ", web.url("/none"))), "{text}");
    // Nothing is left of what failed, nothing is where it should not be.
    for name in ["bomb-zip", "bomb-gz", "stall", "large"] {
        let left = files(&cluster.sandbox(name));
        let known = ["bomb.gz", "bomb.zip", "stderr", "stdout"];
        assert!(left.iter().all(|file| known.contains(&file.as_str())), "{name}: {left:?}");
    }
    assert!(!Path::new("/tmp/bulkhead-stolen").exists());
    assert!(!files(cluster.dir.path()).iter().any(|file| file.contains("stolen")));
    assert_eq!(files(&cluster.dir.path().join("fetch")), Vec::<String>::new());
    let metrics = crate::cluster::get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics["containerizer/fetcher/task_fetches_failed"], 21.0);
}
