//! The flags of images: where they come from, how roots are made of them, when they go.
//! Called by `app`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesos::ContainerInfo;
use mesos::internal::ImageGcConfig;

use super::values::{StartError, invalid, secrets};
use crate::checkpoint::WorkDir;
use crate::daemon::flags::{Flags, nearest};
use crate::provisioner::store::settings;
use crate::provisioner::{
    Backend, Collection, Location, Point, Provisioner, Reference, Settings, SettingsError, Store,
};

/// Largest image, unpacked, unless `--docker_image_size_limit` says so.
const SIZE_LIMIT: u64 = 32 << 30;
/// Where dockerd has the certificates of registries.
const CERTIFICATES: &str = "/etc/docker/certs.d";

/// `--default_container_info`.
pub(super) fn container_info(flags: &Flags) -> Result<Option<ContainerInfo>, StartError> {
    const FLAG: &str = "default_container_info";
    let Some(json) = flags.json(FLAG) else { return Ok(None) };
    let text = json.to_string();
    let info = mesos::json::from_json(text.as_bytes());
    info.map(Some).map_err(|e| invalid(FLAG, &text, format!("a ContainerInfo: {e}")))
}

/// `--image_gc_config`.
///
/// # Errors
/// It is none.
pub(in crate::agent) fn collection(flags: &Flags) -> Result<Option<Collection>, StartError> {
    const FLAG: &str = "image_gc_config";
    let Some(json) = flags.json(FLAG) else { return Ok(None) };
    let text = json.to_string();
    let wrong = |expected: String| invalid(FLAG, &text, expected);
    let config: ImageGcConfig = mesos::json::from_json(text.as_bytes()).map_err(|e| {
        let form = "image_disk_headroom, image_disk_watch_interval and excluded_images";
        wrong(format!("an object of {form}: {e}"))
    })?;
    let headroom = config.image_disk_headroom;
    if !(0.0..=1.0).contains(&headroom) {
        return Err(wrong(format!("an image_disk_headroom from 0.0 to 1.0, not {headroom}")));
    }
    let nanoseconds = u64::try_from(config.image_disk_watch_interval.nanoseconds).unwrap_or(0);
    if nanoseconds == 0 {
        return Err(wrong("an image_disk_watch_interval above 0".into()));
    }
    let names = config.excluded_images.iter().map(isolators::image::name);
    let excluded = names.map(|name| Reference::parse(&name).map_err(|e| wrong(e.to_string())));
    let excluded = excluded.collect::<Result<_, _>>()?;
    Ok(Some(Collection { headroom, interval: Duration::from_nanos(nanoseconds), excluded }))
}

/// Whether `--image_providers` asks for images.
fn wanted(flags: &Flags) -> Result<bool, StartError> {
    const FLAG: &str = "image_providers";
    let given = flags.text(FLAG).unwrap_or_default();
    let mut wanted = false;
    for name in given.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name.to_ascii_uppercase().as_str() {
            "DOCKER" => wanted = true,
            "APPC" => {
                let text = "DOCKER: images of appc, which nobody makes any more, are not supported";
                return Err(invalid(FLAG, given, text));
            }
            other => {
                let hint = nearest(other, ["DOCKER"]).map_or("DOCKER", |near| near);
                return Err(invalid(FLAG, given, format!("did you mean '{hint}'?")));
            }
        }
    }
    Ok(wanted)
}

/// Opens the store and finds out how roots are made; `None` without
/// `--image_providers`. Blocks.
///
/// # Errors
/// A flag whose value makes no sense, or what cannot work here.
pub(in crate::agent) fn provisioner(
    flags: &Flags,
    work_dir: &Path,
    launcher: &str,
) -> Result<Option<Arc<Provisioner>>, StartError> {
    if !wanted(flags)? {
        // The engine of the docker containerizer has images of its own.
        let containerizers = flags.text("containerizers").unwrap_or_default();
        let docker = containerizers.split(',').any(|name| name.trim() == "docker");
        if flags.json("image_gc_config").is_some() && !docker {
            let text = "no value without --image_providers or docker in --containerizers";
            return Err(invalid("image_gc_config", "...", text));
        }
        return Ok(None);
    }
    let given = flags.text("image_providers").unwrap_or_default();
    let isolation = flags.text("isolation").unwrap_or_default();
    if !isolation.split(',').any(|name| name.trim() == "filesystem/linux") {
        let text = "'filesystem/linux' in --isolation beside it";
        return Err(invalid("image_providers", given, text));
    }
    if launcher == "posix" {
        return Err(invalid("image_providers", given, "--launcher=linux beside it"));
    }
    let settings = settings(flags)?;
    let scratch = WorkDir::new(work_dir).provisioner();
    let store = settings.dir.clone();
    let opened = Store::open(settings).map_err(|e| StartError::Images(kernel::chain(&e)))?;
    let name = flags.text("image_provisioner_backend");
    // A probe beside the containers would look like one.
    let probed = scratch.parent().unwrap_or(&scratch);
    let backend = Backend::choose(name, &store, probed).map_err(|error| match name {
        Some(given) => StartError::Value {
            flag: "image_provisioner_backend",
            value: given.to_owned(),
            expected: kernel::chain(&error),
        },
        None => StartError::Images(kernel::chain(&error)),
    })?;
    tracing::info!(%backend, store = %store.display(), "root file systems are made of images");
    let secrets = secrets(flags)?;
    let sandbox = flags.text("sandbox_directory").unwrap_or_default();
    let points = isolators::filesystem::mount_points(Path::new(sandbox));
    let points = points.into_iter().map(|(path, is_dir)| Point { path, is_dir }).collect();
    let fixtures = isolators::filesystem::fixtures(isolation);
    Ok(Some(Arc::new(Provisioner::new(opened, backend, scratch, secrets, points, fixtures))))
}

