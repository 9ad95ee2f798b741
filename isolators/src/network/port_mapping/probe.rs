//! The figures of one container's network, for the sampler.
//!
//! Counters and queues of the host's ends are read once for all containers of a
//! pass. What is inside a container's network is asked for by sockets that were
//! opened there, or read through `/proc/<pid>/net`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kernel::netlink::link::Counters;
use kernel::netlink::traffic::{self, Queue};
use kernel::netlink::{Family, Socket, diag};
use mesos::{ResourceStatistics, value};

use super::figures::{self, Way};
use super::host::Pair;
use super::{NAME, Shared};
use crate::api::{IsolatorError, Probe};

/// One reading of all counters serves all containers of a sampling pass.
const FRESH: Duration = Duration::from_millis(250);

/// Counters and queues of all the host's interfaces, and when they were read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    read: Option<Instant>,
    counters: BTreeMap<u32, Counters>,
    queues: BTreeMap<u32, Vec<Queue>>,
}

impl Reading {
    fn renew(&mut self, shared: &Shared) -> Result<(), kernel::Error> {
        if self.read.is_some_and(|read| read.elapsed() < FRESH) {
            return Ok(());
        }
        self.counters = shared.host.counters()?.into_iter().collect();
        self.queues.clear();
        if shared.settings.ingress.is_some() {
            for queue in shared.host.queues()? {
                self.queues.entry(queue.index).or_default().push(queue);
            }
        }
        self.read = Some(Instant::now());
        Ok(())
    }
}

/// What went through a container's interface, and what happens behind it. The
/// interface is read at the host's end, where what the container receives is sent.
#[derive(Debug)]
pub(super) struct Traffic {
    shared: Arc<Shared>,
    pair: Pair,
    pid: u32,
    /// Of the container's network; opened when they are needed first.
    route: Option<Socket>,
    diag: Option<Socket>,
}

fn failed(what: &str) -> impl Fn(kernel::Error) -> IsolatorError {
    move |error| IsolatorError::new(NAME, "read", what, error)
}

impl Traffic {
    pub(super) fn new(shared: &Arc<Shared>, pair: &Pair, pid: u32) -> Traffic {
        Traffic { shared: Arc::clone(shared), pair: pair.clone(), pid, route: None, diag: None }
    }

    fn outside(&self, statistics: &mut ResourceStatistics) -> Result<(), IsolatorError> {
        let mut reading = self.shared.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.renew(&self.shared).map_err(failed("the counters of interfaces"))?;
        if let Some(ours) = reading.counters.get(&self.pair.index) {
            figures::counters(ours, statistics);
        }
        let queues = reading.queues.get(&self.pair.index).into_iter().flatten();
        let queues = queues.filter_map(|queue| figures::queue(queue, Way::Ingress));
        statistics.net_traffic_control_statistics.extend(queues);
        Ok(())
    }

    fn inside(&mut self, statistics: &mut ResourceStatistics) -> Result<(), IsolatorError> {
        let (settings, pid) = (&self.shared.settings, self.pid);
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}"));
        if settings.summary
            && let Ok(text) = text("sockstat")
        {
            figures::sockets(&text, statistics);
        }
        if settings.snmp
            && let Ok(text) = text("snmp")
        {
            statistics.net_snmp_statistics = figures::snmp(&text);
        }
        if settings.details {
            let what = "the connections of a container";
            let socket = opened(&mut self.diag, pid, Family::SockDiag).map_err(failed(what))?;
            let times = diag::round_trips(socket).map_err(failed(what))?;
            figures::round_trips(times, statistics);
        }
        if settings.egress.is_some() {
            let what = "the queues of a container";
            let socket = opened(&mut self.route, pid, Family::Route).map_err(failed(what))?;
            let queues = traffic::queues(socket).map_err(failed(what))?;
            let queues = queues.iter().filter_map(|queue| figures::queue(queue, Way::Egress));
            statistics.net_traffic_control_statistics.extend(queues);
        }
        Ok(())
    }
}

fn opened(
    kept: &mut Option<Socket>,
    pid: u32,
    family: Family,
) -> Result<&mut Socket, kernel::Error> {
    match kept {
        Some(socket) => Ok(socket),
        None => Ok(kept.insert(Socket::open_in(pid, family)?)),
    }
}

impl Probe for Traffic {
    fn source(&self) -> &'static str {
        NAME
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let (begin, end) = super::range(self.pair.block);
        statistics.net_ephemeral_ports = Some(value::Range { begin, end });
        statistics.net_tx_rate_limit = self.shared.settings.egress;
        statistics.net_rx_rate_limit = self.shared.settings.ingress;
        self.outside(statistics)?;
        self.inside(statistics)
    }

    fn release(&mut self) {
        (self.route, self.diag) = (None, None);
    }
}
