//! One container: on the host's network, its parent's, or on networks of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use kernel::failpoint;
use kernel::namespaces::Namespace;
use mesos::{ContainerStatus, NetworkInfo, network_info};
use oci_spec::runtime::{LinuxNamespaceType, Mount};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::conf::is_name;
use super::dns::Dns;
use super::outcome::{self, Outcome};
use super::plugins::Place;
use super::request::Wants;
use super::store::{Store, Stored};
use super::{Manners, NAME, Shared, attachment, detach, files, key, statistics};
use crate::api::{ContainerContext, Contribution, Isolation, IsolatorError, Probe};
use crate::mounts::{namespace_of, new_namespace};
use crate::plan::FileOperation;

/// What a container sees of the host's files otherwise.
const FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

/// Where a container's network namespace comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// It is made.
    New,
    /// It is made for a container of somebody else's.
    Lent,
    /// It is that of a process of somebody else's, which is kept as well.
    Process(u32),
}

/// A container's handle.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    context: Arc<ContainerContext>,
    pub(super) key: String,
    manners: Manners,
    /// What its status says.
    pub(super) networks: Vec<NetworkInfo>,
    /// Its init, once there is one.
    pid: Option<u32>,
    /// Its namespace is being made; to be waited for whoever gives up.
    making: Option<JoinHandle<Result<(), kernel::Error>>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The networks that a container asks for, by name.
fn named(context: &ContainerContext) -> Vec<(&str, &NetworkInfo)> {
    let infos = context.info.as_ref().map(|info| info.network_infos.as_slice());
    let infos = infos.unwrap_or_default().iter();
    infos.filter_map(|info| Some((info.name.as_deref()?, info))).collect()
}

fn refuse(verb: &'static str, object: impl Into<String>) -> IsolatorError {
    IsolatorError::plain(NAME, verb, object)
}

fn failed(error: kernel::Error) -> IsolatorError {
    let kernel::Error { verb, object, source } = error;
    IsolatorError::new(NAME, verb, object, source)
}

impl Member {
    pub(super) fn new(
        shared: &Arc<Shared>,
        context: &Arc<ContainerContext>,
        manners: &Manners,
    ) -> Member {
        let (shared, context, key) = (Arc::clone(shared), Arc::clone(context), key(context));
        let manners = manners.clone();
        Member { shared, context, key, manners, networks: Vec::new(), pid: None, making: None }
    }

    /// A container that was there before this agent.
    pub(super) fn recovered(
        shared: &Arc<Shared>,
        context: &Arc<ContainerContext>,
        manners: &Manners,
        pid: Option<u32>,
    ) -> Member {
        let mut member = Member::new(shared, context, manners);
        member.pid = pid;
        let owner = match shared.store.knows(&member.key) {
            true => Some(member.key.clone()),
            false => member.owner(),
        };
        member.networks = owner.map(|owner| member.known(&owner)).unwrap_or_default();
        member
    }

    /// What is written down of the networks of `owner`.
    fn known(&self, owner: &str) -> Vec<NetworkInfo> {
        let asked = named(&self.context);
        let info = |stored: Stored| {
            let outcome = outcome::outcome(stored.result.as_ref()?, &stored.interface).ok()?;
            let name = stored.network.name;
            let asked = asked.iter().find(|(asked, _)| *asked == name);
            let asked = asked.map(|(_, info)| (*info).clone()).unwrap_or_else(|| NetworkInfo {
                name: Some(name.clone()),
                ..NetworkInfo::default()
            });
            Some(told(&asked, &outcome))
        };
        self.shared.store.load(owner).into_iter().filter_map(info).collect()
    }

    /// The nearest container above that has networks of its own.
    fn owner(&self) -> Option<String> {
        let lineage = self.context.id.lineage();
        let above = (1..lineage.len()).rev().map(|depth| lineage[..depth].join("."));
        above.into_iter().find(|key| self.shared.store.knows(key))
    }