/// What the store is told.
fn settings(flags: &Flags) -> Result<Settings, StartError> {
    let path = |name: &str| flags.text(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let wrong = |e: SettingsError| invalid(e.flag, &e.value, e.expected);
    let missing = || invalid("docker_store_dir", "", "a directory");
    let mirrors = flags.json("docker_registry_mirrors").map(settings::mirrors).transpose();
    let insecure = flags.text("docker_insecure_registries").unwrap_or_default();
    Ok(Settings {
        dir: path("docker_store_dir").ok_or_else(missing)?,
        registry: Location::parse(flags.text("docker_registry").unwrap_or_default())
            .map_err(wrong)?,
        credentials: flags.json("docker_config").cloned(),
        helper: super::values::launcher_dir(flags).join("bulkhead-helper"),
        insecure: settings::insecure(insecure).map_err(wrong)?,
        mirrors: mirrors.map_err(wrong)?.unwrap_or_default(),
        certificates: path("docker_certs_dir").unwrap_or_else(|| CERTIFICATES.into()),
        size_limit: flags.bytes("docker_image_size_limit").unwrap_or(SIZE_LIMIT),
        stall: flags.duration("fetcher_stall_timeout").unwrap_or(Duration::from_secs(60)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn parse(more: &[&str]) -> Flags {
        let base = ["--work_dir=/nonexistent/w", "--master=127.0.0.1:5050"];
        let arguments = base.iter().chain(more).map(|a| (*a).to_owned());
        Flags::parse(FLAGS, arguments, []).expect("known flags")
    }

    #[test]
    fn when_images_go() {
        let text = r#"--image_gc_config={"image_disk_headroom": 0.2,
            "image_disk_watch_interval": {"nanoseconds": 3000000000},
            "excluded_images": [{"type": "DOCKER", "docker": {"name": "busybox:1"}}]}"#;
        let found = collection(&parse(&[text])).expect("fine").expect("some");
        let excluded = vec![Reference::parse("busybox:1").expect("a name")];
        let interval = Duration::from_secs(3);
        assert_eq!(found, Collection { headroom: 0.2, interval, excluded });
        let with = |headroom: f64, nanoseconds: u64, name: &str| {
            format!(
                r#"{{"image_disk_headroom": {headroom},
                "image_disk_watch_interval": {{"nanoseconds": {nanoseconds}}},
                "excluded_images": [{{"type": "DOCKER", "docker": {{"name": "{name}"}}}}]}}"#
            )
        };
        for (json, words) in [
            ("{}".to_owned(), "image_disk_headroom"),
            (with(2.0, 1, "a"), "from 0.0 to 1.0, not 2"),
            (with(0.1, 0, "a"), "above 0"),
            (with(0.1, 1, "UPPER"), "'UPPER'"),
        ] {
            let error = collection(&parse(&[&format!("--image_gc_config={json}")]));
            let error = error.expect_err(&json).to_string();
            assert!(error.contains("--image_gc_config") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn flags_of_images_are_checked_by_name() {
        assert_eq!(collection(&parse(&[])).expect("none"), None);
        let error = collection(&parse(&["--image_gc_config={}"])).expect_err("refused");
        assert!(error.to_string().contains("--image_gc_config"), "{error}");
        for flag in ["--docker_registry=hdfs://x", "--docker_insecure_registries=a b"] {
            let error = settings(&parse(&[flag])).expect_err(flag).to_string();
            assert!(error.contains(flag.split('=').next().unwrap_or(flag)), "{error}");
        }
        let json = r#"--docker_registry_mirrors={"docker.io": ["https://mirror.example"]}"#;
        let found = settings(&parse(&[json, "--docker_image_size_limit=1GB"])).expect("fine");
        assert_eq!((found.mirrors.len(), found.size_limit), (1, 1 << 30));
        assert_eq!(found.certificates, Path::new(CERTIFICATES));
    }

    #[test]
    fn what_images_need_is_said_by_name() {
        let none = |flags: &[&str]| provisioner(&parse(flags), Path::new("/nonexistent"), "linux");
        assert!(none(&[]).expect("no images").is_none());
        let docker = "--image_providers=docker";
        for (flags, launcher, words) in [
            (vec!["--image_providers=APPC"], "linux", "images of appc"),
            (vec!["--image_providers=DOKER"], "linux", "did you mean 'DOCKER'?"),
            (vec![docker], "linux", "'filesystem/linux' in --isolation"),
            (vec![docker, "--isolation=filesystem/linux"], "posix", "--launcher=linux"),
            (
                vec![r#"--image_gc_config={"image_disk_headroom": 0.1}"#],
                "linux",
                "without --image_providers",
            ),
        ] {
            let refused = provisioner(&parse(&flags), Path::new("/nonexistent"), launcher);
            let error = refused.expect_err("refused").to_string();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn the_container_of_those_that_bring_none() {
        let given = r#"--default_container_info={"type": "MESOS",
            "volumes": [{"mode": "RO", "container_path": "/x", "host_path": "/y"}]}"#;
        let info = container_info(&parse(&[given])).expect("fine").expect("some");
        assert_eq!(info.volumes.len(), 1);
        let error = container_info(&parse(&[r#"--default_container_info={"type": "X"}"#]));
        assert!(error.expect_err("refused").to_string().contains("a ContainerInfo"));
    }
}
