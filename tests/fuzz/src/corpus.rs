//! Where inputs begin: a few by hand, and the recordings of real daemons if they
//! lie beside the checkout (`shared/golden` or `$BULKHEAD_GOLDEN`).

use std::path::{Path, PathBuf};

/// Recordings longer than this are left out: small inputs mutate better.
const LARGEST: u64 = 6000;

/// The seeds of a target.
pub fn load(target: &str) -> Vec<Vec<u8>> {
    let (texts, dirs, extension): (&[&[u8]], &[&str], &str) = match target {
        "recordio" => (RECORDIO, &["v1/scheduler/json"], "recordio"),
        "libprocess" => (LIBPROCESS, &["libprocess"], "c2s.bin"),
        "json" => (JSON, &["v1/master", "v1/agent", "v1/scheduler/json"], "json"),
        "protobuf" => (PROTOBUF, &["v1/master", "v1/agent"], "pb"),
        "resources" => (RESOURCES, &[], ""),
        "units" => (UNITS, &[], ""),
        _ => (&[], &[], ""),
    };
    let mut corpus: Vec<Vec<u8>> = texts.iter().map(|t| t.to_vec()).collect();
    if let Some(golden) = golden() {
        for dir in dirs {
            collect(&golden.join(dir), extension, &mut corpus);
        }
    }
    corpus
}

fn golden() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let dir = std::env::var_os("BULKHEAD_GOLDEN").map_or_else(beside, PathBuf::from);
    dir.is_dir().then_some(dir)
}

fn collect(dir: &Path, extension: &str, corpus: &mut Vec<Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, extension, corpus);
        } else if path.to_string_lossy().ends_with(extension)
            && path.metadata().is_ok_and(|m| m.len() <= LARGEST)
            && let Ok(bytes) = std::fs::read(&path)
        {
            corpus.push(bytes);
        }
    }
}

const RECORDIO: &[&[u8]] =
    &[b"5\nhello3\nabc0\n", b"121\n{\"type\":\"HEARTBEAT\"}", b"18446744073709551615\nx"];

const LIBPROCESS: &[&[u8]] = &[
    b"POST /master/mesos.internal.RegisterSlaveMessage HTTP/1.1\r\nUser-Agent: libprocess/slave(1)@127.0.0.1:5051\r\nLibprocess-From: slave(1)@127.0.0.1:5051\r\nConnection: Keep-Alive\r\nHost: 127.0.0.1:5050\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /slave%281%29/mesos.internal.PingSlaveMessage HTTP/1.1\r\nUser-Agent: libprocess/x@127.0.0.1:9\r\nContent-Length: 2\r\n\r\n\x08\x01",
    b"POST /a HTTP/1.1\r\nLibprocess-From: @0.0.0.0:0\r\n\r\nPOST /b/c HTTP/1.1\r\nLibprocess-From: x@[::1]:9\r\n\r\n",
    b"GET /version HTTP/1.1\r\nAccept-Encoding: gzip;q=0.5, *\r\n\r\n",
];

const JSON: &[&[u8]] = &[
    br#"{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"root","name":"f","roles":["web"],"capabilities":[{"type":"MULTI_ROLE"}]}}}"#,
    br#"{"type":"ACCEPT","framework_id":{"value":"f"},"accept":{"offer_ids":[{"value":"o"}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"t","task_id":{"value":"t"},"agent_id":{"value":"a"},"limits":{"mem":{"value":"Infinity"}},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}}],"data":"aGk="}]}}]}}"#,
    br#"{"type":"READ_FILE","read_file":{"path":"/x","offset":18446744073709551615,"length":0}}"#,
    br#"{"a":[1e308,-0.0,"\u00e9\ud83d\ude00\n",null,true,{}]}"#,
];

const PROTOBUF: &[&[u8]] = &[b"", b"\x08\x01", b"\x08\x02\x12\x00", b"\x0a\x03\x0a\x01x\x10\x01"];

const RESOURCES: &[&[u8]] = &[
    b"cpus:24;mem:24576;disk:409600;ports:[21000-24000,30000-34000];bugs(debug_role):{a,b,c}",
    b"cpus:0.001;mem(a/b):1;gpus:2",
    br#"[{"name":"cpus","type":"SCALAR","scalar":{"value":8}},{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"source":{"type":"MOUNT","mount":{"root":"/m"}}}}]"#,
    b"rack:abc;zone:west;os:centos5;level:10;keys:[1000-1500]",
];

const UNITS: &[&[u8]] =
    &[b"15secs", b"1.5hrs", b"1weeks", b"0ns", b"10MB", b"4096B", b"slave(1)@127.0.0.1:5051"];
