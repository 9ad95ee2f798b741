//! Where the registry is kept: an embedded store under `--work_dir`, or memory.
//!
//! Owned by one thread, started by the driver. Changes that arrive while one is
//! being written are written together, so a storm of registrations costs a few
//! transactions. Each agent is a row: a change costs the same with 10 agents and
//! with 10,000.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mesos::internal::{Registry, registry};
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;
use tokio::sync::mpsc as async_mpsc;

use super::core::cluster::Standing;
use super::core::{Change, apply, slave_entry, time_info, unreachable_entry};
use super::ids::AgentId;
use crate::daemon::metrics::Metrics;

const SLAVES: TableDefinition<&str, &[u8]> = TableDefinition::new("slaves");
const UNREACHABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("unreachable");
const GONE: TableDefinition<&str, &[u8]> = TableDefinition::new("gone");
const WEIGHTS: TableDefinition<&str, &[u8]> = TableDefinition::new("weights");
const MASTER: TableDefinition<&str, &[u8]> = TableDefinition::new("master");

/// Why the registry cannot be used. The master must not go on without it.
#[derive(Debug, Error)]
pub enum RegistrarError {
    /// The directory cannot be made.
    #[error("create registry directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be opened, read or written.
    #[error("{verb} registry {path}")]
    Store {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// An entry cannot be read.
    #[error("read entry '{key}' of registry {path}")]
    Entry {
        /// Which.
        key: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: prost::DecodeError,
    },
}

impl RegistrarError {
    /// Whether there is no room for what is to be stored: that may change.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let RegistrarError::Store { source, .. } = self else { return false };
        matches!(&**source, redb::Error::Io(e) if matches!(e.kind(), StorageFull | QuotaExceeded))
    }
}

/// A place for the registry.
pub trait Registrar: Send {
    /// Everything that was stored.
    ///
    /// # Errors
    /// [`RegistrarError`]
    fn load(&mut self) -> Result<Registry, RegistrarError>;

    /// Makes changes durable, all or none. May be tried again when there was no room.
    ///
    /// # Errors
    /// [`RegistrarError`]
    fn store(&mut self, changes: &[Change]) -> Result<(), RegistrarError>;

    /// Bytes that it takes up where it is kept.
    fn size(&self) -> u64;
}

/// `--registry=in_memory`: forgotten with the process.
#[derive(Debug, Default)]
pub struct InMemory(Registry);

impl Registrar for InMemory {
    fn load(&mut self) -> Result<Registry, RegistrarError> {
        Ok(self.0.clone())
    }

    fn store(&mut self, changes: &[Change]) -> Result<(), RegistrarError> {
        // Nothing reads it again in this process; only tests look.
        if cfg!(test) {
            changes.iter().for_each(|change| apply(&mut self.0, change));
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0.encoded_len() as u64
    }
}

/// The embedded store.
pub struct Embedded {
    path: PathBuf,
    /// Closed after a failed write: the store does not go on after one.
    database: Option<Database>,
}

impl Embedded {
    /// Opens or makes the store in `work_dir`.
    ///
    /// # Errors
    /// [`RegistrarError`]: no such directory, in use by another master, damaged.
    pub fn open(work_dir: &Path) -> Result<Self, RegistrarError> {
        std::fs::create_dir_all(work_dir)
            .map_err(|source| RegistrarError::Directory { path: work_dir.to_owned(), source })?;
        let mut store = Embedded { path: work_dir.join("registry.redb"), database: None };
        store.database()?;
        Ok(store)
    }

    fn database(&mut self) -> Result<&Database, RegistrarError> {
        let database = match self.database.take() {
            Some(database) => database,
            // The master's registry is small; the default cache of 1 GB is not.
            None => Database::builder()
                .set_cache_size(4 << 20)
                .create(&self.path)
                .map_err(|e| self.failed("open", e))?,
        };
        Ok(self.database.insert(database))
    }

    fn failed(&self, verb: &'static str, error: impl Into<redb::Error>) -> RegistrarError {
        RegistrarError::Store { verb, path: self.path.clone(), source: Box::new(error.into()) }
    }

    fn rows<M: Message + Default>(
        &mut self,
        table: TableDefinition<&str, &[u8]>,
    ) -> Result<Vec<M>, RegistrarError> {
        let begun = self.database()?.begin_read();
        let read = |e: redb::Error| self.failed("read", e);
        let transaction = begun.map_err(|e| read(e.into()))?;
        let table = match transaction.open_table(table) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(read(error.into())),
        };
        let mut rows = Vec::new();
        for row in table.iter().map_err(|e| read(e.into()))? {
            let (key, value) = row.map_err(|e| read(e.into()))?;
            rows.push(M::decode(value.value()).map_err(|source| RegistrarError::Entry {
                key: key.value().to_owned(),
                path: self.path.clone(),
                source,
            })?);
        }
        Ok(rows)
    }

    fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut tables = Tables {
                slaves: transaction.open_table(SLAVES)?,
                unreachable: transaction.open_table(UNREACHABLE)?,
                gone: transaction.open_table(GONE)?,
                weights: transaction.open_table(WEIGHTS)?,
                master: transaction.open_table(MASTER)?,
            };
            for change in changes {
                tables.write(change)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

type Table<'t> = redb::Table<'t, &'static str, &'static [u8]>;

struct Tables<'t> {
    slaves: Table<'t>,
    unreachable: Table<'t>,
    gone: Table<'t>,
    weights: Table<'t>,
    master: Table<'t>,
}

impl Tables<'_> {
    fn forget(&mut self, agent: &str) -> Result<(), redb::Error> {
        self.slaves.remove(agent)?;
        self.unreachable.remove(agent)?;
        self.gone.remove(agent)?;
        Ok(())
    }

    fn slave(&self, agent: &str) -> Result<Option<registry::Slave>, redb::Error> {
        let row = self.slaves.get(agent)?;
        Ok(row.and_then(|row| registry::Slave::decode(row.value()).ok()))
    }

    fn lost(&self, agent: &str) -> Result<Option<registry::UnreachableSlave>, redb::Error> {
        let row = self.unreachable.get(agent)?;
        Ok(row.and_then(|row| registry::UnreachableSlave::decode(row.value()).ok()))
    }

    /// What the next entry of an agent keeps.
    fn standing(&self, agent: &str) -> Result<Standing, redb::Error> {
        let of = |drain, deactivated: Option<bool>| Standing {
            deactivated: deactivated.unwrap_or(false),
            drain,
            drain_start: None,
        };
        Ok(match (self.slave(agent)?, self.lost(agent)?) {
            (Some(row), _) => of(row.drain_info, row.deactivated),
            (None, Some(row)) => of(row.drain_info, row.deactivated),
            (None, None) => Standing::default(),
        })
    }

    fn set_standing(&mut self, agent: &AgentId, standing: &Standing) -> Result<(), redb::Error> {
        let id = agent.as_str();
        if let Some(row) = self.slave(id)? {
            let row = slave_entry(&row.info, standing).encode_to_vec();
            self.slaves.insert(id, row.as_slice())?;
        }
        if let Some(mut row) = self.lost(id)? {
            row.drain_info = standing.drain;
            row.deactivated = standing.deactivated.then_some(true);
            self.unreachable.insert(id, row.encode_to_vec().as_slice())?;
        }
        Ok(())
    }

    fn write(&mut self, change: &Change) -> Result<(), redb::Error> {
        match change {
            Change::Master(info) => {
                let row = registry::Master { info: (**info).clone() };
                self.master.insert("master", row.encode_to_vec().as_slice())?;
            }
            Change::Admit(info) => {
                let id = info.id.clone().unwrap_or_default().value;
                let kept = self.standing(&id)?;
                self.forget(&id)?;
                let row = slave_entry(info, &kept);
                self.slaves.insert(id.as_str(), row.encode_to_vec().as_slice())?;
            }
            Change::Remove(agent) => self.forget(agent.as_str())?,
            Change::Unreachable(agent, at) => {
                let kept = self.standing(agent.as_str())?;
                self.forget(agent.as_str())?;
                let row = unreachable_entry(agent, *at, &kept);
                self.unreachable.insert(agent.as_str(), row.encode_to_vec().as_slice())?;
            }
            Change::Gone(agent, at) => {
                self.forget(agent.as_str())?;
                let row = registry::GoneSlave { id: agent.message(), timestamp: time_info(*at) };
                self.gone.insert(agent.as_str(), row.encode_to_vec().as_slice())?;
            }
            Change::Standing(agent, standing) => self.set_standing(agent, standing)?,
            Change::Prune(agents) => {
                for agent in agents {
                    self.unreachable.remove(agent.as_str())?;
                    self.gone.remove(agent.as_str())?;
                }
            }
            Change::Weights(infos) => {
                for info in infos {
                    let row = registry::Weight { info: info.clone() };
                    self.weights.insert(info.role(), row.encode_to_vec().as_slice())?;
                }
            }
        }
        Ok(())
    }
}

impl Registrar for Embedded {
    fn load(&mut self) -> Result<Registry, RegistrarError> {
        let slaves = self.rows(SLAVES)?;
        let unreachable = self.rows(UNREACHABLE)?;
        let gone = self.rows(GONE)?;
        Ok(Registry {
            master: self.rows(MASTER)?.pop(),
            slaves: Some(registry::Slaves { slaves }),
            unreachable: Some(registry::UnreachableSlaves { slaves: unreachable }),
            gone: Some(registry::GoneSlaves { slaves: gone }),
            weights: self.rows(WEIGHTS)?,
            ..Registry::default()
        })
    }

    fn store(&mut self, changes: &[Change]) -> Result<(), RegistrarError> {
        let written = Self::write(self.database()?, changes);
        written.map_err(|error| {
            self.database = None;
            self.failed("write", error)
        })
    }

    fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}

/// Numbered changes on their way to the registrar's thread.
pub type Changes = mpsc::Sender<(u64, Change)>;

