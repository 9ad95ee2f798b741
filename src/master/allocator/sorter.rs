//! Who is served next: clients ordered by dominant share, or at random.
//!
//! A sorter is a tree of names split at `/` (roles), or flat (frameworks of one
//! role). Every client is a leaf called `.` below the node of its name, so a
//! role competes with its own sub-roles as an equal. Ties go to who was served
//! less often, then to the smaller name. Owned by the allocator.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesos::resources::{Quantities, Resources};

use super::Rng;
use crate::master::ids::AgentId;

/// How clients are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SorterKind {
    /// Smallest dominant share first (`drf`).
    #[default]
    Drf,
    /// Random, weighted (`random`).
    Random,
}

/// A client of a sorter, until it is removed.
pub(super) type ClientId = u32;

const ROOT: u32 = 0;

/// The place of a child among its siblings: smaller is served earlier. The
/// share is never negative, so its bits order like the number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    share: u64,
    count: u64,
    path: Arc<str>,
    node: u32,
}

#[derive(Debug)]
struct Node {
    path: Arc<str>,
    parent: u32,
    /// Inner nodes and active leaves, by rank.
    ranked: BTreeSet<Rank>,
    /// All children.
    children: BTreeMap<Arc<str>, u32>,
    leaf: bool,
    active: bool,
    share: f64,
    /// How often something was given to it.
    count: u64,
    total: Quantities,
    /// Shared resources per agent: any number of copies counts once.
    shared: BTreeMap<AgentId, Resources>,
}

impl Node {
    fn new(path: Arc<str>, parent: u32, leaf: bool) -> Self {
        Node {
            path,
            parent,
            ranked: BTreeSet::new(),
            children: BTreeMap::new(),
            leaf,
            active: false,
            share: 0.0,
            count: 0,
            total: Quantities::new(),
            shared: BTreeMap::new(),
        }
    }

    fn rank(&self, node: u32) -> Rank {
        Rank { share: self.share.to_bits(), count: self.count, path: self.path.clone(), node }
    }

    fn add(&mut self, agent: &AgentId, resources: &Resources) {
        for item in resources {
            if item.is_shared() {
                let held = self.shared.entry(agent.clone()).or_default();
                if !held.contains_item(item) {
                    self.total.add_item(item);
                }
                held.add_item(item.clone());
            } else {
                self.total.add_item(item);
            }
        }
    }

    fn subtract(&mut self, agent: &AgentId, resources: &Resources) {
        for item in resources {
            let Some(amount) = item.as_scalar() else { continue };
            if item.is_shared() {
                let Some(held) = self.shared.get_mut(agent) else { continue };
                held.subtract_item(item);
                if held.contains_item(item) {
                    continue;
                }
                if held.is_empty() {
                    self.shared.remove(agent);
                }
            }
            self.total.subtract(item.name(), amount);
        }
    }
}

/// An ordered set of clients.
#[derive(Debug)]
pub(super) struct Sorter {
    kind: SorterKind,
    flat: bool,
    nodes: Vec<Node>,
    free: Vec<u32>,
    clients: HashMap<Arc<str>, ClientId>,
    weights: BTreeMap<String, f64>,
    excluded: Arc<BTreeSet<String>>,
    /// Of the whole cluster.
    total: Quantities,
    /// Shares and ranks must be computed anew.
    dirty: bool,
}

impl Sorter {
    /// `flat` takes `/` in names as any other character.
    pub fn new(kind: SorterKind, flat: bool, excluded: Arc<BTreeSet<String>>) -> Self {
        Sorter {
            kind,
            flat,
            nodes: vec![Node::new("".into(), ROOT, false)],
            free: Vec::new(),
            clients: HashMap::new(),
            weights: BTreeMap::new(),
            excluded,
            total: Quantities::new(),
            dirty: true,
        }
    }