    /// As all that Mesos puts on the host's network.
    fn on_host(&self) -> Contribution {
        let own_root = self.context.rootfs.is_some();
        if !own_root {
            return Contribution::default();
        }
        let exists = |(_, path): &&(&str, &str)| Path::new(path).exists();
        let mount = |(_, path): &(&str, &str)| files::over(Path::new(path), path, own_root, true);
        let mounts = FILES.iter().filter(exists).filter_map(mount).collect();
        Contribution { mounts, ..Contribution::default() }
    }

    /// On the networks of a container above.
    fn on_parents(&mut self, owner: &str, parent: u32) -> Contribution {
        self.networks = self.known(owner);
        let mut part = self.part(owner);
        part.namespaces.push(namespace_of(LinuxNamespaceType::Network, parent, "net"));
        let shares = Namespace::Uts.shared_with(parent).unwrap_or(true);
        if !self.manners.own_names && !shares {
            part.namespaces.push(namespace_of(LinuxNamespaceType::Uts, parent, "uts"));
        }
        part
    }

    /// What every container on networks of `owner` has.
    fn part(&self, owner: &str) -> Contribution {
        let own_root = self.context.rootfs.is_some();
        let dir = self.shared.store.dir(owner);
        let mount = |(name, path): &(&str, &str)| -> Option<Mount> {
            let own = dir.join(name);
            if own.exists() {
                return files::over(&own, path, own_root, false);
            }
            // Nobody had a word to say: the host's, which a root of its own lacks.
            let wanted = own_root && Path::new(path).exists();
            if wanted { files::over(Path::new(path), path, own_root, true) } else { None }
        };
        Contribution {
            namespaces: vec![new_namespace(LinuxNamespaceType::Mount)],
            mounts: FILES.iter().filter_map(mount).collect(),
            // What listens must listen on its own addresses, not on the agent's.
            environment: [("LIBPROCESS_IP".to_owned(), "0.0.0.0".to_owned())].into(),
            ..Contribution::default()
        }
    }

    /// Joins networks of its own.
    async fn join(&mut self) -> Result<Contribution, IsolatorError> {
        let hostname = self.settle(Origin::New, "").await?;
        let mut part = self.part(&self.key);
        let mut namespace = new_namespace(LinuxNamespaceType::Network);
        namespace.set_path(Some(self.shared.store.netns(&self.key)));
        part.namespaces.push(namespace);
        let given = self.context.info.as_ref().is_some_and(|info| info.hostname.is_some());
        if !self.manners.own_names {
            part.namespaces.push(new_namespace(LinuxNamespaceType::Uts));
            part.hostname = Some(hostname);
        } else if !given {
            part.hostname = Some(hostname);
        }
        Ok(part)
    }

    /// Has the namespace, adds it to all networks, writes the files, of `/etc/hosts` with
    /// `more` at the end; the host's name.
    pub(super) async fn settle(
        &mut self,
        origin: Origin,
        more: &str,
    ) -> Result<String, IsolatorError> {
        let context = Arc::clone(&self.context);
        let asked = named(&context);
        self.check(&asked)?;
        detach::vanish(&self.shared, &self.key).await.map_err(|why| refuse("add it:", why))?;
        let mut stored = self.intend(&asked, origin).await?;
        failpoint!("cni.intended");
        let handle = self.shared.store.netns(&self.key);
        self.make_namespace(&handle, origin).await?;
        failpoint!("cni.namespace");
        let mut outcomes = Vec::with_capacity(stored.len());
        for (stored, (wants, info)) in stored.iter_mut() {
            let outcome = self.add(stored, &handle, wants).await?;
            self.networks.push(told(info, &outcome));
            outcomes.push(outcome);
            failpoint!("cni.added_one");
        }
        let names: Vec<&str> = asked.iter().map(|(name, _)| *name).collect();
        let hostname = self.write_files(&names, &outcomes, more)?;
        failpoint!("cni.joined");
        Ok(hostname)
    }

