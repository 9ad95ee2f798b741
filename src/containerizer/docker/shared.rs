//! What the containers' tasks, the sweep and the door share.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::chain;
use tokio::sync::Notify;
use tracing::warn;

use super::config::Config;
use super::door::Door;
use super::engine::{Engine, Listed};
use super::exit::Process;
use super::guests::Guests;
use super::images::Images;
use super::mapping;
use crate::containerizer::request::Machine;
use crate::containerizer::runtime::{ContainerDir, RuntimeDir};
use crate::containerizer::sampler::Sampler;
use crate::containerizer::table::Table;
use crate::fetch::Fetcher;

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) kept: AtomicU64,
    pub(super) removed: AtomicU64,
    pub(super) remove_errors: AtomicU64,
}

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) engine: Arc<Engine>,
    pub(super) images: Arc<Images>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) runtime: RuntimeDir,
    pub(super) sampler: Sampler,
    pub(super) machine: Machine,
    pub(super) table: Table<Door>,
    pub(super) guests: Guests,
    /// Engine's names of containers that are to go as soon as the engine answers.
    pub(super) condemned: Mutex<BTreeSet<String>>,
    /// Engine's names of containers whose output is still being read.
    pub(super) held: Mutex<BTreeSet<String>>,
    /// A container was forgotten: sweep soon.
    pub(super) nudge: Notify,
    pub(super) counters: Counters,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries go in and out in one step: what is inside is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Nobody is there yet. Must be called on a tokio runtime.
    pub(super) fn new(config: Config, fetcher: Arc<Fetcher>, runtime: RuntimeDir) -> Shared {
        let engine = Arc::new(Engine::new(&config.socket));
        Shared {
            fetcher,
            runtime,
            sampler: Sampler::start(config.statistics_age),
            machine: Machine::this(),
            table: Table::default(),
            guests: Guests::new(Arc::clone(&engine), config.secrets.clone()),
            images: Arc::new(Images::new(Arc::clone(&engine), &config)),
            engine,
            condemned: Mutex::default(),
            held: Mutex::default(),
            nudge: Notify::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// Drops a container that is over, with its files.
    pub(super) fn forget(&self, key: &str, dir: &ContainerDir) {
        self.table.remove(key);
        self.guests.forget_all(key);
        if let Err(error) = dir.remove() {
            warn!(container = key, error = %chain(&error), "runtime directory stays");
        }
        self.nudge.notify_one();
    }

    pub(super) fn condemn(&self, name: &str) {
        locked(&self.condemned).insert(name.to_owned());
    }

    pub(super) fn condemned(&self) -> BTreeSet<String> {
        locked(&self.condemned).clone()
    }

    /// What the engine has no more need not be condemned any longer.
    pub(super) fn absolve(&self, condemned: &BTreeSet<String>, listed: &[Listed]) {
        let gone = condemned.iter().filter(|name| listed.iter().all(|l| l.name != **name));
        let mut all = locked(&self.condemned);
        gone.for_each(|name| _ = all.remove(name));
    }

    pub(super) fn hold(&self, name: &str) {
        locked(&self.held).insert(name.to_owned());
    }

    pub(super) fn release(&self, name: &str) {
        locked(&self.held).remove(name);
        self.nudge.notify_one();
    }

    pub(super) fn is_held(&self, name: &str) -> bool {
        locked(&self.held).contains(name)
    }

    /// Sends a signal to init, through the engine or, if that is silent, directly.
    pub(super) async fn signal(&self, door: &Door, signal: &str, number: i32) -> bool {
        let name = mapping::name_of(&door.request.id.value);
        match self.engine.kill(&name, signal).await {
            Ok(()) => true,
            Err(error) if error.is_silence() => {
                let pid = door.view.borrow().pid;
                let process = pid.and_then(|pid| Process::open(pid, &name).ok());
                process.is_some_and(|process| process.signal(number))
            }
            Err(_) => false,
        }
    }
}
