//! What a container may send and receive: from flags and cpus to token buckets. Pure.

use kernel::netlink::traffic::Rate;

/// Mesos' least limit where no flag says another: 1 Mbit/s, in bytes per second.
const LEAST: u64 = 125_000;

/// `--egress_rate_per_cpu`, `--ingress_rate_per_cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerCpu {
    /// `auto`: what the link has, divided by the cpus of the agent.
    Share,
    /// Bytes per second.
    Bytes(u64),
}

/// The flags of one way. All rates are in bytes per second; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// `--egress_rate_limit_per_container`, and so on.
    pub fixed: Option<u64>,
    /// `--egress_rate_per_cpu`: for each whole cpu of the container.
    pub per_cpu: Option<PerCpu>,
    /// `--minimum_egress_rate_limit`.
    pub minimum: Option<u64>,
    /// `--maximum_egress_rate_limit`.
    pub maximum: Option<u64>,
    /// `--egress_ceil_limit`: what may be sent while there is something saved up.
    pub ceiling: Option<u64>,
    /// `--egress_burst`: how many bytes can be saved up.
    pub burst: Option<u64>,
}

/// What the public interface can do, as far as it is known, in bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// `--network_link_speed`; for [`PerCpu::Share`].
    pub told: Option<u64>,
    /// What the interface says of itself.
    pub seen: Option<u64>,
}

impl Link {
    /// From what `/sys/class/net/<name>/speed` says, in megabits per second.
    #[must_use]
    pub fn read(told: Option<u64>, text: &str) -> Link {
        // -1, or its bits: the interface does not know.
        let megabits =
            text.trim().parse::<u64>().ok().filter(|n| (1..u64::from(u32::MAX)).contains(n));
        Link { told, seen: megabits.map(|n| n * 125_000) }
    }
}

impl Shape {
    /// The flags as they are used: [`PerCpu::Share`] becomes a number. `way`:
    /// `egress` or `ingress`; `cpus`: of the agent.
    ///
    /// # Errors
    /// They contradict each other or the link; for people.
    pub fn resolve(&self, way: &str, link: Link, cpus: f64) -> Result<Shape, String> {
        let given = |flag: Option<u64>| flag.filter(|rate| *rate > 0);
        let mut shape = Shape {
            fixed: given(self.fixed),
            per_cpu: self.per_cpu.filter(|rate| *rate != PerCpu::Bytes(0)),
            minimum: self.minimum,
            maximum: given(self.maximum),
            ceiling: given(self.ceiling),
            burst: given(self.burst),
        };
        if shape.fixed.is_some() && shape.per_cpu.is_some() {
            return Err(format!(
                "--{way}_rate_limit_per_container and --{way}_rate_per_cpu: give one of them"
            ));
        }
        if let (Some(least), Some(most)) = (shape.minimum, shape.maximum)
            && least > most
        {
            return Err(format!(
                "--minimum_{way}_rate_limit={least}B is more than --maximum_{way}_rate_limit={most}B"
            ));
        }
        if let Some(speed) = link.seen {
            let rates = [
                (format!("{way}_rate_limit_per_container"), shape.fixed),
                (format!("minimum_{way}_rate_limit"), shape.minimum),
            ];
            for (flag, rate) in rates {
                if let Some(rate) = rate.filter(|rate| *rate > speed) {
                    return Err(format!(
                        "--{flag}={rate}B is more than the link's {speed} bytes per second"
                    ));
                }
            }
        }
        if shape.per_cpu == Some(PerCpu::Share) {
            let speed = link.told.or(link.seen).ok_or_else(|| {
                format!(
                    "--{way}_rate_per_cpu=auto: the speed of the link is not known; give \
                     --network_link_speed"
                )
            })?;
            let cpus = whole(cpus);
            if cpus == 0 {
                return Err(format!("--{way}_rate_per_cpu=auto: --resources has no whole cpu"));
            }
            shape.per_cpu = Some(PerCpu::Bytes(speed / cpus));
        }
        Ok(shape)
    }

    /// Bytes per second for each cpu; 0: no such limit.
    #[must_use]
    pub fn rate_per_cpu(&self) -> u64 {
        match self.per_cpu {
            Some(PerCpu::Bytes(rate)) => rate,
            Some(PerCpu::Share) | None => 0,
        }
    }

