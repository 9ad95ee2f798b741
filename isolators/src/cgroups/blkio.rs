//! `cgroups/blkio`: weights, throttles and counts of block devices; `io` on v2.
//!
//! Mesos only counts. Here a weight and bounds per device can be set, by flag for
//! every container and by label for a task; of both the lower counts, so the flag
//! is default and ceiling. Grammar, merging and files are pure functions.

use std::collections::BTreeMap;

use kernel::cgroup::{Cgroup, Version, parse};
use mesos::ResourceStatistics;
use mesos::cgroup_info::blkio::throttling::Statistics;
use mesos::cgroup_info::blkio::{Operation, Value};

use super::control::{Control, failed};
use crate::api::{ContainerContext, IsolatorError, Probe};
use crate::probe::FileProbe;

/// As in `--isolation`.
pub const NAME: &str = "cgroups/blkio";
/// The label that asks for a weight.
pub const WEIGHT_LABEL: &str = "blkio_weight";
/// The label that asks for bounds.
pub const THROTTLE_LABEL: &str = "blkio_throttle";

/// The most per second; `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes read.
    pub rbps: Option<u64>,
    /// Bytes written.
    pub wbps: Option<u64>,
    /// Reads.
    pub riops: Option<u64>,
    /// Writes.
    pub wiops: Option<u64>,
}

impl Bounds {
    /// Name on v2, value, file on v1.
    fn fields(&self) -> [(&'static str, Option<u64>, &'static str); 4] {
        [
            ("rbps", self.rbps, "blkio.throttle.read_bps_device"),
            ("wbps", self.wbps, "blkio.throttle.write_bps_device"),
            ("riops", self.riops, "blkio.throttle.read_iops_device"),
            ("wiops", self.wiops, "blkio.throttle.write_iops_device"),
        ]
    }

    fn lower(self, other: Bounds) -> Bounds {
        let lower = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Bounds {
            rbps: lower(self.rbps, other.rbps),
            wbps: lower(self.wbps, other.wbps),
            riops: lower(self.riops, other.riops),
            wiops: lower(self.wiops, other.wiops),
        }
    }
}

/// Bounds on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// `8:0`, or the path of its node.
    pub device: String,
    /// What holds on it.
    pub bounds: Bounds,
}

/// Parses `8:0 rbps=1048576 wiops=100; /dev/sdb wbps=65536`.
///
/// # Errors
/// The text, and what is wrong with it, for people.
pub fn parse_throttles(text: &str) -> Result<Vec<Throttle>, String> {
    let mut all = Vec::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let mut words = part.split_whitespace();
        let device = words.next().unwrap_or_default().to_owned();
        let mut bounds = Bounds::default();
        let mut some = false;
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let field = match name {
                "rbps" => &mut bounds.rbps,
                "wbps" => &mut bounds.wbps,
                "riops" => &mut bounds.riops,
                "wiops" => &mut bounds.wiops,
                _ => {
                    return Err(format!(
                        "'{name}' in '{part}' is none of rbps, wbps, riops, wiops"
                    ));
                }
            };
            let value = value.parse::<u64>().ok().filter(|value| *value > 0);
            *field = Some(value.ok_or_else(|| format!("'{word}' needs a positive number"))?);
            some = true;
        }
        if !some {
            return Err(format!("'{part}' bounds nothing: give for example '8:0 rbps=1048576'"));
        }
        all.push(Throttle { device, bounds });
    }
    Ok(all)
}

/// A weight on v2's scale, 1 to 10000, 100 is the kernel's default.
///
/// # Errors
/// It is no such number.
pub fn parse_weight(text: &str) -> Result<u64, String> {
    let number = text.trim().parse::<u64>().ok().filter(|n| (1..=10_000).contains(n));
    number.ok_or_else(|| format!("'{text}' is no weight from 1 to 10000"))
}

