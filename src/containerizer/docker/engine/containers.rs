//! Questions about containers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Engine, EngineError, QUICK, SLOW, escaped, read, refused, silent};
use crate::containerizer::docker::frames;
use crate::wire::client::{Call, Client, Duplex, Streaming};

/// Somebody else's removal of a container is waited for so often, and so long each time.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// What the engine says of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::containerizer::docker) struct Inspected {
    pub(in crate::containerizer::docker) id: String,
    /// `created`, `running`, `paused`, `exited`, `dead`, ...
    pub(in crate::containerizer::docker) status: String,
    /// Init's pid on the host, while it runs.
    pub(in crate::containerizer::docker) pid: Option<u32>,
    /// As `docker run` would return it.
    pub(in crate::containerizer::docker) exit_code: i32,
    pub(in crate::containerizer::docker) oom_killed: bool,
    /// Why it did not start.
    pub(in crate::containerizer::docker) error: String,
    /// Nanoseconds since 1970; `None` if it has not ended.
    pub(in crate::containerizer::docker) finished: Option<u64>,
    /// The signal that asks it to stop.
    pub(in crate::containerizer::docker) stop_signal: Option<String>,
    /// Its addresses, by network.
    pub(in crate::containerizer::docker) addresses: Vec<String>,
    /// All of it.
    pub(in crate::containerizer::docker) raw: Value,
}

impl Inspected {
    /// Its processes live.
    pub(in crate::containerizer::docker) fn runs(&self) -> bool {
        ["running", "paused", "restarting"].contains(&self.status.as_str())
    }

    fn of(raw: Value) -> Inspected {
        let state = &raw["State"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let networks = raw["NetworkSettings"]["Networks"].as_object();
        let addresses = networks
            .into_iter()
            .flat_map(serde_json::Map::values)
            .flat_map(|network| [&network["IPAddress"], &network["GlobalIPv6Address"]])
            .map(text)
            .filter(|address| !address.is_empty())
            .collect();
        Inspected {
            id: text(&raw["Id"]),
            status: text(&state["Status"]),
            pid: state["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|p| *p > 0),
            exit_code: state["ExitCode"].as_i64().and_then(|c| i32::try_from(c).ok()).unwrap_or(-1),
            oom_killed: state["OOMKilled"].as_bool().unwrap_or(false),
            error: text(&state["Error"]),
            finished: frames::nanoseconds(state["FinishedAt"].as_str().unwrap_or_default()),
            stop_signal: raw["Config"]["StopSignal"].as_str().map(str::to_owned),
            addresses,
            raw,
        }
    }
}

/// A container in the engine's list.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::containerizer::docker) struct Listed {
    pub(in crate::containerizer::docker) id: String,
    /// Without the slash.
    pub(in crate::containerizer::docker) name: String,
    /// As [`Inspected::status`].
    pub(in crate::containerizer::docker) status: String,
    /// The id of its image.
    pub(in crate::containerizer::docker) image: String,
    pub(in crate::containerizer::docker) labels: BTreeMap<String, String>,
}

impl Listed {
    fn of(entry: &Value) -> Listed {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pairs = entry["Labels"].as_object().into_iter().flatten();
        Listed {
            id: text(&entry["Id"]),
            name: text(&entry["Names"][0]).trim_start_matches('/').to_owned(),
            status: text(&entry["State"]),
            image: text(&entry["ImageID"]),
            labels: pairs.map(|(key, value)| (key.clone(), text(value))).collect(),
        }
    }
}

impl Engine {
    pub(in crate::containerizer::docker) async fn inspect(
        &self,
        name: &str,
    ) -> Result<Inspected, EngineError> {
        let path = format!("/containers/{name}/json");
        self.json("inspect container", name, Call::get(&path)).await.map(Inspected::of)
    }