    /// The limit of a container with that many cpus.
    #[must_use]
    pub fn limit(&self, cpus: f64) -> Option<Rate> {
        let wanted = match (self.fixed, self.per_cpu) {
            (Some(fixed), _) => fixed,
            (None, Some(_)) => self.rate_per_cpu().saturating_mul(whole(cpus)),
            (None, None) => return None,
        };
        let rate = wanted.max(self.minimum.unwrap_or(LEAST));
        let rate = self.maximum.map_or(rate, |most| rate.min(most)).max(1);
        let ceiling = self.ceiling.filter(|ceiling| *ceiling > rate);
        let burst = self.burst.filter(|_| ceiling.is_some());
        Some(Rate { rate, ceiling: ceiling.unwrap_or(rate), burst })
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(cpus: f64) -> u64 {
    // The cast saturates.
    cpus.floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { told: None, seen: Some(1_250_000_000) };

    fn resolved(shape: Shape) -> Shape {
        shape.resolve("egress", LINK, 4.5).expect("valid")
    }

    #[test]
    fn rates_follow_cpus_between_least_and_most() {
        assert_eq!(resolved(Shape::default()).limit(8.0), None);
        let plain = |rate| Some(Rate { rate, ceiling: rate, burst: None });
        let fixed = resolved(Shape { fixed: Some(500_000), ..Shape::default() });
        assert_eq!(fixed.limit(0.1), plain(500_000));
        let small = resolved(Shape { fixed: Some(1000), ..Shape::default() });
        assert_eq!(small.limit(1.0), plain(LEAST), "Mesos' own minimum");
        let small = Shape { minimum: Some(0), ..small };
        assert_eq!(small.limit(1.0), plain(1000));
        let none = resolved(Shape { fixed: Some(0), ..Shape::default() });
        assert_eq!(none.limit(1.0), None, "zero is no limit");

        let per_cpu = Shape {
            per_cpu: Some(PerCpu::Bytes(1_000_000)),
            minimum: Some(300_000),
            maximum: Some(2_500_000),
            ..Shape::default()
        };
        let per_cpu = resolved(per_cpu);
        for (cpus, rate) in [(0.5, 300_000), (1.0, 1_000_000), (2.9, 2_000_000), (3.0, 2_500_000)] {
            assert_eq!(per_cpu.limit(cpus), plain(rate), "{cpus}");
        }
        assert_eq!(per_cpu.rate_per_cpu(), 1_000_000);
        let share = resolved(Shape { per_cpu: Some(PerCpu::Share), ..Shape::default() });
        assert_eq!(share.limit(1.0), plain(312_500_000), "a quarter of 10 Gbit/s");
    }

    #[test]
    fn bursts_need_a_ceiling_above_the_rate() {
        let shape = Shape {
            fixed: Some(1_000_000),
            ceiling: Some(4_000_000),
            burst: Some(65_536),
            ..Shape::default()
        };
        let wanted = Rate { rate: 1_000_000, ceiling: 4_000_000, burst: Some(65_536) };
        assert_eq!(resolved(shape).limit(1.0), Some(wanted));
        let low = Shape { ceiling: Some(900_000), ..shape };
        let wanted = Rate { rate: 1_000_000, ceiling: 1_000_000, burst: None };
        assert_eq!(resolved(low).limit(1.0), Some(wanted));
    }

    #[test]
    fn what_contradicts_is_named() {
        let per_cpu = Some(PerCpu::Bytes(1));
        let plain = Shape::default();
        for (shape, link, words) in [
            (Shape { fixed: Some(1), per_cpu, ..plain }, LINK, "--egress_rate_per_cpu: give one"),
            (
                Shape { minimum: Some(3), maximum: Some(2), ..plain },
                LINK,
                "--minimum_egress_rate_limit=3B is more than --maximum_egress_rate_limit=2B",
            ),
            (
                Shape { fixed: Some(2_000_000_000), ..plain },
                LINK,
                "--egress_rate_limit_per_container=2000000000B is more than the link's 1250000000",
            ),
            (
                Shape { per_cpu: Some(PerCpu::Share), ..plain },
                Link::default(),
                "give --network_link_speed",
            ),
        ] {
            let error = shape.resolve("egress", link, 2.0).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let share = Shape { per_cpu: Some(PerCpu::Share), ..plain };
        let error = share.resolve("ingress", LINK, 0.5).unwrap_err();
        assert!(error.contains("--ingress_rate_per_cpu=auto: --resources has no"), "{error}");
    }

    #[test]
    fn links_say_how_fast_they_are() {
        assert_eq!(Link::read(None, "10000\n"), LINK);
        for text in ["-1\n", "", "0", "4294967295"] {
            assert_eq!(Link::read(Some(5), text), Link { told: Some(5), seen: None }, "{text}");
        }
    }
}
