//! A work directory explained: what is in it, what state it is in, what is damaged
//! and where. Reads what a C++ agent wrote as well, changes nothing and may be used
//! beside a running agent. Called by `bulkhead agent inspect`.

mod read;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Garbage, Item};

pub use read::inspect;

/// All that a work directory says.
#[derive(Debug, Default, Serialize)]
pub struct Inspection {
    /// The directory.
    pub work_dir: PathBuf,
    /// The kernel's boot id when an agent started here last.
    pub boot_id: Option<String>,
    /// Whether that was another boot: pids mean nothing then.
    pub rebooted: bool,
    /// The agent id in use.
    pub agent: Option<Agent>,
    /// Agent ids that are no longer used.
    pub other_agents: Vec<String>,
    /// Checkpointed resources and operations.
    pub resources: Resources,
    /// What waits for its deletion, as the next agent will see it.
    pub garbage: Vec<Waiting>,
    /// Directories that are being deleted.
    pub trash: usize,
    /// Files left for a full disk.
    pub reserve_files: u64,
    /// What cannot be read.
    pub problems: Vec<Problem>,
}

/// An agent id.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)] // Mesos' names
pub struct Agent {
    pub id: String,
    pub hostname: String,
    pub port: Option<i32>,
    /// As text.
    pub resources: Vec<String>,
    pub attributes: usize,
    pub frameworks: Vec<Framework>,
}

/// A framework.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Framework {
    pub id: String,
    /// `None`: its description cannot be read.
    pub name: Option<String>,
    pub user: Option<String>,
    pub principal: Option<String>,
    /// The scheduler's libprocess address, if it is a V0 one.
    pub pid: Option<String>,
    pub executors: Vec<Executor>,
}

/// An executor.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Executor {
    pub id: String,
    pub name: Option<String>,
    /// Made up by the agent for a command task.
    pub generated: bool,
    pub runs: Vec<Run>,
}

/// A run of an executor.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// The container's id.
    pub container: String,
    /// The newest of its executor.
    pub latest: bool,
    /// Its container is gone and every update acknowledged.
    pub completed: bool,
    /// Its first process, if it got so far.
    pub forked_pid: Option<String>,
    /// Where a V0 executor listens.
    pub libprocess_pid: Option<String>,
    /// A v1 executor has subscribed.
    pub http: bool,
    /// Its sandbox, if that is still there.
    pub sandbox: Option<PathBuf>,
    /// Its tasks.
    pub tasks: Vec<Task>,
}

/// A task.
#[derive(Debug, Default, Serialize)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its name; `None`: its description cannot be read.
    pub name: Option<String>,
    /// By its newest update.
    pub state: Option<&'static str>,
    /// A kill has begun.
    pub killed: bool,
    /// Its status updates, oldest first.
    pub updates: Vec<Update>,
}

/// A status update.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Update {
    pub uuid: String,
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub message: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: Option<f64>,
    /// Whether the scheduler has it for sure.
    pub acknowledged: bool,
}

/// `meta/resources`.
#[derive(Debug, Default, Serialize)]
pub struct Resources {
    /// Checkpointed resources as text.
    pub checkpointed: Vec<String>,
    /// Those that were to take their place when an agent died; the next one decides.
    pub target: Vec<String>,
    /// Operations that somebody is yet to hear of.
    pub operations: Vec<Operation>,
}

/// An operation.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Operation {
    pub uuid: String,
    /// As its framework named it.
    pub id: Option<String>,
    pub framework: Option<String>,
    pub kind: &'static str,
    pub state: &'static str,
    pub message: Option<String>,
    /// Whether its end is in its log.
    pub logged: bool,
    /// Whether the framework or the master has it for sure.
    pub acknowledged: bool,
}

/// Garbage.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Waiting {
    pub garbage: Garbage,
    #[serde(flatten)]
    pub item: Item,
}

/// Something that cannot be read.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Where it goes wrong, in bytes.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What an agent that starts here makes of it.
    pub outcome: Outcome,
}

/// What an agent makes of a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Left by an agent that died while writing: cut off, nothing depended on it.
    CutOff,
    /// `--strict` does not start, `--no-strict` skips what the file is about.
    StrictFails,
    /// Found out again by looking.
    Rebuilt,
}

impl Outcome {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Outcome::CutOff => "will be cut off, nothing was promised for it",
            Outcome::StrictFails => "an agent does not start; with --no-strict it skips this",
            Outcome::Rebuilt => "does no harm, an agent finds out again by looking",
        }
    }
}

impl Inspection {
    /// For people, line by line.
    #[must_use]
    pub fn text(&self) -> Vec<String> {
        text::render(self)
    }

    /// Notes that something of `path` cannot be read.
    fn problem(&mut self, path: &Path, offset: Option<u64>, what: String, outcome: Outcome) {
        self.problems.push(Problem { path: path.to_owned(), offset, what, outcome });
    }
}
