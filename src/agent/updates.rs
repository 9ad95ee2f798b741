//! Status updates on their way to the master: one stream per task.
//!
//! A stream keeps its updates in order and one of them, the front, in flight: it
//! is repeated after 10 s, 20 s, ... 10 min until it is acknowledged, then the
//! next one goes. Nothing is forwarded before it is stored, or while the agent
//! is not registered ([`Updates::pause`]).
//!
//! Pure: the core owns one [`Updates`], tells it what is durable and turns the
//! [`Action`]s into effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mesos::internal::StatusUpdate;

use super::core::state::is_terminal;
use crate::checkpoint::RunKey;

/// First repetition (Mesos' constant).
pub const RETRY_MIN: Duration = Duration::from_secs(10);
/// Repetitions are never further apart (Mesos' constant).
pub const RETRY_MAX: Duration = Duration::from_secs(600);

/// Names a stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The framework's id.
    pub framework: String,
    /// The task's id, unique within the framework.
    pub task: String,
}

impl Key {
    /// The stream of an update.
    pub fn of(update: &StatusUpdate) -> Key {
        Key {
            framework: update.framework_id.value.clone(),
            task: update.status.task_id.value.clone(),
        }
    }
}

/// What became of an update handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is queued; the caller stores it (under this run, if any) and then
    /// calls [`Updates::stored`].
    New(Option<RunKey>),
    /// It is known; `stored` says whether it is already durable.
    Duplicate {
        /// Whether the sender may be answered now.
        stored: bool,
    },
}

/// What became of an acknowledgement.
#[derive(Debug, Clone, PartialEq)]
pub enum Acknowledged {
    /// Not for the update in flight: ignored.
    Unexpected,
    /// The update is done.
    Done {
        /// Where the acknowledgement is to be stored.
        run: Option<RunKey>,
        /// The update.
        update: Box<StatusUpdate>,
        /// It was terminal: the stream is gone.
        ended: bool,
    },
}

/// What the core must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send this update to the master.
    Forward(Box<StatusUpdate>),
    /// Call [`Updates::timeout`] with these after the delay.
    Retry {
        /// The stream.
        key: Key,
        /// Of the front.
        generation: u64,
        /// The delay.
        after: Duration,
    },
}

#[derive(Debug)]
struct Entry {
    update: StatusUpdate,
    stored: bool,
}

#[derive(Debug, Default)]
struct Stream {
    run: Option<RunKey>,
    pending: VecDeque<Entry>,
    received: BTreeSet<Vec<u8>>,
    /// Counts fronts and pauses: a timer of an older generation is stale.
    generation: u64,
    /// The delay before the next repetition; `None`: the front is not in flight.
    backoff: Option<Duration>,
}

/// All streams of the agent.
#[derive(Debug, Default)]
pub struct Updates {
    streams: BTreeMap<Key, Stream>,
    running: bool,
}

impl Updates {
    /// Stops forwarding, e.g. because the master is gone.
    pub fn pause(&mut self) {
        self.running = false;
        for stream in self.streams.values_mut() {
            stream.generation += 1;
            stream.backoff = None;
        }
    }

    /// Starts forwarding: every stream's front goes out (again).
    pub fn resume(&mut self) -> Vec<Action> {
        self.running = true;
        let mut actions = Vec::new();
        for (key, stream) in &mut self.streams {
            stream.start(key, &mut actions);
        }
        actions
    }

    /// Queues an update. `run` says where its stream is stored; only the first
    /// update of a stream decides.
    pub fn receive(&mut self, update: StatusUpdate, run: Option<RunKey>) -> Received {
        let stream = self
            .streams
            .entry(Key::of(&update))
            .or_insert_with(|| Stream { run, ..Stream::default() });
        let uuid = update.uuid.clone().unwrap_or_default();
        if !stream.received.insert(uuid.clone()) {
            let stored = stream
                .pending
                .iter()
                .find(|e| e.update.uuid.as_ref() == Some(&uuid))
                .is_none_or(|e| e.stored);
            return Received::Duplicate { stored };
        }
        stream.pending.push_back(Entry { update, stored: false });
        Received::New(stream.run.clone())
    }

    /// The update is durable (or need not be) and may go out.
    pub fn stored(&mut self, key: &Key, uuid: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(stream) = self.streams.get_mut(key) else { return actions };
        for entry in &mut stream.pending {
            if entry.update.uuid.as_deref() == Some(uuid) {
                entry.stored = true;
            }
        }
        if self.running {
            stream.start(key, &mut actions);
        }
        actions
    }

