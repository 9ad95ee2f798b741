//! A command check of a task of a group: a session in the task's container, over
//! the agent's API. Called by [`super::driver`].

#![allow(deprecated)] // the older names of container calls are what executors use

use std::time::Duration;

use http::StatusCode;
use mesos::agent::{self, ProcessIo, call, process_io};
use mesos::{CommandInfo, ContainerId, schema};
use prost::Message as _;

use super::core::Waited;
use super::driver::{Agent, NO_LIMIT, authorized, ended};
use super::verdict::describe;
use crate::checks::Outcome;
use crate::checks::network::words;
use crate::wire::client::{Call, Client};

const SIGKILL: i32 = 9;
/// Longest record of output the agent may send.
const MAX_RECORD: usize = 1 << 20;
/// What of the output is worth a line of the log.
const SHOWN: usize = 1 << 10;
/// How long an ended session may take to be waited for and removed.
const TIDY: Duration = Duration::from_secs(30);

impl Agent {
    /// Runs `command` in the container of a task. Whatever the agent cannot do now
    /// says nothing of the task.
    pub(super) async fn run_check(
        &self,
        task: &ContainerId,
        command: &CommandInfo,
        limit: Option<Duration>,
    ) -> Outcome {
        let id = ContainerId {
            value: format!("check-{}", uuid::Uuid::new_v4()),
            parent: Some(Box::new(task.clone())),
        };
        let session = self.session(&id, command);
        let done = match limit {
            None => Some(session.await),
            // Leaving the session makes the agent end the command.
            Some(limit) => tokio::time::timeout(limit, session).await.ok(),
        };
        let answer = match &done {
            Some(Err(why)) => return Outcome::Unavailable(why.clone()),
            Some(Ok(output)) => {
                if !output.is_empty() {
                    tracing::info!("output of the check of {}: {output}", task.value);
                }
                self.wait_for(&id).await
            }
            None => {
                self.wait_for(&id).await;
                let limit = limit.map(words).unwrap_or_default();
                Waited::Refused(format!("the command did not end within {limit}"))
            }
        };
        self.remove(&id).await;
        outcome_of(answer)
    }

    /// Launches, and reads the output to its end.
    async fn session(&self, id: &ContainerId, command: &CommandInfo) -> Result<String, String> {
        let launch = agent::Call {
            r#type: Some(call::Type::LaunchNestedContainerSession as i32),
            launch_nested_container_session: Some(call::LaunchNestedContainerSession {
                container_id: id.clone(),
                command: Some(command.clone()),
                container: None,
            }),
            ..Default::default()
        };
        let path = self.operator_path();
        let authorization = self.authorization();
        let launch = Call::post(&path, "application/x-protobuf", launch.encode_to_vec())
            .header("accept", "application/recordio")
            .header("message-accept", "application/x-protobuf");
        let launch = authorized(launch, authorization.as_deref());
        let client = Client::to(self.address()).timeout(NO_LIMIT);
        let stream = client.stream(launch).await.map_err(|e| e.to_string())?;
        if stream.status != StatusCode::OK {
            let status = stream.status;
            let body = stream.rest().await.unwrap_or_default();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        let (mut output, mut events) = (Vec::new(), stream.events(MAX_RECORD));
        while let Some(record) = events.next().await.map_err(|e| e.to_string())? {
            let io: ProcessIo = schema::decode(&record).map_err(|e| e.to_string())?;
            let data: process_io::Data = io.data.unwrap_or_default();
            let room = SHOWN.saturating_sub(output.len());
            output.extend(data.data.unwrap_or_default().into_iter().take(room));
        }
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    async fn wait_for(&self, id: &ContainerId) -> Waited {
        let wait = agent::Call {
            r#type: Some(call::Type::WaitNestedContainer as i32),
            wait_nested_container: Some(call::WaitNestedContainer { container_id: id.clone() }),
            ..Default::default()
        };
        match self.call(wait, TIDY).await {
            Ok(reply) if reply.status == StatusCode::OK => ended(&reply.body),
            Ok(reply) => Waited::Refused(reply.text()),
            Err(_) => Waited::Interrupted,
        }
    }

    async fn remove(&self, id: &ContainerId) {
        let remove = agent::Call {
            r#type: Some(call::Type::RemoveNestedContainer as i32),
            remove_nested_container: Some(call::RemoveNestedContainer { container_id: id.clone() }),
            ..Default::default()
        };
        if let Err(error) = self.call(remove, TIDY).await {
            tracing::warn!("the container of a check stays until the task ends: {error}");
        }
    }
}

/// A command that was killed without having been too slow died with its task.
fn outcome_of(answer: Waited) -> Outcome {
    let unknown = |what: &str| Outcome::Unavailable(what.to_owned());
    match answer {
        Waited::Ended(end) => match end.exit_status {
            None => unknown("nothing is known of the command"),
            Some(SIGKILL) => unknown("the command was killed"),
            Some(status) if status & 0x7f == 0 => Outcome::Exited((status >> 8) & 0xff),
            Some(status) => Outcome::Failed(format!("the command {}", describe(status))),
        },
        Waited::Refused(why) => Outcome::Failed(why),
        Waited::Unknown | Waited::Interrupted => unknown("the agent is away"),
    }
}
