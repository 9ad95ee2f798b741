//! From the command line to what the agent is told: [`Config`], addresses and
//! description. Called once by `bulkhead-agent`, and by tests.
//!
//! The table of flags is `daemon::flags::agent`; here each becomes behaviour, and
//! values that make no sense are refused by name.

mod cgroups;
mod devices;
pub(super) mod docker;
pub(super) mod images;
mod logs;
pub(super) mod network;
mod ports;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isolator_plugin::{RemoteIsolator, manifest};
use isolators::capability::Set;
use isolators::config::Config as Isolators;
use isolators::ids::IdRange;
use isolators::linux::sysctl;
use mesos::SlaveInfo;

pub use self::values::{StartError, launcher_dir};
use self::values::{invalid, one_of, parsed, secrets};
use super::config::{Config, ReconfigurationPolicy, RecoverMode};
use super::info::{self, InfoError, Whereabouts};
use super::resources::{self, Machine};
use crate::checkpoint::WorkDir;
use crate::containerizer::native;
use crate::daemon::api::Common;
use crate::daemon::flags::{Flags, nearest};
use crate::fetch;
use crate::launch::Engine;

/// Where the agent listens and how it is called.
///
/// # Errors
/// A port that is none.
pub fn whereabouts(flags: &Flags) -> Result<Whereabouts, StartError> {
    Ok(Whereabouts {
        ip: flags.ip("ip"),
        ip_discovery_command: flags.text("ip_discovery_command").map(str::to_owned),
        port: port(flags, "port")?.unwrap_or(5051),
        advertise_ip: flags.ip("advertise_ip"),
        advertise_port: port(flags, "advertise_port")?,
        hostname: flags.text("hostname").map(str::to_owned),
        hostname_lookup: flags.bool("hostname_lookup"),
    })
}

fn port(flags: &Flags, name: &'static str) -> Result<Option<u16>, StartError> {
    flags
        .number(name)
        .map(|n| u16::try_from(n).map_err(|_| invalid(name, &n.to_string(), "at most 65535")))
        .transpose()
}

/// Makes the work directory and the runtime directory.
///
/// # Errors
/// One cannot be made.
pub fn directories(flags: &Flags) -> Result<(PathBuf, PathBuf), StartError> {
    let make = |flag: &str, what| {
        let path = PathBuf::from(flags.text(flag).unwrap_or_default());
        std::fs::create_dir_all(&path)
            .and_then(|()| path.canonicalize())
            .map_err(|e| StartError::Directory { what, path: path.clone(), message: e.to_string() })
    };
    Ok((make("work_dir", "work directory")?, make("runtime_dir", "runtime directory")?))
}

/// The agent's description: resources, attributes, domain.
///
/// # Errors
/// [`StartError`] naming the flag.
pub fn slave_info(
    flags: &Flags,
    work_dir: &Path,
    hostname: String,
    port: u16,
) -> Result<SlaveInfo, StartError> {
    let machine = Machine::detect(work_dir);
    let default_role = flags.text("default_role").unwrap_or("*");
    let found = devices::found(flags)?;
    let given = flags.text("resources");
    let all = resources::complete(given, default_role, &machine, &found)?.to_protos();
    devices::check(flags, &all, &found)?;
    resources::prepare_disks(&all, work_dir)?;
    let attributes = flags.text("attributes").map(mesos::attributes::parse).transpose();
    let attributes = attributes.map_err(InfoError::from)?.unwrap_or_default();
    let domain = info::domain(flags.json("domain").map(ToString::to_string).as_deref())?;
    Ok(info::slave_info(hostname, port, all, attributes, domain))
}

