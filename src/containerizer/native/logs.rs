//! A container's output when it goes through the logger: pipes and order before the
//! launch, the last bytes after the end. Without a logger none of this is used.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use kernel::pipe;
use mesos::Label;
use tracing::warn;

use super::chain;
use super::container::Container;
use crate::containerizer::LaunchRequest;
use crate::containerizer::request::{self, key};
use crate::containerizer::streams::log_settings;
use crate::containerizer::table::Failure;
use crate::logs::order::{self, Journal, Order, STREAMS};
use crate::logs::settings::Settings;

/// How long output is waited for after the end of a container.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends of a container's pipes: what is in them stays, even if the logger dies and
/// the task ends before there is another one.
pub(super) type Kept = [OwnedFd; 2];

fn failure(message: String) -> Failure {
    Failure { step: "log", message }
}

impl Container {
    /// Makes the pipes and writes the order. The ends for the task's standard output
    /// and error.
    pub(super) fn make_pipes(&mut self, defaults: &Settings) -> Result<[OwnedFd; 2], Failure> {
        let settings = log_settings(defaults, &self.request)
            .map_err(|text| failure(format!("Failed to load container logger settings: {text}")))?;
        let (dir, ids) = (self.dir.path.clone(), self.context.ids);
        let made = |stream: &str| -> io::Result<(OwnedFd, OwnedFd)> {
            let path = order::pipe(&dir, stream);
            pipe::make(&path, ids)?;
            Ok((pipe::writer(&path)?, pipe::reader(&path)?))
        };
        let [out, err] = STREAMS.map(|stream| {
            made(stream).map_err(|error| failure(format!("failed to make a pipe: {error}")))
        });
        let ((out, kept_out), (err, kept_err)) = (out?, err?);
        let order = Order {
            container: self.key.clone(),
            sandbox: self.request.sandbox.clone(),
            owner: ids,
            files: settings.files(),
            journal: settings.journal.then(|| Journal {
                socket: settings.socket.clone(),
                fields: fields(&self.request, &settings),
            }),
        };
        order.write(&dir).map_err(|error| failure(chain(&error)))?;
        self.pipes = Some([kept_out, kept_err]);
        Ok([out, err])
    }

    /// Tells the logger of the pipes, if there are any.
    pub(super) async fn watch_pipes(&self) -> Result<(), Failure> {
        if self.pipes.is_none() {
            return Ok(());
        }
        let watched = self.shared.logger.watch(&self.dir.path).await;
        watched.map_err(|error| failure(chain(&error)))
    }

    /// Takes the pipes of a running container over from the agent before.
    pub(super) fn adopt_pipes(&mut self) {
        if order::file(&self.dir.path).exists() {
            self.shared.logger.ensure();
            let open = |stream: &str| pipe::reader(&order::pipe(&self.dir.path, stream)).ok();
            self.pipes = STREAMS
                .map(open)
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .and_then(|all| all.try_into().ok());
        }
    }

    /// Waits until the last output is where it belongs, before anybody hears of the
    /// end.
    pub(super) async fn drain_pipes(&mut self) {
        if self.pipes.is_none() {
            return;
        }
        if let Err(error) = self.shared.logger.drained(&self.dir.path, PATIENCE).await {
            warn!(container = %self.key, error = %chain(&error), "output may still be under way");
        }
        self.pipes = None;
    }
}

/// Who speaks, for the journal: ids as DC/OS names them, then labels.
fn fields(request: &LaunchRequest, settings: &Settings) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        fields.extend(value.filter(|v| !v.is_empty()).map(|value| (name.to_owned(), value)));
    };
    let executor = request.executor.as_ref();
    let task = request.task.as_ref().map(|task| task.task_id.value.clone());
    let executor_id = executor.map(|executor| executor.executor_id.value.clone());
    let speaker = task.clone().or_else(|| executor_id.clone());
    add("SYSLOG_IDENTIFIER", speaker.or_else(|| Some(key(&request.id))));
    add("FRAMEWORK_ID", request.framework_id.as_ref().map(|id| id.value.clone()));
    add("AGENT_ID", agent_of(&request.sandbox));
    add("EXECUTOR_ID", executor_id);
    add("CONTAINER_ID", Some(key(&request.id)));
    add("TASK_ID", task);
    let mut room = settings.max_labels;
    for (name, value) in labels(request).into_iter().chain(settings.extra.clone()) {
        let Some(left) = room.checked_sub((name.len() + value.len()) as u64) else { break };
        room = left;
        fields.push((name, value));
    }
    fields
}

/// Labels of executor and task.
fn labels(request: &LaunchRequest) -> Vec<(String, String)> {
    let executor = request.executor.as_ref().and_then(|executor| executor.labels.as_ref());
    let all = executor.map(|labels| labels.labels.as_slice()).unwrap_or_default();
    let pair = |label: &Label| (label.key.clone(), label.value.clone().unwrap_or_default());
    let mut all: Vec<_> = all.iter().map(pair).collect();
    all.extend(request::labels(request));
    all.sort();
    all.dedup();
    all
}

/// The agent's id in a sandbox's path: nested containers know it from nowhere else.
fn agent_of(sandbox: &Path) -> Option<String> {
    let mut parts = sandbox.iter().skip_while(|part| *part != "slaves");
    parts.nth(1).map(|id| id.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use mesos::{ExecutorInfo, FrameworkId, Labels, TaskId, TaskInfo};

    use super::*;
    use crate::logs::settings::Dialect;

    #[test]
    fn the_journal_learns_who_speaks() {
        let mut asked = request::tests::request("c", mesos::CommandInfo::default());
        asked.sandbox = "/w/slaves/S0/frameworks/F/executors/e/runs/c".into();
        asked.framework_id = Some(FrameworkId { value: "F".into() });
        let label = |key: &str, value: &str| Label { key: key.into(), value: Some(value.into()) };
        asked.executor = Some(ExecutorInfo {
            executor_id: mesos::ExecutorId { value: "e".into() },
            labels: Some(Labels { labels: vec![label("team", "a")] }),
            ..ExecutorInfo::default()
        });
        asked.task = Some(TaskInfo {
            task_id: TaskId { value: "t".into() },
            labels: Some(Labels { labels: vec![label("tier", "web")] }),
            ..TaskInfo::default()
        });
        let mut settings = Settings::new(Dialect::Journald);
        settings.extra = vec![("big".into(), "x".repeat(20_000))];
        let fields = fields(&asked, &settings);
        let pairs: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            pairs.join(" "),
            "SYSLOG_IDENTIFIER=t FRAMEWORK_ID=F AGENT_ID=S0 EXECUTOR_ID=e CONTAINER_ID=c \
             TASK_ID=t team=a tier=web"
        );
    }
}
