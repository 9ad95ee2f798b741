//! Directories that wait for their deletion, and the log that remembers them.
//!
//! `meta/garbage.log` is ours: one line per event, `CRC32 JSON`. It tells since
//! when something waits and how large it is, which the directories themselves do
//! not say for sure. Losing it loses nothing but that: recovery finds garbage by
//! looking. The last line of a dying agent is cut off; a line damaged otherwise is
//! left out and told.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::RunKey;
use super::files::{StorageError, append, replace};

/// Something to be deleted some day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// The sandbox of one run.
    Run(RunKey),
    /// Everything of an executor id.
    Executor {
        /// The agent's id.
        agent: String,
        /// The framework's id.
        framework: String,
        /// The executor's id.
        executor: String,
    },
    /// Everything of a framework.
    Framework {
        /// The agent's id.
        agent: String,
        /// The framework's id.
        framework: String,
    },
    /// Everything of an agent id that is no longer ours.
    Agent(String),
    /// The sandbox of a nested or standalone container, relative to the work
    /// directory.
    Sandbox(PathBuf),
}

impl Garbage {
    /// Whether `self` lies in the directory of `other`, or is it.
    #[must_use]
    pub fn is_within(&self, other: &Garbage) -> bool {
        if self == other {
            return true;
        }
        let (own, theirs) = (self.ids(), other.ids());
        match (self, other) {
            (Garbage::Sandbox(path), Garbage::Sandbox(above)) => path.starts_with(above),
            (Garbage::Sandbox(path), _) => {
                // slaves/A/frameworks/F/executors/E/runs/C/...: every second part.
                let parts: Vec<&str> =
                    path.iter().skip(1).step_by(2).filter_map(|part| part.to_str()).collect();
                parts.len() > theirs.len() && parts.starts_with(&theirs)
            }
            (_, Garbage::Sandbox(_)) => false,
            _ => own.len() > theirs.len() && own.starts_with(&theirs),
        }
    }

    fn ids(&self) -> Vec<&str> {
        match self {
            Garbage::Run(run) => vec![&run.agent, &run.framework, &run.executor, &run.container],
            Garbage::Executor { agent, framework, executor } => vec![agent, framework, executor],
            Garbage::Framework { agent, framework } => vec![agent, framework],
            Garbage::Agent(agent) => vec![agent],
            Garbage::Sandbox(_) => Vec::new(),
        }
    }

    /// What kind of thing it is, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Garbage::Run(_) => "run",
            Garbage::Executor { .. } => "executor",
            Garbage::Framework { .. } => "framework",
            Garbage::Agent(_) => "agent",
            Garbage::Sandbox(_) => "sandbox",
        }
    }
}

/// What is known of a piece of garbage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// When it became garbage, in seconds since the epoch.
    pub since: f64,
    /// What its files occupy, once it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What it has in common with others of its kind: a task that crashes again and
    /// again leaves a family behind. Empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub family: String,
}

impl Item {
    /// Garbage since then, of which nothing else is known.
    #[must_use]
    pub fn since(since: f64) -> Item {
        Item { since, ..Item::default() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Add(Garbage, Item),
    Gone(Garbage),
}

/// What the log says.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// What waits.
    pub items: BTreeMap<Garbage, Item>,
    /// Damaged lines: offset in bytes and what is wrong.
    pub damaged: Vec<(u64, String)>,
}

/// Reads the log; one that is not there is empty. Changes nothing.
pub(super) fn read(path: &Path) -> Result<Log, StorageError> {
    let failed = |source| StorageError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Log::default()),
        Err(source) => return Err(failed(source)),
    };
    let mut reader = BufReader::new(file);
    let (mut log, mut line, mut at) = (Log::default(), Vec::new(), 0);
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if length == 0 {
            return Ok(log);
        }
        match parse(&line) {
            Ok(Line::Add(garbage, item)) => {
                log.items.insert(garbage, item);
            }
            Ok(Line::Gone(garbage)) => {
                log.items.remove(&garbage);
            }
            // The last words of an agent that died.
            Err(_) if !line.ends_with(b"\n") => {}
            Err(why) => log.damaged.push((at, why)),
        }
        at += length as u64;
    }
}

fn parse(line: &[u8]) -> Result<Line, String> {
    let text = line.strip_suffix(b"\n").ok_or("the line is cut off")?;
    let (sum, json) = text
        .split_at_checked(9)
        .filter(|(sum, _)| sum[8] == b' ')
        .ok_or("no checksum at the beginning of the line")?;
    let sum = std::str::from_utf8(&sum[..8]).ok().and_then(|s| u32::from_str_radix(s, 16).ok());
    if sum != Some(crc32fast::hash(json)) {
        return Err("the checksum of the line is wrong".to_owned());
    }
    serde_json::from_slice(json).map_err(|e| format!("the line makes no sense: {e}"))
}