/// What the owner task is told.
///
/// # Errors
/// [`StartError`] naming the flag.
pub fn config(
    flags: &Flags,
    info: SlaveInfo,
    pid: &str,
    work_dir: &Path,
) -> Result<Config, StartError> {
    let master = flags.text("master").map(str::trim).filter(|m| !m.is_empty());
    let master = master.ok_or(StartError::NoMaster)?;
    if master.starts_with("zk://") {
        return Err(StartError::ZooKeeper(master.to_owned()));
    }
    containerizers(flags)?;
    let mut config = Config::new(info, pid, master, work_dir);
    config.launcher_dir = launcher_dir(flags);
    // Packages install it under the name operators know, a build under ours.
    let names = ["mesos-default-executor", "bulkhead-executor"];
    let programs = names.map(|name| config.launcher_dir.join(name));
    let found = programs.iter().find(|path| path.exists()).unwrap_or(&programs[0]);
    config.default_executor.clone_from(found);
    config.switch_user = flags.bool("switch_user");
    config.strict = flags.bool("strict");
    config.recover = one_of(
        flags,
        "recover",
        &[("reconnect", RecoverMode::Reconnect), ("cleanup", RecoverMode::Cleanup)],
    )?;
    config.reconfiguration = one_of(
        flags,
        "reconfiguration_policy",
        &[("equal", ReconfigurationPolicy::Equal), ("additive", ReconfigurationPolicy::Additive)],
    )?;
    let at_most = |name: &'static str, limit: Duration| match flags.duration(name) {
        Some(value) if value > limit => {
            Err(invalid(name, &format!("{value:?}"), format!("at most {limit:?}")))
        }
        value => Ok(value.unwrap_or(limit)),
    };
    config.registration_backoff = at_most("registration_backoff_factor", Duration::from_secs(60))?;
    config.executor_reregistration_timeout =
        at_most("executor_reregistration_timeout", Duration::from_secs(15))?;
    config.executor_reregistration_retry = flags.duration("executor_reregistration_retry_interval");
    for (name, field) in [
        ("executor_registration_timeout", &mut config.executor_registration_timeout),
        ("executor_shutdown_grace_period", &mut config.executor_shutdown_grace),
        ("recovery_timeout", &mut config.recovery_timeout),
        ("gc_delay", &mut config.gc_delay),
        ("disk_watch_interval", &mut config.disk_watch_interval),
    ] {
        *field = flags.duration(name).unwrap_or(*field);
    }
    config.gc_disk_headroom = flags.float("gc_disk_headroom").unwrap_or(0.1);
    if !(0.0..=1.0).contains(&config.gc_disk_headroom) {
        let value = config.gc_disk_headroom.to_string();
        return Err(invalid("gc_disk_headroom", &value, "a number from 0.0 to 1.0"));
    }
    config.gc_non_executor_sandboxes = flags.bool("gc_non_executor_container_sandboxes");
    config.sync = flags.bool_or("flush_checkpoints", true);
    if let Some(most) = flags.number("max_completed_executors_per_framework") {
        config.max_completed_executors = usize::try_from(most).unwrap_or(usize::MAX);
    }
    if flags.text("metrics_per_container").is_some() {
        one_of(flags, "metrics_per_container", &[("none", ()), ("executors", ()), ("all", ())])?;
    }
    config.executor_environment = executor_environment(flags)?;
    config.default_container_info = images::container_info(flags)?;
    Ok(config)
}

/// `--containerizers`, in the order they are asked.
///
/// # Errors
/// An unknown one, or one that is named twice.
pub fn containerizers(flags: &Flags) -> Result<Vec<&'static str>, StartError> {
    const KNOWN: [&str; 2] = ["mesos", "docker"];
    let given = flags.text("containerizers").unwrap_or_default();
    let mut all = Vec::new();
    for name in given.split(',').map(str::trim) {
        let expected = match KNOWN.iter().find(|known| **known == name) {
            Some(known) if !all.contains(known) => {
                all.push(*known);
                continue;
            }
            Some(_) => format!("each of them once, not '{name}' twice"),
            None => match nearest(name, KNOWN) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "'mesos', 'docker' or both".to_owned(),
            },
        };
        return Err(invalid("containerizers", given, expected));
    }
    Ok(all)
}

/// `linux` or `posix`; the default is what this user may do.
///
/// # Errors
/// An unknown launcher, or `linux` without being root.
pub fn launcher(flags: &Flags, root: bool) -> Result<&'static str, StartError> {
    match (flags.text("launcher"), root) {
        (Some("linux") | None, true) => Ok("linux"),
        (Some("oci"), true) => Ok("oci"),
        (Some("posix") | None, _) => Ok("posix"),
        (Some("linux" | "oci"), false) => Err(StartError::NotRoot),
        (Some(other), _) => {
            let hint = nearest(other, ["linux", "posix", "oci"]);
            let expected =
                hint.map_or("linux, posix or oci".into(), |h| format!("did you mean '{h}'?"));
            Err(invalid("launcher", other, expected))
        }
    }
}

