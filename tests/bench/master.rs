//! `make bench SCENARIO=master`: 10,000 simulated agents on one master.
//!
//! They register over the real wire, answer pings, and their resources flow as
//! offers to frameworks that decline them at once, while `/state` is read.
//! `AGENTS` and `SECONDS` in the environment make it smaller.

#[path = "../support/agents.rs"]
mod agents;
#[path = "figures.rs"]
mod figures;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agents::{Fleet, Play};
use bulkhead::wire::client::{Call, Client};
use figures::{figure, quantile};
use mesos::scheduler;
use prost::Message as _;

const PER_PORT: usize = 100;
const FRAMEWORKS: usize = 5;
const PROTOBUF: &str = "application/x-protobuf";

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// The program built along with this one.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let dir = own.parent().and_then(Path::parent).expect("target/<profile>/deps/this");
    dir.join(name)
}

struct Master {
    child: Child,
    address: SocketAddr,
    dir: PathBuf,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Master {
    async fn start() -> Master {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let dir =
            std::env::temp_dir().join(format!("bulkhead-bench-master-{}", std::process::id()));
        let child = Command::new(program("bulkhead-master"))
            .args(["--ip=127.0.0.1", "--hostname=127.0.0.1", "--logging_level=WARNING"])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--work_dir={}", dir.display()))
            .stdout(Stdio::null())
            .spawn()
            .expect("start the master");
        let master = Master { child, address, dir };
        let client = Client::to(address);
        for _ in 0..500 {
            if client.call(Call::get("/health")).await.is_ok() {
                return master;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the master does not answer");
    }

    fn rss_mb(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
    }
}

/// Subscribes and declines every offer, so that it comes again.
async fn decline_forever(master: SocketAddr, n: usize, offers: Arc<AtomicUsize>) {
    let capability = |c| mesos::framework_info::Capability { r#type: Some(c) };
    let info = mesos::FrameworkInfo {
        user: "root".into(),
        name: format!("bench-{n}"),
        roles: vec![format!("role{n}")],
        capabilities: vec![capability(6), capability(7)],
        ..mesos::FrameworkInfo::default()
    };
    let subscribe = scheduler::Call {
        r#type: Some(scheduler::call::Type::Subscribe as i32),
        subscribe: Some(scheduler::call::Subscribe { framework_info: info, ..Default::default() }),
        ..scheduler::Call::default()
    };
    let call = Call::post("/api/v1/scheduler", PROTOBUF, subscribe.encode_to_vec())
        .header("accept", PROTOBUF);
    let stream = Client::to(master).stream(call).await.expect("subscribe");
    let id = stream.header("mesos-stream-id").expect("a stream id").to_owned();
    let mut events = stream.events(1 << 30);
    let client = Client::to(master);
    let mut framework = None;
    while let Ok(Some(event)) = events.next().await {
        let event = scheduler::Event::decode(&*event).expect("an event");
        if let Some(subscribed) = event.subscribed {
            framework = Some(subscribed.framework_id);
        }
        let Some(got) = event.offers else { continue };
        offers.fetch_add(got.offers.len(), Ordering::Relaxed);
        let decline = scheduler::Call {
            framework_id: framework.clone(),
            r#type: Some(scheduler::call::Type::Decline as i32),
            decline: Some(scheduler::call::Decline {
                offer_ids: got.offers.into_iter().map(|o| o.id).collect(),
                filters: Some(mesos::Filters { refuse_seconds: Some(0.0) }),
            }),
            ..scheduler::Call::default()
        };
        let call = Call::post("/api/v1/scheduler", PROTOBUF, decline.encode_to_vec())
            .header("mesos-stream-id", &id);
        let _ = client.call(call).await;
    }
}

#[tokio::main]
async fn main() {
    let (count, seconds) = (number("AGENTS", 10_000), number("SECONDS", 30));
    let master = Master::start().await;
    let idle = master.rss_mb();

    let start = Instant::now();
    let mut fleets = Vec::new();
    for n in (0..count).step_by(PER_PORT) {
        let size = PER_PORT.min(count - n);
        fleets.push(Fleet::start(master.address, size, Play::Run, false).await);
    }
    while fleets.iter().map(|f| f.registered()).sum::<usize>() < count {
        assert!(start.elapsed() < Duration::from_secs(300), "agents do not get registered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let registered = start.elapsed().as_secs_f64();

    let offers = Arc::new(AtomicUsize::new(0));
    for n in 0..FRAMEWORKS {
        tokio::spawn(decline_forever(master.address, n, offers.clone()));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = offers.load(Ordering::Relaxed);
    let client = Client::to(master.address);
    let (mut times, mut bytes) = (Vec::new(), 0);
    let reading = Instant::now();
    while reading.elapsed() < Duration::from_secs(seconds as u64) {
        let one = Instant::now();
        let reply = client.call(Call::get("/state")).await.expect("/state");
        times.push(one.elapsed().as_secs_f64() * 1000.0);
        bytes = reply.body.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let flow = (offers.load(Ordering::Relaxed) - before) as f64 / reading.elapsed().as_secs_f64();
    let metrics = client.call(Call::get("/metrics/snapshot")).await.expect("metrics").text();
    let metrics: serde_json::Value = serde_json::from_str(&metrics).expect("JSON");
    let cycle = |p: &str| {
        metrics[format!("allocator/mesos/allocation_run_ms/{p}")].as_f64().unwrap_or(f64::NAN)
    };
    let mut p = |share| quantile(&mut times, share);
    println!("{count} agents, {FRAMEWORKS} frameworks declining everything, {flow:.0} offers/s");
    println!("  registered in     {registered:>9.2} s");
    println!("  allocation cycle  {:>9.2} ms p50 {:>9.2} ms p99", cycle("p50"), cycle("p99"));
    println!(
        "  /state ({:.1} MB)  {:>9.2} ms p50 {:>9.2} ms p99",
        bytes as f64 / 1e6,
        p(0.5),
        p(0.99)
    );
    println!("  memory            {idle:>9.1} MB idle {:>7.1} MB loaded", master.rss_mb());
    figure("master.register_10k_s", registered);
    figure("master.allocation_p99_ms", cycle("p99"));
    figure("master.state_p99_ms", p(0.99));
    figure("master.offers_per_s", flow);
    drop(master);
}