    /// Every container with the label `key=value`, ended ones too.
    pub(in crate::containerizer::docker) async fn list(
        &self,
        key: &str,
        value: &str,
    ) -> Result<Vec<Listed>, EngineError> {
        let filters = serde_json::json!({ "label": [format!("{key}={value}")] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", escaped(&filters));
        let list = self.json("list containers labelled", value, Call::get(&path)).await?;
        Ok(list.as_array().into_iter().flatten().map(Listed::of).collect())
    }

    /// Every container of whoever, ended ones too.
    pub(in crate::containerizer::docker) async fn list_all(
        &self,
    ) -> Result<Vec<Listed>, EngineError> {
        let list = self.json("list", "containers", Call::get("/containers/json?all=1")).await?;
        Ok(list.as_array().into_iter().flatten().map(Listed::of).collect())
    }

    /// Makes a container; the engine's warnings.
    pub(in crate::containerizer::docker) async fn create(
        &self,
        name: &str,
        body: &Value,
    ) -> Result<Vec<String>, EngineError> {
        const OPERATION: &str = "create container";
        let path = format!("/containers/create?name={name}");
        let call = Call::post(&path, "application/json", body.to_string());
        let reply = self.call(OPERATION, name, SLOW, call).await?;
        let answer: Value = read(OPERATION, name, &reply.body)?;
        let warnings = answer["Warnings"].as_array().into_iter().flatten();
        Ok(warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect())
    }

    /// The same in the place of whatever has that name: what is left of a launch in which
    /// the last agent died.
    pub(in crate::containerizer::docker) async fn create_anew(
        &self,
        name: &str,
        body: &Value,
    ) -> Result<Vec<String>, EngineError> {
        for _ in 0..TRIES {
            match self.create(name, body).await {
                Err(error) if error.is_conflict() => {}
                made => return made,
            }
            match self.remove(name).await {
                // The sweep is about to.
                Err(error) if error.is_conflict() => tokio::time::sleep(PAUSE).await,
                removed => removed?,
            }
        }
        self.create(name, body).await
    }

    pub(in crate::containerizer::docker) async fn start(
        &self,
        name: &str,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/start");
        let call = Call::post(&path, "application/json", "");
        self.call("start container", name, SLOW, call).await.map(|_| ())
    }

    /// Sends a signal, by name or number, to init.
    pub(in crate::containerizer::docker) async fn kill(
        &self,
        name: &str,
        signal: &str,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/kill?signal={}", escaped(signal));
        let call = Call::post(&path, "application/json", "");
        self.call("send a signal to container", name, QUICK, call).await.map(|_| ())
    }

    /// Asks it to stop, and kills it after `grace`.
    pub(in crate::containerizer::docker) async fn stop(
        &self,
        name: &str,
        grace: Duration,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/stop?t={}", grace.as_secs());
        let call = Call::post(&path, "application/json", "");
        self.call("stop container", name, grace + QUICK, call).await.map(|_| ())
    }

    /// Removes it, its processes and its anonymous volumes; gone already is fine.
    pub(in crate::containerizer::docker) async fn remove(
        &self,
        name: &str,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{name}?force=1&v=1");
        let call = Call::get(&path).method(http::Method::DELETE);
        match self.call("remove container", name, SLOW, call).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    pub(in crate::containerizer::docker) async fn update(
        &self,
        name: &str,
        body: &Value,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/update");
        let call = Call::post(&path, "application/json", body.to_string());
        self.call("update container", name, QUICK, call).await.map(|_| ())
    }

    /// Answers when the container does not run any more; no deadline, since it may
    /// run for years, so ask [`Engine::inspect`] what became of it.
    pub(in crate::containerizer::docker) async fn wait(
        &self,
        name: &str,
    ) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/wait");
        let call = Call::post(&path, "application/json", "");
        // The head comes at once; old engines send it with the answer.
        let body = Client::unix(&self.socket).timeout(Duration::MAX).stream(call).await;
        let body = body.map_err(|source| silent("wait for container", name, source))?;
        let status = body.status.as_u16();
        let success = body.status.is_success();
        let rest = body.rest().await.map_err(|e| silent("wait for container", name, e))?;
        if success { Ok(()) } else { Err(refused("wait for container", name, status, &rest)) }
    }

    /// What its terminal shows from now on, and a way in.
    pub(in crate::containerizer::docker) async fn attach(
        &self,
        name: &str,
    ) -> Result<Duplex, EngineError> {
        let path = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let call = Call::post(&path, "application/json", "");
        self.both_ways("attach to container", name, call).await
    }

    /// Output from now on, in frames.
    pub(in crate::containerizer::docker) async fn news(
        &self,
        name: &str,
    ) -> Result<Streaming, EngineError> {
        let path = format!("/containers/{name}/logs?stdout=1&stderr=1&follow=1&tail=0");
        self.stream("listen to container", name, QUICK, Call::get(&path)).await
    }

    /// All output to its end, as it is.
    pub(in crate::containerizer::docker) async fn whole_log(
        &self,
        name: &str,
    ) -> Result<Streaming, EngineError> {
        let path = format!("/containers/{name}/logs?stdout=1&stderr=1&follow=1");
        self.stream("read the output of container", name, QUICK, Call::get(&path)).await
    }

    /// Output to its end since a time (nanoseconds since 1970), stamped, in frames.
    pub(in crate::containerizer::docker) async fn logs(
        &self,
        name: &str,
        since: u64,
    ) -> Result<Streaming, EngineError> {
        let (seconds, nanos) = (since / 1_000_000_000, since % 1_000_000_000);
        let path = format!(
            "/containers/{name}/logs?stdout=1&stderr=1&timestamps=1&follow=1&since={seconds}.{nanos:09}"
        );
        self.stream("read the output of container", name, QUICK, Call::get(&path)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_read() {
        let raw = serde_json::json!({
            "Id": "8a3a", "Config": { "StopSignal": "SIGQUIT" },
            "State": { "Status": "running", "Pid": 14295, "ExitCode": 0, "OOMKilled": false,
                       "Error": "", "FinishedAt": "0001-01-01T00:00:00Z" },
            "NetworkSettings": { "Networks": {
                "bridge": { "IPAddress": "172.17.0.2", "GlobalIPv6Address": "" } } },
        });
        let read = Inspected::of(raw);
        assert!(read.runs());
        assert_eq!((read.pid, read.finished), (Some(14295), None));
        assert_eq!(read.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(read.addresses, ["172.17.0.2"]);
        let ended = serde_json::json!({ "State": { "Status": "exited", "Pid": 0, "ExitCode": 137,
            "OOMKilled": true, "FinishedAt": "1970-01-01T00:00:02Z" } });
        let read = Inspected::of(ended);
        assert!(!read.runs() && read.oom_killed);
        assert_eq!((read.pid, read.exit_code), (None, 137));
        assert_eq!(read.finished, Some(2_000_000_000));
    }
}
