//! The sending half of libprocess: one outbound connection per peer.
//!
//! Owns every outbound message socket of the process. Anyone may send from any
//! thread; sending never blocks and never fails, exactly as little as libprocess
//! promises: messages to one peer stay in order, and what is queued when the
//! connection breaks is lost. Receiving is not done here.
//!
//! ```text
//!            send/link                     linked, EOF or error
//!  (no peer) ---------> connecting -> open ------------------> exited, (no peer)
//!                                      | not linked and idle
//!                                      +---------------------> (no peer)
//! ```
//!
//! The map of peers is behind a mutex that is held for map operations only,
//! never across an await.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use super::{Upid, frame};

/// Bytes that may wait for one peer. A peer this far behind does not read at all.
pub const MAX_QUEUED: usize = 256 << 20;
/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without links stays open after its last message.
const IDLE: Duration = Duration::from_secs(5);
/// Messages are gathered up to this many bytes for one write.
const WRITE_BATCH: usize = 256 << 10;

/// Sends libprocess messages; clones share connections and links.
#[derive(Clone)]
pub struct Post {
    inner: Arc<Inner>,
}

struct Inner {
    own: SocketAddr,
    exited: mpsc::UnboundedSender<Upid>,
    runtime: Handle,
    /// Bytes that may wait for one peer.
    max_queued: usize,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    map: HashMap<SocketAddr, Peer>,
    /// Tells a connection's map entry from a later one's.
    generation: u64,
}

struct Peer {
    generation: u64,
    queue: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    links: BTreeSet<Upid>,
    /// Wakes the connection task to give up.
    abandon: Arc<Notify>,
}

impl Post {
    /// A post office for the process that others reach at `own`. Must be called
    /// inside a tokio runtime, which will run the connections. `exited` gets
    /// every linked address once when the connection to its host is gone.
    #[must_use]
    pub fn new(own: SocketAddr, exited: mpsc::UnboundedSender<Upid>) -> Post {
        Post::bounded(own, exited, MAX_QUEUED)
    }

    /// As [`Post::new`], with at most `max_queued` bytes waiting for one peer.
    #[must_use]
    pub fn bounded(
        own: SocketAddr,
        exited: mpsc::UnboundedSender<Upid>,
        max_queued: usize,
    ) -> Post {
        let (runtime, peers) = (Handle::current(), Mutex::default());
        Post { inner: Arc::new(Inner { own, exited, runtime, max_queued, peers }) }
    }

    /// The advertised address: what stands after the `@` of our own processes.
    #[must_use]
    pub fn own(&self) -> SocketAddr {
        self.inner.own
    }

    /// Queues a message from our process `from`. Lost if the peer is gone.
    #[allow(clippy::needless_pass_by_value)] // callers hand over what they encoded
    pub fn send(&self, from: &str, to: &Upid, name: &str, body: Bytes) {
        let bytes = frame(&Upid::new(from, self.inner.own), to, name, &body);
        let size = bytes.len();
        let mut peers = self.inner.lock();
        let peer = self.inner.peer(&mut peers, to.address);
        let queued = peer.queued.fetch_add(size, Ordering::Relaxed);
        if queued > 0 && queued + size > self.inner.max_queued {
            peer.queued.fetch_sub(size, Ordering::Relaxed);
            warn!(%to, name, queued, "dropping a message: the peer does not read");
            // A hole in the order of messages is worse than a broken connection,
            // which both sides know how to repair.
            peer.abandon.notify_one();
            return;
        }
        // The receiver lives as long as the map entry: removal is under the same lock.
        let _ = peer.queue.send(bytes);
    }

    /// Queues a protobuf message under its full name.
    pub fn send_message<M: prost::Message + prost::Name>(
        &self,
        from: &str,
        to: &Upid,
        message: &M,
    ) {
        self.send(from, to, &M::full_name(), message.encode_to_vec().into());
    }

    /// Keeps the connection to `to`'s host open and reports its end. A host that
    /// cannot be reached is reported as exited, too. Ends with that report.
    pub fn link(&self, to: &Upid) {
        let mut peers = self.inner.lock();
        self.inner.peer(&mut peers, to.address).links.insert(to.clone());
    }