    /// What is wrong before anything is done.
    fn check(&self, asked: &[(&str, &NetworkInfo)]) -> Result<(), IsolatorError> {
        if self.shared.inventory.is_none() {
            let object = format!(
                "the CNI network '{}': there is neither --network_cni_config_dir nor \
                 --network_cni_plugins_dir",
                asked[0].0
            );
            return Err(refuse("find", object));
        }
        if !is_name(&self.key) {
            let object = format!(
                "container '{}' to a CNI network: its id has more than letters, digits, '_', '.' \
                 and '-'",
                self.key
            );
            return Err(refuse("add", object));
        }
        for (index, (name, _)) in asked.iter().enumerate() {
            if asked[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(refuse("join", format!("the CNI network '{name}' twice")));
            }
            if Store::is_taken(name) {
                let object = format!("a CNI network called '{name}': a file here is called so");
                return Err(refuse("join", object));
            }
        }
        Ok(())
    }

    /// Reads what is asked for, and writes down what is about to be done.
    async fn intend<'a>(
        &self,
        asked: &[(&str, &'a NetworkInfo)],
        origin: Origin,
    ) -> Result<Vec<(Stored, (Wants, &'a NetworkInfo))>, IsolatorError> {
        let shared = &self.shared;
        let inventory = shared.inventory.as_ref().expect("checked");
        let mut all = Vec::with_capacity(asked.len());
        for (name, info) in asked {
            let mut network = inventory.find(name).map_err(|why| refuse("find", why))?;
            let on = |why: String| refuse("join", format!("the CNI network '{name}': {why}"));
            let wants = Wants::of(info, json_of(info), shared.dns.of(name)).map_err(on)?;
            wants.apply(&mut network);
            let version = attachment::negotiate(&shared.plugins, &network).await.map_err(on)?;
            all.push((network, version, wants, *info));
        }
        shared.store.enter(&self.key).map_err(failed)?;
        if !matches!(origin, Origin::New) {
            shared.store.mark_lodger(&self.key).map_err(failed)?;
        }
        failpoint!("cni.entered");
        let mut stored = Vec::with_capacity(all.len());
        for (index, (network, version, wants, info)) in all.into_iter().enumerate() {
            let interface = format!("eth{index}");
            let intended = shared.store.intend(&self.key, network, version, &interface);
            stored.push((intended.map_err(failed)?, (wants, info)));
        }
        Ok(stored)
    }

    async fn make_namespace(&mut self, handle: &Path, origin: Origin) -> Result<(), IsolatorError> {
        let handle: PathBuf = handle.to_owned();
        let namespaces = Arc::clone(&self.manners.namespaces);
        // Engines turn it off where they give no addresses themselves; what plugins add is
        // another matter.
        let theirs: &[(&str, &str)] = match Path::new("/proc/sys/net/ipv6").exists() {
            true => &[("ipv6/conf/all/disable_ipv6", "0")],
            false => &[],
        };
        let work = move || match origin {
            Origin::New | Origin::Lent => namespaces.create(&handle),
            Origin::Process(pid) => kernel::netns::keep(&handle, pid, theirs),
        };
        let made = self.making.insert(tokio::task::spawn_blocking(work)).await;
        self.making = None;
        match made {
            Ok(made) => made.map_err(failed),
            Err(_) => Err(refuse("make", "a network namespace: it was cut short")),
        }
    }

    async fn add(
        &self,
        stored: &mut Stored,
        netns: &Path,
        wants: &Wants,
    ) -> Result<Outcome, IsolatorError> {
        let log = stored.log.clone();
        let interface = stored.interface.clone();
        let place =
            Place { container: &self.key, interface: &interface, netns: Some(netns), log: &log };
        let name = stored.network.name.clone();
        let on = |why: String| refuse("join", format!("the CNI network '{name}': {why}"));
        let added = attachment::add(&self.shared.plugins, stored, place).await;
        failpoint!("cni.answered");
        let (result, outcome) = added.map_err(on)?;
        self.shared.store.record(&self.key, stored, result).map_err(failed)?;
        failpoint!("cni.recorded");
        let missing = wants.addresses.iter().find(|ip| !outcome.addresses.contains(ip));
        match missing {
            Some(ip) => Err(on(format!("its plugins did not give the address {ip}"))),
            None => Ok(outcome),
        }
    }

    /// Writes `hosts` and so on; the host's name.
    fn write_files(
        &self,
        names: &[&str],
        outcomes: &[Outcome],
        more: &str,
    ) -> Result<String, IsolatorError> {
        let store = &self.shared.store;
        let info = self.context.info.as_ref();
        let hostname = info.and_then(|info| info.hostname.clone());
        let hostname = hostname.unwrap_or_else(|| files::name_of(&self.context.id.value));
        let said = |(name, outcome): (&&str, &Outcome)| -> Dns {
            let default = self.shared.dns.of(name).cloned().unwrap_or_default();
            if outcome.dns.is_empty() { default } else { outcome.dns.clone() }
        };
        let said: Vec<Dns> = names.iter().zip(outcomes).map(said).collect();
        let put = |name, text: &str| store.put(&self.key, name, text).map(drop).map_err(failed);
        put("hosts", &(files::hosts(&hostname, outcomes) + more))?;
        put("hostname", &format!("{hostname}\n"))?;
        if let Some(text) = files::resolv_conf(said.iter()) {
            put("resolv.conf", &text)?;
        }
        Ok(hostname)
    }
}

/// What a task hears of a network: what it asked, and the addresses that it got.
fn told(asked: &NetworkInfo, outcome: &Outcome) -> NetworkInfo {
    let address = |ip: &IpAddr| network_info::IpAddress {
        protocol: Some(match ip {
            IpAddr::V4(_) => mesos::network_info::Protocol::IPv4 as i32,
            IpAddr::V6(_) => mesos::network_info::Protocol::IPv6 as i32,
        }),
        ip_address: Some(ip.to_string()),
    };
    NetworkInfo { ip_addresses: outcome.addresses.iter().map(address).collect(), ..asked.clone() }
}

fn json_of(info: &NetworkInfo) -> Value {
    serde_json::from_slice(&mesos::json::to_json(info)).unwrap_or_default()
}

#[async_trait]
impl Isolation for Member {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        let parent = self.context.parent.as_ref().map(|parent| parent.pid);
        let mut part = match (named(&self.context).is_empty(), parent, self.owner()) {
            (false, _, _) => self.join().await?,
            (true, Some(parent), Some(owner)) => self.on_parents(&owner, parent),
            _ => self.on_host(),
        };
        // Others' namespaces are none of its business, and a copy of all these mounts in
        // each container would cost memory by the square of their number.
        let path = self.shared.store.root().to_owned();
        part.file_operations.push(FileOperation::Unmount { path });
        Ok(part)
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        self.pid = Some(pid);
        if self.shared.store.knows(&self.key) {
            // It has networks of its own, and so may the next one.
            self.manners.namespaces.fill();
        }
        Ok(())
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        // Containers that share a network are counted once, with its owner.
        let own = self.shared.metrics && self.shared.store.knows(&self.key);
        let probe = |pid| statistics::probe(pid, &self.shared.ends);
        self.pid.filter(|_| own).map(probe).into_iter().collect()
    }

    fn status(&mut self, status: &mut ContainerStatus) -> Result<(), IsolatorError> {
        status.network_infos.extend(self.networks.iter().cloned());
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        if let Some(making) = self.making.take() {
            // However it went: what is left of it is removed.
            let _ = making.await;
        }
        let done = detach::detach(&self.shared, &self.key).await;
        done.map_err(|why| {
            refuse("take off its CNI networks", format!("container '{}': {why}", self.key))
        })
    }
}