/// Completes the flags with what was found out at start, so that `/flags` and
/// `/state` show what holds.
///
/// # Errors
/// See [`launcher`].
pub fn fill_in(flags: &mut Flags, hostname: &str) -> Result<(), StartError> {
    let launcher = launcher(flags, kernel::proctree::is_root())?;
    let launcher_dir = launcher_dir(flags).to_string_lossy().into_owned();
    for (name, value) in
        [("hostname", hostname), ("launcher", launcher), ("launcher_dir", &launcher_dir)]
    {
        flags.fill_in(name, value).map_err(|e| invalid(name, value, e.to_string()))?;
    }
    Ok(())
}

/// `--isolator_plugins`; and `--modules`, which it replaces.
pub(super) fn plugins(
    flags: &Flags,
    runtime_dir: &Path,
) -> Result<Vec<RemoteIsolator>, StartError> {
    // Loggers are built in.
    let others = flags.json("modules").map(|modules| logs::split(modules).1);
    if let Some(refusal) = others.as_ref().and_then(manifest::refused_modules) {
        return Err(StartError::Plugins(refusal));
    }
    if let Some(directory) = flags.text("modules_dir") {
        return Err(StartError::Plugins(format!(
            "--modules_dir={directory}: shared libraries are not loaded; isolators and hooks are \
             programs on a unix socket, see --isolator_plugins and docs/plugins.md"
        )));
    }
    let directory = flags.text("isolator_plugins").filter(|directory| !directory.is_empty());
    let Some(directory) = directory else { return Ok(Vec::new()) };
    let loaded = manifest::load(Path::new(directory), &runtime_dir.join("plugins"));
    let all = loaded.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => StartError::Plugins(format!("--isolator_plugins: {error}: {source}")),
        None => StartError::Plugins(format!("--isolator_plugins: {error}")),
    })?;
    Ok(all.into_iter().map(RemoteIsolator::new).collect())
}

/// `--hooks`: names of plugins, in order.
pub(super) fn hooks(flags: &Flags) -> Vec<String> {
    let all = flags.text("hooks").unwrap_or_default().split(',').map(str::trim);
    all.filter(|hook| !hook.is_empty()).map(str::to_owned).collect()
}

/// What the containerizer is told.
///
/// # Errors
/// See [`launcher`].
pub fn containerizer(flags: &Flags, runtime_dir: PathBuf) -> Result<native::Config, StartError> {
    let launcher = match launcher(flags, kernel::proctree::is_root())? {
        "linux" => Engine::Linux,
        "oci" => Engine::Oci,
        _ => Engine::Posix,
    };
    Ok(native::Config {
        plugins: plugins(flags, &runtime_dir)?,
        hooks: hooks(flags),
        isolation: flags.text("isolation").unwrap_or_default().to_owned(),
        launcher,
        isolators: isolators(flags, &runtime_dir)?,
        runtime_dir,
        fetcher: fetcher(flags),
        logs: logs::settings(flags)?,
        ..native::Config::default()
    })
}

/// What the isolators are told.
fn isolators(flags: &Flags, runtime_dir: &Path) -> Result<Isolators, StartError> {
    let text = |name: &str| flags.text(name).unwrap_or_default().to_owned();
    let forced = flags.text("host_path_volume_force_creation").unwrap_or_default();
    Ok(Isolators {
        sandbox_directory: text("sandbox_directory").into(),
        cgroups_root: text("cgroups_root"),
        cgroups_enable_cfs: flags.bool("cgroups_enable_cfs"),
        cgroups_limit_swap: flags.bool("cgroups_limit_swap"),
        cgroups_count_processes: flags.bool("cgroups_cpu_enable_pids_and_tids_count"),
        cgroups_pids_limit: flags.number("cgroups_pids_limit"),
        cgroups_destroy_timeout: flags
            .duration("cgroups_destroy_timeout")
            .unwrap_or(Duration::from_secs(60)),
        revocable_cpu_low_priority: flags.bool("revocable_cpu_low_priority"),
        host_path_volume_force_creation: forced
            .split(':')
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .collect(),
        disallow_sharing_agent_pid_namespace: flags.bool("disallow_sharing_agent_pid_namespace"),
        disallow_sharing_agent_ipc_namespace: flags.bool("disallow_sharing_agent_ipc_namespace"),
        default_container_shm_size: flags.bytes("default_container_shm_size"),
        container_sysctls: parsed(flags, "container_sysctls", sysctl::parse)?.unwrap_or_default(),
        userns_remap: parsed(flags, "userns_remap", IdRange::parse)?,
        cgroups: cgroups::settings(flags)?,
        effective_capabilities: capabilities(flags, "effective_capabilities")?,
        bounding_capabilities: capabilities(flags, "bounding_capabilities")?,
        seccomp_config_dir: flags.text("seccomp_config_dir").map(PathBuf::from),
        seccomp_profile_name: flags.text("seccomp_profile_name").map(str::to_owned),
        disk: disk(flags),
        ports: ports::settings(flags)?,
        port_mapping: ports::mapping(flags)?,
        cdi: devices::cdi(flags)?,
        gpu: devices::gpu(flags)?,
        cni: network::cni(flags, runtime_dir)?,
        secrets: secrets(flags)?,
        docker_ignore_runtime: flags.bool("docker_ignore_runtime"),
        ..Isolators::default()
    })
}