/// The weight's files in order of preference, with what to write.
#[must_use]
pub fn weight_files(version: Version, weight: u64) -> [(&'static str, String); 2] {
    match version {
        // bfq's own scale has the same default; the old one has 500 and 10 to 1000.
        Version::V1 => [
            ("blkio.bfq.weight", weight.clamp(1, 1000).to_string()),
            ("blkio.weight", (weight * 5).clamp(10, 1000).to_string()),
        ],
        Version::V2 => [
            ("io.weight", format!("default {weight}")),
            ("io.bfq.weight", weight.clamp(1, 1000).to_string()),
        ],
    }
}

/// Files and lines for bounds on the device `number`.
#[must_use]
pub fn throttle_lines(
    version: Version,
    number: &str,
    bounds: &Bounds,
) -> Vec<(&'static str, String)> {
    let set =
        bounds.fields().into_iter().filter_map(|(name, value, file)| Some((name, value?, file)));
    match version {
        Version::V1 => set.map(|(_, value, file)| (file, format!("{number} {value}"))).collect(),
        Version::V2 => {
            let words: Vec<String> =
                set.map(|(name, value, _)| format!("{name}={value}")).collect();
            vec![("io.max", format!("{number} {}", words.join(" ")))]
        }
    }
}

/// One container's block I/O.
#[derive(Debug)]
pub(super) struct Blkio {
    group: Cgroup,
    weight: Option<u64>,
    throttles: Vec<Throttle>,
}

impl Blkio {
    pub(super) fn new(weight: Option<u64>, throttles: Vec<Throttle>, group: Cgroup) -> Blkio {
        Blkio { group, weight, throttles }
    }

    fn write(&self, file: &str, value: &str) -> Result<(), IsolatorError> {
        self.group.write(file, value).map_err(|e| failed(NAME, "set", &self.group, file, e))
    }

    fn set_weight(&self, weight: u64) -> Result<(), IsolatorError> {
        let mut written = false;
        for (file, value) in weight_files(self.group.version(), weight) {
            if self.group.file(file).exists() {
                self.write(file, &value)?;
                written = true;
            }
        }
        let path = self.group.path().display();
        written.then_some(()).ok_or_else(|| {
            let object =
                format!("the weight of '{path}': the kernel has neither bfq's nor iocost's file");
            IsolatorError::plain(NAME, "set", object)
        })
    }

    fn set_throttles(&self, asked: &[Throttle]) -> Result<(), IsolatorError> {
        let mut devices: BTreeMap<String, Bounds> = BTreeMap::new();
        for throttle in self.throttles.iter().chain(asked) {
            let bounds = devices.entry(number(&throttle.device)?).or_default();
            *bounds = bounds.lower(throttle.bounds);
        }
        for (number, bounds) in devices {
            for (file, line) in throttle_lines(self.group.version(), &number, &bounds) {
                self.write(file, &line)?;
            }
        }
        Ok(())
    }
}

/// `major:minor` of a number or of a block device's node.
fn number(device: &str) -> Result<String, IsolatorError> {
    if !device.starts_with('/') {
        return Ok(device.to_owned());
    }
    let found = kernel::machine::device(device.as_ref())
        .map_err(|e| IsolatorError::new(NAME, "find the device", device, e))?;
    match found.filter(|found| found.block) {
        Some(found) => Ok(format!("{}:{}", found.major, found.minor)),
        None => {
            let object = format!("'{device}': it is no block device");
            Err(IsolatorError::plain(NAME, "throttle", object))
        }
    }
}

impl Control for Blkio {
    fn prepare(&mut self, context: &ContainerContext) -> Result<(), IsolatorError> {
        let read = |label: &str, text: String| {
            IsolatorError::plain(NAME, "read", format!("label '{label}': {text}"))
        };
        let asked = context.labels.get(WEIGHT_LABEL).map(|text| parse_weight(text)).transpose();
        let asked = asked.map_err(|text| read(WEIGHT_LABEL, text))?;
        if let Some(weight) = self.weight.into_iter().chain(asked).min() {
            self.set_weight(weight)?;
        }
        let asked =
            context.labels.get(THROTTLE_LABEL).map(|text| parse_throttles(text)).transpose();
        let asked = asked.map_err(|text| read(THROTTLE_LABEL, text))?.unwrap_or_default();
        self.set_throttles(&asked)
    }

    fn probes(&self) -> Vec<Box<dyn Probe>> {
        let file =
            |name: &'static str, fill| FileProbe::boxed(NAME, name, self.group.file(name), fill);
        match self.group.version() {
            Version::V1 => vec![
                file("blkio.throttle.io_serviced", fill_serviced),
                file("blkio.throttle.io_service_bytes", fill_bytes),
            ],
            Version::V2 => vec![file("io.stat", fill_io_stat)],
        }
    }
}

type Numbers = Option<(u64, u64)>;

/// The entry of a device, `None` for the sum of all, made where it is missing.
fn entry(statistics: &mut ResourceStatistics, device: Numbers) -> &mut Statistics {
    let all = &mut statistics.blkio_statistics.get_or_insert_default().throttling;
    let device = device
        .map(|(major_number, minor_number)| mesos::device::Number { major_number, minor_number });
    let index = all.iter().position(|entry| entry.device == device).unwrap_or_else(|| {
        all.push(Statistics { device, ..Statistics::default() });
        all.len() - 1
    });
    &mut all[index]
}

fn value(op: Operation, value: u64) -> Value {
    Value { op: Some(op as i32), value: Some(value) }
}

fn device(field: &str) -> Numbers {
    let (major, minor) = field.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn operation(name: &str) -> Operation {
    match name {
        "Total" => Operation::Total,
        "Read" => Operation::Read,
        "Write" => Operation::Write,
        "Sync" => Operation::Sync,
        "Async" => Operation::Async,
        "Discard" => Operation::Discard,
        _ => Operation::Unknown,
    }
}

/// v1 lines: `8:0 Read 4096`; the last: `Total 4096`.
fn fill_v1(text: &[u8], mut add: impl FnMut(Numbers, Value)) {
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.split_whitespace();
        let (Some(first), Some(second)) = (fields.next(), fields.next()) else { continue };
        match fields.next() {
            Some(count) => {
                let Ok(count) = count.parse() else { continue };
                add(device(first), value(operation(second), count));
            }
            None => {
                let Ok(count) = second.parse() else { continue };
                add(None, value(operation(first), count));
            }
        }
    }
}

fn fill_serviced(text: &[u8], statistics: &mut ResourceStatistics) {
    fill_v1(text, |device, value| entry(statistics, device).io_serviced.push(value));
}

fn fill_bytes(text: &[u8], statistics: &mut ResourceStatistics) {
    fill_v1(text, |device, value| entry(statistics, device).io_service_bytes.push(value));
}

/// v2 lines: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn fill_io_stat(text: &[u8], statistics: &mut ResourceStatistics) {
    let (mut all_bytes, mut all_ios) = (0, 0);
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next().and_then(device) else { continue };
        let counts: BTreeMap<&str, u64> = words
            .filter_map(|word| word.split_once('='))
            .filter_map(|(name, count)| Some((name, parse::number(count.as_bytes())?)))
            .collect();
        let count = |name| counts.get(name).copied().unwrap_or(0);
        let list = |read, write, discard| {
            let (read, write, discard) = (count(read), count(write), count(discard));
            let total = read + write + discard;
            let values = vec![
                value(Operation::Read, read),
                value(Operation::Write, write),
                value(Operation::Discard, discard),
                value(Operation::Total, total),
            ];
            (values, total)
        };
        let entry = entry(statistics, Some(device));
        let (values, total) = list("rbytes", "wbytes", "dbytes");
        entry.io_service_bytes = values;
        all_bytes += total;
        let (values, total) = list("rios", "wios", "dios");
        entry.io_serviced = values;
        all_ios += total;
    }
    let sum = entry(statistics, None);
    sum.io_service_bytes = vec![value(Operation::Total, all_bytes)];
    sum.io_serviced = vec![value(Operation::Total, all_ios)];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttles_are_parsed_or_refused() {
        let parsed = parse_throttles("8:0 rbps=1048576 wiops=100; /dev/sdb wbps=65536;").unwrap();
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].bounds.rbps, Some(1_048_576));
        assert_eq!((parsed[0].bounds.wiops, parsed[0].bounds.wbps), (Some(100), None));
        assert_eq!(parsed[1].device, "/dev/sdb");
        assert_eq!(parse_throttles(""), Ok(Vec::new()));
        for (bad, words) in [
            ("8:0", "bounds nothing"),
            ("8:0 rbps", "'rbps' needs a positive number"),
            ("8:0 rbps=0", "'rbps=0' needs a positive number"),
            ("8:0 speed=1", "'speed' in '8:0 speed=1' is none of"),
        ] {
            let error = parse_throttles(bad).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_lower_bound_counts() {
        let flag = parse_throttles("8:0 rbps=100 wbps=100").unwrap()[0].bounds;
        let label = parse_throttles("8:0 rbps=50 wbps=500 riops=7").unwrap()[0].bounds;
        let both = flag.lower(label);
        assert_eq!(both.fields().map(|(_, n, _)| n), [Some(50), Some(100), Some(7), None]);
    }

    #[test]
    fn files_of_both_versions() {
        let bounds = Bounds { rbps: Some(1), wiops: Some(2), ..Bounds::default() };
        assert_eq!(
            throttle_lines(Version::V1, "8:0", &bounds),
            [
                ("blkio.throttle.read_bps_device", "8:0 1".to_owned()),
                ("blkio.throttle.write_iops_device", "8:0 2".to_owned())
            ]
        );
        assert_eq!(
            throttle_lines(Version::V2, "8:0", &bounds),
            [("io.max", "8:0 rbps=1 wiops=2".to_owned())]
        );
        // weight, bfq v1, cfq v1, bfq v2
        for (weight, bfq, cfq, bfq2) in
            [(1, "1", "10", "1"), (100, "100", "500", "100"), (10_000, "1000", "1000", "1000")]
        {
            let [first, second] = weight_files(Version::V1, weight);
            assert_eq!((first.1.as_str(), second.1.as_str()), (bfq, cfq));
            let [first, second] = weight_files(Version::V2, weight);
            assert_eq!((first.1, second.1.as_str()), (format!("default {weight}"), bfq2));
        }
        for bad in ["0", "10001", "heavy"] {
            assert!(parse_weight(bad).is_err(), "{bad}");
        }
    }

    fn ops(values: &[Value]) -> Vec<(i32, u64)> {
        values.iter().map(|v| (v.op.unwrap(), v.value.unwrap())).collect()
    }

    #[test]
    fn counts_of_v1() {
        let mut s = ResourceStatistics::default();
        let text = b"8:0 Read 3\n8:0 Write 4\n8:0 Sync 7\n8:0 Async 0\n8:0 Total 7\nTotal 7\n";
        fill_serviced(text, &mut s);
        fill_bytes(b"8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n", &mut s);
        let all = s.blkio_statistics.unwrap().throttling;
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].device.as_ref().map(|d| d.major_number), Some(8));
        assert_eq!(ops(&all[0].io_serviced), [(2, 3), (3, 4), (4, 7), (5, 0), (1, 7)]);
        assert_eq!(ops(&all[0].io_service_bytes), [(2, 4096), (1, 4096)]);
        assert_eq!(all[1].device, None);
        assert_eq!(ops(&all[1].io_serviced), [(1, 7)]);
    }

    #[test]
    fn counts_of_v2() {
        let mut s = ResourceStatistics::default();
        let text = b"8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:0 \n";
        fill_io_stat(text, &mut s);
        let all = s.blkio_statistics.unwrap().throttling;
        assert_eq!(all.len(), 3);
        assert_eq!(ops(&all[0].io_service_bytes), [(2, 1), (3, 2), (6, 5), (1, 8)]);
        assert_eq!(ops(&all[0].io_serviced), [(2, 3), (3, 4), (6, 6), (1, 13)]);
        assert_eq!(ops(&all[2].io_serviced), [(1, 13)]);
    }
}