    pub fn contains(&self, client: &str) -> bool {
        self.clients.contains_key(client)
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The name of a client.
    pub fn name(&self, client: ClientId) -> &Arc<str> {
        let leaf = &self.nodes[client as usize];
        if self.flat { &leaf.path } else { &self.nodes[leaf.parent as usize].path }
    }

    /// Adds an inactive client; one that is there stays as it is.
    pub fn add(&mut self, name: &str) {
        if self.contains(name) {
            return;
        }
        let mut parent = ROOT;
        if !self.flat {
            for (at, _) in name.match_indices('/').chain([(name.len(), "")]) {
                parent = self.child(parent, &name[..at], false);
            }
        }
        let leaf_path = if self.flat { name.to_owned() } else { format!("{name}/.") };
        let leaf = self.child(parent, &leaf_path, true);
        self.clients.insert(name.into(), leaf);
        self.dirty = true;
    }

    fn child(&mut self, parent: u32, path: &str, leaf: bool) -> u32 {
        if let Some(node) = self.nodes[parent as usize].children.get(path) {
            return *node;
        }
        let path: Arc<str> = path.into();
        let node = Node::new(path.clone(), parent, leaf);
        let at = if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            at
        } else {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 clients")
        };
        self.nodes[parent as usize].children.insert(path, at);
        at
    }

    /// Removes a client and what it was given.
    pub fn remove(&mut self, name: &str) {
        let Some(leaf) = self.clients.remove(name) else { return };
        let total = self.nodes[leaf as usize].total.clone();
        let mut at = leaf;
        while at != ROOT {
            let parent = self.nodes[at as usize].parent;
            if self.nodes[at as usize].children.is_empty() {
                let path = self.nodes[at as usize].path.clone();
                self.nodes[parent as usize].children.remove(&path);
                self.free.push(at);
            }
            self.nodes[parent as usize].total -= &total;
            at = parent;
        }
        self.dirty = true;
    }

    /// Lets a client take part, or not.
    pub fn set_active(&mut self, name: &str, active: bool) {
        if let Some(&leaf) = self.clients.get(name) {
            let node = &mut self.nodes[leaf as usize];
            self.dirty |= node.active != active;
            node.active = active;
        }
    }

    /// Sets the weights; names that are missing weigh 1.
    pub fn set_weights(&mut self, weights: &BTreeMap<String, f64>) {
        self.weights.clone_from(weights);
        self.dirty = true;
    }

    /// The cluster grew or shrank.
    pub fn change_total(&mut self, less: &Quantities, more: &Quantities) {
        if less != more {
            self.total -= less;
            self.total += more;
            self.dirty = true;
        }
    }

    /// Something was given to a client.
    pub fn allocated(&mut self, name: &str, agent: &AgentId, resources: &Resources) {
        let Some(&leaf) = self.clients.get(name) else { return };
        let mut at = leaf;
        loop {
            let rank = self.nodes[at as usize].rank(at);
            let node = &mut self.nodes[at as usize];
            node.add(agent, resources);
            node.count += 1;
            if at == ROOT {
                return;
            }
            let parent = node.parent;
            if !self.dirty {
                let share = self.share(at);
                let node = &mut self.nodes[at as usize];
                node.share = share;
                let (new, ranked) = (node.rank(at), node.active || !node.leaf);
                let siblings = &mut self.nodes[parent as usize].ranked;
                siblings.remove(&rank);
                if ranked {
                    siblings.insert(new);
                }
            }
            at = parent;
        }
    }

    /// Something came back from a client.
    pub fn unallocated(&mut self, name: &str, agent: &AgentId, resources: &Resources) {
        self.change(name, |node| node.subtract(agent, resources));
    }

    /// What a client holds became something else.
    pub fn updated(&mut self, name: &str, agent: &AgentId, from: &Resources, to: &Resources) {
        self.change(name, |node| {
            node.subtract(agent, from);
            node.add(agent, to);
        });
    }

    fn change(&mut self, name: &str, change: impl Fn(&mut Node)) {
        let Some(&leaf) = self.clients.get(name) else { return };
        let mut at = leaf;
        loop {
            change(&mut self.nodes[at as usize]);
            if at == ROOT {
                break;
            }
            at = self.nodes[at as usize].parent;
        }
        self.dirty = true;
    }

