//! `net_rate_statistics`: how the rates of a container were spread over a window. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kernel::netlink::link::Counters;
use mesos::resource_statistics::{RatePercentiles, RateStatistics};

/// Nobody may ask for more.
const SHORTEST: Duration = Duration::from_millis(20);

/// `--network_rate_statistics_window` and `--network_rate_statistics_interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// What is looked back on.
    pub window: Duration,
    /// From one reading to the next.
    pub interval: Duration,
}

impl Sampling {
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        let Sampling { window, interval } = *self;
        if interval < SHORTEST {
            return Err(format!(
                "--network_rate_statistics_interval={interval:?}: it must be {SHORTEST:?} or more"
            ));
        }
        match window > interval {
            true => Ok(()),
            false => Err(format!(
                "--network_rate_statistics_window={window:?}: it must be longer than \
                 --network_rate_statistics_interval={interval:?}"
            )),
        }
    }

    fn most(&self) -> usize {
        let readings = self.window.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(readings).unwrap_or(usize::MAX)
    }
}

/// As the container sees them, in the order of Mesos' fields: received bytes, packets,
/// drops, errors, then the same that was sent; per second.
type Rates = [u64; 8];

/// What was read of one container's interface, at the host's end.
#[derive(Debug, Default)]
pub(super) struct Window {
    last: Option<(Instant, Rates)>,
    rates: VecDeque<(Instant, Rates)>,
}

fn counts(ours: &Counters) -> Rates {
    let sent = [ours.tx_bytes, ours.tx_packets, ours.tx_dropped, ours.tx_errors];
    let received = [ours.rx_bytes, ours.rx_packets, ours.rx_dropped, ours.rx_errors];
    // What the host sends the container receives.
    std::array::from_fn(|place| if place < 4 { sent[place] } else { received[place - 4] })
}

impl Window {
    /// Takes a reading in.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn take(&mut self, now: Instant, ours: &Counters, sampling: &Sampling) {
        let counts = counts(ours);
        if let Some((then, before)) = self.last {
            let seconds = now.saturating_duration_since(then).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            // Counters do not fall; a rate is no exact number.
            let rate = |place: usize| {
                (counts[place].saturating_sub(before[place]) as f64 / seconds) as u64
            };
            self.rates.push_back((now, std::array::from_fn(rate)));
        }
        self.last = Some((now, counts));
        let old =
            |(then, _): &(Instant, Rates)| now.saturating_duration_since(*then) > sampling.window;
        while self.rates.len() > sampling.most() || self.rates.front().is_some_and(old) {
            self.rates.pop_front();
        }
    }

    /// What became of the window.
    pub(super) fn statistics(&self, sampling: &Sampling) -> RateStatistics {
        let of = |place: usize| percentiles(self.rates.iter().map(|(_, rates)| rates[place]));
        RateStatistics {
            rx_rate: of(0),
            rx_packet_rate: of(1),
            rx_drop_rate: of(2),
            rx_error_rate: of(3),
            tx_rate: of(4),
            tx_packet_rate: of(5),
            tx_drop_rate: of(6),
            tx_error_rate: of(7),
            sampling_window_secs: Some(sampling.window.as_secs_f64()),
            sampling_interval_secs: Some(sampling.interval.as_secs_f64()),
        }
    }
}

/// Between two values there is a line, as in Mesos; one value alone says nothing.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn percentiles(values: impl Iterator<Item = u64>) -> Option<RatePercentiles> {
    let mut values: Vec<u64> = values.collect();
    if values.len() < 2 {
        return None;
    }
    values.sort_unstable();
    let at = |part: f64| {
        let place = part * (values.len() - 1) as f64;
        // A place in the list.
        let before = place.floor() as usize;
        let low = *values.get(before)?;
        let high = values.get(before + 1).copied().unwrap_or(low);
        Some(low + ((high - low) as f64 * place.fract()).round() as u64)
    };
    Some(RatePercentiles {
        min: values.first().copied(),
        max: values.last().copied(),
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        samples: Some(values.len() as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLING: Sampling =
        Sampling { window: Duration::from_secs(10), interval: Duration::from_secs(1) };

    #[test]
    fn rates_of_a_window_have_percentiles() {
        let (start, mut window) = (Instant::now(), Window::default());
        let mut ours = Counters::default();
        assert_eq!(window.statistics(&SAMPLING).rx_rate, None);
        for second in 0..=20u64 {
            // 100, 200, ... bytes a second; the container sends one packet in each.
            (ours.tx_bytes, ours.rx_packets) = (ours.tx_bytes + 100 * second, second);
            window.take(start + Duration::from_secs(second), &ours, &SAMPLING);
        }
        let found = window.statistics(&SAMPLING);
        let received = found.rx_rate.expect("rates");
        assert_eq!((received.min, received.max), (Some(1100), Some(2000)), "ten of them");
        assert_eq!((received.p50, received.p90), (Some(1550), Some(1910)));
        assert_eq!((received.p9999, received.samples), (Some(2000), Some(10)));
        let sent = found.tx_packet_rate.expect("rates");
        assert_eq!((sent.min, sent.max, sent.p99), (Some(1), Some(1), Some(1)));
        assert_eq!(found.rx_drop_rate.expect("rates").max, Some(0));
        assert_eq!(found.sampling_window_secs, Some(10.0));
        assert_eq!(found.sampling_interval_secs, Some(1.0));
        // After a pause only what is new counts.
        window.take(start + Duration::from_secs(100), &ours, &SAMPLING);
        assert_eq!(window.statistics(&SAMPLING).rx_rate, None, "one is not enough");
    }

    #[test]
    fn windows_are_longer_than_intervals() {
        assert_eq!(SAMPLING.check(), Ok(()));
        let short = Sampling { interval: Duration::from_millis(19), ..SAMPLING };
        assert!(short.check().unwrap_err().contains("--network_rate_statistics_interval=19ms"));
        let equal = Sampling { window: SAMPLING.interval, ..SAMPLING };
        assert!(equal.check().unwrap_err().contains("longer than"));
    }
}
