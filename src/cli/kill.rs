//! `bulkhead kill`: stops one task by ending its container.
//!
//! The agent's `KILL_CONTAINER` call does it: first `SIGTERM`, then after a
//! grace period `SIGKILL`. No operator call of Mesos kills a task as such: only its
//! framework can ask for TASK_KILLED. Its framework sees the task end by itself,
//! mostly as TASK_FAILED, and may start it again; help and output say so.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::MasterArg;
use super::error::CliError;
use super::output::Output;
use super::task;

/// Arguments of `bulkhead kill`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct KillArgs {
    #[command(flatten)]
    master: MasterArg,
    /// Seconds between SIGTERM and SIGKILL
    #[arg(long, default_value_t = 3)]
    grace: u64,
    /// Tasks to stop
    #[arg(required = true)]
    tasks: Vec<String>,
}

const AFTER: &str = "The agent ends the task's process: SIGTERM, then SIGKILL. To its framework the \
task has ended by itself, as TASK_FAILED or, if it exits with 0, as TASK_FINISHED; the framework may \
start it again. Mesos lets only the framework itself kill a task as TASK_KILLED.";

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Stops tasks, one after the other.
pub async fn kill(args: &KillArgs, output: Output) -> Result<ExitCode, CliError> {
    let master = args.master.api()?;
    for id in &args.tasks {
        let mut task = task::find(&master, id).await?;
        let agent = task::agent_of(&master, &task).await?;
        let mut signal = SIGTERM;
        let mut waited = Duration::ZERO;
        let pause = Duration::from_millis(200);
        let mut sent = false;
        while !task.is_terminal() {
            if signal == SIGTERM && waited >= Duration::from_secs(args.grace) {
                (signal, sent) = (SIGKILL, false);
            }
            if !sent && let Some(container) = task.container() {
                let call = json!({
                    "type": "KILL_CONTAINER",
                    "kill_container": { "container_id": { "value": container }, "signal": signal },
                });
                agent.post("/api/v1", &call, None).await?;
                sent = true;
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            task = task::find(&master, id).await?;
        }
        let state = task.text("state");
        let note = if state == "TASK_FAILED" {
            " (its process was ended; only its framework could make it TASK_KILLED)"
        } else {
            ""
        };
        output.result(&json!({ "task": id, "state": state }), &format!("{id}: {state}{note}"));
    }
    Ok(ExitCode::SUCCESS)
}
