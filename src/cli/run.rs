//! `bulkhead run`: a framework of one task over the v1 scheduler API.
//!
//! Subscribes, waits for an offer that fits, launches, follows the output
//! through the agent's `/files`, and ends with the task's result. One loop owns
//! the session; what to run is `spec.rs`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::MasterArg;
use super::api::Api;
use super::error::CliError;
use super::follow::Begin;
use super::logs::Tail;
use super::output::Output;
use super::spec::{TaskArgs, describe, fits};
use super::task::{is_terminal, sandbox};
use crate::wire::client::Events;

/// Arguments of `bulkhead run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    master: MasterArg,
    #[command(flatten)]
    task: TaskArgs,
    /// Role whose share of the cluster to use
    #[arg(long, default_value = "*")]
    role: String,
    /// User to run as [default: the one who calls]
    #[arg(long)]
    user: Option<String>,
    /// Kill the task after this many seconds
    #[arg(long, alias = "kill_after", value_name = "SECONDS")]
    kill_after: Option<f64>,
    /// Do not print the task's output
    #[arg(long)]
    no_follow: bool,
    /// Do not let the task survive a restart of its agent
    #[arg(long)]
    no_checkpoint: bool,
    /// Seconds to wait for an offer that fits
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

const SCHEDULER: &str = "/api/v1/scheduler";

/// Runs one task to its end.
pub async fn run(args: &RunArgs, output: Output) -> Result<ExitCode, CliError> {
    let id = format!("{}-{}", args.task.name(), short_id());
    let task = args.task.build(&id)?;
    let master = args.master.api()?;
    let framework = json!({
        "user": args.user.clone().unwrap_or_else(caller),
        "name": args.task.name(),
        "roles": [args.role],
        "checkpoint": !args.no_checkpoint,
        "failover_timeout": 60.0,
        "capabilities": [{ "type": "MULTI_ROLE" }, { "type": "RESERVATION_REFINEMENT" }],
    });
    let (session, events) = Session::open(master, framework).await?;
    let run = Run {
        session,
        task,
        output,
        follow: !args.no_follow,
        state: String::new(),
        agent: None,
        tails: Vec::new(),
        refused: 0,
    };
    run.until_end(args, events).await
}

fn short_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// The name of who calls, as frameworks give it.
fn caller() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .unwrap_or_else(|| "root".to_owned())
}

/// A subscribed framework.
#[derive(Debug)]
struct Session {
    master: Api,
    framework: Value,
    id: Value,
    stream: String,
}

impl Session {
    /// Subscribes and waits for the framework id.
    async fn open(master: Api, framework: Value) -> Result<(Session, Events), CliError> {
        let mut session = Session { master, framework, id: Value::Null, stream: String::new() };
        let events = session.subscribe().await?;
        Ok((session, events))
    }

    /// Subscribes, again under the same id once there is one.
    async fn subscribe(&mut self) -> Result<Events, CliError> {
        let mut call = json!({
            "type": "SUBSCRIBE",
            "subscribe": { "framework_info": self.framework },
        });
        if !self.id.is_null() {
            call["framework_id"] = self.id.clone();
            call["subscribe"]["framework_info"]["id"] = self.id.clone();
        }
        let (stream, mut events) = self.master.subscribe(SCHEDULER, &call).await?;
        self.stream = stream;
        let event = self.next(&mut events).await?;
        match event["type"].as_str() {
            Some("SUBSCRIBED") => {
                self.id = event["subscribed"]["framework_id"].clone();
                Ok(events)
            }
            Some("ERROR") => Err(CliError::Framework(message(&event["error"]))),
            _ => Err(self.master.unexpected(SCHEDULER, &format!("first event {event}"))),
        }
    }

    async fn next(&self, events: &mut Events) -> Result<Value, CliError> {
        let record = events.next().await.map_err(|source| CliError::Unreachable {
            what: "master",
            address: self.master.address().to_owned(),
            source,
        })?;
        let address = self.master.address().to_owned();
        let record = record.ok_or(CliError::Disconnected { address })?;
        serde_json::from_slice(&record)
            .map_err(|e| self.master.unexpected(SCHEDULER, &e.to_string()))
    }

    async fn call(&self, kind: &str, body: Value) -> Result<(), CliError> {
        let mut call = json!({ "type": kind, "framework_id": self.id });
        if !body.is_null() {
            call[kind.to_lowercase()] = body;
        }
        self.master.post(SCHEDULER, &call, Some(&self.stream)).await.map(drop)
    }
}

fn message(body: &Value) -> String {
    body["message"].as_str().unwrap_or("").to_owned()
}

