//! Which ports a container may have, and what becomes of those it may not. Pure.

use std::time::{Duration, Instant};

use mesos::Resource;
use mesos::resources::Ranges;
use mesos::task_status::Reason;
use mesos::value;

use super::settings::{EVERY, Settings};
use crate::api::Limitation;

/// A port that was taken away may be listened on this much longer: what used it is
/// ending, and takes its time.
const GRACE: Duration = Duration::from_secs(30);

/// What is known of one container's ports.
#[derive(Debug, Default)]
pub struct Book {
    /// `None`: not known yet, nothing is judged.
    allocated: Option<Ranges>,
    /// Taken away, and until when that is overlooked.
    released: Vec<(Ranges, Instant)>,
    /// What it listened on at the last violation: said once.
    said: Option<Ranges>,
}

impl Book {
    /// The container has these ports now.
    pub fn allot(&mut self, ports: Ranges, now: Instant) {
        if let Some(before) = self.allocated.take() {
            let gone = before.difference(&ports);
            if !gone.is_empty() {
                self.released.push((gone, now + GRACE));
            }
        }
        self.allocated = Some(ports);
    }

    /// The ports that it has, if that is known.
    #[must_use]
    pub fn allocated(&self) -> Option<&Ranges> {
        self.allocated.as_ref()
    }

    /// It listens on these: what is wrong with that, if anything.
    pub fn judge(&mut self, listening: &Ranges, now: Instant) -> Option<Verdict> {
        self.released.retain(|(_, until)| *until > now);
        let mut allowed = self.allocated.clone()?;
        for (ports, _) in &self.released {
            allowed = allowed.union(ports);
        }
        let foreign = listening.difference(&allowed);
        if foreign.is_empty() {
            return None;
        }
        let news = self.said.as_ref() != Some(listening);
        self.said = Some(listening.clone());
        Some(Verdict { foreign, news })
    }
}

/// A container listens where it may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The ports that it does not have.
    pub foreign: Ranges,
    /// It was not so at the last look.
    pub news: bool,
}

/// The ports among these resources, of all roles.
#[must_use]
pub fn ports(requests: &[Resource]) -> Ranges {
    let all = requests.iter().filter(|resource| resource.name == "ports");
    let pairs = all.filter_map(|resource| resource.ranges.as_ref()).flat_map(|r| &r.range);
    Ranges::new(pairs.map(|range| (range.begin, range.end)))
}

/// As Mesos says it.
#[must_use]
pub fn violation(container: &str, foreign: &Ranges) -> Limitation {
    let range = |(begin, end)| value::Range { begin, end };
    let resource = Resource {
        name: "ports".into(),
        r#type: value::Type::Ranges as i32,
        ranges: Some(value::Ranges { range: foreign.iter().map(range).collect() }),
        ..Resource::default()
    };
    Limitation {
        message: format!("Container {container} is listening on unallocated port(s): {foreign}"),
        resources: vec![resource],
        reason: Reason::ContainerLimitation,
    }
}

/// The ports whose `bind()` is refused to a container that has `allocated`;
/// `ephemeral` is what the kernel gives to those who ask for none.
#[must_use]
pub fn refused(settings: &Settings, allocated: &Ranges, ephemeral: (u16, u16)) -> Vec<(u16, u16)> {
    let scope = settings.scope.clone().unwrap_or_else(|| Ranges::new([EVERY]));
    // Port 0 is never in it: what the kernel chooses is no port of anybody's.
    let mut refused = scope.difference(allocated).difference(&Ranges::new([(0, 0)]));
    if settings.bind == super::settings::Bind::Ephemeral {
        let (first, last) = (u64::from(ephemeral.0), u64::from(ephemeral.1));
        refused = refused.difference(&Ranges::new([(first, last)]));
    }
    let port = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let within = refused.iter().filter(|(first, _)| *first <= EVERY.1);
    within.map(|(first, last)| (port(first), port(last))).collect()
}

/// The container that a cgroup belongs to, its parents first. `path` is below the
/// mount point, `root` is `--cgroups_root`.
#[must_use]
pub fn container_of(path: &str, root: &str) -> Option<Vec<String>> {
    let below = path.trim_matches('/').strip_prefix(root.trim_matches('/'))?;
    let mut parts = below.strip_prefix('/')?.split('/');
    let mut lineage = vec![parts.next().filter(|id| !id.is_empty())?.to_owned()];
    while let (Some("mesos"), Some(child)) = (parts.next(), parts.next()) {
        lineage.push(child.to_owned());
    }
    Some(lineage)
}

