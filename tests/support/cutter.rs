//! Between an agent and a plugin: a relay that cuts the connection at one request.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Stands between agent and plugin and cuts the connection at one request.
pub struct Cutter {
    /// Where the agent connects to.
    pub socket: PathBuf,
    cuts: Arc<AtomicUsize>,
}

impl Cutter {
    /// The first request with `at` in it is cut; with `after` it reaches the plugin
    /// but its answer does not come back.
    ///
    /// # Panics
    /// The socket cannot be made in `dir`.
    pub fn start(dir: &Path, plugin: &Path, at: &'static str, after: bool) -> Cutter {
        let socket = dir.join("cut.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (armed, cuts) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let cutter = Cutter { socket, cuts: Arc::clone(&cuts) };
        let plugin = plugin.to_owned();
        std::thread::spawn(move || {
            for agent in listener.incoming() {
                let (Ok(agent), Ok(plugin)) = (agent, UnixStream::connect(&plugin)) else { return };
                let (armed, cuts) = (Arc::clone(&armed), Arc::clone(&cuts));
                std::thread::spawn(move || relay(agent, plugin, at, after, &armed, &cuts));
            }
        });
        cutter
    }

    /// How often it has cut: once, or not at all.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn relay(
    mut agent: UnixStream,
    mut plugin: UnixStream,
    at: &str,
    after: bool,
    armed: &AtomicBool,
    cuts: &AtomicUsize,
) {
    let (mut back_from, mut back_to) =
        (plugin.try_clone().expect("a socket"), agent.try_clone().expect("a socket"));
    let cut = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&cut);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(read @ 1..) = back_from.read(&mut buffer) {
            if silent.load(Ordering::SeqCst) || back_to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = back_to.shutdown(std::net::Shutdown::Both);
    });
    let mut buffer = [0; 65536];
    while let Ok(read @ 1..) = agent.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if text.contains(at) && armed.swap(false, Ordering::SeqCst) {
            cuts.fetch_add(1, Ordering::SeqCst);
            if after {
                cut.store(true, Ordering::SeqCst);
                let _ = plugin.write_all(&buffer[..read]);
                // Its answer, or its first part, is swallowed by the other thread.
                std::thread::sleep(Duration::from_millis(100));
            }
            break;
        }
        if plugin.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = agent.shutdown(std::net::Shutdown::Both);
    let _ = plugin.shutdown(std::net::Shutdown::Both);
}
