//! The environment the agent gives to an executor, read once at start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mesos::{ExecutorId, FrameworkId};
use thiserror::Error;

/// Everything an executor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `MESOS_FRAMEWORK_ID`.
    pub framework_id: FrameworkId,
    /// `MESOS_EXECUTOR_ID`.
    pub executor_id: ExecutorId,
    /// Where the agent listens, from `MESOS_SLAVE_PID`.
    pub agent: SocketAddr,
    /// The agent's process id on the wire, from `MESOS_SLAVE_PID`: `slave(1)`.
    pub agent_id: String,
    /// `MESOS_SANDBOX`, as this process sees it; else `MESOS_DIRECTORY`.
    pub sandbox: PathBuf,
    /// Address of this container, told to tasks; `LIBPROCESS_IP`.
    pub container_ip: String,
    /// `MESOS_RECOVERY_TIMEOUT` (15 minutes) when the framework checkpoints:
    /// how long to wait for a lost agent. Otherwise `None`: not at all.
    pub recovery_timeout: Option<Duration>,
    /// `MESOS_SUBSCRIPTION_BACKOFF_MAX` (2 s): the most time between attempts.
    pub subscription_backoff: Duration,
    /// `MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD` (5 s): the most time between the
    /// order to shut down and the end.
    pub shutdown_grace: Duration,
    /// `MESOS_EXECUTOR_AUTHENTICATION_TOKEN`, sent as a bearer token.
    pub token: Option<String>,
}

/// Why the environment is not an executor's.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A variable is not set.
    #[error("expecting '{0}' to be set in the environment: this program is started by an agent")]
    Missing(&'static str),
    /// A variable has no valid value.
    #[error("failed to parse {name}: '{value}' is not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Settings {
    /// Reads the variables through `get`.
    ///
    /// # Errors
    /// [`SettingsError`], naming the variable.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let required = |name| get(name).ok_or(SettingsError::Missing(name));
        let duration = |name: &'static str, default| match get(name) {
            None => Ok(default),
            Some(value) => parse_duration(&value).ok_or(SettingsError::Invalid {
                name,
                value,
                expected: "a duration such as 15mins",
            }),
        };
        let pid = required("MESOS_SLAVE_PID")?;
        let (agent_id, agent) = pid
            .split_once('@')
            .and_then(|(id, address)| Some((id.to_owned(), address.parse().ok()?)))
            .ok_or(SettingsError::Invalid {
                name: "MESOS_SLAVE_PID",
                value: pid.clone(),
                expected: "of the form id@ip:port",
            })?;
        let checkpoint = get("MESOS_CHECKPOINT").is_some_and(|v| v == "1" || v == "true");
        let recovery = duration("MESOS_RECOVERY_TIMEOUT", Duration::from_secs(15 * 60))?;
        let unspecified = |ip: &String| ip.parse() == Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(Settings {
            framework_id: FrameworkId { value: required("MESOS_FRAMEWORK_ID")? },
            executor_id: ExecutorId { value: required("MESOS_EXECUTOR_ID")? },
            agent,
            agent_id,
            sandbox: get("MESOS_SANDBOX").map_or_else(|| required("MESOS_DIRECTORY"), Ok)?.into(),
            container_ip: get("LIBPROCESS_IP")
                .filter(|ip| !unspecified(ip))
                .unwrap_or_else(|| agent.ip().to_string()),
            recovery_timeout: checkpoint.then_some(recovery),
            subscription_backoff: duration(
                "MESOS_SUBSCRIPTION_BACKOFF_MAX",
                Duration::from_secs(2),
            )?,
            shutdown_grace: duration(
                "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD",
                Duration::from_secs(5),
            )?,
            token: get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN"),
        })
    }
}

/// A duration as Mesos prints it: `15mins`, `2secs`, `1.5hrs`.
fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "secs" => 1.0,
        "mins" => 60.0,
        "hrs" => 3600.0,
        "days" => 86400.0,
        "weeks" => 604_800.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "MESOS_FRAMEWORK_ID" => "f",
            "MESOS_EXECUTOR_ID" => "e",
            "MESOS_SLAVE_PID" => "slave(1)@127.0.0.1:5051",
            "MESOS_SANDBOX" => "/sandbox",
            "MESOS_CHECKPOINT" => "1",
            "MESOS_RECOVERY_TIMEOUT" => "2.5mins",
            "LIBPROCESS_IP" => "0.0.0.0",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn the_environment_of_an_agent_is_read() {
        let settings = Settings::read(environment).expect("complete");
        assert_eq!(settings.agent, "127.0.0.1:5051".parse().expect("an address"));
        assert_eq!(settings.agent_id, "slave(1)");
        assert_eq!(settings.recovery_timeout, Some(Duration::from_secs(150)));
        assert_eq!(settings.container_ip, "127.0.0.1");
        let no_checkpoint = |name: &str| environment(name).filter(|_| name != "MESOS_CHECKPOINT");
        assert_eq!(Settings::read(no_checkpoint).expect("complete").recovery_timeout, None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let without =
            |gone: &'static str| move |name: &str| environment(name).filter(|_| name != gone);
        for name in ["MESOS_FRAMEWORK_ID", "MESOS_EXECUTOR_ID", "MESOS_SLAVE_PID"] {
            assert_eq!(Settings::read(without(name)), Err(SettingsError::Missing(name)));
        }
        // MESOS_DIRECTORY stands in for the sandbox, so both must be missing.
        let missing = Err(SettingsError::Missing("MESOS_DIRECTORY"));
        assert_eq!(Settings::read(without("MESOS_SANDBOX")), missing);
        let bad = |name: &str| match name {
            "MESOS_RECOVERY_TIMEOUT" => Some("soon".into()),
            _ => environment(name),
        };
        assert!(matches!(
            Settings::read(bad),
            Err(SettingsError::Invalid { name: "MESOS_RECOVERY_TIMEOUT", .. })
        ));
    }
}
