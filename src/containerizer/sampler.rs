//! Statistics of all containers: one pass for all, one sample for all readers.
//!
//! Owns the probes of every running container. A task of its own holds them; a
//! pass runs on a blocking thread and walks source by source (all `memory.stat`,
//! then all `cpuacct.stat`, ...), which is measurably cheaper than container by
//! container. With many containers the pass is split over a few threads, each with
//! its share of the containers. A sample is served to every reader until it is too
//! old. Files are opened at the first pass and closed again when nobody has asked for
//! a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use isolators::api::Probe;
use mesos::{ContainerId, ResourceStatistics};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::containerizer::Sample;

/// Descriptors are closed when nobody has asked for this long.
const RELEASE_AFTER: Duration = Duration::from_secs(60);
/// Threads that share a pass, at most.
const THREADS: usize = 4;
/// Below this number of containers one thread is done sooner than two are started.
const WORTH_THREADS: usize = 128;

enum Message {
    Add { slot: u64, id: ContainerId, allotted: ResourceStatistics, probes: Vec<Box<dyn Probe>> },
    Allot { slot: u64, allotted: ResourceStatistics },
    Remove { slot: u64 },
    Sample { reply: oneshot::Sender<Sample> },
}

/// The door to the sampler's task; it ends when all doors are closed.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    // At most a few messages per container are on the way: bounded by those.
    messages: mpsc::UnboundedSender<Message>,
}

impl Sampler {
    /// Starts the task. `age`: how long a sample is served.
    pub(super) fn start(age: Duration) -> Sampler {
        let (messages, inbox) = mpsc::unbounded_channel();
        tokio::spawn(run(inbox, age));
        Sampler { messages }
    }

    /// A container runs; `slot` names it from now on.
    pub(super) fn add(
        &self,
        slot: u64,
        id: ContainerId,
        allotted: ResourceStatistics,
        probes: Vec<Box<dyn Probe>>,
    ) {
        let _ = self.messages.send(Message::Add { slot, id, allotted, probes });
    }

    /// Its requests or limits have changed.
    pub(super) fn allot(&self, slot: u64, allotted: ResourceStatistics) {
        let _ = self.messages.send(Message::Allot { slot, allotted });
    }

    /// It ends: its files are about to go.
    pub(super) fn remove(&self, slot: u64) {
        let _ = self.messages.send(Message::Remove { slot });
    }

    /// The newest sample, taken now if there is none that is young enough.
    pub(super) async fn sample(&self) -> Sample {
        let (reply, answer) = oneshot::channel();
        let _ = self.messages.send(Message::Sample { reply });
        answer.await.unwrap_or_default()
    }
}

/// All containers, dealt out to shards that threads can walk side by side.
struct State {
    shards: Vec<Shard>,
}

/// Its part of the containers.
#[derive(Default)]
struct Shard {
    members: BTreeMap<u64, Member>,
    /// Probes by source, then by slot.
    sources: BTreeMap<&'static str, BTreeMap<u64, Box<dyn Probe>>>,
    buffer: Vec<u8>,
}

struct Member {
    id: ContainerId,
    allotted: ResourceStatistics,
}

impl State {
    fn new(shards: usize) -> State {
        State { shards: std::iter::repeat_with(Shard::default).take(shards.max(1)).collect() }
    }

    fn apply(&mut self, message: Message) -> Option<oneshot::Sender<Sample>> {
        match message {
            Message::Add { slot, id, allotted, probes } => {
                let shard = self.shard(slot);
                shard.members.insert(slot, Member { id, allotted });
                for probe in probes {
                    shard.sources.entry(probe.source()).or_default().insert(slot, probe);
                }
            }
            Message::Allot { slot, allotted } => {
                if let Some(member) = self.shard(slot).members.get_mut(&slot) {
                    member.allotted = allotted;
                }
            }
            Message::Remove { slot } => {
                let shard = self.shard(slot);
                shard.members.remove(&slot);
                for probes in shard.sources.values_mut() {
                    probes.remove(&slot);
                }
            }
            Message::Sample { reply } => return Some(reply),
        }
        None
    }

    fn shard(&mut self, slot: u64) -> &mut Shard {
        let shards = self.shards.len() as u64;
        &mut self.shards[usize::try_from(slot % shards).unwrap_or_default()]
    }

    /// Reads everything of every container; in the order of slots.
    fn pass(&mut self) -> Sample {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let members: usize = self.shards.iter().map(|shard| shard.members.len()).sum();
        let mut parts = Vec::with_capacity(members);
        if members < WORTH_THREADS {
            parts.extend(self.shards.iter_mut().flat_map(|shard| shard.pass(now)));
        } else {
            std::thread::scope(|scope| {
                let (first, rest) = self.shards.split_first_mut().expect("there is one at least");
                let others: Vec<_> =
                    rest.iter_mut().map(|shard| scope.spawn(move || shard.pass(now))).collect();
                parts.extend(first.pass(now));
                // A probe that panics takes its share of the sample along, nothing more.
                parts.extend(others.into_iter().filter_map(|o| o.join().ok()).flatten());
            });
        }
        parts.sort_unstable_by_key(|(slot, _)| *slot);
        Arc::new(parts.into_iter().map(|(_, entry)| entry).collect())
    }

    fn release(&mut self) {
        for shard in &mut self.shards {
            let probes = shard.sources.values_mut().flat_map(BTreeMap::values_mut);
            probes.for_each(|probe| probe.release());
            shard.buffer = Vec::new();
        }
    }
}