/// One task from launch to end.
struct Run {
    session: Session,
    task: Value,
    output: Output,
    follow: bool,
    /// The task's newest state, empty before the launch.
    state: String,
    agent: Option<Api>,
    tails: Vec<Tail>,
    refused: u32,
}

/// How often the output is looked at.
const LOOK: Duration = Duration::from_millis(200);

impl Run {
    async fn until_end(mut self, args: &RunArgs, mut events: Events) -> Result<ExitCode, CliError> {
        let offer_by = Instant::now() + Duration::from_secs(args.timeout);
        let mut kill_at: Option<Instant> = None;
        let mut stopping = false;
        loop {
            let waiting = self.state.is_empty();
            let timer = if waiting { Some(offer_by) } else { kill_at };
            let look = Instant::now() + LOOK;
            tokio::select! {
                event = self.session.next(&mut events) => match event {
                    Ok(event) => {
                        if let Some(end) = self.on_event(&event).await? {
                            return self.end(&end).await;
                        }
                        if waiting && !self.state.is_empty() {
                            kill_at = args.kill_after.map(|s| Instant::now() + Duration::from_secs_f64(s.max(0.0)));
                        }
                    }
                    Err(CliError::Disconnected { .. } | CliError::Unreachable { .. }) => {
                        events = self.reconnect().await?;
                    }
                    Err(error) => return Err(error),
                },
                () = sleep_until(look), if !self.tails.is_empty() => self.copy().await,
                () = sleep_until(timer.unwrap_or(look)), if timer.is_some() => {
                    if waiting {
                        self.output.progress(&format!("no offer with {} within {} s", describe(&self.task), args.timeout));
                        self.session.call("TEARDOWN", Value::Null).await?;
                        return Ok(ExitCode::from(3));
                    }
                    self.output.progress("time is up: killing the task");
                    self.kill().await?;
                    kill_at = None;
                }
                _ = tokio::signal::ctrl_c() => {
                    if waiting || stopping {
                        self.session.call("TEARDOWN", Value::Null).await?;
                        return Ok(ExitCode::from(130));
                    }
                    self.output.progress("killing the task (Ctrl-C again: leave at once)");
                    self.kill().await?;
                    stopping = true;
                }
            }
        }
    }

    async fn kill(&self) -> Result<(), CliError> {
        self.session.call("KILL", json!({ "task_id": self.task["task_id"] })).await
    }

