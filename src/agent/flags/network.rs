//! The flags of `network/*`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isolators::network::cni::{DefaultDns, Networks, Settings};

use super::values::{StartError, invalid};
use crate::daemon::flags::Flags;

/// Below the runtime or the work directory, as in Mesos.
const ROOT: &str = "isolators/network/cni";

/// What `network/cni` is told.
///
/// # Errors
/// [`StartError`] naming the flag.
pub(super) fn cni(flags: &Flags, runtime_dir: &Path) -> Result<Settings, StartError> {
    let text = |name: &str| flags.text(name).filter(|text| !text.is_empty());
    let base = match text("work_dir").filter(|_| flags.bool("network_cni_root_dir_persist")) {
        Some(work_dir) => Path::new(work_dir),
        None => runtime_dir,
    };
    let dirs = text("network_cni_plugins_dir").unwrap_or_default().split(':');
    let timeout = flags.duration("network_cni_timeout").unwrap_or(Duration::from_secs(60));
    if timeout.is_zero() {
        return Err(invalid("network_cni_timeout", "0", "some time for a plugin to work"));
    }
    let dns = match flags.json("default_container_dns") {
        None => DefaultDns::default(),
        Some(json) => DefaultDns::of_flag(json)
            .map_err(|expected| invalid("default_container_dns", &json.to_string(), expected))?,
    };
    Ok(Settings {
        plugins_dirs: dirs.filter(|dir| !dir.is_empty()).map(PathBuf::from).collect(),
        config_dir: text("network_cni_config_dir").map(PathBuf::from),
        root: base.join(ROOT),
        metrics: flags.bool("network_cni_metrics"),
        dns,
        timeout,
        helper: None,
    })
}

/// The networks of these flags, for all containerizers; `None` without any.
///
/// # Errors
/// As [`cni`].
pub(in crate::agent) fn networks(
    flags: &Flags,
    runtime_dir: &Path,
) -> Result<Option<Networks>, StartError> {
    let settings = cni(flags, runtime_dir)?;
    let own = std::env::current_exe().and_then(|own| own.canonicalize()).unwrap_or_default();
    let helper = Some(own.with_file_name(crate::logs::client::PROGRAM));
    let settings = Settings { helper, ..settings };
    Ok(settings.is_configured().then(|| Networks::new(&settings)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn built(more: &[&str]) -> Result<Settings, String> {
        let base = ["--work_dir=/w", "--master=127.0.0.1:5050"];
        let arguments = base.iter().chain(more).map(|a| (*a).to_owned());
        let flags = Flags::parse(FLAGS, arguments, []).expect("known flags");
        cni(&flags, Path::new("/run/x")).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_values() {
        let plain = built(&[]).unwrap();
        assert_eq!(plain.root, Path::new("/run/x/isolators/network/cni"));
        assert!(plain.metrics && !plain.is_configured());
        let given = built(&[
            "--network_cni_plugins_dir=/a::/b",
            "--network_cni_config_dir=/c",
            "--network_cni_root_dir_persist",
            "--no-network_cni_metrics",
            "--network_cni_timeout=3secs",
        ]);
        let given = given.unwrap();
        assert_eq!(given.plugins_dirs, [Path::new("/a"), Path::new("/b")]);
        assert_eq!(given.root, Path::new("/w/isolators/network/cni"));
        assert!(given.is_configured() && !given.metrics);
        assert_eq!(given.timeout, Duration::from_secs(3));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = built(&["--default_container_dns={\"mesos\":3}"]).unwrap_err();
        assert!(error.contains("default_container_dns") && error.contains("a list"), "{error}");
        let error = built(&["--network_cni_timeout=0secs"]).unwrap_err();
        assert!(error.contains("network_cni_timeout"), "{error}");
    }
}
