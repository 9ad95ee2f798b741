//! How long an allocation cycle takes: `cargo bench --bench allocator [AGENTS]`.
//!
//! Prints one JSON object per figure. Three situations: all agents free and
//! hungry frameworks; everything declined without a filter, so that every cycle
//! offers all of it again; and every framework refusing everything, so that all
//! of them are asked about all agents in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::master::allocator::{
    AgentOptions, Allocation, Allocator, FrameworkOptions, Options, Rng, Scope,
};
use bulkhead::master::ids::{AgentId, FrameworkId};
use mesos::framework_info::{Capability, capability};
use mesos::resources::Resources;

const FRAMEWORKS: usize = 5;
const CYCLES: u64 = 50;

fn main() {
    let agents = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(10_000);
    let mut rng = Rng::new(1);
    let mut allocator = cluster(agents);

    let started = Instant::now();
    let first = allocator.allocate(Duration::ZERO, Scope::All, &mut rng);
    print("allocator.first_cycle_ms", millis(started.elapsed()));
    assert_eq!(first.len(), agents);

    let mut offered = first;
    let mut declined = Vec::new();
    for cycle in 1..=CYCLES {
        give_back(&mut allocator, cycle, &offered, None);
        let started = Instant::now();
        offered = allocator.allocate(Duration::from_secs(cycle), Scope::All, &mut rng);
        declined.push(started.elapsed());
        assert_eq!(offered.len(), agents);
    }
    print("allocator.declined_p50_ms", percentile(&mut declined, 50));
    print("allocator.declined_p99_ms", percentile(&mut declined, 99));

    // Let every framework refuse every agent, then ask in vain.
    for _ in 0..FRAMEWORKS * 2 {
        give_back(&mut allocator, CYCLES, &offered, Some(Duration::from_secs(86_400)));
        offered = allocator.allocate(Duration::from_secs(CYCLES), Scope::All, &mut rng);
    }
    give_back(&mut allocator, CYCLES, &offered, Some(Duration::from_secs(86_400)));
    let mut refused = Vec::new();
    for cycle in CYCLES..2 * CYCLES {
        let started = Instant::now();
        allocator.allocate(Duration::from_secs(cycle), Scope::All, &mut rng);
        refused.push(started.elapsed());
    }
    print("allocator.refused_p50_ms", percentile(&mut refused, 50));
    print("allocator.refused_p99_ms", percentile(&mut refused, 99));
}

fn cluster(agents: usize) -> Allocator {
    let mut allocator = Allocator::new(Options {
        interval: Duration::from_secs(1),
        min_allocatable: vec![BTreeMap::from([("cpus".to_owned(), 0.01)])],
        filter_gpu: true,
        ..Options::default()
    });
    for i in 0..FRAMEWORKS {
        let info = mesos::FrameworkInfo {
            roles: vec![format!("role{}", i % 3)],
            capabilities: vec![Capability { r#type: Some(capability::Type::MultiRole.into()) }],
            ..Default::default()
        };
        let options = FrameworkOptions {
            info: Arc::new(info),
            suppressed: BTreeSet::new(),
            constraints: None,
        };
        allocator.add_framework(&FrameworkId::from(&*format!("F{i}")), options, true);
    }
    let total = Resources::parse("cpus:24;mem:24576;disk:409600;ports:[31000-32000]", "*")
        .expect("the text is well formed");
    let started = Instant::now();
    for i in 0..agents {
        let info = Arc::new(mesos::SlaveInfo::default());
        let options = AgentOptions { info, total: total.clone() };
        allocator.add_agent(&AgentId::from(&*format!("S{i}")), options, &BTreeMap::new());
    }
    print("allocator.add_agents_ms", millis(started.elapsed()));
    allocator
}

fn give_back(
    allocator: &mut Allocator,
    now: u64,
    offered: &[Allocation],
    refuse: Option<Duration>,
) {
    for a in offered {
        allocator.recover(Duration::from_secs(now), &a.framework, &a.agent, &a.resources, refuse);
    }
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    millis(times[(times.len() * percent / 100).min(times.len() - 1)])
}

fn print(name: &str, value: f64) {
    println!("{{\"name\": \"{name}\", \"value\": {value:.2}}}");
}
