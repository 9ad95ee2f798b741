//! Starting the agent: checkpoints, then containers, then the loop.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kernel::failpoint;
use mesos::{Address, MasterInfo};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::collector::Collector;
use super::containers::Containers;
use super::storage::Storage;
use super::timers::Timers;
use super::{AgentError, Driver, Outbox, Outcome, now};
use crate::agent::config::Config;
use crate::agent::core::Core;
use crate::agent::core::event::Event;
use crate::agent::core::recovery::FoundContainers;
use crate::agent::handle::{Handle, MAILBOX, Mail};
use crate::checkpoint::{self, Mode, Recovered, Store, nested_sandbox};
use crate::containerizer::{Containerizer, KnownContainer};

/// Starts the owner task. It recovers first; readers see
/// [`crate::agent::AgentState::Recovering`] meanwhile. The join handle tells how
/// the agent ended. Needs a tokio runtime.
pub fn start(
    config: Config,
    containerizer: Arc<dyn Containerizer>,
    outbox: Arc<dyn Outbox>,
) -> (Handle, JoinHandle<Result<Outcome, AgentError>>) {
    let (mail, mailbox) = mpsc::channel(MAILBOX);
    let mut core = Core::new(config.clone(), seed(), now());
    let (snapshots, reader) = watch::channel(Arc::new(core.snapshot()));
    let handle = Handle::new(mail.clone(), reader);
    let parts = Parts { config: Arc::new(config), containerizer, outbox, mail, mailbox, snapshots };
    (handle, tokio::spawn(parts.run(core)))
}

struct Parts {
    config: Arc<Config>,
    containerizer: Arc<dyn Containerizer>,
    outbox: Arc<dyn Outbox>,
    mail: mpsc::Sender<Mail>,
    mailbox: mpsc::Receiver<Mail>,
    snapshots: watch::Sender<Arc<crate::agent::Snapshot>>,
}

impl Parts {
    async fn run(self, mut core: Core) -> Result<Outcome, AgentError> {
        core.recover(self.read().await?)?;
        failpoint!("recover.read");
        let containers =
            Containers::new(self.containerizer.clone(), self.config.clone(), self.mail.clone());
        let known = core
            .known_runs()
            .into_iter()
            .map(|run| KnownContainer { request: containers.request(run.spec), pid: run.pid })
            .collect();
        let never_ran = self.containerizer.recover(known).await?;
        if self.config.gc_non_executor_sandboxes {
            self.watch_nested(&core);
        }
        let mut found = FoundContainers::default();
        for (id, pid) in self.containerizer.containers() {
            if id.parent.is_none() {
                let status = self.containerizer.status(&id).await;
                found.statuses.extend(status.map(|status| (id.value.clone(), status)));
                found.alive.insert(id.value, pid);
            }
        }
        let store = Store::new(self.config.work_dir.clone(), self.config.sync);
        let collector = Collector::new(&self.config, self.mail.clone());
        for path in store.discarded() {
            collector.remove(None, vec![path]);
        }
        let storage = Storage::start(store, self.mail.clone())
            .map_err(|e| AgentError::Fatal(format!("failed to start the storage thread: {e}")))?;
        found.never_ran = never_ran.into_iter().map(|id| id.value).collect();
        let effects = core.resume(now(), &found);
        let mut driver = Driver {
            core,
            mailbox: self.mailbox,
            back: self.mail,
            snapshots: self.snapshots,
            storage,
            collector,
            clock: Clock::new(),
            timers: Timers::default(),
            containers,
            outbox: self.outbox,
            master: self.config.master.clone(),
            calls: Default::default(),
            ids: Default::default(),
            streams: Default::default(),
            local: Vec::new(),
            ended: None,
        };
        driver.publish();
        driver.apply(effects);
        failpoint!("recover.resumed");
        driver.run().await
    }

    /// Hears of the end of nested containers that a former agent launched.
    fn watch_nested(&self, core: &Core) {
        let runs = core.known_runs();
        for (id, _) in self.containerizer.containers() {
            let root = id.root();
            let Some(run) = runs.iter().find(|r| r.spec.container == *root) else { continue };
            if id.parent.is_none() {
                continue;
            }
            let sandbox = nested_sandbox(&self.config.work_dir.sandbox(&run.spec.run), &id);
            let relative = sandbox.strip_prefix(self.config.work_dir.root());
            let Ok(sandbox) = relative.map(std::path::Path::to_owned) else { continue };
            let (containerizer, mail) = (self.containerizer.clone(), self.mail.clone());
            tokio::spawn(async move {
                containerizer.wait(&id).await;
                let _ = mail.send(Mail::Event(Event::ContainerEnded { sandbox })).await;
            });
        }
    }

    async fn read(&self) -> Result<Recovered, AgentError> {
        let work = self.config.work_dir.clone();
        let mode = Mode {
            strict: self.config.strict,
            repair: true,
            completed: self.config.max_completed_executors,
        };
        let read = tokio::task::spawn_blocking(move || {
            let recovered = checkpoint::recover(&work, mode)?;
            if let Err(error) = checkpoint::write_boot_id(&work) {
                tracing::warn!(error = %kernel::chain(&error), "failed to remember the boot id");
            }
            Ok(recovered)
        });
        read.await.map_err(|e| AgentError::Fatal(format!("failed to read the checkpoints: {e}")))?
    }
}

/// Unpredictable enough for identifiers: from the kernel.
fn seed() -> [u64; 2] {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    [high, low]
}

/// Finds the standalone master and reports it.
pub(super) fn detect(master: String, back: mpsc::Sender<Mail>) {
    tokio::spawn(async move {
        let found = match resolve(&master).await {
            Ok(address) => Some(Box::new(master_info(&master, address))),
            Err(error) => {
                tracing::error!(master, error, "failed to resolve the master's address");
                None
            }
        };
        let lost = found.is_none();
        let _ = back.send(Mail::Event(Event::MasterDetected(found))).await;
        if lost && !back.is_closed() {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            detect(master, back);
        }
    });
}

async fn resolve(master: &str) -> Result<SocketAddr, String> {
    let address = master.rsplit('@').next().unwrap_or(master);
    let mut found = tokio::net::lookup_host(address).await.map_err(|e| e.to_string())?;
    // libprocess speaks IPv4.
    found.find(SocketAddr::is_ipv4).ok_or_else(|| "no IPv4 address".to_owned())
}

fn master_info(configured: &str, address: SocketAddr) -> MasterInfo {
    let host = configured.rsplit('@').next().unwrap_or(configured);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    // compat: the address as an integer in network order, read little-endian.
    let ip = match address.ip() {
        IpAddr::V4(ip) => u32::from_le_bytes(ip.octets()),
        IpAddr::V6(_) => 0,
    };
    MasterInfo {
        id: String::new(),
        ip,
        port: u32::from(address.port()),
        pid: Some(format!("master@{address}")),
        hostname: Some(host.to_owned()),
        address: Some(Address {
            hostname: Some(host.to_owned()),
            ip: Some(address.ip().to_string()),
            port: i32::from(address.port()),
        }),
        ..MasterInfo::default()
    }
}
