//! What must hold for any input, target by target.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Display;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead::daemon::units;
use bulkhead::provisioner::pull::probe;
use bulkhead::provisioner::{ImageConfig, Reference};
use bulkhead::wire::http::{Limits, Request, Response, Service, serve};
use bulkhead::wire::libprocess::{Message, Upid, frame};
use mesos::recordio::{Decoder, encode};
use mesos::resources::Resources;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Check = Box<dyn FnMut(&[u8]) -> Result<u64, String>>;

/// One thing that reads bytes.
pub struct Target {
    pub name: &'static str,
    pub check: Check,
}

pub fn all() -> Vec<Target> {
    let target = |name, check| Target { name, check };
    vec![
        target("recordio", Box::new(recordio)),
        target("libprocess", libprocess()),
        target("json", Box::new(json)),
        target("protobuf", Box::new(protobuf)),
        target("resources", Box::new(resources)),
        target("units", Box::new(text_units)),
        target("image_name", Box::new(image_name)),
        target("image_manifest", Box::new(image_manifest)),
        target("layer_tar", Box::new(layer_tar)),
    ]
}

/// How an error begins: enough to tell kinds apart, too little to hold the input.
fn kind(error: impl Display) -> String {
    error.to_string().chars().filter(char::is_ascii_alphabetic).take(20).collect()
}

fn fingerprint(target: &str, outcome: impl Display) -> u64 {
    let mut hasher = DefaultHasher::new();
    target.hash(&mut hasher);
    outcome.to_string().hash(&mut hasher);
    hasher.finish()
}

fn same<T: PartialEq>(what: &str, left: &T, right: &T) -> Result<(), String> {
    if left == right { Ok(()) } else { Err(format!("{what} differ")) }
}

/// A name prints again to the same name, and has one spelling.
fn image_name(input: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(input);
    // The same bytes come from registries in headers.
    let ways = probe::ways_in(&text);
    let name = match Reference::parse(&text) {
        Ok(name) => name,
        Err(error) => return Ok(fingerprint("image_name", kind(error.why) + &ways)),
    };
    let printed = Reference::parse(&name.to_string()).map_err(|e| e.to_string())?;
    same("name and printed name", &printed, &name)?;
    let once = name.canonical("h:1");
    same("spellings of a name", &once.canonical("other:2"), &once)?;
    Ok(fingerprint("image_name", name.registry.is_some()))
}

fn image_manifest(input: &[u8]) -> Result<u64, String> {
    let _ = ImageConfig::parse(input);
    Ok(fingerprint("image_manifest", kind(probe::manifest(input))))
}

/// Any pieces give the same entries.
fn layer_tar(input: &[u8]) -> Result<u64, String> {
    let whole = probe::archive(input, input.len());
    same("archives read whole and in pieces", &probe::archive(input, 100), &whole)?;
    Ok(fingerprint("layer_tar", kind(whole)))
}

/// Any chunking gives the same records, and encoding them gives the input back.
fn recordio(input: &[u8]) -> Result<u64, String> {
    let decode = |chunk: usize| {
        let mut decoder = Decoder::new(4096);
        let (mut records, mut end) = (Vec::new(), String::new());
        'all: for part in input.chunks(chunk) {
            decoder.feed(part);
            loop {
                match decoder.next_record() {
                    Ok(Some(record)) => records.push(record),
                    Ok(None) => break,
                    Err(error) => {
                        end = kind(error);
                        break 'all;
                    }
                }
            }
        }
        (records, end)
    };
    let whole = decode(input.len().max(1));
    let (bytes, some) = (decode(1), decode(7));
    same("records of byte-wise and whole decoding", &bytes.0, &whole.0)?;
    same("records of chunked and whole decoding", &some.0, &whole.0)?;
    same("ends of decodings", &bytes.1.is_empty(), &whole.1.is_empty())?;
    let mut again = Vec::new();
    for record in &whole.0 {
        encode(record, &mut again);
    }
    let mut decoder = Decoder::new(4096);
    decoder.feed(&again);
    for record in &whole.0 {
        same("encoded records", &decoder.next_record().ok().flatten().as_ref(), &Some(record))?;
    }
    Ok(fingerprint("recordio", format!("{}{}", "r".repeat(whole.0.len().min(4)), whole.1)))
}

#[derive(Default)]
struct Inbox(Mutex<Vec<Message>>);

#[async_trait]
impl Service for Inbox {
    async fn call(&self, mut request: Request) -> Response {
        match request.bytes().await {
            Ok(body) => Response::json(body),
            Err(response) => response,
        }
    }

    fn message(&self, message: Message) -> bool {
        self.0.lock().expect("nobody panics here").push(message);
        true
    }
}