/// A set of capabilities, as JSON.
fn capabilities(flags: &Flags, flag: &'static str) -> Result<Option<Set>, StartError> {
    let Some(json) = flags.json(flag) else { return Ok(None) };
    Set::of_flag(json).map(Some).map_err(|text| invalid(flag, &json.to_string(), text))
}

/// What the fetcher is told.
pub fn fetcher(flags: &Flags) -> fetch::Settings {
    let default = fetch::Settings::default();
    let path = |name: &str| flags.text(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    fetch::Settings {
        helper: path("launcher_dir").map(|dir| dir.join("bulkhead-helper")),
        cache_dir: path("fetcher_cache_dir").unwrap_or(default.cache_dir),
        cache_size: flags.bytes("fetcher_cache_size").unwrap_or(default.cache_size),
        stall_timeout: flags.duration("fetcher_stall_timeout").unwrap_or(default.stall_timeout),
        size_limit: flags.bytes("fetcher_size_limit").unwrap_or(default.size_limit),
        frameworks_home: path("frameworks_home"),
        hadoop_home: path("hadoop_home"),
    }
}

/// What `disk/*` is told.
fn disk(flags: &Flags) -> isolators::disk::Config {
    let default = isolators::disk::Config::default();
    isolators::disk::Config {
        enforce: flags.bool("enforce_container_disk_quota"),
        watch_interval: flags
            .duration("container_disk_watch_interval")
            .unwrap_or(default.watch_interval),
        xfs_project_range: flags
            .text("xfs_project_range")
            .map_or(default.xfs_project_range, str::to_owned),
        xfs_kill_containers: flags.bool("xfs_kill_containers"),
        xfs_quota_headroom: flags.bytes("xfs_quota_headroom").unwrap_or(default.xfs_quota_headroom),
        work_dir: flags.text("work_dir").unwrap_or_default().into(),
        volume: |work_dir, resource| WorkDir::new(work_dir).volume(resource),
    }
}

/// Shows the agent's log file as `/slave/log`.
pub fn attach_log(common: &Common) {
    let external = common.flags.text("external_log_file").map(Path::new);
    let Some(file) = external.or(common.logging.file()) else { return };
    if let Err(error) = common.files.attach(file, "/slave/log") {
        tracing::warn!("failed to show {} as /slave/log: {error}", file.display());
    }
}

/// `--executor_environment_variables`: an object of texts.
fn executor_environment(flags: &Flags) -> Result<Option<BTreeMap<String, String>>, StartError> {
    const FLAG: &str = "executor_environment_variables";
    let Some(json) = flags.json(FLAG) else { return Ok(None) };
    let wrong = || invalid(FLAG, &json.to_string(), "a JSON object whose values are strings");
    let object = json.as_object().ok_or_else(wrong)?;
    let pair = |(name, value): (&String, &serde_json::Value)| {
        Ok((name.clone(), value.as_str().ok_or_else(wrong)?.to_owned()))
    };
    object.iter().map(pair).collect::<Result<_, StartError>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn parse(more: &[&str]) -> Flags {
        let base = ["--work_dir=/tmp/none", "--master=127.0.0.1:5050"];
        let arguments = base.iter().chain(more).map(|a| (*a).to_owned());
        Flags::parse(FLAGS, arguments, []).expect("known flags")
    }

    fn built(more: &[&str]) -> Result<Config, StartError> {
        let info = SlaveInfo::default();
        config(&parse(more), info, "slave(1)@127.0.0.1:5051", Path::new("/tmp/none"))
    }

    #[test]
    fn defaults_are_those_of_mesos() {
        let config = built(&[]).expect("valid");
        let plain = Config::new(SlaveInfo::default(), "p", "m", "/tmp/none");
        assert_eq!(config.registration_backoff, plain.registration_backoff);
        assert_eq!(config.executor_reregistration_timeout, plain.executor_reregistration_timeout);
        assert_eq!(config.gc_delay, plain.gc_delay);
        assert_eq!(config.max_completed_executors, plain.max_completed_executors);
        assert_eq!(config.recovery_timeout, plain.recovery_timeout);
        assert!(config.switch_user && config.strict);
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let config = built(&[
            "--no-switch_user",
            "--no-strict",
            "--recover=cleanup",
            "--reconfiguration_policy=additive",
            "--gc_delay=2days",
            "--executor_environment_variables={\"A\": \"b\"}",
            "--max_completed_executors_per_framework=7",
        ])
        .expect("valid");
        assert!(!config.switch_user && !config.strict);
        assert_eq!(config.recover, RecoverMode::Cleanup);
        assert_eq!(config.reconfiguration, ReconfigurationPolicy::Additive);
        assert_eq!(config.gc_delay, Duration::from_secs(2 * 86400));
        assert_eq!(config.executor_environment, Some(BTreeMap::from([("A".into(), "b".into())])));
        assert_eq!(config.max_completed_executors, 7);
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (flag, words) in [
            (
                "--metrics_per_container=some",
                "--metrics_per_container: one of none, executors, all",
            ),
            ("--recover=later", "--recover: one of reconnect, cleanup"),
            ("--registration_backoff_factor=2mins", "--registration_backoff_factor: at most"),
            ("--executor_reregistration_timeout=16secs", "at most 15s"),
            ("--gc_disk_headroom=1.5", "from 0.0 to 1.0"),
            ("--containerizers=docker,docker", "not 'docker' twice"),
            ("--containerizers=rkt", "'mesos', 'docker' or both"),
            ("--containerizers=meso", "did you mean 'mesos'?"),
            ("--executor_environment_variables={\"A\": 1}", "values are strings"),
        ] {
            let error = built(&[flag]).expect_err(flag).to_string();
            assert!(error.contains(words), "{flag}: {error}");
        }
    }

    #[test]
    fn plugins_take_the_place_of_modules() {
        let runtime = PathBuf::from("/run/none");
        let refused = |flag: &str| {
            let error = containerizer(&parse(&["--launcher=posix", flag]), runtime.clone());
            error.expect_err("refused").to_string()
        };
        let modules = r#"--modules={"libraries": [{"file": "libisolator.so"}]}"#;
        let text = refused(modules);
        assert!(text.contains("'libisolator.so'") && text.contains("--isolator_plugins"), "{text}");
        assert!(refused("--modules_dir=/lib/modules").contains("--isolator_plugins"));
        let text = refused("--secret_resolver=com_example_Vault");
        assert!(text.contains("com_example_Vault") && text.contains("--secrets_dir"), "{text}");
        assert!(refused("--secrets_dir=/nonexistent").contains("'/nonexistent'"));
        let text = refused("--isolator_plugins=/nonexistent");
        assert!(text.contains("failed to read '/nonexistent'"), "{text}");
    }

    #[test]
    fn what_isolators_are_told_is_checked() {
        let with = |flags: &[&str]| containerizer(&parse(flags), PathBuf::from("/run/none"));
        let config = with(&["--launcher=posix", "--container_sysctls=kernel/msgmax=1; net.a.b=2"]);
        let settings = config.expect("valid").isolators.container_sysctls;
        assert_eq!(settings.into_keys().collect::<Vec<_>>(), ["kernel.msgmax", "net.a.b"]);
        for (flag, words) in [
            ("--container_sysctls=vm.swappiness=1", "--container_sysctls: kernel setting"),
            ("--userns_remap=[0-65535]", "--userns_remap: '[0-65535]' begins below 65536"),
            ("--userns_remap=default", "--userns_remap: 'default' is no range of host ids"),
        ] {
            let error = with(&["--launcher=posix", flag]).expect_err(flag).to_string();
            assert!(error.contains(words), "{flag}: {error}");
        }
    }

    #[test]
    fn the_linux_launcher_is_for_root() {
        assert_eq!(launcher(&parse(&[]), true).expect("root"), "linux");
        assert_eq!(launcher(&parse(&[]), false).expect("anyone"), "posix");
        let linux = parse(&["--launcher=linux"]);
        assert!(matches!(launcher(&linux, false), Err(StartError::NotRoot)));
        let unknown =
            launcher(&parse(&["--launcher=linx"]), true).expect_err("unknown").to_string();
        assert!(unknown.contains("did you mean 'linux'?"), "{unknown}");
    }
}