/// What the registrar's thread answers.
pub type Answers = async_mpsc::UnboundedReceiver<Result<u64, RegistrarError>>;

/// How long a full disk is waited for before the next attempt.
const FULL: Duration = Duration::from_secs(1);

/// Stores changes. A full disk is waited for: until then whoever depends on them waits,
/// and nothing is promised that could be forgotten.
fn store(registrar: &mut dyn Registrar, changes: &[Change]) -> Result<(), RegistrarError> {
    let mut told = false;
    loop {
        match registrar.store(changes) {
            Err(error) if error.is_full() => {
                if !told {
                    let error = kernel::chain(&error);
                    tracing::error!("no space left for the registry, waiting for some: {error}");
                }
                told = true;
                std::thread::sleep(FULL);
            }
            done => {
                if told {
                    tracing::info!("the registry goes on");
                }
                return done;
            }
        }
    }
}

/// Starts the thread that owns the registrar. It answers with the highest
/// number stored, or with the error it died of. Its figures go to `metrics`; a log
/// of several copies is what Mesos has, so ours is one that is always there.
pub fn start(mut registrar: Box<dyn Registrar>, metrics: &Metrics) -> (Changes, Answers) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let stores = metrics.timer("registrar/state_store", DAY);
    let size = metrics.gauge("registrar/registry_size_bytes");
    metrics.gauge("registrar/log/recovered").set(1.0);
    metrics.gauge("registrar/log/ensemble_size").set(1.0);
    #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
    let measure = move |registrar: &dyn Registrar| size.set(registrar.size() as f64);
    measure(&*registrar);
    let (changes, queue) = mpsc::channel::<(u64, Change)>();
    let (answer, answers) = async_mpsc::unbounded_channel();
    let work = move || {
        while let Ok((mut last, change)) = queue.recv() {
            let mut batch = vec![change];
            while let Ok((seq, change)) = queue.try_recv() {
                last = seq;
                batch.push(change);
            }
            let before = Instant::now();
            let stored = store(&mut *registrar, &batch).map(|()| last);
            stores.record(before, before.elapsed());
            measure(&*registrar);
            let failed = stored.is_err();
            if answer.send(stored).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("registrar".into())
        .spawn(work)
        .expect("a thread can be started at start-up");
    (changes, answers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::master::ids::AgentId;

    fn agent(id: &str) -> Arc<mesos::SlaveInfo> {
        let id = Some(mesos::SlaveId { value: id.into() });
        Arc::new(mesos::SlaveInfo { hostname: "h".into(), id, ..Default::default() })
    }

    fn draining() -> Standing {
        let config = mesos::DrainConfig { mark_gone: Some(true), max_grace_period: None };
        let state = mesos::DrainState::Draining as i32;
        let drain = Some(mesos::DrainInfo { state, config });
        Standing { deactivated: true, drain, drain_start: None }
    }

    #[test]
    fn both_stores_remember_the_same() {
        let dir = std::env::temp_dir().join(format!("bulkhead-registrar-{}", std::process::id()));
        let at = Duration::from_secs(5);
        let changes = [
            Change::Admit(agent("a")),
            Change::Admit(agent("b")),
            Change::Admit(agent("c")),
            Change::Unreachable(AgentId::from("b"), at),
            Change::Gone(AgentId::from("c"), at),
            Change::Weights(vec![mesos::WeightInfo { weight: 2.0, role: Some("web".into()) }]),
            // Where agents stand stays with them.
            Change::Standing(AgentId::from("a"), draining()),
            Change::Standing(AgentId::from("b"), draining()),
            Change::Admit(agent("a")),
            Change::Admit(agent("d")),
            Change::Standing(AgentId::from("d"), draining()),
            Change::Unreachable(AgentId::from("d"), at),
        ];
        let mut memory = InMemory::default();
        memory.load().expect("load");
        memory.store(&changes).expect("store");
        let mut disk = Embedded::open(&dir).expect("open");
        disk.store(&changes).expect("store");
        drop(disk);
        let mut disk = Embedded::open(&dir).expect("open again");
        let (memory, disk) = (memory.load().expect("load"), disk.load().expect("load"));
        std::fs::remove_dir_all(&dir).expect("clean up");
        assert_eq!((memory.slaves, memory.unreachable), (disk.slaves.clone(), disk.unreachable));
        assert_eq!((memory.gone, memory.weights), (disk.gone, disk.weights));
        let slaves = disk.slaves.expect("slaves").slaves;
        assert_eq!(slaves.len(), 1);
        assert_eq!((slaves[0].drain_info, slaves[0].deactivated), (draining().drain, Some(true)));
    }

    #[test]
    fn a_store_has_one_owner() {
        let dir = std::env::temp_dir().join(format!("bulkhead-registrar2-{}", std::process::id()));
        let first = Embedded::open(&dir).expect("open");
        assert!(matches!(Embedded::open(&dir), Err(RegistrarError::Store { verb: "open", .. })));
        drop(first);
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
