//! Recorded libprocess conversations, played against one of our daemons.
//!
//! One recorded process is the daemon under test; all others are played: what
//! they said is said again, in our names, as soon as the daemon has said what
//! was recorded before. What the daemon says must have the recorded heads and
//! bodies. Each peer listens on a bare socket, so heads are seen as they are.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bulkhead::wire::libprocess::{Post, Upid};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::names::Names;
use crate::shape::{self, Rules};
use crate::support;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One message as it stands on the wire.
#[derive(Debug, Clone)]
pub struct Said {
    /// Seconds since the capture began.
    pub at: f64,
    /// Request line and headers.
    pub head: String,
    /// The message.
    pub body: Vec<u8>,
}

impl Said {
    /// What the process `from` of the peer at `address` says to `to` at `tested`.
    pub fn new(from: &str, address: &str, to: &str, tested: &str, message: &impl Speech) -> Said {
        let name = message.name();
        let head = format!(
            "POST /{to}/{name} HTTP/1.1\r\nLibprocess-From: {from}@{address}\r\nHost: {tested}"
        );
        Said { at: 0.0, head, body: message.bytes() }
    }

    /// Name of the message.
    pub fn name(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or("")
    }

    fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("")
    }

    fn header(&self, name: &str) -> &str {
        let line = self.head.split("\r\n").find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.strip_prefix(": ")).unwrap_or("")
    }

    /// `(process, address)` of the sender.
    pub fn from(&self) -> (&str, &str) {
        self.header("Libprocess-From").split_once('@').unwrap_or_default()
    }

    /// `(process, address)` of the receiver.
    pub fn to(&self) -> (&str, &str) {
        (self.path().split('/').nth(1).unwrap_or(""), self.header("Host"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        let schema = mesos::schema::find(self.name()).expect("a known message");
        let mut text = Vec::new();
        mesos::json::write(schema, &self.body, &mut text).expect("a whole message");
        String::from_utf8(text).expect("UTF-8")
    }
}

/// A message that knows its name.
pub trait Speech {
    /// Its full name.
    fn name(&self) -> String;
    /// Its bytes.
    fn bytes(&self) -> Vec<u8>;
}

impl<M: prost::Message + prost::Name> Speech for M {
    fn name(&self) -> String {
        M::full_name()
    }

    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// Takes the first whole message from `bytes`.
fn take(bytes: &mut &[u8]) -> Option<Said> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut rest = &bytes[end + 4..];
    let mut body = Vec::new();
    if head.contains("\r\nTransfer-Encoding: chunked") {
        loop {
            let line = rest.windows(2).position(|w| w == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
            body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
            rest = rest.get(line + 4 + size..)?;
            if size == 0 {
                break;
            }
        }
    }
    *bytes = rest;
    Some(Said { at: 0.0, head, body })
}

/// All libprocess messages of a capture, as they were sent.
pub fn conversation(capture: &str) -> Vec<Said> {
    let dir = support::golden().expect("required").join("libprocess").join(capture);
    let list = std::fs::read(dir.join("connections.json")).expect("the list of connections");
    let list: Value = serde_json::from_slice(&list).expect("JSON");
    let mut all = Vec::new();
    for connection in list.as_array().expect("a list") {
        // A connection may have been opened and never used.
        if connection["c2s_bytes"] == 0 {
            continue;
        }
        let name = connection["file"].as_str().expect("a name");
        let bytes = std::fs::read(dir.join(format!("{name}.c2s.bin"))).expect("a recording");
        let index = connection["c2s_index"].as_array().expect("an index");
        let mut rest = bytes.as_slice();
        loop {
            let offset = (bytes.len() - rest.len()) as u64;
            let Some(said) = take(&mut rest) else { break };
            let seen = index.iter().rfind(|i| i[0].as_u64().is_some_and(|o| o <= offset));
            let at = seen.and_then(|i| i[1].as_f64()).unwrap_or(0.0);
            all.push(Said { at, ..said });
        }
    }
    all.retain(|s| !s.header("Libprocess-From").is_empty());
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    all
}

/// A request that is no message, and its answer.
#[derive(Debug)]
pub struct Exchange {
    /// Seconds since the capture began.
    pub at: f64,
    /// All bytes of the request.
    pub request: Vec<u8>,
    /// All bytes of the answer.
    pub response: Vec<u8>,
    /// `[offset, seconds]` of the answer's parts.
    pub index: Value,
}

/// `[offset, seconds]`: when the byte at `offset` went over the wire.
pub fn time_of(index: &Value, offset: usize) -> f64 {
    let index = index.as_array().expect("an index");
    let seen = index.iter().rfind(|i| i[0].as_u64().is_some_and(|o| o <= offset as u64));
    seen.and_then(|i| i[1].as_f64()).unwrap_or(0.0)
}

/// The requests of a capture to `path`, each on a connection of its own, as they were made.
pub fn exchanges(capture: &str, path: &str) -> Vec<Exchange> {
    let dir = support::golden().expect("required").join("libprocess").join(capture);
    let read = |name: &str| std::fs::read(dir.join(name)).expect("a recording");
    let list: Value = serde_json::from_slice(&read("connections.json")).expect("JSON");
    let mut all = Vec::new();
    // A connection may have been opened and never used.
    for connection in list.as_array().expect("a list").iter().filter(|c| c["c2s_bytes"] != 0) {
        let name = connection["file"].as_str().expect("a name");
        let request = read(&format!("{name}.c2s.bin"));
        if request.starts_with(format!("POST {path} ").as_bytes()) {
            let response = read(&format!("{name}.s2c.bin"));
            let (at, index) =
                (time_of(&connection["c2s_index"], 0), connection["s2c_index"].clone());
            all.push(Exchange { at, request, response, index });
        }
    }
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    all
}

/// A process played by the test.
struct Peer {
    post: Post,
    inbox: mpsc::UnboundedReceiver<Said>,
    kept: Vec<Said>,
    /// Told to close the connections that it has.
    dies: watch::Sender<()>,
}

impl Peer {
    async fn new() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("bound");
        let (exits, mut exited) = mpsc::unbounded_channel();
        tokio::spawn(async move { while exited.recv().await.is_some() {} });
        let (sender, inbox) = mpsc::unbounded_channel();
        let (dies, _) = watch::channel(());
        let deaths = dies.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (sender, mut death) = (sender.clone(), deaths.subscribe());
                tokio::spawn(async move {
                    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
                    loop {
                        let n = tokio::select! {
                            read = stream.read(&mut part) => read.unwrap_or(0),
                            _ = death.changed() => return,
                        };
                        if n == 0 {
                            return;
                        }
                        bytes.extend_from_slice(&part[..n]);
                        let mut rest = bytes.as_slice();
                        while let Some(said) = take(&mut rest) {
                            let _ = sender.send(said);
                            let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
                            let _ = stream.write_all(answer).await;
                        }
                        bytes = rest.to_vec();
                    }
                });
            }
        });
        Peer { post: Post::new(own, exits), inbox, kept: Vec::new(), dies }
    }
}

