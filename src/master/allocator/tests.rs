//! Rules in rows, then conservation and fairness against a naive oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesos::framework_info::Capability;
use mesos::framework_info::capability::Type;
use proptest::prelude::*;

use super::{
    AgentId, AgentOptions, Allocator, FrameworkId, FrameworkOptions, Options, Quota, Resources,
    Rng, Scalar, Scope,
};
use mesos::resources::Quantities;

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn res(text: &str) -> Resources {
    Resources::parse(text, "*").unwrap()
}

fn of(text: &str, role: &str) -> Resources {
    res(text).allocated(&Arc::from(role))
}

fn framework(roles: &[&str], capabilities: &[Type]) -> FrameworkOptions {
    let capabilities = [Type::MultiRole, Type::ReservationRefinement].iter().chain(capabilities);
    FrameworkOptions {
        info: Arc::new(mesos::FrameworkInfo {
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            capabilities: capabilities.map(|c| Capability { r#type: Some((*c).into()) }).collect(),
            ..Default::default()
        }),
        suppressed: BTreeSet::new(),
        constraints: None,
    }
}

fn agent(total: Resources, attributes: &str) -> AgentOptions {
    AgentOptions {
        info: Arc::new(mesos::SlaveInfo {
            hostname: "h".into(),
            attributes: mesos::attributes::parse(attributes).unwrap(),
            ..Default::default()
        }),
        total,
    }
}

struct World {
    allocator: Allocator,
    rng: Rng,
}

impl World {
    fn new() -> Self {
        let min_allocatable = vec![
            BTreeMap::from([("cpus".to_owned(), 0.01)]),
            BTreeMap::from([("mem".to_owned(), 32.0)]),
        ];
        let options =
            Options { interval: at(1), min_allocatable, filter_gpu: true, ..Options::default() };
        World { allocator: Allocator::new(options), rng: Rng::new(42) }
    }

    fn framework(&mut self, id: &str, options: FrameworkOptions) -> FrameworkId {
        let id = FrameworkId::from(id);
        self.allocator.add_framework(&id, options, true);
        id
    }

    fn agent(&mut self, id: &str, text: &str) -> AgentId {
        let id = AgentId::from(id);
        self.allocator.add_agent(&id, agent(res(text), ""), &BTreeMap::new());
        id
    }

    /// One cycle as `framework role agent: resources` lines, sorted.
    fn cycle(&mut self, now: u64) -> Vec<String> {
        let given = self.allocator.allocate(at(now), Scope::All, &mut self.rng);
        let mut lines: Vec<String> = given
            .iter()
            .map(|a| {
                let plain = a.resources.clone().unallocated();
                format!("{} {} {}: {plain}", a.framework, a.role, a.agent)
            })
            .collect();
        lines.sort();
        lines
    }
}

#[test]
fn an_agent_goes_whole_to_one_framework() {
    let mut w = World::new();
    w.framework("F1", framework(&["web"], &[]));
    let s = w.agent("S1", "cpus:4;mem:100;ports:[1-10]");
    assert_eq!(w.cycle(0), ["F1 web S1: ports:[1-10]; cpus:4; mem:100"]);
    assert_eq!(w.cycle(1), Vec::<String>::new());
    assert_eq!(w.allocator.allocated(&s), of("cpus:4;mem:100;ports:[1-10]", "web"));
    w.allocator.recover(at(1), &"F1".into(), &s, &of("cpus:3;mem:60", "web"), None);
    assert_eq!(w.cycle(2), ["F1 web S1: cpus:3; mem:60"]);
}

#[test]
fn shares_decide_between_roles_and_frameworks() {
    let mut w = World::new();
    w.framework("F1", framework(&["a"], &[]));
    w.framework("F2", framework(&["b"], &[]));
    w.framework("F3", framework(&["b"], &[]));
    for i in 0..40 {
        w.agent(&format!("S{i:02}"), "cpus:1;mem:100");
    }
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    for line in w.cycle(0) {
        *held.entry(line[..2].to_owned()).or_default() += 1;
    }
    assert_eq!(held, [("F1".into(), 20), ("F2".into(), 10), ("F3".into(), 10)].into());
    let shares = w.allocator.dominant_shares();
    assert_eq!(shares, [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)]);
}

#[test]
fn weights_shift_shares() {
    let mut w = World::new();
    w.allocator.set_weights(&[("a".to_owned(), 3.0)].into());
    w.framework("F1", framework(&["a"], &[]));
    w.framework("F2", framework(&["b"], &[]));
    for i in 0..40 {
        w.agent(&format!("S{i:02}"), "cpus:1;mem:100");
    }
    let cycle = w.cycle(0);
    assert_eq!(cycle.iter().filter(|l| l.starts_with("F1")).count(), 30);
}

#[test]
fn refusals_hold_back_what_is_contained() {
    let mut w = World::new();
    let f = w.framework("F1", framework(&["web"], &[]));
    let s = w.agent("S1", "cpus:4;mem:100");
    w.cycle(0);
    // Use half, refuse the rest.
    w.allocator.recover(at(0), &f, &s, &of("cpus:2;mem:50", "web"), Some(at(10)));
    assert_eq!(w.cycle(5), Vec::<String>::new());
    assert_eq!(w.allocator.active_filters(), [("web".to_owned(), 1)].into());
    assert_eq!(w.allocator.next_expiry(), Some(at(10)));
    // More than what was refused passes.
    w.allocator.recover(at(5), &f, &s, &of("cpus:1", "web"), None);
    assert_eq!(w.cycle(6), ["F1 web S1: cpus:3; mem:50"]);
    w.allocator.recover(at(6), &f, &s, &of("cpus:3;mem:50", "web"), Some(at(10)));
    assert_eq!(w.cycle(15), Vec::<String>::new());
    assert_eq!(w.cycle(16).len(), 1);
    assert_eq!(w.allocator.next_expiry(), None);
    // Shorter refusals last one interval; reviving ends them.
    w.allocator.recover(at(20), &f, &s, &of("cpus:1", "web"), Some(Duration::from_millis(1)));
    assert_eq!(w.allocator.next_expiry(), Some(at(21)));
    w.allocator.revive(&f, &[]);
    assert_eq!(w.cycle(20).len(), 1);
}

#[test]
fn suppressing_deactivating_and_coming_back() {
    let mut w = World::new();
    let f = w.framework("F1", framework(&["a", "b"], &[]));
    w.agent("S1", "cpus:4");
    w.allocator.suppress(&f, &["a".into()]);
    let given = w.cycle(0);
    assert_eq!(given, ["F1 b S1: cpus:4"]);
    let s = AgentId::from("S1");
    w.allocator.recover(at(0), &f, &s, &of("cpus:4", "b"), None);
    w.allocator.suppress(&f, &[]);
    assert!(w.cycle(1).is_empty());
    w.allocator.revive(&f, &["a".into()]);
    assert_eq!(w.cycle(2), ["F1 a S1: cpus:4"]);
    w.allocator.recover(at(2), &f, &s, &of("cpus:4", "a"), None);
    w.allocator.deactivate_framework(&f);
    assert!(w.cycle(3).is_empty());
    w.allocator.activate_framework(&f);
    assert_eq!(w.cycle(4).len(), 1);
    w.allocator.remove_framework(&f);
    assert!(w.allocator.allocated(&s).is_empty());
    assert_eq!(w.allocator.available(&s), res("cpus:4"));
    assert!(w.allocator.dominant_shares().is_empty());
}

#[test]
fn reservations_go_to_the_role_and_below() {
    let mut w = World::new();
    w.framework("F1", framework(&["eng/web"], &[]));
    w.agent("S1", "cpus(eng):1;cpus(ops):2;cpus(eng/web):4;cpus(eng/web/x):8");
    assert_eq!(
        w.cycle(0),
        ["F1 eng/web S1: cpus(reservations: [(STATIC,eng)]):1; \
          cpus(reservations: [(STATIC,eng/web)]):4"]
    );
}

#[test]
fn capabilities_decide_what_is_seen() {
    let mut w = World::new();
    let f = w.framework("F1", framework(&["web"], &[]));
    let s = w.agent("S1", "cpus:1;gpus:1");
    assert!(w.cycle(0).is_empty());
    w.allocator.update_framework(&f, framework(&["web"], &[Type::GpuResources]));
    assert_eq!(w.cycle(0), ["F1 web S1: cpus:1; gpus:1"]);
    w.allocator.remove_agent(&s);

    let revocable: mesos::Resource = mesos::json::from_json(
        br#"{"name":"cpus","type":"SCALAR","scalar":{"value":2},"revocable":{}}"#,
    )
    .unwrap();
    let mut total = res("cpus:1");
    total += &Resources::from_valid(&[revocable]);
    w.allocator.add_agent(&s, agent(total, ""), &BTreeMap::new());
    assert_eq!(w.cycle(1), ["F1 web S1: cpus:1"]);
    w.allocator.update_framework(&f, framework(&["web"], &[Type::RevocableResources]));
    assert_eq!(w.cycle(2), ["F1 web S1: cpus{REV}:2"]);
}

#[test]
fn thresholds_constraints_whitelist_and_inactive_agents() {
    let mut w = World::new();
    let f = w.framework("F1", framework(&["web"], &[]));
    let s = w.agent("S1", "cpus:0.005;mem:31;ports:[1-2]");
    assert!(w.cycle(0).is_empty());
    let mut options = framework(&["web"], &[]);
    let mut info = (*options.info).clone();
    let empty = mesos::OfferFilters { min_allocatable_resources: Some(Default::default()) };
    info.offer_filters.insert("web".into(), empty);
    options.info = Arc::new(info);
    options.constraints = Some(Arc::new(
        mesos::json::from_json(
            br#"{"role_constraints":{"web":{"groups":[{"attribute_constraints":[{"selector":
                {"attribute_name":"rack"},"predicate":{"exists":{}}}]}]}}}"#,
        )
        .unwrap(),
    ));
    w.allocator.update_framework(&f, options.clone());
    assert!(w.cycle(1).is_empty());
    assert!(w.allocator.update_agent(&s, agent(res("mem:31"), "rack:r1")));
    w.allocator.set_whitelist(Some(BTreeSet::from(["other".to_owned()])));
    assert!(w.cycle(2).is_empty());
    w.allocator.set_whitelist(None);
    w.allocator.deactivate_agent(&s);
    assert!(w.cycle(3).is_empty());
    w.allocator.activate_agent(&s);
    assert_eq!(w.cycle(4), ["F1 web S1: mem:31"]);
    assert!(!w.allocator.update_agent(&s, agent(res("mem:31"), "rack:r1")));
}