#[cfg(test)]
mod tests {
    use super::super::settings::Bind;
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Ranges {
        Ranges::new(pairs.iter().copied())
    }

    fn verdict(foreign: &[(u64, u64)], news: bool) -> Option<Verdict> {
        Some(Verdict { foreign: ranges(foreign), news })
    }

    #[test]
    fn foreign_ports_are_news_once() {
        let (mut book, now) = (Book::default(), Instant::now());
        let own = ranges(&[(31000, 31001)]);
        assert_eq!(book.judge(&ranges(&[(80, 80)]), now), None, "nothing is known yet");
        book.allot(own.clone(), now);
        assert_eq!(book.judge(&ranges(&[]), now), None);
        assert_eq!(book.judge(&own, now), None);
        let both = ranges(&[(80, 80), (31000, 31000)]);
        assert_eq!(book.judge(&both, now), verdict(&[(80, 80)], true));
        assert_eq!(book.judge(&both, now), verdict(&[(80, 80)], false));
        assert_eq!(book.judge(&ranges(&[(80, 81)]), now), verdict(&[(80, 81)], true));
        book.allot(ranges(&[]), now);
        assert_eq!(book.allocated(), Some(&ranges(&[])));
    }

    #[test]
    fn what_is_taken_away_may_take_its_time_to_end() {
        let (mut book, now) = (Book::default(), Instant::now());
        let own = ranges(&[(31000, 31001)]);
        book.allot(own.clone(), now);
        book.allot(ranges(&[(31001, 31001)]), now);
        assert_eq!(book.judge(&own, now + GRACE / 2), None, "its task is ending");
        assert_eq!(book.judge(&own, now + GRACE), verdict(&[(31000, 31000)], true));
        // Given and taken again.
        book.allot(own.clone(), now + GRACE);
        book.allot(ranges(&[]), now + GRACE);
        assert_eq!(book.judge(&own, now + GRACE), None);
    }

    #[test]
    fn limitations_speak_as_mesos_does() {
        let said = violation("a.b", &ranges(&[(80, 80), (8000, 8001)]));
        let wanted = "Container a.b is listening on unallocated port(s): [80-80, 8000-8001]";
        assert_eq!(said.message, wanted);
        assert_eq!(said.reason, Reason::ContainerLimitation);
        assert_eq!(ports(&said.resources), ranges(&[(80, 80), (8000, 8001)]));
        assert!(ports(&[crate::quantity::scalar("cpus", 1.0)]).is_empty());
    }

    #[test]
    fn refused_ports() {
        let own = ranges(&[(31000, 31000)]);
        let of = |bind, scope: Option<&[(u64, u64)]>| {
            let settings = Settings { bind, scope: scope.map(ranges), ..Settings::default() };
            refused(&settings, &own, (32768, 60999))
        };
        assert_eq!(of(Bind::Allocated, None), [(1, 30999), (31001, 65535)]);
        assert_eq!(of(Bind::Ephemeral, None), [(1, 30999), (31001, 32767), (61000, 65535)]);
        assert_eq!(of(Bind::Allocated, Some(&[(0, 31005)])), [(1, 30999), (31001, 31005)]);
        assert_eq!(of(Bind::Ephemeral, Some(&[(31000, 31000)])), []);
        assert_eq!(of(Bind::Allocated, Some(&[(70000, 70001)])), [], "no ports at all");
    }

    #[test]
    fn cgroups_have_containers() {
        let rows: [(&str, Option<&[&str]>); 8] = [
            ("mesos/a/leaf", Some(&["a"])),
            ("/mesos/a", Some(&["a"])),
            ("mesos/a/mesos/b/leaf/own/deeper", Some(&["a", "b"])),
            ("mesos/a/mesos/b/mesos/c/leaf", Some(&["a", "b", "c"])),
            ("mesos/a/mesos", Some(&["a"])),
            ("mesos", None),
            ("mesosphere/a", None),
            ("system.slice/x", None),
        ];
        for (path, wanted) in rows {
            let wanted = wanted.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
            assert_eq!(container_of(path, "mesos"), wanted, "{path}");
        }
        assert_eq!(container_of("x/y/a/leaf", "/x/y/"), Some(vec!["a".to_owned()]));
    }
}
