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
        "image_name" => (IMAGE_NAMES, &[], ""),
        "image_manifest" => (MANIFESTS, &[], ""),
        "layer_tar" => return archives(),
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

const IMAGE_NAMES: &[&[u8]] = &[
    b"busybox",
    b"localhost:5000/a/b-c:1.2_x",
    b"[::1]:5000/a__b",
    b"a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    b"Bearer realm=\"https://a/t\",service=\"s, t\",scope=\"repository:x:pull\"",
];

const MANIFESTS: &[&[u8]] = &[
    br#"{"schemaVersion":2,"config":{"digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","size":7},"layers":[]}"#,
    br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","size":7,"platform":{"os":"linux","architecture":"amd64"}}]}"#,
    br#"{"config":{"Env":["A=b"],"Cmd":"x"},"rootfs":{"diff_ids":["sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]}}"#,
];

/// One block of a header, with its checksum, and content.
fn block(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[136..147].copy_from_slice(b"00000000001");
    block[148..156].copy_from_slice(b"        ");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// Archives with what headers may be followed by.
fn archives() -> Vec<Vec<u8>> {
    let pax = b"12 path=abc\n21 SCHILY.xattr.u=\n=\n".to_vec();
    let sparse = b"22 GNU.sparse.major=1\n29 GNU.sparse.realsize=10000\n".to_vec();
    let map = [b"1\n0\n3\n".as_slice(), &[0; 506], b"abc"].concat();
    vec![
        block("file", b'0', b"content"),
        [block("p", b'x', &pax), block("file", b'0', b"content")].concat(),
        [block("p", b'x', &sparse), block("file", b'0', &map)].concat(),
        [block("l", b'L', &[b'n'; 200]), block("file", b'2', b"")].concat(),
        [block("dir/", b'5', b""), block("dev", b'3', b""), block("h", b'1', b"")].concat(),
    ]
}