    /// The dominant share of a client, weight included.
    pub fn share_of(&self, name: &str) -> Option<f64> {
        let leaf = *self.clients.get(name)?;
        let at = if self.flat { leaf } else { self.nodes[leaf as usize].parent };
        Some(self.share(at))
    }

    fn share(&self, at: u32) -> f64 {
        let node = &self.nodes[at as usize];
        let mut share = 0.0_f64;
        for (name, total) in self.total.iter() {
            if total.millis() > 0 && !self.excluded.contains(name) {
                let own = node.total.get(name).millis();
                share = share.max(own as f64 / total.millis() as f64);
            }
        }
        share / self.weight(&node.path)
    }

    fn weight(&self, path: &str) -> f64 {
        if self.weights.is_empty() { 1.0 } else { self.weights.get(path).copied().unwrap_or(1.0) }
    }

    /// Active clients in the order in which they are to be served.
    pub fn order(&mut self, rng: &mut Rng, out: &mut Vec<ClientId>) {
        out.clear();
        if self.kind == SorterKind::Random {
            self.shuffled(rng, out);
            return;
        }
        if self.dirty {
            self.sort();
        }
        self.list(ROOT, out);
    }

    fn sort(&mut self) {
        let ids: Vec<u32> = self.nodes[ROOT as usize].children.values().copied().collect();
        self.nodes[ROOT as usize].ranked.clear();
        let mut stack: Vec<u32> = ids;
        while let Some(at) = stack.pop() {
            let share = self.share(at);
            let node = &mut self.nodes[at as usize];
            node.share = share;
            node.ranked.clear();
            stack.extend(node.children.values());
            let (rank, parent) = (node.rank(at), node.parent);
            if node.active || !node.leaf {
                self.nodes[parent as usize].ranked.insert(rank);
            }
        }
        self.dirty = false;
    }

    fn list(&self, at: u32, out: &mut Vec<ClientId>) {
        for rank in &self.nodes[at as usize].ranked {
            if self.nodes[rank.node as usize].leaf {
                out.push(rank.node);
            } else {
                self.list(rank.node, out);
            }
        }
    }

    /// Weighted shuffle: a client's chance is the product, along its path, of
    /// its part of the weights of all siblings that have active clients.
    fn shuffled(&self, rng: &mut Rng, out: &mut Vec<ClientId>) {
        let mut drawn: Vec<(f64, ClientId)> = Vec::new();
        self.draw(ROOT, 1.0, rng, &mut drawn);
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        out.extend(drawn.into_iter().map(|(_, client)| client));
    }

    fn draw(&self, at: u32, chance: f64, rng: &mut Rng, drawn: &mut Vec<(f64, ClientId)>) {
        let node = &self.nodes[at as usize];
        if node.leaf {
            // The smallest of exponential variables falls to each in proportion to its rate.
            let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            drawn.push((-(1.0 - uniform).ln() / chance, at));
            return;
        }
        let active: Vec<(u32, f64)> = node
            .children
            .values()
            .filter(|c| self.has_active(**c))
            .map(|c| (*c, self.weight(&self.nodes[*c as usize].path)))
            .collect();
        let sum: f64 = active.iter().map(|(_, weight)| weight).sum();
        for (child, weight) in active {
            self.draw(child, chance * weight / sum, rng, drawn);
        }
    }