#[test]
fn agents_come_back_with_what_is_used() {
    let mut w = World::new();
    let s = AgentId::from("S1");
    let used = BTreeMap::from([(FrameworkId::from("F1"), of("cpus:3", "old"))]);
    w.allocator.add_agent(&s, agent(res("cpus:4"), ""), &used);
    // The framework comes later, without that role, and is charged for it.
    let f = FrameworkId::from("F1");
    w.allocator.add_framework(&f, framework(&["new"], &[]), true);
    assert_eq!(w.allocator.dominant_shares()[1], ("old".to_owned(), 0.75));
    assert_eq!(w.cycle(0), ["F1 new S1: cpus:1"]);
    w.allocator.recover(at(0), &f, &s, &of("cpus:3", "old"), None);
    assert_eq!(w.allocator.dominant_shares(), [("new".to_owned(), 0.25)]);
}

#[test]
fn operations_change_the_total() {
    let mut w = World::new();
    let f = w.framework("F1", framework(&["web"], &[]));
    let s = w.agent("S1", "cpus:4");
    w.cycle(0);
    let to = res("cpus:3;cpus(web):1").allocated(&Arc::from("web"));
    w.allocator.update_allocation(&f, &s, &of("cpus:4", "web"), &to);
    w.allocator.recover(at(0), &f, &s, &to, None);
    assert_eq!(w.allocator.available(&s), res("cpus:3;cpus(web):1"));
    w.framework("F2", framework(&["ops"], &[]));
    w.allocator.remove_framework(&f);
    assert_eq!(w.cycle(1), ["F2 ops S1: cpus:3"]);
}

