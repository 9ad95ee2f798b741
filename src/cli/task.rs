//! Finding a task, its agent and its sandbox through the master.

use serde_json::Value;

use super::api::{Api, escape};
use super::error::CliError;

/// A task as the master's `/tasks` shows it.
#[derive(Debug, Clone)]
pub struct Task(pub Value);

impl Task {
    /// A text member, empty when missing.
    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or("")
    }

    /// Whether it can still change.
    pub fn is_terminal(&self) -> bool {
        is_terminal(self.text("state"))
    }

    /// The newest status.
    pub fn last_status(&self) -> Option<&Value> {
        self.0["statuses"].as_array()?.last()
    }

    /// The id of its container with those around it, once there is one.
    pub fn container_id(&self) -> Option<&Value> {
        let ids = self.0["statuses"].as_array()?.iter().rev();
        let mut ids = ids.map(|s| &s["container_status"]["container_id"]);
        ids.find(|id| id["value"].is_string())
    }

    /// Its container, once there is one.
    pub fn container(&self) -> Option<&str> {
        self.container_id()?["value"].as_str()
    }

    /// The sandbox by its virtual name on the agent, the same for every run.
    pub fn sandbox(&self) -> String {
        let executor = match self.text("executor_id") {
            "" => self.text("id"),
            executor => executor,
        };
        sandbox(self.text("framework_id"), executor)
    }
}

/// The virtual path of an executor's newest sandbox.
pub fn sandbox(framework: &str, executor: &str) -> String {
    format!("/frameworks/{framework}/executors/{executor}/runs/latest")
}

/// States that nothing follows.
pub fn is_terminal(state: &str) -> bool {
    matches!(
        state,
        "TASK_FINISHED"
            | "TASK_FAILED"
            | "TASK_KILLED"
            | "TASK_LOST"
            | "TASK_ERROR"
            | "TASK_DROPPED"
            | "TASK_GONE"
            | "TASK_GONE_BY_OPERATOR"
    )
}

/// Every task the master knows, the newest last.
pub async fn all(master: &Api) -> Result<Vec<Task>, CliError> {
    listed(master, "/tasks?limit=1000000&order=asc").await
}

/// The task `id`: the running one if there are several, else the newest.
pub async fn find(master: &Api, id: &str) -> Result<Task, CliError> {
    let path = format!("/tasks?limit=1000000&order=asc&task_id={}", escape(id));
    let tasks: Vec<Task> =
        listed(master, &path).await?.into_iter().filter(|t| t.text("id") == id).collect();
    let running = tasks.iter().rfind(|t| !t.is_terminal());
    running.or(tasks.last()).cloned().ok_or_else(|| CliError::NoTask(id.to_owned()))
}

async fn listed(master: &Api, path: &str) -> Result<Vec<Task>, CliError> {
    let mut answer = master.get(path).await?;
    match answer["tasks"].take() {
        Value::Array(tasks) => Ok(tasks.into_iter().map(Task).collect()),
        _ => Err(master.unexpected(path, "no `tasks`")),
    }
}

/// Every registered agent as the master's `/slaves` shows it.
pub async fn agents(master: &Api) -> Result<Vec<Value>, CliError> {
    let mut answer = master.get("/slaves").await?;
    match answer["slaves"].take() {
        Value::Array(agents) => Ok(agents),
        _ => Err(master.unexpected("/slaves", "no `slaves`")),
    }
}

/// The agent that has the task.
pub async fn agent_of(master: &Api, task: &Task) -> Result<Api, CliError> {
    let agents = agents(master).await?;
    let pid = agents
        .iter()
        .find(|agent| agent["id"] == task.0["slave_id"])
        .and_then(|agent| agent["pid"].as_str());
    pid.map(Api::agent).ok_or_else(|| CliError::NoAgent(task.text("id").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_command_task_s_executor_has_its_name() {
        let task = Task(json!({ "id": "t", "framework_id": "F", "executor_id": "" }));
        assert_eq!(task.sandbox(), "/frameworks/F/executors/t/runs/latest");
        let task = Task(json!({ "id": "t", "framework_id": "F", "executor_id": "e" }));
        assert_eq!(task.sandbox(), "/frameworks/F/executors/e/runs/latest");
    }

    #[test]
    fn the_container_is_in_the_newest_status_that_has_one() {
        let status = |c: &str| json!({ "container_status": { "container_id": { "value": c } } });
        let task =
            Task(json!({ "statuses": [status("a"), status("b"), { "state": "TASK_FAILED" }] }));
        assert_eq!(task.container(), Some("b"));
    }
}
