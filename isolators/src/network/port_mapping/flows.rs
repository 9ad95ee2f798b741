//! The order in which what containers send leaves the host: fair queues with a flow for
//! each. The kernel's part. **Blocks.**

use std::os::fd::AsFd;

use kernel::Error;
use kernel::bpf::{self, steer};
use kernel::netlink::Socket;
use kernel::netlink::traffic::{self, Fair};

/// The name of the program that gives the host's own packets their flow.
const FIRST: &str = "bulkhead_flow";
/// Flows that are nobody's: the host's, and the one that Mesos has for ARP and ICMP.
const RESERVED: u32 = 3;
/// As many as the kernel makes where nobody says how many.
const USUAL: u32 = 1024;

/// Puts fair queues on the public interface, with a flow for each block of that
/// many ephemeral ports. `priority`: the place of our filter among those of the queues.
pub(super) fn fair_queues(
    socket: &mut Socket,
    index: u32,
    parent: u32,
    per_container: u32,
    priority: u16,
) -> Result<Fair, Error> {
    let flows = (65_536 / per_container.max(1) + RESERVED).max(USUAL);
    let fair = traffic::fair_queues(socket, index, parent, flows)?;
    let program = bpf::classifier(FIRST, &steer::first_flow())?;
    let filter = (program.as_fd(), FIRST);
    traffic::set_classifier(socket, index, fair.handle, priority, filter)?;
    Ok(fair)
}

/// The flow of the container with that block. Queues that were there already may have
/// few: then some share one.
pub(super) fn class(fair: Fair, block: (u16, u16), per_container: u32) -> u32 {
    let number = u32::from(block.0) / per_container.max(1);
    let own = fair.flows.saturating_sub(RESERVED).max(1);
    fair.handle | (RESERVED + number % own).min(0xffff)
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