/// A conversation with one of our daemons.
pub struct Stage {
    /// Recorded address of the daemon under test.
    tested: &'static str,
    ours: Option<SocketAddr>,
    peers: BTreeMap<String, Peer>,
    /// What is called differently here.
    pub names: Names,
    /// What was said and differs.
    pub differences: Vec<String>,
    rules: Rules<'static>,
    heard: usize,
}

impl Stage {
    /// Peers at the recorded addresses, for a daemon recorded at `tested`.
    pub async fn new(tested: &'static str, peers: &[&str], rules: Rules<'static>) -> Stage {
        let mut stage = Stage {
            tested,
            ours: None,
            peers: BTreeMap::new(),
            names: Names::default(),
            differences: Vec::new(),
            rules,
            heard: 0,
        };
        for peer in peers {
            let live = Peer::new().await;
            stage.call(peer, live.post.own());
            stage.peers.insert((*peer).to_owned(), live);
        }
        stage
    }

    fn call(&mut self, recorded: &str, ours: SocketAddr) {
        self.names.learn(recorded, &ours.to_string());
        let (_, port) = recorded.rsplit_once(':').expect("an address");
        self.names.learn(&format!("\"port\":{port}"), &format!("\"port\":{}", ours.port()));
    }

    /// Where the peer of that recorded address listens.
    pub fn address(&self, recorded: &str) -> SocketAddr {
        self.peers[recorded].post.own()
    }

