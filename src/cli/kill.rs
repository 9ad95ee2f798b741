//! `bulkhead kill`: stops one task by ending its container.
//!
//! The agent's `KILL_CONTAINER` call does it: first `SIGTERM`, then after a
//! grace period `SIGKILL`. The framework sees its task end; only a framework
//! itself can ask for TASK_KILLED.

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
        output.result(&json!({ "task": id, "state": state }), &format!("{id}: {state}"));
    }
    Ok(ExitCode::SUCCESS)
}
