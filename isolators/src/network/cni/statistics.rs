//! Figures of a container's interfaces.
//!
//! Nearly all are ends of pairs whose other ends are on the host: those are read in one
//! list for all containers. A container with other interfaces (macvlan, ipvlan, a card
//! of its own) is read from `/proc/PID/net/dev`: its namespace's, read without
//! entering it.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::cgroup::KeptFile;
use kernel::namespaces::{Namespace, in_network_of};
use kernel::netlink::link::{self, Counters, Link};
use kernel::netlink::{Family, Socket};
use mesos::ResourceStatistics;

use super::super::ends;
use super::super::sorted::{Fresh, Sorted};
use super::NAME;
use crate::api::{IsolatorError, Probe};

/// The host's interfaces, read once for all containers of a pass.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Of the host's network; opened when it is needed first.
    socket: Mutex<Option<Socket>>,
    counters: Fresh<Counters>,
}

impl Ends {
    /// The figures of a container whose interfaces have these ends; `false` if one is gone.
    fn read(
        &self,
        indices: &[u32],
        statistics: &mut ResourceStatistics,
    ) -> Result<bool, kernel::Error> {
        let ask = |list: &Sorted<Counters>| {
            let all = indices.iter().map(|index| list.of(*index).next());
            sum(all, statistics).is_some()
        };
        self.counters.ask(|| self.list(), ask)
    }

    fn list(&self) -> Result<Vec<(u32, Counters)>, kernel::Error> {
        // An exchange that was cut short is skipped by the next one.
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *socket {
            Some(socket) => link::all_counters(socket),
            none => link::all_counters(none.insert(Socket::open(Family::Route)?)),
        }
    }
}

/// How a container's interfaces are read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// By their other ends, which have these indices on the host.
    Ends(Vec<u32>),
    File,
}

/// The interfaces of one container.
#[derive(Debug)]
struct Interfaces {
    pid: u32,
    ends: Arc<Ends>,
    /// Known after the first look.
    how: Option<How>,
    file: KeptFile,
}

/// The figures of the namespace that the process `pid` is in.
pub(super) fn probe(pid: u32, ends: &Arc<Ends>) -> Box<dyn Probe> {
    let file = KeptFile::new(format!("/proc/{pid}/net/dev").into());
    Box::new(Interfaces { pid, ends: Arc::clone(ends), how: None, file })
}

/// How the interfaces `all` of a container are read; `host`: what its network calls
/// the host's.
fn how(all: &[Link], host: Option<i32>) -> How {
    let others = all.iter().filter(|link| link.name != "lo");
    let end = |link: &Link| {
        let here = link.peers_network.is_some() && link.peers_network == host;
        link.peer.filter(|_| here && link.kind.as_deref() == Some("veth"))
    };
    match others.map(end).collect() {
        Some(ends) => How::Ends(ends),
        None => How::File,
    }
}

fn look(pid: u32) -> Result<How, kernel::Error> {
    let host = Namespace::Network.of(std::process::id());
    let host =
        File::open(&host).map_err(|e| kernel::Error::new("open", host.display().to_string(), e))?;
    let look = || {
        let mut socket = Socket::open(Family::Route)?;
        let all = link::list(&mut socket)?;
        Ok(how(&all, link::name_of_network(&mut socket, host.as_fd())?))
    };
    in_network_of(pid, look)
        .map_err(|e| kernel::Error::new("enter", format!("the network of process {pid}"), e))?
}

impl Probe for Interfaces {
    fn source(&self) -> &'static str {
        "net/dev"
    }

    fn sample(
        &mut self,
        buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let pid = self.pid;
        // What cannot be looked at has its file all the same.
        let how = self.how.get_or_insert_with(|| look(pid).unwrap_or(How::File));
        if let How::Ends(indices) = how {
            let read = self.ends.read(indices, statistics);
            let all_are_there = read
                .map_err(|e| IsolatorError::new(NAME, "read", "the counters of interfaces", e))?;
            if all_are_there {
                return Ok(());
            }
            // It was moved, or made anew.
            self.how = Some(How::File);
        }
        match self.file.read(buffer) {
            Ok(text) => {
                fill(text, statistics);
                Ok(())
            }
            Err(error) => {
                let path = self.file.path().display().to_string();
                Err(IsolatorError::new(NAME, "sample", path, error))
            }
        }
    }

    fn release(&mut self) {
        self.file.close();
    }
}

/// Sums over the host's ends, as the container sees them: what one end sends the other
/// receives. Nothing is said if one is not there.
fn sum<'a>(
    all: impl Iterator<Item = Option<&'a Counters>>,
    statistics: &mut ResourceStatistics,
) -> Option<()> {
    let mut total = Counters::default();
    for ours in all {
        total = total.plus(ours?);
    }
    ends::counters(&total, statistics);
    Some(())
}

