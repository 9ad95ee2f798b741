//! Limits of containers: the kernel's part. **Blocks.**

use kernel::namespaces::in_network_of;
use kernel::netlink::traffic::{self, Rate};
use kernel::netlink::{Family, Socket, link};

use super::host::{Error, Host, Pair, unfit};

/// What a container may send and receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) egress: Option<Rate>,
    pub(super) ingress: Option<Rate>,
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