    /// Takes an acknowledgement. The caller stores it and then calls
    /// [`Updates::next`].
    pub fn acknowledge(&mut self, key: &Key, uuid: &[u8]) -> Acknowledged {
        let Some(stream) = self.streams.get_mut(key) else { return Acknowledged::Unexpected };
        if !stream
            .pending
            .front()
            .is_some_and(|e| e.stored && e.update.uuid.as_deref() == Some(uuid))
        {
            return Acknowledged::Unexpected;
        }
        let Some(entry) = stream.pending.pop_front() else { return Acknowledged::Unexpected };
        stream.generation += 1;
        stream.backoff = None;
        let run = stream.run.clone();
        let ended = is_terminal(entry.update.status.state());
        if ended {
            self.streams.remove(key);
        }
        Acknowledged::Done { run, update: Box::new(entry.update), ended }
    }

    /// Sends the front of the stream if it is not in flight.
    pub fn next(&mut self, key: &Key) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.running
            && let Some(stream) = self.streams.get_mut(key)
        {
            stream.start(key, &mut actions);
        }
        actions
    }

    /// A retry timer fired.
    pub fn timeout(&mut self, key: &Key, generation: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if !self.running {
            return actions;
        }
        if let Some(stream) = self.streams.get_mut(key)
            && stream.generation == generation
            && let Some(backoff) = stream.backoff
        {
            stream.send(key, (backoff * 2).min(RETRY_MAX), &mut actions);
        }
        actions
    }

    /// Rebuilds a stream from its log. Returns whether it has ended.
    pub fn recover(
        &mut self,
        key: Key,
        run: RunKey,
        updates: &[StatusUpdate],
        acknowledged: &[Vec<u8>],
    ) -> bool {
        let mut stream = Stream { run: Some(run), ..Stream::default() };
        let mut ended = false;
        for update in updates {
            let uuid = update.uuid.clone().unwrap_or_default();
            if !stream.received.insert(uuid.clone()) {
                continue;
            }
            if acknowledged.contains(&uuid) {
                ended |= is_terminal(update.status.state());
            } else {
                stream.pending.push_back(Entry { update: update.clone(), stored: true });
            }
        }
        if !ended && !updates.is_empty() {
            self.streams.insert(key, stream);
        }
        ended
    }

    /// Forgets the streams of a removed framework.
    pub fn remove_framework(&mut self, framework: &str) {
        self.streams.retain(|key, _| key.framework != framework);
    }

    /// Sends the fronts of a framework's streams again, e.g. to its new scheduler.
    pub fn resend(&mut self, framework: &str) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.running {
            for (key, stream) in self.streams.iter_mut().filter(|(k, _)| k.framework == framework) {
                stream.send(key, RETRY_MIN, &mut actions);
            }
        }
        actions
    }

    /// Whether the framework has something unacknowledged.
    pub fn has_framework(&self, framework: &str) -> bool {
        self.streams.iter().any(|(k, s)| k.framework == framework && !s.pending.is_empty())
    }

    /// Whether the task has something unacknowledged.
    pub fn is_busy(&self, key: &Key) -> bool {
        self.streams.get(key).is_some_and(|stream| !stream.pending.is_empty())
    }

    /// Whether the update was received before.
    pub fn knows(&self, key: &Key, uuid: &[u8]) -> bool {
        self.streams.get(key).is_some_and(|s| s.received.contains(uuid))
    }

    /// Whether a stream exists, i.e. something is or was under way and has not ended.
    pub fn contains(&self, key: &Key) -> bool {
        self.streams.contains_key(key)
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

impl Stream {
    fn start(&mut self, key: &Key, actions: &mut Vec<Action>) {
        if self.backoff.is_none() {
            self.send(key, RETRY_MIN, actions);
        }
    }

    fn send(&mut self, key: &Key, after: Duration, actions: &mut Vec<Action>) {
        let Some(front) = self.pending.front().filter(|e| e.stored) else { return };
        actions.push(Action::Forward(Box::new(front.update.clone())));
        self.generation += 1;
        self.backoff = Some(after);
        actions.push(Action::Retry { key: key.clone(), generation: self.generation, after });
    }
}

#[cfg(test)]
#[path = "updates_tests.rs"]
mod tests;
