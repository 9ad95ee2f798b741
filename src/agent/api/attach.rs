//! `ATTACH_CONTAINER_INPUT` and `ATTACH_CONTAINER_OUTPUT`: the streams of sessions, and
//! of containers with a terminal, for clients that did not start them.
//!
//! Input is a request that goes on: RecordIO of calls, the first of which names the
//! container. As in Mesos only containers with streams of their own can be attached
//! to; the output of others is in their sandbox.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use kernel::terminal::Window;
use mesos::ContainerId;
use mesos::agent::call::{self, AttachContainerInput, attach_container_input};
use mesos::agent::{Call, process_io};
use mesos::recordio::Decoder;

use super::session;
use super::streams::{self, Pen, Session};
use super::{Context, decode};
use crate::containerizer::{ContainerizerError, terminal};
use crate::wire::http::media::{self, Media, Shape};
use crate::wire::http::{BodyStream, Request, Response, StatusCode};

/// Longest record of a request; a piece of input has no reason to be longer.
const MAX_RECORD: usize = 4 << 20;
/// How long the first record may take.
const FIRST: Duration = Duration::from_secs(30);

/// Serves a request whose body is a stream of calls.
pub(super) async fn streamed(
    context: &Arc<Context>,
    request: Request,
    media: Media,
    accept: Shape,
) -> Result<Response, Response> {
    let mut calls = Calls { body: request.into_stream(), decoder: Decoder::new(MAX_RECORD), media };
    let first = tokio::time::timeout(FIRST, calls.next()).await.map_err(|_| {
        let message = format!("No call came within {} s", FIRST.as_secs());
        Response::text(StatusCode::REQUEST_TIMEOUT, message)
    })?;
    let first = first.ok_or_else(|| bad("Received EOF while reading request body".into()))??;
    let kind = first.r#type();
    if kind != call::Type::AttachContainerInput {
        let message = format!(
            "Streaming 'Content-Type' {} is not supported for {} call",
            media::RECORDIO,
            kind.as_str_name()
        );
        return Err(Response::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if let Shape::Stream(_) = accept {
        return Err(no_stream(kind));
    }
    let attach = first.attach_container_input.unwrap_or_default();
    if attach.r#type() != attach_container_input::Type::ContainerId {
        return Err(bad("Expecting 'attach_container_input.type' to be CONTAINER_ID".into()));
    }
    let session = find(context, &attach.container_id.unwrap_or_default())?;
    let pen = session.write().ok_or_else(|| {
        Response::text(StatusCode::CONFLICT, "Multiple input connections are not allowed")
    })?;
    tokio::select! {
        // What is on its way when the session ends is no error of the client.
        biased;
        done = write(pen, &mut calls) => done,
        () = session.over() => Ok(Response::empty(StatusCode::OK)),
    }
}

/// Answers with what a session's container, or one of an engine's, writes from now on.
pub(super) async fn output(
    context: &Arc<Context>,
    id: &ContainerId,
    accept: Shape,
) -> Result<Response, Response> {
    if let Some(session) = streams::find(context, id) {
        return Ok(session::stream(accept, session.listen(accept.media())));
    }
    match session::overhear(context, id, accept).await {
        Err(ContainerizerError::NotSupported(_) | ContainerizerError::Unknown(_)) => {
            let records = find(context, id)?.listen(accept.media());
            Ok(session::stream(accept, records))
        }
        Err(error) => {
            let message = kernel::chain(&error);
            Err(Response::text(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
        Ok(response) => Ok(response),
    }
}

/// The answer to a client that wants a stream where there is none.
pub(super) fn no_stream(kind: call::Type) -> Response {
    let message = format!("Streaming response is not supported for {} call", kind.as_str_name());
    Response::text(StatusCode::NOT_ACCEPTABLE, message)
}

fn find(context: &Arc<Context>, id: &ContainerId) -> Result<Arc<Session>, Response> {
    if let Some(session) = streams::find(context, id) {
        return Ok(session);
    }
    if context.containerizer.containers().iter().any(|(known, _)| known == id) {
        let message = "I/O switchboard server was disabled for this container: it has no \
                       terminal and is no session, its output is in its sandbox";
        return Err(Response::text(StatusCode::INTERNAL_SERVER_ERROR, message));
    }
    let message = format!("Container {id} cannot be found");
    Err(Response::text(StatusCode::NOT_FOUND, message))
}

/// Writes what comes until it ends.
async fn write(mut pen: Pen, calls: &mut Calls) -> Result<Response, Response> {
    while let Some(call) = calls.next().await {
        let attach = call?.attach_container_input.unwrap_or_default();
        match input(attach).map_err(bad)? {
            Piece::Heartbeat => {}
            Piece::Window(window) => {
                let resized = pen.resize(window);
                resized.map_err(|why| bad(format!("Unable to set the window size: {why}")))?;
            }
            Piece::End => pen.end(),
            Piece::Data(data) => {
                pen.write(&data).await.map_err(|why| {
                    let message = format!("Failed writing to stdin: {why}");
                    let answer = Response::text(StatusCode::INTERNAL_SERVER_ERROR, message);
                    match why.kind() {
                        ErrorKind::BrokenPipe => answer.header(media::READER_GONE, "true"),
                        _ => answer,
                    }
                })?;
            }
        }
    }
    Ok(Response::empty(StatusCode::OK))
}

fn bad(message: String) -> Response {
    Response::text(StatusCode::BAD_REQUEST, message)
}

/// The calls of a streamed request.
struct Calls {
    body: BodyStream,
    decoder: Decoder,
    media: Media,
}

impl Calls {
    async fn next(&mut self) -> Option<Result<Call, Response>> {
        loop {
            match self.decoder.next_record() {
                Ok(Some(record)) => {
                    return Some(decode::operator(self.media, &record).map_err(bad));
                }
                Ok(None) => {}
                Err(error) => return Some(Err(bad(format!("Failed to read record: {error}")))),
            }
            match self.body.next().await? {
                Ok(bytes) => self.decoder.feed(&bytes),
                Err(error) => return Some(Err(Response::from(error))),
            }
        }
    }
}

/// What a call of a stream of input carries.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Data(Vec<u8>),
    /// An empty piece is the end of the input.
    End,
    Window(Window),
    Heartbeat,
}

/// Checks a call after the first, in Mesos' words. Pure.
fn input(attach: AttachContainerInput) -> Result<Piece, String> {
    use process_io::control::Type as Control;
    if attach.r#type() != attach_container_input::Type::ProcessIo {
        let other = attach.r#type().as_str_name();
        return Err(format!(
            "Expecting 'attach_container_input.type' to be 'PROCESS_IO' instead of: '{other}'"
        ));
    }
    let missing = |name: &str| format!("Expecting '{name}' to be present");
    let io = attach.process_io.ok_or_else(|| missing("attach_container_input.process_io"))?;
    io.r#type.ok_or_else(|| missing("process_io.type"))?;
    match io.r#type() {
        process_io::Type::Unknown => Err("'process_io.type' is unknown".into()),
        process_io::Type::Data => {
            let data = io.data.ok_or_else(|| missing("process_io.data"))?;
            data.r#type.ok_or_else(|| missing("process_io.data.type"))?;
            if data.r#type() != process_io::data::Type::Stdin {
                return Err("Expecting 'process_io.data.type' to be 'STDIN'".into());
            }
            let bytes = data.data.ok_or_else(|| missing("process_io.data.data"))?;
            Ok(if bytes.is_empty() { Piece::End } else { Piece::Data(bytes) })
        }
        process_io::Type::Control => {
            let control = io.control.ok_or_else(|| missing("process_io.control"))?;
            control.r#type.ok_or_else(|| missing("process_io.control.type"))?;
            match control.r#type() {
                Control::Unknown => Err("'process_io.control.type' is unknown".into()),
                Control::Heartbeat if control.heartbeat.is_none() => {
                    Err(missing("process_io.control.heartbeat"))
                }
                Control::Heartbeat => Ok(Piece::Heartbeat),
                Control::TtyInfo => {
                    let info =
                        control.tty_info.ok_or_else(|| missing("process_io.control.tty_info"))?;
                    info.window_size.as_ref().ok_or_else(|| missing("tty_info.window_size"))?;
                    let window = terminal::window(&info);
                    window
                        .map(Piece::Window)
                        .map_err(|why| format!("'tty_info.window_size': {why}"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Piece, String> {
        let text = format!(
            r#"{{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{{"type":"PROCESS_IO"{json}}}}}"#
        );
        let call = decode::operator(Media::Json, text.as_bytes()).expect("a valid call");
        input(call.attach_container_input.expect("given"))
    }

    #[test]
    fn pieces_are_told_apart_and_checked() {
        let io = |rest: &str| of(&format!(r#","process_io":{{{rest}}}"#));
        let data = |rest: &str| io(&format!(r#""type":"DATA","data":{{{rest}}}"#));
        let control = |rest: &str| io(&format!(r#""type":"CONTROL","control":{{{rest}}}"#));
        assert_eq!(data(r#""type":"STDIN","data":"YQ==""#), Ok(Piece::Data(b"a".to_vec())));
        assert_eq!(data(r#""type":"STDIN","data":"""#), Ok(Piece::End));
        let beat = r#""type":"HEARTBEAT","heartbeat":{"interval":{"nanoseconds":1}}"#;
        assert_eq!(control(beat), Ok(Piece::Heartbeat));
        let size = r#""type":"TTY_INFO","tty_info":{"window_size":{"rows":1,"columns":2}}"#;
        assert_eq!(control(size), Ok(Piece::Window(Window { rows: 1, columns: 2 })));
        for (got, wanted) in [
            (of(""), "Expecting 'attach_container_input.process_io' to be present"),
            (io(""), "Expecting 'process_io.type' to be present"),
            (io(r#""type":"DATA""#), "Expecting 'process_io.data' to be present"),
            (data(""), "Expecting 'process_io.data.type' to be present"),
            (data(r#""type":"STDOUT""#), "Expecting 'process_io.data.type' to be 'STDIN'"),
            (data(r#""type":"STDIN""#), "Expecting 'process_io.data.data' to be present"),
            (io(r#""type":"CONTROL""#), "Expecting 'process_io.control' to be present"),
            (control(""), "Expecting 'process_io.control.type' to be present"),
            (
                control(r#""type":"HEARTBEAT""#),
                "Expecting 'process_io.control.heartbeat' to be present",
            ),
            (
                control(r#""type":"TTY_INFO","tty_info":{}"#),
                "Expecting 'tty_info.window_size' to be present",
            ),
            (
                control(&size.replace('2', "65536")),
                "'tty_info.window_size': columns must be at most 65535, not 65536",
            ),
        ] {
            assert_eq!(got, Err(wanted.to_owned()));
        }
    }
}