    fn has_active(&self, at: u32) -> bool {
        let node = &self.nodes[at as usize];
        if node.leaf { node.active } else { node.children.values().any(|c| self.has_active(*c)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantities {
        Quantities::parse(text).unwrap()
    }

    fn res(text: &str) -> Resources {
        Resources::parse(text, "*").unwrap()
    }

    fn order(sorter: &mut Sorter) -> Vec<String> {
        let mut out = Vec::new();
        sorter.order(&mut Rng::new(1), &mut out);
        out.iter().map(|c| sorter.name(*c).to_string()).collect()
    }

    fn sorter(names: &[&str]) -> Sorter {
        let mut s = Sorter::new(SorterKind::Drf, false, Arc::default());
        s.change_total(&Quantities::new(), &q("cpus:100;mem:1000"));
        for name in names {
            s.add(name);
            s.set_active(name, true);
        }
        s
    }

    #[test]
    fn dominant_share_then_count_then_name() {
        let mut s = sorter(&["b", "a", "c"]);
        let agent = AgentId::from("S0");
        assert_eq!(order(&mut s), ["a", "b", "c"]);
        s.allocated("a", &agent, &res("cpus:10;mem:10"));
        s.allocated("b", &agent, &res("cpus:5;mem:60"));
        assert_eq!(order(&mut s), ["c", "b", "a"]);
        s.set_weights(&[("a".to_owned(), 2.0)].into());
        assert_eq!(order(&mut s), ["c", "a", "b"]);
        s.unallocated("a", &agent, &res("cpus:10;mem:10"));
        // No share, but it was served before.
        assert_eq!(order(&mut s), ["c", "a", "b"]);
        s.set_active("c", false);
        assert_eq!(order(&mut s), ["a", "b"]);
    }

    #[test]
    fn roles_compete_level_by_level() {
        let mut s = sorter(&["a", "a/x", "a/y", "b"]);
        let agent = AgentId::from("S0");
        s.allocated("a/x", &agent, &res("cpus:30"));
        s.allocated("b", &agent, &res("cpus:20"));
        assert_eq!(order(&mut s), ["b", "a", "a/y", "a/x"]);
        s.allocated("b", &agent, &res("cpus:20"));
        s.allocated("a", &agent, &res("cpus:5"));
        assert_eq!(order(&mut s), ["a/y", "a", "a/x", "b"]);
        s.remove("a/x");
        assert_eq!(order(&mut s), ["a/y", "a", "b"]);
        assert_eq!(s.share_of("a"), Some(0.05));
        s.remove("a/y");
        s.remove("a");
        s.add("a/x");
        s.set_active("a/x", true);
        assert_eq!(order(&mut s), ["a/x", "b"]);
    }

    #[test]
    fn shared_copies_count_once() {
        let volume: mesos::Resource = mesos::json::from_json(
            br#"{"name":"disk","type":"SCALAR","scalar":{"value":10},"shared":{},
                "reservations":[{"type":"DYNAMIC","role":"a"}],
                "disk":{"persistence":{"id":"v"},"volume":{"container_path":"d","mode":"RW"}}}"#,
        )
        .unwrap();
        let volume = Resources::from_valid(&[volume]);
        let mut s = sorter(&["a"]);
        s.change_total(&Quantities::new(), &q("disk:100"));
        let agent = AgentId::from("S0");
        s.allocated("a", &agent, &volume);
        s.allocated("a", &agent, &volume);
        assert_eq!(s.share_of("a"), Some(0.1));
        s.unallocated("a", &agent, &volume);
        assert_eq!(s.share_of("a"), Some(0.1));
        s.unallocated("a", &agent, &volume);
        assert_eq!(s.share_of("a"), Some(0.0));
    }

    #[test]
    fn random_follows_weights() {
        let mut s = Sorter::new(SorterKind::Random, false, Arc::default());
        for name in ["a", "b", "c/x", "c/y"] {
            s.add(name);
            s.set_active(name, true);
        }
        s.set_weights(&[("a".to_owned(), 3.0)].into());
        let (mut rng, mut out, mut firsts) = (Rng::new(7), Vec::new(), BTreeMap::new());
        for _ in 0..10_000 {
            s.order(&mut rng, &mut out);
            assert_eq!(out.len(), 4);
            *firsts.entry(s.name(out[0]).to_string()).or_insert(0_i32) += 1;
        }
        // 3/5, 1/5, and 1/10 for each half of c.
        for (name, want) in [("a", 6000), ("b", 2000), ("c/x", 1000), ("c/y", 1000)] {
            assert!((firsts[name] - want).abs() < 300, "{firsts:?}");
        }
    }
}