fn line(line: &Line) -> Vec<u8> {
    // Ids and numbers always have a form in JSON.
    let json = serde_json::to_string(line).unwrap_or_default();
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

pub(super) fn add(path: &Path, garbage: &Garbage, item: &Item) -> Result<(), StorageError> {
    append(path, &line(&Line::Add(garbage.clone(), item.clone()))).map(drop)
}

pub(super) fn gone(path: &Path, garbage: &Garbage) -> Result<(), StorageError> {
    append(path, &line(&Line::Gone(garbage.clone()))).map(drop)
}

pub(super) fn rewrite(path: &Path, all: &[(Garbage, Item)]) -> Result<(), StorageError> {
    let lines = all.iter().map(|(garbage, item)| line(&Line::Add(garbage.clone(), item.clone())));
    replace(path, &lines.flatten().collect::<Vec<u8>>(), false).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn run(container: &str) -> Garbage {
        Garbage::Run(RunKey {
            agent: "S".into(),
            framework: "F".into(),
            executor: "E".into(),
            container: container.into(),
        })
    }

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Temp {
            Temp(std::env::temp_dir().join(format!("garbage-{name}-{}.log", std::process::id())))
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_is_inside_what() {
        let executor =
            Garbage::Executor { agent: "S".into(), framework: "F".into(), executor: "E".into() };
        let framework = Garbage::Framework { agent: "S".into(), framework: "F".into() };
        let agent = Garbage::Agent("S".into());
        let nested =
            Garbage::Sandbox("slaves/S/frameworks/F/executors/E/runs/C/containers/n".into());
        for (inner, outer, expected) in [
            (&run("C"), &executor, true),
            (&run("C"), &framework, true),
            (&run("C"), &agent, true),
            (&run("C"), &run("D"), false),
            (&executor, &run("C"), false),
            (&framework, &agent, true),
            (&agent, &Garbage::Agent("T".into()), false),
            (&nested, &run("C"), true),
            (&nested, &run("D"), false),
            (&nested, &framework, true),
            (&run("C"), &nested, false),
            (&run("C"), &run("C"), true),
        ] {
            assert_eq!(inner.is_within(outer), expected, "{inner:?} in {outer:?}");
        }
    }

    #[test]
    fn the_log_remembers_and_forgets() {
        let log = Temp::new("log");
        let item = |since| Item { bytes: Some(7), family: "f".into(), ..Item::since(since) };
        add(&log.0, &run("a"), &Item::since(1.0)).unwrap();
        add(&log.0, &run("b"), &Item::since(2.5)).unwrap();
        add(&log.0, &run("b"), &item(2.5)).unwrap();
        gone(&log.0, &run("a")).unwrap();
        let found = read(&log.0).unwrap();
        assert_eq!(found.items, BTreeMap::from([(run("b"), item(2.5))]));
        rewrite(&log.0, &[(run("c"), item(9.0))]).unwrap();
        assert_eq!(read(&log.0).unwrap().items, BTreeMap::from([(run("c"), item(9.0))]));
    }

    #[test]
    fn damage_is_found_where_it_is_and_costs_one_line() {
        let log = Temp::new("damage");
        for name in ["a", "b", "c"] {
            add(&log.0, &run(name), &Item::since(1.0)).unwrap();
        }
        let mut bytes = std::fs::read(&log.0).unwrap();
        let second = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        bytes[second + 20] ^= 1;
        std::fs::write(&log.0, &bytes).unwrap();
        let found = read(&log.0).unwrap();
        assert_eq!(found.items.keys().cloned().collect::<Vec<_>>(), [run("a"), run("c")]);
        assert_eq!(found.damaged.len(), 1);
        assert_eq!(found.damaged[0].0, second as u64);
        assert!(found.damaged[0].1.contains("checksum"), "{:?}", found.damaged);
    }

    proptest! {
        #[test]
        fn a_log_cut_anywhere_loses_only_its_last_line(cut in 0usize..400) {
            let log = Temp::new("cut");
            let _ = std::fs::remove_file(&log.0);
            for name in ["a", "b", "c"] {
                add(&log.0, &run(name), &Item::since(1.0)).unwrap();
            }
            let bytes = std::fs::read(&log.0).unwrap();
            let cut = cut.min(bytes.len());
            std::fs::write(&log.0, &bytes[..cut]).unwrap();
            let whole = bytes[..cut].iter().filter(|b| **b == b'\n').count();
            let found = read(&log.0).unwrap();
            prop_assert_eq!(found.items.len(), whole);
            prop_assert!(found.damaged.is_empty());
        }
    }
}