    /// The peer dies: connections to it end. One at the same address follows.
    pub fn die(&mut self, recorded: &str) {
        let peer = self.peers.get_mut(recorded).expect("a peer");
        peer.kept.clear();
        while peer.inbox.try_recv().is_ok() {}
        peer.dies.send_replace(());
    }

    /// Where the daemon under test listens.
    pub fn tested_at(&mut self, ours: SocketAddr) {
        self.call(self.tested, ours);
        self.ours = Some(ours);
    }

    /// How many messages of the daemon were compared.
    pub fn heard(&self) -> usize {
        self.heard
    }

    /// Plays the beginning of a conversation; returns the first thing said by the
    /// daemon, as text.
    pub async fn play_first(&mut self, conversation: &[Said]) -> String {
        let first = conversation.iter().find(|s| s.from().1 == self.tested).expect("recorded");
        let address = first.to().1.to_owned();
        let got = self.wait(&address, first).await.expect("the daemon speaks first");
        let text = got.text();
        self.peers.get_mut(&address).expect("a peer").kept.insert(0, got);
        self.play(conversation).await;
        text
    }

    /// A recorded request in our names.
    pub fn request(&self, recorded: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(recorded);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let body = self.names.ours(body);
        let lines = head.split("\r\n").map(|line| match line.split_once(": ") {
            Some(("Content-Length", _)) => format!("Content-Length: {}", body.len()),
            _ => self.names.ours(line),
        });
        format!("{}\r\n\r\n{body}", lines.collect::<Vec<_>>().join("\r\n")).into_bytes()
    }

    /// Plays a conversation to its end; what the daemon said, as text.
    pub async fn play(&mut self, conversation: &[Said]) -> Vec<String> {
        let (mut wanted, mut heard) = (Vec::new(), Vec::new());
        for said in conversation {
            if said.from().1 == self.tested {
                wanted.push(said);
            } else if said.to().1 == self.tested {
                for wanted in wanted.drain(..) {
                    heard.push(self.hear(wanted).await);
                }
                self.say(said);
            }
        }
        for wanted in wanted {
            heard.push(self.hear(wanted).await);
        }
        heard
    }

    fn say(&self, said: &Said) {
        let schema = mesos::schema::find(said.name()).expect("a known message");
        let text = self.names.ours(&said.text());
        let body = mesos::json::parse(schema, text.as_bytes()).expect("our names fit");
        let (process, address) = said.from();
        let to = Upid::new(said.to().0, self.ours.expect("the daemon is known"));
        self.peers[address].post.send(process, &to, said.name(), body.into());
    }

    /// Waits for what was recorded and compares it; what came.
    async fn hear(&mut self, recorded: &Said) -> String {
        let (_, address) = recorded.to();
        let Some(got) = self.wait(address, recorded).await else {
            panic!(
                "no {} came, only {:?}\n{}",
                recorded.name(),
                self.peers[address].kept.iter().map(Said::name).collect::<Vec<_>>(),
                self.differences.join("\n")
            );
        };
        self.heard += 1;
        let (theirs, ours) = (recorded.text(), got.text());
        self.names.learn_ids(&theirs, &ours);
        let head = self.names.recorded(&got.head);
        if head != recorded.head {
            let note = format!("{}: head\n{head}\nrecorded\n{}", recorded.name(), recorded.head);
            self.differences.push(note);
        }
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let (named, theirs) = (json(&self.names.recorded(&ours)), json(&theirs));
        for difference in shape::compare(&named, &theirs, &self.rules) {
            self.differences.push(format!("{} at {}: {difference}", recorded.name(), recorded.at));
        }
        ours
    }

    /// The oldest message of that name about the same task.
    async fn wait(&mut self, address: &str, recorded: &Said) -> Option<Said> {
        let key = |said: &Said| (said.name().to_owned(), task(&said.text()));
        let wanted = key(recorded);
        let peer = self.peers.get_mut(address)?;
        loop {
            if let Some(at) = peer.kept.iter().position(|s| key(s) == wanted) {
                return Some(peer.kept.remove(at));
            }
            let next = tokio::time::timeout(PATIENCE, peer.inbox.recv()).await;
            peer.kept.push(next.ok()??);
        }
    }
}

/// The task a message is about, if any.
fn task(text: &str) -> Option<String> {
    let at = text.find("\"task_id\":{\"value\":\"")?;
    text[at..].split('"').nth(5).map(str::to_owned)
}
