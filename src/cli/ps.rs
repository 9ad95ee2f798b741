//! `bulkhead ps`: the tasks of the cluster.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::output::Output;
use super::task::{self, Task};
use super::{MasterArg, api};

/// Arguments of `bulkhead ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    #[command(flatten)]
    master: MasterArg,
    /// Also tasks that have ended
    #[arg(long, short)]
    all: bool,
}

/// Lists tasks.
pub async fn ps(args: &PsArgs, output: Output) -> Result<ExitCode, CliError> {
    let master: api::Api = args.master.api()?;
    let agents = task::agents(&master).await?;
    let tasks = task::all(&master).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let shown = tasks.iter().filter(|task| args.all || !task.is_terminal());
    if output.is_json() {
        shown.for_each(|task| output.result(&task.0, ""));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = shown.map(|task| row(task, &agents, now)).collect();
    output.table(&["TASK", "NAME", "STATE", "CPUS", "MEM", "AGENT", "SINCE"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn row(task: &Task, agents: &[Value], now: f64) -> Vec<String> {
    let agent = agents.iter().find(|a| a["id"] == task.0["slave_id"]);
    let number = |key: &str| task.0["resources"][key].as_f64().unwrap_or(0.0);
    let since = task.last_status().and_then(|s| s["timestamp"].as_f64());
    vec![
        task.text("id").to_owned(),
        task.text("name").to_owned(),
        task.text("state").trim_start_matches("TASK_").to_lowercase(),
        format!("{}", number("cpus")),
        format!("{}M", number("mem")),
        agent.and_then(|a| a["hostname"].as_str()).unwrap_or("-").to_owned(),
        since.map_or("-".to_owned(), |at| age(now - at)),
    ]
}

/// A duration in its largest unit.
fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{:.0}s", s.max(0.0)),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_are_short() {
        let rows = [(-1.0, "0s"), (5.4, "5s"), (600.0, "10m"), (7200.0, "2h"), (400_000.0, "5d")];
        for (seconds, text) in rows {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_row_names_the_agent() {
        let task = Task(json!({
            "id": "t", "name": "n", "state": "TASK_RUNNING", "slave_id": "S0",
            "resources": { "cpus": 0.5, "mem": 64.0 }, "statuses": [{ "timestamp": 100.0 }],
        }));
        let agents = [json!({ "id": "S0", "hostname": "host" })];
        assert_eq!(row(&task, &agents, 130.0), ["t", "n", "running", "0.5", "64M", "host", "30s"]);
    }
}
