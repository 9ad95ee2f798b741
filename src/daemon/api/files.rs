//! `/files/{browse,read,download,debug}` with the recorded bodies and messages.

use std::io::Read as _;

use bytes::Bytes;
use mesos::FileInfo;
use mesos::json::Writer;
use tokio::sync::mpsc;

use super::{Endpoint, bad_request};
use crate::daemon::files::{Download, FILE_IDENTITY, Files, FilesError, Piece};
use crate::wire::http::{Request, Response, StatusCode, header};

/// Bytes of a download per chunk.
const CHUNK: usize = 64 << 10;

/// Types of downloads by extension, for browsers; everything else is bytes.
const TYPES: [(&str, &str); 14] = [
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("gif", "image/gif"),
    ("gz", "application/x-gzip"),
    ("html", "text/html"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain"),
    ("xml", "text/xml"),
];

pub(super) async fn answer(files: &Files, endpoint: Endpoint, request: &Request) -> Response {
    if endpoint == Endpoint::Debug {
        return debug(files);
    }
    let Some(path) = request.query.get("path").filter(|p| !p.is_empty()) else {
        return bad_request("Expecting 'path=value' in query.\n");
    };
    let (files, path) = (files.clone(), path.to_owned());
    let window = match window(request) {
        Ok(window) => window,
        Err(response) if endpoint == Endpoint::Read => return response,
        Err(_) => (None, None),
    };
    let raw = request.query.get("raw").is_some_and(|raw| raw == "true");
    // Disks may be slow.
    let work = move || match endpoint {
        Endpoint::Browse => files.browse(&path).map(|listing| Response::json(list(&listing))),
        Endpoint::Read if raw => files.read(&path, window.0, window.1).map(bytes),
        Endpoint::Read => read(&files, &path, window),
        _ => files.download(&path).map(send),
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => refusal(error, endpoint),
        Err(_) => Response::empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// compat: a missing file is an empty 404, except for downloads.
fn refusal(error: FilesError, endpoint: Endpoint) -> Response {
    match error {
        FilesError::Invalid(message) => bad_request(message),
        FilesError::NotFound if endpoint == Endpoint::Download => Response::not_found(),
        FilesError::NotFound => Response::text(StatusCode::NOT_FOUND, ""),
        FilesError::Unknown(message) => Response::text(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}

type Window = (Option<u64>, Option<u64>);

/// Offset and length; without an offset, or with -1, only the size is asked for.
fn window(request: &Request) -> Result<Window, Response> {
    let number = |name: &str| -> Result<Option<u64>, Response> {
        let Some(text) = request.query.get(name) else { return Ok(None) };
        let value: i64 = text.parse().map_err(|_| {
            bad_request(format!("Failed to parse {name}: Failed to convert '{text}' to number.\n"))
        })?;
        if value < -1 {
            return Err(bad_request(format!("Negative {name} provided: {value}.\n")));
        }
        Ok(u64::try_from(value).ok())
    };
    Ok((number("offset")?, number("length")?))
}

fn read(files: &Files, path: &str, (offset, length): Window) -> Result<Response, FilesError> {
    let piece = files.read(path, offset, length)?;
    let mut out = Writer::new();
    out.object(|out| {
        // compat: the bytes of the file, whether they are UTF-8 or not.
        out.key("data").text(&piece.data);
        out.key("offset").uint(offset.unwrap_or(piece.size));
    });
    Ok(Response::json(out.into_bytes()))
}

/// Ours, asked for with `raw=true`: the bytes alone, and which file they are of.
fn bytes(piece: Piece) -> Response {
    Response::bytes("application/octet-stream", piece.data).header(FILE_IDENTITY, &piece.identity)
}

fn debug(files: &Files) -> Response {
    let mut out = Writer::new();
    out.object(|out| {
        for (path, real) in files.attached() {
            out.key(&path).string(&real.to_string_lossy());
        }
    });
    Response::json(out.into_bytes())
}

fn list(listing: &[FileInfo]) -> Vec<u8> {
    let mut out = Writer::new();
    out.array(|out| {
        for file in listing {
            out.object(|out| {
                out.key("gid").string(file.gid());
                out.key("mode").string(&mode(file.mode()));
                let nanoseconds = file.mtime.as_ref().map_or(0, |t| t.nanoseconds);
                #[allow(clippy::cast_precision_loss)] // whole seconds
                out.key("mtime").double((nanoseconds / 1_000_000_000) as f64);
                out.key("nlink").int(i64::from(file.nlink()));
                out.key("path").string(&file.path);
                out.key("size").uint(file.size());
                out.key("uid").string(file.uid());
            });
        }
    });
    out.into_bytes()
}

/// As `ls -l` prints it, without set-user-id and sticky bits.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o120_000 => 'l',
        0o140_000 => 's',
        _ => '-',
    };
    let bits = (0..9).map(|i| {
        let set = mode & (0o400 >> i) != 0;
        if set { ['r', 'w', 'x'][i % 3] } else { '-' }
    });
    std::iter::once(kind).chain(bits).collect()
}

fn send(download: Download) -> Response {
    let Download { file, size, name } = download;
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let kind = TYPES
        .iter()
        .find(|(known, _)| *known == extension)
        .map_or("application/octet-stream", |(_, kind)| kind);
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        // What is appended meanwhile is not part of the announced length.
        let mut file = file.take(size);
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = file.read(&mut buffer) {
            if sender.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
                return;
            }
        }
    });
    let safe: String = name.chars().filter(|c| c.is_ascii_graphic()).collect();
    Response::sized(kind, size, receiver)
        .header(header::CONTENT_DISPOSITION, &format!("attachment; filename={safe}"))
}
