//! The figures of one container's network, for the sampler.
//!
//! Counters and queues of the host's ends are read once for all containers of a
//! pass. What is inside a container's network is asked for by sockets that were
//! opened there, or read through `/proc/<pid>/net`.

use std::sync::{Arc, Mutex};

use kernel::netlink::link::Counters;
use kernel::netlink::traffic::{self, Queue};
use kernel::netlink::{Family, Socket, diag};
use mesos::{ResourceStatistics, value};

use super::super::ends;
use super::super::sorted::Fresh;
use super::figures::{self, Way};
use super::host::Pair;
use super::shaping::Limits;
use super::{NAME, Shared, lock};
use crate::api::{IsolatorError, Probe};

/// Counters and queues of all the host's interfaces by index.
#[derive(Debug, Default)]
pub(super) struct Reading {
    counters: Fresh<Counters>,
    queues: Fresh<Queue>,
}

/// What went through a container's interface, and what happens behind it. The
/// interface is read at the host's end, where what the container receives is sent.
#[derive(Debug)]
pub(super) struct Traffic {
    shared: Arc<Shared>,
    pair: Pair,
    pid: u32,
    limits: Arc<Mutex<Limits>>,
    /// Of the container's network; opened when they are needed first.
    route: Option<Socket>,
    diag: Option<Socket>,
}

fn failed(what: &str) -> impl Fn(kernel::Error) -> IsolatorError {
    move |error| IsolatorError::new(NAME, "read", what, error)
}

impl Traffic {
    pub(super) fn new(
        shared: &Arc<Shared>,
        pair: &Pair,
        pid: u32,
        limits: &Arc<Mutex<Limits>>,
    ) -> Traffic {
        let (shared, limits) = (Arc::clone(shared), Arc::clone(limits));
        Traffic { shared, pair: pair.clone(), pid, limits, route: None, diag: None }
    }

    fn outside(
        &self,
        limited: bool,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let (host, index) = (&self.shared.host, self.pair.index);
        let reading = &self.shared.reading;
        let counters = reading.counters.ask(
            || host.counters(),
            |list| {
                if let Some(ours) = list.of(index).next() {
                    ends::counters(ours, statistics);
                }
            },
        );
        counters.map_err(failed("the counters of interfaces"))?;
        if limited {
            let read =
                || Ok(host.queues()?.into_iter().map(|queue| (queue.index, queue)).collect());
            let queues = reading.queues.ask(read, |list| {
                let own = list.of(index);
                let own = own.filter_map(|queue| figures::queue(queue, Way::Ingress));
                statistics.net_traffic_control_statistics.extend(own);
            });
            queues.map_err(failed("the queues of interfaces"))?;
        }
        if let Some(sampling) = &self.shared.settings.rates {
            let windows = lock(&self.shared.windows);
            let rates = windows.get(&index).map(|window| window.statistics(sampling));
            statistics.net_rate_statistics = rates;
        }
        Ok(())
    }

    fn inside(
        &mut self,
        limited: bool,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
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
        if limited {
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
        let limits = *lock(&self.limits);
        figures::limits(&limits, statistics);
        self.outside(limits.ingress.is_some(), statistics)?;
        self.inside(limits.egress.is_some(), statistics)
    }

    fn release(&mut self) {
        (self.route, self.diag) = (None, None);
    }
}
