//! Hundreds of containers with one address: each reaches, and is reached, on its own
//! ports only. `BULKHEAD_MAPPED_CONTAINERS` says how many.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kernel::namespaces::in_network_of;

use super::*;

/// The first port that is given to a container; each has one.
const FIRST: usize = 20_000;
const AT_ONCE: usize = 8;

fn how_many() -> usize {
    let told = std::env::var("BULKHEAD_MAPPED_CONTAINERS").ok().and_then(|n| n.parse().ok());
    // An emulated machine takes as long for a tenth.
    told.unwrap_or(if std::env::var_os("BULKHEAD_VM").is_some() { 20 } else { 200 })
}

/// What came to somebody outside: words, and the ports that they came from.
#[derive(Debug, Default)]
struct Heard {
    datagrams: BTreeSet<(String, u16)>,
    connections: BTreeMap<String, u16>,
}

/// Somebody outside who answers everybody, over UDP and TCP on the same port.
struct Answers {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Answers {
    fn start(outside: &Outside) -> Answers {
        let sockets = in_network_of(outside.0.id(), || {
            let bound = (UdpSocket::bind("10.77.0.1:7000"), TcpListener::bind("10.77.0.1:7000"));
            (bound.0.expect("a socket"), bound.1.expect("a socket"))
        });
        let (udp, tcp) = sockets.expect("the network outside");
        let soon = Some(Duration::from_millis(50));
        udp.set_read_timeout(soon).expect("a timeout");
        tcp.set_nonblocking(true).expect("a listener that does not wait");
        let (heard, stop) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let (book, end) = (Arc::clone(&heard), Arc::clone(&stop));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !end.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                book.lock().expect("not poisoned").datagrams.insert((text, from.port()));
                let _ = udp.send_to(b"yes", from);
            }
        });
        let (book, end) = (Arc::clone(&heard), Arc::clone(&stop));
        let connections = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let Ok((stream, from)) = tcp.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).expect("a stream that waits");
                if let Ok(word) = said(&stream) {
                    book.lock().expect("not poisoned").connections.insert(word, from.port());
                    let _ = (&stream).write_all(b"welcome\n");
                }
            }
        });
        Answers { heard, stop, threads: vec![datagrams, connections] }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn said(stream: &TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// Asks who, or what, is at an address.
fn ask(address: &str, question: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    said(&stream)
}

/// Does `each` for all numbers, a few at once.
async fn for_all<F>(count: usize, each: impl Fn(usize) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let worker = || {
        let (next, each) = (Arc::clone(&next), each.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                each(number).await;
            }
        })
    };
    let workers: Vec<_> = (0..AT_ONCE).map(|_| worker()).collect();
    for worker in workers {
        worker.await.expect("a worker");
    }
}

async fn end_all(native: &Arc<Native>, count: usize) {
    let native = Arc::clone(native);
    for_all(count, move |number| {
        let native = Arc::clone(&native);
        async move {
            let id = top(&format!("c{number}"));
            native.destroy(&id, None).await.expect("destroyed");
            native.forget(&id).await;
        }
    })
    .await;
}

#[test]
fn hundreds_share_the_address_and_reach_and_are_reached_on_their_own_ports() {
    require!(root, cgroup);
    let test = "port_mapping::many::hundreds_share_the_address_and_reach_and_are_reached_on_their_own_ports";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    kernel::machine::raise_open_files();
    let count = how_many();
    assert!(count <= 1024, "there are blocks of ephemeral ports for 1024");
    let outside = Outside::start();
    let answers = Answers::start(&outside);
    let mut place = Place::new("mapping-many", "filesystem/linux,network/port_mapping");
    let mapping = &mut place.config.isolators.port_mapping;
    mapping.ports = Ranges::new([(FIRST as u64, (FIRST + count) as u64)]);
    mapping.ephemeral = Ranges::new([(32_768, 49_151)]);
    mapping.per_container = 16;
    let place = Arc::new(place);
    let start = Instant::now();
    in_a_life(async {
        let native = Arc::new(place.start());
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let (theirs, there) = (Arc::clone(&native), Arc::clone(&place));
        for_all(count, move |number| {
            let (native, place) = (Arc::clone(&theirs), Arc::clone(&there));
            async move {
                let id = format!("c{number}");
                // Its own port, and that of the next one.
                let (own, foreign) = (FIRST + number, FIRST + number + 1);
                let numbers = [own, foreign].map(|port| port.to_string());
                let words = ["mapped", &id, "10.77.0.1:7000", &numbers[0], &numbers[1]];
                let request = container(&place, &id, &[own as u64], &words);
                native.launch(request).await.expect("launch");
            }
        })
        .await;
        for number in 0..count {
            place.wait_output(&format!("c{number}"), "ready").await;
        }
        eprintln!("{count} containers run after {:.1} s", start.elapsed().as_secs_f64());

        let heard = std::mem::take(&mut *answers.heard.lock().unwrap());
        let statistics = native.statistics().await;
        assert_eq!(statistics.len(), count);
        let mut blocks = BTreeSet::new();
        for (id, figures) in statistics.iter() {
            let block = figures.net_ephemeral_ports.as_ref().expect("a block");
            assert!(blocks.insert(block.begin), "{block:?} is given twice");
            let port = u64::from(heard.connections[&id.value]);
            assert!((block.begin..=block.end).contains(&port), "{id:?} came from {port}");
        }
        // Of all datagrams only those from own ports have left.
        let wanted: BTreeSet<(String, u16)> =
            (0..count).map(|n| (format!("c{n} own"), (FIRST + n) as u16)).collect();
        assert_eq!(heard.datagrams, wanted);

        // From outside each is reached on its own port, though the one before listens
        // there as well; and each reaches the next one.
        let there = |number: usize| format!("10.77.0.2:{}", FIRST + number);
        let asked = in_network_of(outside.0.id(), || {
            for number in 0..count {
                let heard = ask(&there(number), "who").expect("an answer");
                assert_eq!(heard, format!("c{number}"));
                let next = (number + 1) % count;
                let heard = ask(&there(number), &format!("ask {}", there(next))).expect("a word");
                assert_eq!(heard, format!("c{next}"));
            }
            ask(&there(count), "who").map_err(|error| error.kind())
        });
        let nobody = asked.expect("the network outside");
        assert_eq!(nobody, Err(std::io::ErrorKind::ConnectionRefused), "it is nobody's port");
        for number in 0..count {
            for ip in ["10.77.0.2", "127.0.0.1"] {
                let heard = ask(&format!("{ip}:{}", FIRST + number), "who").expect("an answer");
                assert_eq!(heard, format!("c{number}"), "{ip}");
            }
        }
        eprintln!("all were asked after {:.1} s", start.elapsed().as_secs_f64());
        end_all(&native, count).await;
        eprintln!("all were gone after {:.1} s", start.elapsed().as_secs_f64());
    });
    assert_eq!(interfaces(), Vec::<String>::new());
}