/// The server answers or closes, never stalls, and what it took for a message
/// comes through framing and receiving once more unchanged.
fn libprocess() -> Check {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let inbox = Arc::new(Inbox::default());
    let listener =
        runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free loopback port");
    let address = listener.local_addr().expect("bound");
    let limits = Limits {
        head_time: Duration::from_millis(200),
        body_idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let service: Arc<dyn Service> = Arc::new(Arc::clone(&inbox));
    runtime.spawn(serve(listener, service, limits, std::future::pending()));
    let exchange = async move |bytes: &[u8]| -> Result<Vec<u8>, String> {
        let mut stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        // The server may have seen enough before it has seen all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        match tokio::time::timeout(Duration::from_secs(3), read).await {
            Ok(_) => Ok(answer),
            Err(_) => Err("the server neither answers nor closes".to_owned()),
        }
    };
    let take = move || std::mem::take(&mut *inbox.0.lock().expect("nobody panics here"));
    Box::new(move |input| {
        runtime.block_on(async {
            let answer = exchange(input).await?;
            let messages = take();
            let mut again = Vec::new();
            let frameable = |m: &&Message| {
                m.to.bytes().all(|b| b.is_ascii_graphic() && !b"/%?#".contains(&b))
                    && !m.to.is_empty()
                    && !m.name.is_empty()
            };
            let kept: Vec<&Message> = messages.iter().filter(frameable).collect();
            for message in &kept {
                let to = Upid::new(message.to.clone(), address);
                again.extend(frame(&message.from, &to, &message.name, &message.body));
            }
            if !kept.is_empty() {
                exchange(&again).await?;
                let back = take();
                same("number of messages sent again", &back.len(), &kept.len())?;
                for (back, kept) in back.iter().zip(kept) {
                    same("messages sent again", back, kept)?;
                }
            }
            let text = String::from_utf8_lossy(&answer);
            let lines: String = text.lines().filter(|l| l.starts_with("HTTP/")).take(3).collect();
            Ok(fingerprint(&lines, format!("{}", messages.len().min(3))))
        })
    })
}

/// What can be read prints as something that reads back the same.
fn json(input: &[u8]) -> Result<u64, String> {
    let mut seen = String::new();
    for name in [
        "mesos.v1.scheduler.Call",
        "mesos.v1.master.Call",
        "mesos.v1.agent.Call",
        "mesos.v1.master.Response",
    ] {
        match mesos::v1::from_json(name, input) {
            Err(error) => seen.push_str(&kind(error)),
            Ok(bytes) => {
                let schema = mesos::schema::find(name).expect("a known message");
                let mut printed = Vec::new();
                mesos::json::write(schema, &bytes, &mut printed).map_err(|e| e.to_string())?;
                let again = mesos::v1::from_json(name, &printed).map_err(|e| {
                    format!("{name}: cannot read {}: {e}", String::from_utf8_lossy(&printed))
                })?;
                let mut twice = Vec::new();
                mesos::json::write(schema, &again, &mut twice).map_err(|e| e.to_string())?;
                same(name, &twice, &printed)?;
                seen.push_str("ok");
            }
        }
    }
    Ok(fingerprint("json", seen))
}

/// What passes the check prints, and the print reads back as what prints the same.
fn protobuf(input: &[u8]) -> Result<u64, String> {
    let mut seen = String::new();
    for name in ["mesos.v1.scheduler.Call", "mesos.v1.master.Response", "mesos.v1.agent.Call"] {
        let schema = mesos::schema::find(name).expect("a known message");
        match mesos::schema::check(schema, input) {
            Err(error) => seen.push_str(&kind(error)),
            Ok(()) => {
                let mut printed = Vec::new();
                mesos::json::write(schema, input, &mut printed)
                    .map_err(|e| format!("{name}: checked, but does not print: {e}"))?;
                let again = mesos::v1::from_json(name, &printed).map_err(|e| {
                    format!("{name}: cannot read {}: {e}", String::from_utf8_lossy(&printed))
                })?;
                let mut twice = Vec::new();
                mesos::json::write(schema, &again, &mut twice).map_err(|e| e.to_string())?;
                same(name, &twice, &printed)?;
                seen.push_str("ok");
            }
        }
    }
    match mesos::schema::decode::<mesos::internal::RegisterSlaveMessage>(input) {
        Err(error) => seen.push_str(&kind(error)),
        Ok(_) => seen.push_str("ok"),
    }
    Ok(fingerprint("protobuf", seen))
}

/// What parses survives conversion, contains itself, and leaves nothing when
/// taken from itself.
fn resources(input: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(input);
    let attributes = match mesos::attributes::parse(&text) {
        Ok(parsed) => format!("{}", parsed.len().min(3)),
        Err(error) => kind(error),
    };
    match Resources::parse(&text, "*") {
        Err(error) => Ok(fingerprint("resources", kind(error) + &attributes)),
        Ok(parsed) => {
            let protos = parsed.to_protos();
            let again = Resources::from_protos(&protos).map_err(|e| format!("{parsed}: {e}"))?;
            same("resources after conversion", &again.to_protos(), &protos)?;
            if !parsed.contains(&again) {
                return Err(format!("{parsed} does not contain itself"));
            }
            let nothing = &parsed - &again;
            if !nothing.is_empty() {
                return Err(format!("{parsed} minus itself is {nothing}"));
            }
            Ok(fingerprint("parsed", format!("{}{attributes}", protos.len().min(4))))
        }
    }
}

/// Durations, sizes and addresses print as something that reads back the same.
fn text_units(input: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(input);
    let mut seen = String::new();
    match units::parse_duration(&text) {
        Err(error) => seen.push_str(&kind(error)),
        Ok(duration) => {
            let shown = units::show_duration(duration);
            let again = units::parse_duration(&shown).map_err(|e| format!("{shown}: {e}"))?;
            // Fifteen digits are printed, as Mesos does.
            let off = again.abs_diff(duration).as_secs_f64();
            if off > duration.as_secs_f64() * 1e-13 + 1e-9 {
                return Err(format!("{text} prints as {shown}"));
            }
        }
    }
    match units::parse_bytes(&text) {
        Err(error) => seen.push_str(&kind(error)),
        Ok(bytes) => same(&text, &units::parse_bytes(&units::show_bytes(bytes)), &Ok(bytes))?,
    }
    match text.parse::<Upid>() {
        Err(error) => seen.push_str(&kind(error)),
        Ok(upid) => same(&text, &upid.to_string().parse(), &Ok(upid))?,
    }
    Ok(fingerprint("units", seen))
}
