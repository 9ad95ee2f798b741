//! The environment that executors and command tasks start with.
//!
//! Pure but for [`inherited`]. What the command sets itself comes on top, in the
//! containerizer.

use std::collections::BTreeMap;

use crate::agent::config::Config;
use crate::agent::core::event::LaunchSpec;
use crate::agent::core::names::duration;

/// The agent's own environment without what belongs to the agent alone.
pub(super) fn inherited() -> BTreeMap<String, String> {
    std::env::vars()
        .filter(|(name, _)| !name.starts_with("LIBPROCESS_") && !name.starts_with("MESOS_"))
        .collect()
}

/// Variables for one run. `base` is `--executor_environment_variables` or what is
/// [`inherited`].
pub(super) fn of_run(
    config: &Config,
    base: &BTreeMap<String, String>,
    spec: &LaunchSpec,
    directory: &str,
) -> BTreeMap<String, String> {
    let endpoint = config.pid.rsplit('@').next().unwrap_or("").to_owned();
    let ip = endpoint.rsplit_once(':').map_or("", |(ip, _)| ip).to_owned();
    let grace = match &spec.executor.shutdown_grace_period {
        Some(grace) => {
            std::time::Duration::from_nanos(u64::try_from(grace.nanoseconds).unwrap_or(0))
        }
        None => config.executor_shutdown_grace,
    };
    let mut environment = base.clone();
    let mut set = |name: &str, value: String| {
        environment.insert(name.to_owned(), value);
    };
    set("LIBPROCESS_IP", ip.clone());
    set("LIBPROCESS_PORT", "0".to_owned());
    set("MESOS_FRAMEWORK_ID", spec.run.framework.clone());
    set("MESOS_EXECUTOR_ID", spec.run.executor.clone());
    set("MESOS_DIRECTORY", directory.to_owned());
    set("MESOS_SLAVE_ID", spec.run.agent.clone());
    set("MESOS_SLAVE_PID", config.pid.clone());
    set("MESOS_AGENT_ENDPOINT", endpoint);
    set("MESOS_CHECKPOINT", if spec.checkpoint { "1" } else { "0" }.to_owned());
    set("MESOS_HTTP_COMMAND_EXECUTOR", "0".to_owned());
    set("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", duration(grace));
    if spec.checkpoint {
        set("MESOS_RECOVERY_TIMEOUT", duration(config.recovery_timeout));
        set("MESOS_SUBSCRIPTION_BACKOFF_MAX", duration(config.executor_reregistration_timeout));
    }
    if let Some(task) = &spec.task {
        set("MESOS_TASK_ID", task.task_id.value.clone());
        set("MESOS_CONTAINER_IP", ip);
        let role = task.resources.iter().find_map(|r| r.allocation_info.as_ref()?.role.clone());
        if let Some(role) = role {
            set("MESOS_ALLOCATION_ROLE", role);
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use mesos::{ContainerId, ExecutorInfo, SlaveInfo};

    use super::*;
    use crate::checkpoint::RunKey;

    #[test]
    fn an_executor_finds_its_agent() {
        let config = Config::new(SlaveInfo::default(), "slave(1)@10.0.0.1:5051", "m:5050", "/w");
        let spec = LaunchSpec {
            run: RunKey {
                agent: "S0".into(),
                framework: "F".into(),
                executor: "E".into(),
                container: "C".into(),
            },
            container: ContainerId::default(),
            executor: ExecutorInfo::default(),
            task: None,
            requests: Vec::new(),
            limits: BTreeMap::new(),
            user: None,
            checkpoint: true,
        };
        let base = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let environment = of_run(&config, &base, &spec, "/w/sandbox");
        for (name, value) in [
            ("PATH", "/bin"),
            ("MESOS_SLAVE_PID", "slave(1)@10.0.0.1:5051"),
            ("MESOS_AGENT_ENDPOINT", "10.0.0.1:5051"),
            ("LIBPROCESS_IP", "10.0.0.1"),
            ("MESOS_FRAMEWORK_ID", "F"),
            ("MESOS_EXECUTOR_ID", "E"),
            ("MESOS_SLAVE_ID", "S0"),
            ("MESOS_DIRECTORY", "/w/sandbox"),
            ("MESOS_CHECKPOINT", "1"),
            ("MESOS_RECOVERY_TIMEOUT", "15mins"),
            ("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs"),
            ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs"),
        ] {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
}