    /// The master may be restarting or another one may lead: try for a minute.
    async fn reconnect(&mut self) -> Result<Events, CliError> {
        self.output.progress("lost the master, connecting again");
        let mut result = self.session.subscribe().await;
        for _ in 0..60 {
            match result {
                Err(CliError::Framework(_)) | Ok(_) => break,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            result = self.session.subscribe().await;
        }
        let events = result?;
        if !self.state.is_empty() {
            let asked = json!({ "tasks": [{ "task_id": self.task["task_id"] }] });
            self.session.call("RECONCILE", asked).await?;
        }
        Ok(events)
    }

    /// Handles one event; returns the terminal status if it brought one.
    async fn on_event(&mut self, event: &Value) -> Result<Option<Value>, CliError> {
        match event["type"].as_str().unwrap_or("") {
            "OFFERS" => {
                for offer in event["offers"]["offers"].as_array().into_iter().flatten() {
                    self.on_offer(offer).await?;
                }
            }
            "UPDATE" => return self.on_update(&event["update"]["status"]).await,
            "FAILURE" => {
                self.output.progress("the agent or the executor of the task is gone");
            }
            "ERROR" => return Err(CliError::Framework(message(&event["error"]))),
            _ => {}
        }
        Ok(None)
    }

    async fn on_offer(&mut self, offer: &Value) -> Result<(), CliError> {
        let ids = json!([offer["id"]]);
        if !self.state.is_empty() || !fits(offer, &self.task) {
            if self.state.is_empty() {
                self.refused += 1;
                if self.refused == 1 {
                    let (asked, offered) = (describe(&self.task), describe(offer));
                    self.output.progress(&format!(
                        "waiting for an offer with {asked}; this one has {offered}"
                    ));
                }
            }
            // Later tasks do not come: no need for offers for a long time.
            let seconds = if self.state.is_empty() { 5.0 } else { 86_400.0 };
            let decline = json!({ "offer_ids": ids, "filters": { "refuse_seconds": seconds } });
            return self.session.call("DECLINE", decline).await;
        }
        self.task["agent_id"] = offer["agent_id"].clone();
        self.state = "TASK_STAGING".to_owned();
        let address = &offer["url"]["address"];
        let host = address["ip"].as_str().or(address["hostname"].as_str());
        if let (Some(host), Some(port)) = (host, address["port"].as_u64()) {
            self.agent = Some(Api::new("agent", &format!("{host}:{port}")));
        }
        let id = text(&self.task["task_id"]);
        self.output
            .progress(&format!("launching {id} on {}", offer["hostname"].as_str().unwrap_or("?")));
        let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": [self.task] } });
        let accept = json!({ "offer_ids": ids, "operations": [launch], "filters": { "refuse_seconds": 86_400.0 } });
        self.session.call("ACCEPT", accept).await
    }

    async fn on_update(&mut self, status: &Value) -> Result<Option<Value>, CliError> {
        if let Some(uuid) = status.get("uuid") {
            let acknowledge = json!({
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": uuid,
            });
            self.session.call("ACKNOWLEDGE", acknowledge).await?;
        }
        let state = status["state"].as_str().unwrap_or("").to_owned();
        let id = text(&self.task["task_id"]);
        if is_terminal(&state) {
            // A task that failed at once may have said why; its last words come first.
            if self.follow && self.tails.is_empty() && status["container_status"].is_object() {
                self.start_following();
            }
            self.copy().await;
        }
        if self.output.is_json() {
            self.output.result(
                &json!({ "task": id, "framework": text(&self.session.id), "status": status }),
                "",
            );
        } else if state != self.state {
            self.output.progress(&format!("{id} {state}{}", note(&state, status)));
        }
        self.state.clone_from(&state);
        if self.follow && state == "TASK_RUNNING" && self.tails.is_empty() {
            self.start_following();
        }
        Ok(is_terminal(&state).then(|| status.clone()))
    }

    fn start_following(&mut self) {
        let executor = self.task["executor"]["executor_id"]["value"].as_str();
        let id = text(&self.task["task_id"]);
        let sandbox = sandbox(&text(&self.session.id), executor.unwrap_or(&id));
        self.tails =
            ["stdout", "stderr"].map(|name| Tail::new(&sandbox, name, Begin::default())).into();
    }

    /// Prints what is new; an agent that is away for a moment is no error.
    async fn copy(&mut self) {
        let Some(agent) = &self.agent else { return };
        for tail in &mut self.tails {
            let _ = tail.copy(agent, self.output).await;
        }
    }

    async fn end(self, status: &Value) -> Result<ExitCode, CliError> {
        self.session.call("TEARDOWN", Value::Null).await?;
        Ok(ExitCode::from(exit_code(status)))
    }
}

fn text(id: &Value) -> String {
    id["value"].as_str().unwrap_or("").to_owned()
}

/// Reason and message of a status, for people: statistics that follow a blank
/// line are left to `--json`.
fn note(state: &str, status: &Value) -> String {
    let reason = status["reason"].as_str().filter(|_| state != "TASK_FINISHED");
    let reason = reason.map_or(String::new(), |r| format!(" ({r})"));
    let message = status["message"].as_str().and_then(|m| m.split("\n\n").next());
    message.map_or(reason.clone(), |m| format!("{reason}: {m}"))
}

/// The exit code that tells a task's end: its own where it has one.
fn exit_code(status: &Value) -> u8 {
    if status["state"] == "TASK_FINISHED" {
        return 0;
    }
    let message = status["message"].as_str().unwrap_or("");
    let word = |after: &str| {
        let rest = &message[message.find(after)? + after.len()..];
        rest.split(|c: char| !c.is_ascii_alphanumeric()).next()
    };
    if let Some(code) = word("exited with status ").and_then(|w| w.parse::<u8>().ok()) {
        return code.max(1);
    }
    // As shells do for signals.
    match word("terminated with signal ") {
        Some("Killed") => 137,
        Some("Terminated") => 143,
        Some("Segmentation") => 139,
        Some("Aborted") => 134,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_reason_and_first_paragraph() {
        let status = json!({ "reason": "REASON_X", "message": "Memory limit\nusers\n\ncache 0" });
        assert_eq!(note("TASK_FAILED", &status), " (REASON_X): Memory limit\nusers");
        assert_eq!(note("TASK_RUNNING", &json!({})), "");
    }

    #[test]
    fn the_task_s_result_is_ours() {
        let rows = [
            ("TASK_FINISHED", "Command exited with status 0", 0),
            ("TASK_FAILED", "Command exited with status 3", 3),
            ("TASK_FAILED", "Command terminated with signal Killed", 137),
            ("TASK_KILLED", "Command terminated with signal Terminated", 143),
            ("TASK_FAILED", "Memory limit exceeded", 1),
            ("TASK_LOST", "", 1),
        ];
        for (state, message, code) in rows {
            let status = json!({ "state": state, "message": message });
            assert_eq!(exit_code(&status), code, "{message}");
        }
    }
}
