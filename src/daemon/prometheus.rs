//! `/metrics`: figures in Prometheus' text format (version 0.0.4). Pure.
//!
//! The same figures as `/metrics/snapshot`, as families of samples: one name, one
//! type, and what Mesos puts into a name (`reason_...`, `source_...`) as labels.
//! The agent adds its containers; nobody else writes this format.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The media type of the format.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a value behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Labels of a sample, by name.
pub type Labels = BTreeMap<&'static str, String>;

/// Families of samples, by name.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: String,
    /// By their labels: a sample is never there twice.
    samples: BTreeMap<Labels, f64>,
}

impl Exposition {
    /// Adds a sample. The first one of a family decides its type and help; one of
    /// the same labels is replaced. The name may have any characters: those that
    /// Prometheus does not know become `_`.
    pub fn add(&mut self, name: &str, kind: Kind, help: &str, labels: Labels, value: f64) {
        let family = self.families.entry(plain(name)).or_insert_with(|| Family {
            kind,
            help: help.to_owned(),
            samples: BTreeMap::new(),
        });
        family.samples.insert(labels, value);
    }

    /// Adds a figure under its Mesos name.
    pub fn add_mesos(&mut self, name: &str, kind: Kind, value: f64) {
        let (family, labels) = family(name, kind);
        self.add(&family, kind, &format!("Mesos' {}", without_labels(name)), labels, value);
    }

    /// The text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in &self.families {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {}", escape(&family.help, false));
            let _ = writeln!(out, "# TYPE {name} {kind}");
            for (labels, value) in &family.samples {
                out.push_str(name);
                for (index, (label, text)) in labels.iter().enumerate() {
                    let before = if index == 0 { '{' } else { ',' };
                    let _ = write!(out, "{before}{label}=\"{}\"", escape(text, true));
                }
                if !labels.is_empty() {
                    out.push('}');
                }
                let _ = writeln!(out, " {}", number(*value));
            }
        }
        out
    }
}

/// Letters, digits and `_`, not beginning with a digit.
fn plain(name: &str) -> String {
    let mut out: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) || out.is_empty() {
        out.insert(0, '_');
    }
    out
}

/// A backslash and a line's end are escaped everywhere, quotes in labels only.
fn escape(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".into(),
        v if v == f64::INFINITY => "+Inf".into(),
        v if v == f64::NEG_INFINITY => "-Inf".into(),
        v => v.to_string(),
    }
}

/// Parts of a Mesos name that are labels: the last segments of
/// `master/task_failed/source_slave/reason_container_limitation_memory`.
fn label(segment: &str) -> Option<(&'static str, &str)> {
    ["source", "reason"]
        .into_iter()
        .find_map(|label| Some((label, segment.strip_prefix(label)?.strip_prefix('_')?)))
}

fn without_labels(name: &str) -> String {
    name.split('/').filter(|part| label(part).is_none()).collect::<Vec<_>>().join("/")
}

/// Name and labels of a Mesos metric. Seconds are spelled out and counters end in
/// `_total`, as Prometheus' conventions ask.
fn family(name: &str, kind: Kind) -> (String, Labels) {
    let labels: Labels =
        name.split('/').filter_map(label).map(|(label, text)| (label, text.to_owned())).collect();
    let mut family = format!("mesos_{}", plain(&without_labels(name)));
    if let Some(stem) = family.strip_suffix("_secs") {
        family = format!("{stem}_seconds");
    }
    // The sum over all reasons is another family than the parts.
    if !labels.is_empty() && kind == Kind::Counter {
        let by: Vec<&str> = labels.keys().copied().collect();
        family = format!("{family}_by_{}", by.join("_"));
    }
    if kind == Kind::Counter && !family.ends_with("_total") {
        family.push_str("_total");
    }
    (family, labels)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A strict reader of the format; what it finds wrong is a panic. Samples as
    /// `name{labels}`, and types by family.
    pub(crate) fn read(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
        let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        let mut current = String::new();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line must end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, _) = rest.split_once(' ').expect("a help text");
                assert!(helped.insert(name.to_owned()), "second HELP of {name}");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, current, "TYPE follows HELP");
                assert!(["counter", "gauge"].contains(&kind), "{kind}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let name = series.split('{').next().expect("a name");
                assert_eq!(name, current, "samples of a family stand together");
                let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
                assert!(name.chars().all(valid) && !name.starts_with(char::is_numeric), "{name}");
                if let Some(labels) = series.strip_prefix(name).filter(|l| !l.is_empty()) {
                    read_labels(labels);
                }
                let value: f64 = value.replace("Inf", "inf").parse().expect("a number");
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {series}");
            }
        }
        (samples, types)
    }

    /// `{a="b",c="d"}` with escapes.
    fn read_labels(text: &str) {
        let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).expect("braces");
        let mut rest = inner;
        while !rest.is_empty() {
            let (name, after) = rest.split_once("=\"").expect("a label");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name}");
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("a closing quote") {
                    (_, '\\') => {
                        let (_, escaped) = chars.next().expect("an escaped character");
                        assert!(['\\', '"', 'n'].contains(&escaped), "{escaped}");
                    }
                    (at, '"') => break at,
                    _ => {}
                }
            };
            rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
        }
    }

    #[test]
    fn names_types_and_labels() {
        let mut all = Exposition::default();
        let rows = [
            ("slave/tasks_running", Kind::Gauge, 3.0),
            ("slave/tasks_failed", Kind::Counter, 2.0),
            ("slave/uptime_secs", Kind::Gauge, 1.5),
            ("master/task_failed/source_slave/reason_x", Kind::Counter, 1.0),
            ("master/slave_removals", Kind::Counter, 5.0),
            ("master/slave_removals/reason_unhealthy", Kind::Counter, 4.0),
            ("allocator/run_ms/p99", Kind::Gauge, f64::INFINITY),
        ];
        for (name, kind, value) in rows {
            all.add_mesos(name, kind, value);
        }
        let (samples, types) = read(&all.render());
        let wanted = [
            ("mesos_allocator_run_ms_p99", f64::INFINITY),
            ("mesos_master_slave_removals_by_reason_total{reason=\"unhealthy\"}", 4.0),
            ("mesos_master_slave_removals_total", 5.0),
            ("mesos_master_task_failed_by_reason_source_total{reason=\"x\",source=\"slave\"}", 1.0),
            ("mesos_slave_tasks_failed_total", 2.0),
            ("mesos_slave_tasks_running", 3.0),
            ("mesos_slave_uptime_seconds", 1.5),
        ];
        assert_eq!(samples, wanted.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(types["mesos_slave_tasks_failed_total"], "counter");
        assert_eq!(types["mesos_slave_tasks_running"], "gauge");
    }

    #[test]
    fn whatever_is_in_a_label_the_text_stays_readable() {
        let mut all = Exposition::default();
        for text in ["plain", "a\"b", "c\\d", "e\nf", "{x=\"y\"} 1", "ü", ""] {
            let labels = Labels::from([("executor_id", text.to_owned())]);
            all.add("1 odd/näme", Kind::Gauge, "one\nline \\ and", labels, -0.5);
        }
        let text = all.render();
        let (samples, _) = read(&text);
        assert_eq!(samples.len(), 7);
        assert!(text.contains("# HELP _1_odd_n_me one\\nline \\\\ and\n"), "{text}");
        assert!(text.contains("{executor_id=\"a\\\"b\"} -0.5\n"), "{text}");
        assert!(text.contains("{executor_id=\"e\\nf\"} -0.5\n"), "{text}");
    }
}
