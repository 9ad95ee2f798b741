//! The flags of the docker containerizer. Called by `app`.

use std::path::Path;

use super::flags::{StartError, invalid};
use crate::checkpoint::WorkDir;
use crate::containerizer::docker::{Config, Policy};
use crate::daemon::flags::Flags;

/// What the docker containerizer is told.
///
/// # Errors
/// A flag whose value makes no sense, or that asks for what is not there.
pub(super) fn config(
    flags: &Flags,
    work_dir: &Path,
    runtime_dir: &Path,
) -> Result<Config, StartError> {
    if let Some(image) = flags.text("docker_mesos_image").filter(|image| !image.is_empty()) {
        let expected = "no value: tasks in docker need no executor process, so there is none to \
                        run in an image";
        return Err(invalid("docker_mesos_image", image, expected));
    }
    let text = |name: &str| flags.text(name).unwrap_or_default().to_owned();
    let default = Config::default();
    let socket = text("docker_socket");
    let keep = flags.number("docker_keep_exited").map(|n| usize::try_from(n).unwrap_or(usize::MAX));
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
        secrets: super::flags::secrets(flags)?,
        default_dns: flags.json("default_container_dns").cloned(),
        policy: Policy {
            delay: flags.duration("docker_remove_delay").unwrap_or(default.policy.delay),
            keep: keep.unwrap_or(default.policy.keep),
        },
        persistent: |work_dir, resource| WorkDir::new(work_dir).volume(resource),
        ..default
    })
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
        assert_eq!(config.policy, Policy { delay: Duration::from_secs(6 * 3600), keep: 50 });
        assert_eq!((config.owner.as_str(), config.kill_orphans), ("/w", true));
        assert!(config.stop_timeout.is_zero());
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let config = built(&[
            "--docker_socket=unix:///run/other.sock",
            "--docker_remove_delay=1mins",
            "--docker_keep_exited=3",
            "--no-docker_kill_orphans",
            "--docker_stop_timeout=5secs",
            "--docker_config={\"auths\": {}}",
            "--default_container_dns={\"docker\": []}",
        ])
        .expect("fine");
        assert_eq!(config.socket, Path::new("/run/other.sock"));
        assert_eq!(config.policy, Policy { delay: Duration::from_secs(60), keep: 3 });
        assert!(!config.kill_orphans);
        assert_eq!(config.stop_timeout, Duration::from_secs(5));
        assert!(config.credentials.is_some() && config.default_dns.is_some());
        let error = built(&["--docker_mesos_image=mesos"]).expect_err("refused").to_string();
        assert!(error.contains("need no executor process"), "{error}");
    }
}