    /// Forgets a link: its end is no longer reported.
    pub fn unlink(&self, to: &Upid) {
        if let Some(peer) = self.inner.lock().map.get_mut(&to.address) {
            peer.links.remove(to);
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Peers> {
        // No code under this lock panics halfway through a change.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer<'a>(self: &Arc<Self>, peers: &'a mut Peers, address: SocketAddr) -> &'a mut Peer {
        if !peers.map.contains_key(&address) {
            peers.generation += 1;
            let (queue, receiver) = mpsc::unbounded_channel();
            let peer = Peer {
                generation: peers.generation,
                queue,
                queued: Arc::default(),
                links: BTreeSet::new(),
                abandon: Arc::default(),
            };
            let connection = Connection {
                post: Arc::downgrade(self),
                address,
                generation: peer.generation,
                queue: receiver,
                queued: Arc::clone(&peer.queued),
            };
            self.runtime.spawn(connection.run(Arc::clone(&peer.abandon)));
            peers.map.insert(address, peer);
        }
        peers.map.get_mut(&address).expect("inserted above")
    }
}

/// The task behind one peer.
struct Connection {
    post: Weak<Inner>,
    address: SocketAddr,
    generation: u64,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

enum End {
    /// No links and nothing to send: already out of the map.
    Idle,
    /// The post office itself is gone.
    Closed,
    Failed(std::io::Error),
}

impl Connection {
    async fn run(mut self, abandon: Arc<Notify>) {
        let end = tokio::select! {
            end = self.drive() => end,
            () = abandon.notified() => {
                End::Failed(std::io::Error::other("too many bytes are waiting for it"))
            }
        };
        match end {
            End::Idle | End::Closed => {}
            End::Failed(error) => self.fail(&error),
        }
    }

    async fn drive(&mut self) -> End {
        let mut stream = match connect(self.address).await {
            Ok(stream) => stream,
            Err(error) => return End::Failed(error),
        };
        let (mut reader, mut writer) = stream.split();
        let mut discarded = [0u8; 1024];
        let mut batch: Vec<Vec<u8>> = Vec::new();
        loop {
            let idle = tokio::time::sleep(IDLE);
            tokio::select! {
                // Nothing is written to a peer that is known to be gone.
                biased;
                read = reader.read(&mut discarded) => match read {
                    // compat: answers to messages carry nothing; only the end counts.
                    Ok(0) => return End::Failed(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {}
                    Err(error) => return End::Failed(error),
                },
                received = self.queue.recv_many(&mut batch, 64) => {
                    if received == 0 {
                        return End::Closed;
                    }
                    let write = write_all(&mut writer, &mut batch, &self.queued);
                    // Reading goes on while writing, or two peers that answer
                    // each other could fill both sockets.
                    if let Err(error) = write_discarding(write, &mut reader).await {
                        return End::Failed(error);
                    }
                },
                () = idle => if self.retire() {
                    return End::Idle;
                },
            }
        }
    }

    /// Takes this connection out of the map if nobody needs it.
    fn retire(&mut self) -> bool {
        let Some(post) = self.post.upgrade() else { return true };
        let mut peers = post.lock();
        match peers.map.get(&self.address) {
            Some(peer) if peer.generation == self.generation => {
                if !peer.links.is_empty() || !self.queue.is_empty() {
                    return false;
                }
                peers.map.remove(&self.address);
                true
            }
            _ => true,
        }
    }

    fn fail(&self, error: &std::io::Error) {
        let Some(post) = self.post.upgrade() else { return };
        let mut peers = post.lock();
        let ours = peers.map.get(&self.address).is_some_and(|p| p.generation == self.generation);
        let Some(peer) = ours.then(|| peers.map.remove(&self.address)).flatten() else { return };
        drop(peers);
        let lost = self.queue.len();
        debug!(peer = %self.address, %error, lost, "connection to peer ended");
        for upid in peer.links {
            // Nobody listening means the daemon is on its way out.
            let _ = post.exited.send(upid);
        }
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn write_all(
    writer: &mut (impl AsyncWriteExt + Unpin),
    batch: &mut Vec<Vec<u8>>,
    queued: &AtomicUsize,
) -> std::io::Result<()> {
    let mut joined: Vec<u8> = Vec::new();
    for bytes in batch.drain(..) {
        if joined.is_empty() {
            joined = bytes;
        } else {
            joined.extend_from_slice(&bytes);
        }
        if joined.len() >= WRITE_BATCH {
            writer.write_all(&joined).await?;
            queued.fetch_sub(joined.len(), Ordering::Relaxed);
            joined = Vec::new();
        }
    }
    writer.write_all(&joined).await?;
    queued.fetch_sub(joined.len(), Ordering::Relaxed);
    Ok(())
}

/// Runs `write` to its end while throwing away what arrives.
async fn write_discarding(
    write: impl Future<Output = std::io::Result<()>>,
    reader: &mut (impl AsyncReadExt + Unpin),
) -> std::io::Result<()> {
    let mut discarded = [0u8; 1024];
    tokio::pin!(write);
    loop {
        tokio::select! {
            biased;
            done = &mut write => return done,
            read = reader.read(&mut discarded) => if read? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            },
        }
    }
}
