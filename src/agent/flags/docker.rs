//! The flags of the docker containerizer. Called by `app`.

use std::path::Path;

use super::values::{StartError, invalid};
use crate::checkpoint::WorkDir;
use crate::containerizer::docker::{Config, ImagePolicy, Policy};
use crate::daemon::flags::Flags;
use crate::provisioner::Collection;

/// The least of a container's output that an engine may be told to keep.
const LEAST_LOG: u64 = 64 << 10;

/// What the docker containerizer is told.
///
/// # Errors
/// A flag whose value makes no sense, or that asks for what is not there.
pub(in crate::agent) fn config(
    flags: &Flags,
    work_dir: &Path,
    runtime_dir: &Path,
) -> Result<Config, StartError> {
    let text = |name: &str| flags.text(name).unwrap_or_default().to_owned();
    let default = Config::default();
    let socket = text("docker_socket");
    let count = |name: &str| flags.number(name).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    Ok(Config {
        socket: socket.strip_prefix("unix://").unwrap_or(&socket).into(),
        runtime_dir: runtime_dir.to_owned(),
        owner: work_dir.display().to_string(),
        sandbox_directory: text("sandbox_directory").into(),
        enable_cfs: flags.bool("cgroups_enable_cfs"),
        count_processes: flags.bool("cgroups_cpu_enable_pids_and_tids_count"),
        stop_timeout: flags.duration("docker_stop_timeout").unwrap_or(default.stop_timeout),
        kill_orphans: flags.bool("docker_kill_orphans"),
        credentials: flags.json("docker_config").cloned(),
        secrets: super::values::secrets(flags)?,
        default_dns: flags.json("default_container_dns").cloned(),
        policy: Policy {
            delay: flags.duration("docker_remove_delay").unwrap_or(default.policy.delay),
            keep: count("docker_keep_exited").unwrap_or(default.policy.keep),
            keep_per_task: count("docker_keep_exited_per_task")
                .unwrap_or(default.policy.keep_per_task),
        },
        image_policy: image_policy(flags)?,
        image_records: WorkDir::new(work_dir).docker_images(),
        logs: super::logs::settings(flags)?,
        engine_log: engine_log(flags)?,
        persistent: |work_dir, resource| WorkDir::new(work_dir).volume(resource),
        ..default
    })
}

/// `--docker_log_max_size`.
fn engine_log(flags: &Flags) -> Result<Option<u64>, StartError> {
    const NAME: &str = "docker_log_max_size";
    let Some(bytes) = flags.bytes(NAME) else { return Ok(None) };
    if bytes < LEAST_LOG {
        return Err(invalid(NAME, &format!("{bytes}B"), "at least 64KB"));
    }
    Ok(Some(bytes))
}

/// `--image_gc_config`, for the engine's store.
fn image_policy(flags: &Flags) -> Result<Option<ImagePolicy>, StartError> {
    let collection = super::images::collection(flags)?;
    Ok(collection.map(|Collection { headroom, interval, excluded }| ImagePolicy {
        headroom,
        interval,
        excluded: excluded.iter().map(ToString::to_string).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn built(more: &[&str]) -> Result<Config, StartError> {
        let base = ["--work_dir=/w", "--master=127.0.0.1:5050"];
        let arguments = base.iter().chain(more).map(|a| (*a).to_owned());
        let flags = Flags::parse(FLAGS, arguments, []).expect("known flags");
        config(&flags, Path::new("/w"), Path::new("/run/x"))
    }

    #[test]
    fn defaults_are_those_of_mesos() {
        let config = built(&[]).expect("fine");
        assert_eq!(config.socket, Path::new("/var/run/docker.sock"));
        assert_eq!(config.policy, Policy::default());
        assert_eq!(config.policy.delay, Duration::from_secs(6 * 3600));
        assert_eq!((config.image_policy, config.engine_log), (None, None));
        assert_eq!(config.image_records, Path::new("/w/meta/docker_images"));
        assert_eq!((config.owner.as_str(), config.kill_orphans), ("/w", true));
        assert!(config.stop_timeout.is_zero());
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let config = built(&[
            "--docker_socket=unix:///run/other.sock",
            "--docker_remove_delay=1mins",
            "--docker_keep_exited=3",
            "--docker_keep_exited_per_task=2",
            "--docker_log_max_size=1MB",
            "--docker_mesos_image=mesos",
            "--container_log_max_size=2MB",
            "--image_gc_config={\"image_disk_headroom\": 0.2, \"image_disk_watch_interval\": \
                {\"nanoseconds\": 3000000000}, \"excluded_images\": [{\"type\": \"DOCKER\", \
                \"docker\": {\"name\": \"nginx\"}}]}",
            "--no-docker_kill_orphans",
            "--docker_stop_timeout=5secs",
            "--docker_config={\"auths\": {}}",
            "--default_container_dns={\"docker\": []}",
        ])
        .expect("fine");
        assert_eq!(config.socket, Path::new("/run/other.sock"));
        let delay = Duration::from_secs(60);
        assert_eq!(config.policy, Policy { delay, keep: 3, keep_per_task: 2 });
        let policy = config.image_policy.expect("it was given");
        assert_eq!((policy.headroom, policy.interval), (0.2, Duration::from_secs(3)));
        assert!(policy.excluded[0].contains("nginx"), "{:?}", policy.excluded);
        assert_eq!(config.engine_log, Some(1 << 20));
        assert_eq!(config.logs.map(|logs| logs.streams[0].max_size), Some(2 << 20));
        assert!(!config.kill_orphans);
        assert_eq!(config.stop_timeout, Duration::from_secs(5));
        assert!(config.credentials.is_some() && config.default_dns.is_some());
        let error = built(&["--docker_log_max_size=1KB"]).expect_err("refused").to_string();
        assert!(error.contains("at least 64KB"), "{error}");
    }
}
