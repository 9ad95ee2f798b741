//! What every containerizer reads out of a launch request. Pure, but for the user's
//! ids.

use std::collections::BTreeMap;

use isolators::plan::Environment;
use isolators::secret::Secrets;
use mesos::environment::variable;
use mesos::{CommandInfo, ContainerId, Label, Resource, ResourceStatistics};

use super::LaunchRequest;

/// What a container is called here.
pub(super) fn key(id: &ContainerId) -> String {
    id.to_string()
}

/// The user's ids; `None` without a user.
pub(super) fn ids_of(user: Option<&str>) -> Result<Option<(u32, u32)>, String> {
    let Some(name) = user else { return Ok(None) };
    match kernel::users::by_name(name) {
        Ok(Some(user)) => Ok(Some((user.uid, user.gid))),
        Ok(None) => Err(format!("user '{name}' does not exist")),
        Err(error) => Err(kernel::chain(&error)),
    }
}

/// The variables that the command itself sets.
pub(super) fn command_environment(
    command: &CommandInfo,
    secrets: &Secrets,
) -> Result<Environment, String> {
    let variables =
        command.environment.as_ref().map(|e| e.variables.as_slice()).unwrap_or_default();
    let mut environment = Environment::new();
    for variable in variables {
        if variable.r#type == Some(variable::Type::Secret as i32) {
            environment.insert(variable.name.clone(), secret(variable, secrets)?);
            continue;
        }
        environment.insert(variable.name.clone(), variable.value.clone().unwrap_or_default());
    }
    Ok(environment)
}

/// The value of a variable that is a secret.
fn secret(variable: &mesos::environment::Variable, secrets: &Secrets) -> Result<String, String> {
    let named = |text: &str| format!("variable '{}': {text}", variable.name);
    let secret = variable.secret.as_ref().ok_or_else(|| named("is SECRET without 'secret'"))?;
    let bytes = secrets.get(secret).map_err(|error| named(&kernel::chain(&error)))?;
    match String::from_utf8(bytes.into_owned()) {
        Ok(text) if text.contains('\0') => Err(named("its secret has a NUL in it")),
        Ok(text) => Ok(text),
        Err(_) => Err(named("its secret is not text")),
    }
}

/// The labels of the task, or of the executor where there is none.
pub(super) fn labels(request: &LaunchRequest) -> BTreeMap<String, String> {
    let task = request.task.as_ref().and_then(|task| task.labels.as_ref());
    let executor = request.executor.as_ref().and_then(|executor| executor.labels.as_ref());
    let labels = task.or(executor).map(|labels| labels.labels.as_slice()).unwrap_or_default();
    let pair = |label: &Label| (label.key.clone(), label.value.clone().unwrap_or_default());
    labels.iter().map(pair).collect()
}

/// What statistics say of requests and limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Machine {
    /// Processors.
    pub cpus: f64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Machine {
        #[allow(clippy::cast_precision_loss)] // a machine has few processors
        let cpus = kernel::proctree::processors() as f64;
        Machine { cpus, memory: kernel::proctree::total_memory() }
    }
}

/// The part of the statistics that is known without the kernel.
pub(super) fn allotted(
    requests: &[Resource],
    limits: &BTreeMap<String, f64>,
    enable_cfs: bool,
    machine: Machine,
) -> ResourceStatistics {
    let total = |name| isolators::quantity::total(requests, name);
    let bytes = isolators::quantity::megabytes;
    let (cpus, mem) = (total("cpus"), total("mem").map(bytes));
    let cpus_limit = match limits.get("cpus") {
        Some(limit) if limit.is_infinite() => Some(machine.cpus),
        Some(limit) => Some(*limit),
        None => cpus.filter(|_| enable_cfs),
    };
    let mem_limit = match limits.get("mem") {
        Some(limit) if limit.is_infinite() => Some(machine.memory),
        Some(limit) => Some(bytes(*limit)),
        None => mem,
    };
    ResourceStatistics {
        cpus_soft_limit: cpus,
        cpus_limit,
        mem_soft_limit_bytes: mem,
        mem_limit_bytes: mem_limit,
        ..ResourceStatistics::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use isolators::quantity::scalar;

    use super::*;

    pub(crate) fn request(id: &str, command: CommandInfo) -> LaunchRequest {
        LaunchRequest {
            id: ContainerId { value: id.into(), parent: None },
            command,
            requests: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
            sandbox: "/sandbox".into(),
            ..LaunchRequest::default()
        }
    }

    #[test]
    fn secrets_are_looked_up() {
        let secret = mesos::environment::Variable {
            name: "S".into(),
            r#type: Some(variable::Type::Secret as i32),
            ..Default::default()
        };
        let command = |variable: &mesos::environment::Variable| {
            let environment = mesos::Environment { variables: vec![variable.clone()] };
            CommandInfo { environment: Some(environment), ..CommandInfo::default() }
        };
        let secrets = Secrets::default();
        assert!(command_environment(&command(&secret), &secrets).is_err());
        let value = mesos::Secret {
            r#type: Some(mesos::secret::Type::Value as i32),
            value: Some(mesos::secret::Value { data: b"hush".to_vec() }),
            ..Default::default()
        };
        let secret = mesos::environment::Variable { secret: Some(value), ..secret };
        assert_eq!(command_environment(&command(&secret), &secrets).unwrap()["S"], "hush");
    }

    #[test]
    fn limits_in_statistics() {
        let requests = [scalar("cpus", 0.5), scalar("mem", 64.0)];
        let machine = Machine { cpus: 4.0, memory: 1 << 30 };
        let limits = |rows: &[(&str, f64)]| -> BTreeMap<String, f64> {
            rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        // limits, cfs, cpus_limit, mem_limit_bytes
        let rows = [
            (limits(&[]), false, None, 64 << 20),
            (limits(&[]), true, Some(0.5), 64 << 20),
            (limits(&[("cpus", 0.6), ("mem", 96.0)]), false, Some(0.6), 96 << 20),
            (limits(&[("cpus", f64::INFINITY), ("mem", f64::INFINITY)]), true, Some(4.0), 1 << 30),
        ];
        for (limits, cfs, cpus, mem) in rows {
            let statistics = allotted(&requests, &limits, cfs, machine);
            assert_eq!((statistics.cpus_limit, statistics.mem_limit_bytes), (cpus, Some(mem)));
            assert_eq!(statistics.cpus_soft_limit, Some(0.5));
            assert_eq!(statistics.mem_soft_limit_bytes, Some(64 << 20));
        }
    }
}