#[test]
fn quota_limits_and_guarantees() {
    let mut w = World::new();
    let quota = |guarantees: &str, limit: Option<i64>| Quota {
        guarantees: Quantities::parse(guarantees).unwrap(),
        limits: limit.map(|l| ("cpus".to_owned(), Scalar::from_millis(l))).into_iter().collect(),
    };
    w.allocator.set_quotas([("a".to_owned(), quota("cpus:2", Some(3000)))].into());
    w.framework("FB", framework(&["b"], &[]));
    for i in 0..4 {
        w.agent(&format!("S{i}"), "cpus:2");
    }
    // Two cpus stay free for role a, which has no framework yet.
    let given: f64 = w
        .allocator
        .allocate(at(0), Scope::All, &mut w.rng)
        .iter()
        .filter_map(|a| a.resources.cpus())
        .sum();
    assert_eq!(given, 6.0);
    w.framework("FA", framework(&["a"], &[]));
    let lines = w.cycle(1);
    assert!(lines.len() == 1 && lines[0].starts_with("FA a"), "{lines:?}");
    assert!(lines[0].ends_with("cpus:2"), "{lines:?}");
    // Two more cpus come back: one of them fits under the limit of role a.
    let agents: Vec<AgentId> = (0..4).map(|i| AgentId::from(&*format!("S{i}"))).collect();
    let held = agents.iter().find(|s| w.allocator.allocated(s) == of("cpus:2", "b")).unwrap();
    w.allocator.recover(at(1), &"FB".into(), held, &of("cpus:2", "b"), Some(at(60)));
    assert_eq!(w.cycle(2), [format!("FA a {held}: cpus:1")]);
}