impl Shard {
    fn pass(&mut self, now: f64) -> Vec<(u64, (ContainerId, ResourceStatistics))> {
        let mut order: HashMap<u64, usize> = HashMap::with_capacity(self.members.len());
        let mut sample = Vec::with_capacity(self.members.len());
        for (slot, member) in &self.members {
            order.insert(*slot, sample.len());
            let statistics = ResourceStatistics { timestamp: now, ..member.allotted.clone() };
            sample.push((*slot, (member.id.clone(), statistics)));
        }
        for probes in self.sources.values_mut() {
            for (slot, probe) in probes {
                let at = order.get(slot).and_then(|i| sample.get_mut(*i));
                let Some((_, (_, statistics))) = at else { continue };
                // A container that has just ended; its task says so elsewhere.
                if let Err(error) = probe.sample(&mut self.buffer, statistics) {
                    debug!(error = %error.chain(), "no sample");
                }
            }
        }
        sample
    }
}

async fn run(mut inbox: mpsc::UnboundedReceiver<Message>, age: Duration) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let mut state = State::new(threads);
    let mut newest: Option<(Instant, Sample)> = None;
    loop {
        let next = match &newest {
            None => inbox.recv().await,
            Some((taken, _)) => {
                let idle = RELEASE_AFTER.saturating_sub(taken.elapsed());
                match tokio::time::timeout(idle, inbox.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        state.release();
                        newest = None;
                        continue;
                    }
                }
            }
        };
        let Some(message) = next else { return };
        let Some(reply) = state.apply(message) else { continue };
        let young = newest.as_ref().filter(|(taken, _)| taken.elapsed() < age);
        let sample = match young {
            Some((_, sample)) => Arc::clone(sample),
            None => {
                let pass = tokio::task::spawn_blocking(move || {
                    let sample = state.pass();
                    (state, sample)
                });
                let Ok((back, sample)) = pass.await else { return };
                state = back;
                newest = Some((Instant::now(), Arc::clone(&sample)));
                sample
            }
        };
        let _ = reply.send(sample);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use isolators::api::IsolatorError;

    use super::*;

    #[derive(Debug)]
    struct Count(&'static str, Arc<AtomicU32>);

    impl Probe for Count {
        fn source(&self) -> &'static str {
            self.0
        }

        fn sample(
            &mut self,
            _buffer: &mut Vec<u8>,
            statistics: &mut ResourceStatistics,
        ) -> Result<(), IsolatorError> {
            statistics.processes = Some(self.1.fetch_add(1, Ordering::SeqCst));
            Ok(())
        }
    }

    fn id(value: &str) -> ContainerId {
        ContainerId { value: value.into(), parent: None }
    }

    #[tokio::test]
    async fn one_pass_serves_many_readers() {
        let count = Arc::new(AtomicU32::new(0));
        let sampler = Sampler::start(Duration::from_secs(60));
        let allotted = ResourceStatistics { cpus_limit: Some(1.0), ..Default::default() };
        for slot in 0..3 {
            let probes: Vec<Box<dyn Probe>> = vec![Box::new(Count("x", Arc::clone(&count)))];
            sampler.add(slot, id(&slot.to_string()), allotted.clone(), probes);
        }
        sampler.remove(1);
        let first = sampler.sample().await;
        assert_eq!(first.iter().map(|(id, _)| id.value.as_str()).collect::<Vec<_>>(), ["0", "2"]);
        assert_eq!(first[1].1.cpus_limit, Some(1.0));
        assert!(first[0].1.timestamp > 1e9);
        assert!(Arc::ptr_eq(&first, &sampler.sample().await));
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn passes_walk_source_by_source() {
        let count = Arc::new(AtomicU32::new(0));
        let mut state = State::new(1);
        for slot in 0..2 {
            let probe = |source| Box::new(Count(source, Arc::clone(&count))) as Box<dyn Probe>;
            state.apply(Message::Add {
                slot,
                id: id("a"),
                allotted: ResourceStatistics::default(),
                probes: vec![probe("b"), probe("a")],
            });
        }
        let sample = state.pass();
        // a0 a1 b0 b1: the last write to slot 0 is the third read.
        assert_eq!(sample[0].1.processes, Some(2));
        assert_eq!(sample[1].1.processes, Some(3));
        state.release();
    }

    #[test]
    fn threads_share_a_pass_and_the_order_stays() {
        let count = Arc::new(AtomicU32::new(0));
        let mut state = State::new(3);
        let slots = WORTH_THREADS as u64 + 7;
        for slot in 0..slots {
            let allotted = ResourceStatistics::default();
            let probes: Vec<Box<dyn Probe>> = vec![Box::new(Count("x", Arc::clone(&count)))];
            state.apply(Message::Add { slot, id: id(&slot.to_string()), allotted, probes });
        }
        state.apply(Message::Remove { slot: 5 });
        let sample = state.pass();
        let wanted = (0..slots).filter(|slot| *slot != 5).map(|slot| slot.to_string());
        assert!(sample.iter().map(|(id, _)| id.value.clone()).eq(wanted));
        assert!(sample.iter().all(|(_, statistics)| statistics.processes.is_some()));
        assert_eq!(count.load(Ordering::SeqCst), u32::try_from(slots - 1).expect("few"));
    }
}
