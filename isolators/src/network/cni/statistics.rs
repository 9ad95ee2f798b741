//! Figures of a container's interfaces, from `/proc/PID/net/dev`: its namespace's, read
//! without entering it.

use mesos::ResourceStatistics;

use super::NAME;
use crate::api::Probe;
use crate::probe::FileProbe;

/// The figures of the namespace that the process `pid` is in.
pub fn probe(pid: u32) -> Box<dyn Probe> {
    FileProbe::boxed(NAME, "net/dev", format!("/proc/{pid}/net/dev").into(), fill)
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
