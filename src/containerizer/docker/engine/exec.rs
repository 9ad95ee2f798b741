//! Questions about commands in containers.

use kernel::terminal::Window;
use serde_json::Value;

use super::{Engine, EngineError, QUICK, read, unreadable};
use crate::wire::client::{Call, Duplex, Streaming};

/// A process in a running container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::containerizer::docker) struct Executed {
    pub(in crate::containerizer::docker) running: bool,
    pub(in crate::containerizer::docker) exit_code: i32,
    pub(in crate::containerizer::docker) pid: Option<u32>,
}

/// Who has a terminal.
#[derive(Debug, Clone)]
pub(in crate::containerizer::docker) enum Screen {
    /// A command, by its id.
    Command(String),
    /// A container, by its name.
    Container(String),
}

impl Engine {
    /// Prepares a process in a running container; its id.
    pub(in crate::containerizer::docker) async fn exec(
        &self,
        name: &str,
        body: &Value,
    ) -> Result<String, EngineError> {
        const OPERATION: &str = "prepare a command in container";
        let path = format!("/containers/{name}/exec");
        let call = Call::post(&path, "application/json", body.to_string());
        let reply = self.call(OPERATION, name, QUICK, call).await?;
        let answer: Value = read(OPERATION, name, &reply.body)?;
        let id = answer["Id"].as_str().map(str::to_owned);
        id.ok_or_else(|| unreadable(OPERATION, name, "there is no id".into()))
    }

    /// Starts it; its output in frames.
    pub(in crate::containerizer::docker) async fn exec_start(
        &self,
        id: &str,
    ) -> Result<Streaming, EngineError> {
        let path = format!("/exec/{id}/start");
        let body = r#"{"Detach":false,"Tty":false}"#;
        let call = Call::post(&path, "application/json", body);
        self.stream("start command", id, QUICK, call).await
    }

    /// The same with a way in: the connection carries input there, back frames or, if
    /// it has a terminal, what is written to that.
    pub(in crate::containerizer::docker) async fn exec_attach(
        &self,
        id: &str,
        tty: bool,
    ) -> Result<Duplex, EngineError> {
        let path = format!("/exec/{id}/start");
        let body = format!(r#"{{"Detach":false,"Tty":{tty}}}"#);
        self.both_ways("start command", id, Call::post(&path, "application/json", body)).await
    }

    /// Changes the size of a terminal.
    pub(in crate::containerizer::docker) async fn resize(
        &self,
        of: &Screen,
        window: Window,
    ) -> Result<(), EngineError> {
        let (kind, name) = match of {
            Screen::Command(id) => ("exec", id),
            Screen::Container(name) => ("containers", name),
        };
        let path = format!("/{kind}/{name}/resize?h={}&w={}", window.rows, window.columns);
        let call = Call::post(&path, "application/json", "");
        self.call("resize the terminal of", name, QUICK, call).await.map(drop)
    }

    pub(in crate::containerizer::docker) async fn exec_inspect(
        &self,
        id: &str,
    ) -> Result<Executed, EngineError> {
        let path = format!("/exec/{id}/json");
        let answer = self.json("inspect command", id, Call::get(&path)).await?;
        Ok(Executed {
            running: answer["Running"].as_bool().unwrap_or(false),
            exit_code: answer["ExitCode"].as_i64().and_then(|c| c.try_into().ok()).unwrap_or(-1),
            pid: answer["Pid"].as_u64().and_then(|p| p.try_into().ok()).filter(|pid| *pid > 0),
        })
    }
}