#[test]
fn scope_limits_the_agents() {
    let mut w = World::new();
    w.framework("F1", framework(&["web"], &[]));
    w.agent("S1", "cpus:1");
    let s2 = w.agent("S2", "cpus:1");
    let scope = Scope::Agents(BTreeSet::from([s2.clone(), "unknown".into()]));
    let given = w.allocator.allocate(at(0), scope, &mut w.rng);
    assert_eq!(given.iter().map(|a| &a.agent).collect::<Vec<_>>(), [&s2]);
}

/// What may happen to an allocator.
#[derive(Debug, Clone)]
enum Step {
    AddFramework(u8, u8),
    RemoveFramework(u8),
    AddAgent(u8, u32),
    RemoveAgent(u8),
    Cycle,
    /// Part of what is held comes back, refused or not.
    Recover(u8, u8, bool),
    Suppress(u8),
    Revive(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let small = || 0u8..5;
    prop_oneof![
        (small(), 0u8..3).prop_map(|(f, r)| Step::AddFramework(f, r)),
        small().prop_map(Step::RemoveFramework),
        (small(), 1u32..9).prop_map(|(a, c)| Step::AddAgent(a, c)),
        small().prop_map(Step::RemoveAgent),
        Just(Step::Cycle),
        Just(Step::Cycle),
        (small(), small(), any::<bool>()).prop_map(|(f, a, r)| Step::Recover(f, a, r)),
        small().prop_map(Step::Suppress),
        small().prop_map(Step::Revive),
    ]
}

/// The books, kept naively: who holds what where, and what each agent has.
#[derive(Default)]
struct Oracle {
    totals: BTreeMap<AgentId, Resources>,
    held: BTreeMap<(FrameworkId, AgentId), Resources>,
    roles: BTreeMap<FrameworkId, &'static str>,
}

impl Oracle {
    fn check(&self, allocator: &Allocator) {
        for (agent, total) in &self.totals {
            let mut held = Resources::new();
            for ((_, at), r) in &self.held {
                if at == agent {
                    held += r;
                }
            }
            assert_eq!(allocator.allocated(agent), held);
            let mut sum = allocator.available(agent);
            sum += held.unallocated();
            assert_eq!(&sum, total, "nothing is lost or made on {agent}");
        }
        let cluster: f64 = self.totals.values().filter_map(Resources::cpus).sum();
        for (role, share) in allocator.dominant_shares() {
            let cpus: f64 = self
                .held
                .iter()
                .filter(|((f, _), _)| self.roles.get(f).is_some_and(|r| *r == role))
                .filter_map(|(_, r)| r.cpus())
                .sum();
            let want = if cluster > 0.0 { cpus / cluster } else { 0.0 };
            assert!((share - want).abs() < 1e-9, "{role}: {share} is not {want}");
        }
    }
}

const ROLES: [&str; 3] = ["a", "b", "c"];

fn run(steps: Vec<Step>) {
    let mut w = World::new();
    let mut oracle = Oracle::default();
    let f = |n: u8| FrameworkId::from(&*format!("F{n}"));
    let s = |n: u8| AgentId::from(&*format!("S{n}"));
    for (now, step) in steps.into_iter().enumerate() {
        let now = at(now as u64);
        match step {
            Step::AddFramework(n, role) if !oracle.roles.contains_key(&f(n)) => {
                let role = ROLES[usize::from(role)];
                w.framework(f(n).as_str(), framework(&[role], &[]));
                oracle.roles.insert(f(n), role);
            }
            Step::AddFramework(..) => {}
            Step::RemoveFramework(n) => {
                w.allocator.remove_framework(&f(n));
                oracle.held.retain(|(own, _), _| *own != f(n));
                oracle.roles.remove(&f(n));
            }
            Step::AddAgent(n, cpus) => {
                oracle.totals.entry(s(n)).or_insert_with(|| {
                    let total = res(&format!("cpus:{cpus};ports:[1-{cpus}]"));
                    w.allocator.add_agent(&s(n), agent(total.clone(), ""), &BTreeMap::new());
                    total
                });
            }
            Step::RemoveAgent(n) => {
                w.allocator.remove_agent(&s(n));
                oracle.totals.remove(&s(n));
                oracle.held.retain(|(_, at), _| *at != s(n));
            }
            Step::Cycle => {
                for a in w.allocator.allocate(now, Scope::All, &mut w.rng) {
                    assert_eq!(oracle.roles[&a.framework], a.role);
                    *oracle.held.entry((a.framework, a.agent)).or_default() += a.resources;
                }
            }
            Step::Recover(n, at, refuse) => {
                let Some(held) = oracle.held.remove(&(f(n), s(at))) else { continue };
                let part: Resources = held.iter().take(1).cloned().collect();
                let rest = &held - &part;
                let refuse = refuse.then(|| Duration::from_secs(3));
                w.allocator.recover(now, &f(n), &s(at), &part, refuse);
                if !rest.is_empty() {
                    oracle.held.insert((f(n), s(at)), rest);
                }
            }
            Step::Suppress(n) => w.allocator.suppress(&f(n), &[]),
            Step::Revive(n) => w.allocator.revive(&f(n), &[]),
        }
        oracle.check(&w.allocator);
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_made(steps in proptest::collection::vec(step(), 0..40)) {
        run(steps);
    }

    /// With equal agents and everybody hungry, nobody is more than one agent
    /// ahead: the naive oracle serves the poorest role, then framework, each time.
    #[test]
    fn equal_agents_are_shared_fairly(
        agents in 1usize..60,
        frameworks in proptest::collection::vec(0usize..3, 1..8),
        seed in any::<u64>(),
    ) {
        let mut w = World::new();
        w.rng = Rng::new(seed);
        for (i, role) in frameworks.iter().enumerate() {
            w.framework(&format!("F{i}"), framework(&[ROLES[*role]], &[]));
        }
        for i in 0..agents {
            w.agent(&format!("S{i}"), "cpus:1;mem:64");
        }
        let mut got = vec![0usize; frameworks.len()];
        for a in w.allocator.allocate(at(0), Scope::All, &mut w.rng) {
            got[a.framework.as_str()[1..].parse::<usize>().unwrap()] += 1;
        }
        let mut want = vec![0usize; frameworks.len()];
        for _ in 0..agents {
            let of_role = |r: usize, want: &[usize]| -> usize {
                (0..want.len()).filter(|i| frameworks[*i] == r).map(|i| want[i]).sum()
            };
            let role = (0..3).filter(|r| frameworks.contains(r)).min_by_key(|r| of_role(*r, &want)).unwrap();
            let next = (0..want.len()).filter(|i| frameworks[*i] == role).min_by_key(|i| want[*i]).unwrap();
            want[next] += 1;
        }
        prop_assert_eq!(got, want);
    }
}