/// Sums over all interfaces but the loopback, as the container sees them.
fn fill(text: &[u8], statistics: &mut ResourceStatistics) {
    let mut sums = [0u64; 16];
    for line in text.split(|byte| *byte == b'\n').skip(2) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, figures) = line.split_at(colon);
        if name.trim_ascii() == b"lo" {
            continue;
        }
        for (sum, figure) in sums.iter_mut().zip(numbers(&figures[1..])) {
            *sum = sum.saturating_add(figure);
        }
    }
    statistics.net_rx_bytes = Some(sums[0]);
    statistics.net_rx_packets = Some(sums[1]);
    statistics.net_rx_errors = Some(sums[2]);
    statistics.net_rx_dropped = Some(sums[3]);
    statistics.net_tx_bytes = Some(sums[8]);
    statistics.net_tx_packets = Some(sums[9]);
    statistics.net_tx_errors = Some(sums[10]);
    statistics.net_tx_dropped = Some(sums[11]);
}

fn numbers(text: &[u8]) -> impl Iterator<Item = u64> {
    let digit =
        |sum: u64, byte: &u8| sum.wrapping_mul(10).wrapping_add(u64::from(byte.wrapping_sub(b'0')));
    let words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.map(move |word| word.iter().fold(0, digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, peer: u32, network: Option<i32>) -> Link {
        Link {
            index: 2,
            name: name.into(),
            kind: Some("veth".into()),
            up: true,
            mtu: 1500,
            address: Vec::new(),
            master: None,
            peer: Some(peer),
            peers_network: network,
            alias: None,
            counters: Counters::default(),
        }
    }

    #[test]
    fn pairs_that_end_on_the_host_are_read_there() {
        let loopback = Link { kind: None, peer: None, ..pair("lo", 0, None) };
        let own = |links: &[Link]| how(&[std::slice::from_ref(&loopback), links].concat(), Some(3));
        let (one, two) = (pair("eth0", 70, Some(3)), pair("eth1", 71, Some(3)));
        assert_eq!(own(&[]), How::Ends(vec![]));
        assert_eq!(own(&[one.clone(), two]), How::Ends(vec![70, 71]));
        let elsewhere = pair("eth1", 9, Some(4));
        let inside = pair("eth1", 9, None);
        let other = Link { kind: Some("macvlan".into()), ..pair("eth1", 9, Some(3)) };
        for odd in [elsewhere, inside.clone(), other] {
            assert_eq!(own(&[one.clone(), odd]), How::File);
        }
        assert_eq!(how(&[inside], None), How::File, "its network has no name for the host's");
    }

    #[test]
    fn what_the_host_sends_is_received() {
        let ours = Counters { tx_bytes: 5, rx_bytes: 7, tx_dropped: 1, ..Counters::default() };
        let mut found = ResourceStatistics::default();
        let more = Counters { tx_bytes: u64::MAX, ..ours };
        assert_eq!(sum([Some(&ours), None].into_iter(), &mut found), None);
        assert_eq!(found, ResourceStatistics::default());
        assert_eq!(sum([Some(&ours), Some(&more)].into_iter(), &mut found), Some(()));
        assert_eq!((found.net_rx_bytes, found.net_tx_bytes), (Some(u64::MAX), Some(14)));
        assert_eq!((found.net_rx_dropped, found.net_tx_dropped), (Some(2), Some(0)));
    }

    #[test]
    fn interfaces_are_summed_without_the_loopback() {
        let text = b"Inter-|   Receive    |  Transmit\n face |bytes    packets errs drop fifo frame\n\
            \x20   lo:     100       1    1    1    0     0          0         0 100 1 1 1 0 0 0 0\n\
            \x20 eth0: 18446744073709551615       2    3    4    0     0          0         0 50 6 7 8 0 0 0 0\n\
            \x20 eth1:       0      10    0    0    0     0          0         0 1000 20 0 0 0 0 0 0\n";
        let mut found = ResourceStatistics::default();
        fill(text, &mut found);
        let rx =
            [found.net_rx_bytes, found.net_rx_packets, found.net_rx_errors, found.net_rx_dropped];
        assert_eq!(rx, [Some(u64::MAX), Some(12), Some(3), Some(4)]);
        let tx =
            [found.net_tx_bytes, found.net_tx_packets, found.net_tx_errors, found.net_tx_dropped];
        assert_eq!(tx, [Some(1050), Some(26), Some(7), Some(8)]);
        fill(b"", &mut found);
        assert_eq!(found.net_rx_bytes, Some(0));
    }
}
