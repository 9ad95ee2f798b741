//! Limits of containers and the order in which what they send leaves the host: the
//! kernel's part. **Blocks.**

use kernel::bpf::{self, steer};
use kernel::namespaces::in_network_of;
use kernel::netlink::traffic::{self, Fair, Rate};
use kernel::netlink::{Family, Socket, link};

use super::host::{Error, Host, PRIORITY, Pair, unfit};

/// The name of the program that gives the host's own packets their flow.
const FIRST: &str = "bulkhead_flow";
/// Flows that are nobody's: the host's, and the one that Mesos has for ARP and ICMP.
const RESERVED: u32 = 3;
/// As many as the kernel makes where nobody says how many.
const USUAL: u32 = 1024;

/// What a container may send and receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) egress: Option<Rate>,
    pub(super) ingress: Option<Rate>,
}

/// Puts fair queues on the public interface, with a flow for each block of that
/// many ephemeral ports.
pub(super) fn fair_queues(
    socket: &mut Socket,
    index: u32,
    parent: u32,
    per_container: u32,
) -> Result<Fair, Error> {
    let flows = (65_536 / per_container.max(1) + RESERVED).max(USUAL);
    let fair = traffic::fair_queues(socket, index, parent, flows)?;
    let program = bpf::classifier(FIRST, &steer::first_flow())?;
    let filter = (std::os::fd::AsFd::as_fd(&program), FIRST);
    traffic::set_classifier(socket, index, fair.handle, PRIORITY, filter)?;
    Ok(fair)
}

/// The flow of the container with that block. Queues that were there already may have
/// few: then some share one.
pub(super) fn class(fair: Fair, block: (u16, u16), per_container: u32) -> u32 {
    let number = u32::from(block.0) / per_container.max(1);
    let own = fair.flows.saturating_sub(RESERVED).max(1);
    fair.handle | (RESERVED + number % own).min(0xffff)
}

impl Host {
    /// Does `work` with the interface of a container, inside.
    fn inside<T: Send>(
        &self,
        pid: u32,
        work: impl FnOnce(&mut Socket, u32) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let name = &self.public.name;
        let done = in_network_of(pid, || {
            let mut socket = Socket::open(Family::Route)?;
            let own = link::find(&mut socket, name)?;
            let own = own.ok_or_else(|| unfit(format!("the interface '{name}': it is gone")))?;
            work(&mut socket, own.index)
        });
        done.map_err(|e| Error::new("enter", format!("the network of process {pid}"), e))?
    }

    /// Limits a container, or changes its limits. What it receives is held back at
    /// the host's end, what it sends at its own. A way whose limit is as it was is not
    /// touched.
    pub(super) fn limit(
        &self,
        pair: &Pair,
        pid: u32,
        limits: Limits,
        before: Limits,
    ) -> Result<(), Error> {
        let apply = |socket: &mut Socket, index: u32, limit: Option<Rate>| match limit {
            Some(rate) => traffic::set_limit(socket, index, rate),
            None => traffic::remove_limit(socket, index),
        };
        if limits.ingress != before.ingress {
            apply(&mut self.socket(), pair.index, limits.ingress)?;
        }
        if limits.egress != before.egress {
            self.inside(pid, |socket, index| apply(socket, index, limits.egress))?;
        }
        Ok(())
    }

    /// The limits that a container has, made by whatever agent.
    pub(super) fn limits(&self, pair: &Pair, pid: u32) -> Result<Limits, Error> {
        let ingress = traffic::limit(&mut self.socket(), pair.index)?;
        let egress = self.inside(pid, traffic::limit)?;
        Ok(Limits { egress, ingress })
    }

    /// Queues of all the host's interfaces.
    pub(super) fn queues(&self) -> Result<Vec<traffic::Queue>, Error> {
        traffic::queues(&mut self.socket())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_have_flows_of_their_own() {
        let fair = Fair { handle: 0x8001_0000, flows: 1024 };
        assert_eq!(class(fair, (32_768, 33_791), 1024), 0x8001_0000 | (3 + 32));
        assert_eq!(class(fair, (33_792, 34_815), 1024), 0x8001_0000 | (3 + 33));
        // Fewer flows than blocks.
        let few = Fair { handle: 0x1_0000, flows: 16 };
        for first in (0..=u16::MAX).step_by(1024) {
            let flow = class(few, (first, first + 1023), 1024) & 0xffff;
            assert!((3..16).contains(&flow), "{flow}");
        }
        let none = Fair { handle: 0x1_0000, flows: 0 };
        assert_eq!(class(none, (0, 15), 16), 0x1_0003);
    }
}
