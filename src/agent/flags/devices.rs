//! Devices that the agent finds and offers: GPUs, and what CDI specs describe.
//!
//! Called once at start, for the isolators that `--isolation` names: without one
//! nothing would keep containers apart, so nothing is looked for. A resource that
//! `--resources` names is not looked for either, but must fit what there is.

use std::path::PathBuf;

use isolators::cdi::{self, Hooks, Inventory};
use isolators::gpu;
use isolators::quantity::{scalar, total};
use mesos::{Resource, value};

use super::values::{StartError, invalid, one_of};
use crate::daemon::flags::Flags;

fn enabled(flags: &Flags, isolator: &str) -> bool {
    let isolation = flags.text("isolation").unwrap_or_default();
    isolation.split(',').any(|name| name.trim() == isolator)
}

/// What `devices/cdi` is told.
pub(super) fn cdi(flags: &Flags) -> Result<cdi::Settings, StartError> {
    let default = cdi::Settings::default();
    let directories = flags.text("cdi_spec_dirs").filter(|text| !text.is_empty());
    let hooks = match flags.text("cdi_hooks") {
        None | Some("") => Hooks::default(),
        Some(_) => {
            let known = [("refuse", Hooks::Refuse), ("ignore", Hooks::Ignore)];
            one_of(flags, "cdi_hooks", &known)?
        }
    };
    let directories = match directories {
        Some(text) => text.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
        None => default.directories,
    };
    Ok(cdi::Settings { directories, hooks })
}

/// What `gpu/nvidia` is told.
pub(super) fn gpu(flags: &Flags) -> Result<gpu::Settings, StartError> {
    const FLAG: &str = "nvidia_gpu_devices";
    let mut settings = gpu::Settings::default();
    let Some(text) = flags.text(FLAG).filter(|text| !text.is_empty()) else {
        if named(flags, "gpus") {
            settings.indices = Some(Vec::new());
        }
        return Ok(settings);
    };
    if !enabled(flags, gpu::NAME) {
        return Err(invalid(FLAG, text, "'gpu/nvidia' in --isolation"));
    }
    let mut indices = Vec::new();
    for part in text.split(',') {
        let expected = || invalid(FLAG, text, "indices of GPUs, separated by commas");
        let index: u32 = part.trim().parse().map_err(|_| expected())?;
        if indices.contains(&index) {
            return Err(invalid(FLAG, text, format!("each GPU once, not {index} twice")));
        }
        indices.push(index);
    }
    settings.indices = Some(indices);
    Ok(settings)
}

/// Whether `--resources` says something of a resource, even that there is none.
fn named(flags: &Flags, name: &str) -> bool {
    let text = flags.text("resources").unwrap_or_default();
    let parsed = mesos::resources::parse_list(text, "*").unwrap_or_default();
    parsed.iter().any(|resource| resource.name == name)
}

/// The devices of this machine, as resources.
///
/// # Errors
/// `gpu/nvidia` is wanted and the driver is not there.
pub(super) fn found(flags: &Flags) -> Result<Vec<Resource>, StartError> {
    let mut all = Vec::new();
    if enabled(flags, cdi::NAME) {
        all.extend(sets(&Inventory::load(&cdi(flags)?.directories)));
    }
    if enabled(flags, gpu::NAME) && !named(flags, "gpus") {
        let count = gpu::count(&gpu(flags)?);
        let count = count.map_err(|error| StartError::Devices(error.chain()))?;
        all.extend((count > 0).then(|| scalar("gpus", count.into())));
    }
    Ok(all)
}

fn sets(inventory: &Inventory) -> Vec<Resource> {
    let offered = inventory.offered();
    let set = |(kind, names): (&&str, &std::collections::BTreeSet<&str>)| Resource {
        name: (*kind).to_owned(),
        r#type: value::Type::Set as i32,
        set: Some(value::Set { item: names.iter().map(|name| (*name).to_owned()).collect() }),
        ..Resource::default()
    };
    offered.iter().filter(|(_, names)| !names.is_empty()).map(set).collect()
}

/// Checks what `--resources` says against what was found.
///
/// # Errors
/// A device that no spec describes, or a number of GPUs that cannot be.
pub(super) fn check(flags: &Flags, all: &[Resource], found: &[Resource]) -> Result<(), StartError> {
    let given = flags.text("resources").unwrap_or_default();
    let items = |r: &Resource| r.set.as_ref().map(|set| set.item.clone()).unwrap_or_default();
    for resource in all {
        let Some(known) = found.iter().find(|known| known.name == resource.name) else { continue };
        let known = items(known);
        if let Some(odd) = items(resource).into_iter().find(|item| !known.contains(item)) {
            let there = known.join(", ");
            let expected =
                format!("'{odd}' is no device of '{}'; there are: {there}", resource.name);
            return Err(invalid("resources", given, expected));
        }
    }
    if !enabled(flags, gpu::NAME) {
        return Ok(());
    }
    let indices = gpu(flags)?.indices;
    let chosen = flags.text("nvidia_gpu_devices").filter(|text| !text.is_empty());
    let gpus = total(all, "gpus").unwrap_or(0.0);
    let wrong = |expected: &str| Err(invalid("resources", given, expected));
    match (named(flags, "gpus"), chosen) {
        (false, None) => Ok(()),
        (false, Some(_)) => wrong("'gpus' too, because --nvidia_gpu_devices is set"),
        (true, None) if gpus > 0.0 => wrong("--nvidia_gpu_devices too, because it names 'gpus'"),
        (true, None) => Ok(()),
        (true, Some(_)) if gpus == 0.0 => wrong("some 'gpus', because --nvidia_gpu_devices is set"),
        #[allow(clippy::cast_precision_loss)] // a machine has few
        (true, Some(_)) if indices.is_some_and(|list| list.len() as f64 != gpus) => {
            wrong("as many 'gpus' as --nvidia_gpu_devices names")
        }
        (true, Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::flags::slave_info;
    use crate::daemon::flags::agent::FLAGS;

    fn parse(more: &[&str]) -> Flags {
        let base = ["--work_dir=/tmp/none", "--master=127.0.0.1:5050"];
        let arguments = base.iter().chain(more).map(|a| (*a).to_owned());
        Flags::parse(FLAGS, arguments, []).expect("known flags")
    }

    fn offered(more: &[&str]) -> Result<Vec<Resource>, String> {
        let info = slave_info(&parse(more), "/tmp".as_ref(), "host".into(), 5051);
        info.map(|info| info.resources).map_err(|error| error.to_string())
    }

    #[test]
    fn devices_of_specs_are_offered_by_name() {
        let dir = std::env::temp_dir().join(format!("agent-cdi-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let spec = "cdiVersion: 0.6.0\nkind: acme.com/widget\ndevices:\n\
                    - {name: a, containerEdits: {env: [A=1]}}\n\
                    - {name: 'b:0', containerEdits: {env: [A=2]}}\n\
                    - {name: all, containerEdits: {env: [A=3]}}\n";
        std::fs::write(dir.join("acme.yaml"), spec).expect("write");
        let dirs = format!("--cdi_spec_dirs=/nonexistent:{}", dir.display());
        let isolation = "--isolation=filesystem/linux,cgroups/devices,devices/cdi";
        let widgets = |all: &[Resource]| -> Vec<String> {
            let widget = all.iter().find(|resource| resource.name == "acme.com/widget");
            widget.and_then(|w| w.set.clone()).map(|set| set.item).unwrap_or_default()
        };
        let all = offered(&[&dirs, isolation, "--default_role=ads"]).expect("offered");
        assert_eq!(widgets(&all), ["a", "b:0"]);
        let widget = all.iter().find(|r| r.name == "acme.com/widget").expect("there");
        assert!(format!("{widget:?}").contains("ads"), "{widget:?}");
        assert!(widgets(&offered(&[&dirs]).expect("no isolator")).is_empty());
        let some = "--resources=acme.com/widget:{a}";
        assert_eq!(widgets(&offered(&[&dirs, isolation, some]).expect("chosen")), ["a"]);
        let odd = offered(&[&dirs, isolation, "--resources=acme.com/widget:{c}"]).expect_err("odd");
        assert!(odd.contains("'c' is no device of 'acme.com/widget'; there are: a, b:0"), "{odd}");
        std::fs::remove_dir_all(&dir).expect("own directory");
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        let refused = |more: &[&str]| {
            let flags = parse(more);
            let error = cdi(&flags).map(|_| ()).and_then(|()| gpu(&flags).map(|_| ()));
            error.and_then(|()| check(&flags, &[scalar("gpus", 2.0)], &[])).expect_err("refused")
        };
        let gpu = "--isolation=gpu/nvidia";
        for (more, words) in [
            (&["--cdi_hooks=run"][..], "--cdi_hooks: one of refuse, ignore"),
            (&["--nvidia_gpu_devices=0"], "'gpu/nvidia' in --isolation"),
            (&[gpu, "--nvidia_gpu_devices=0,x"], "indices of GPUs"),
            (&[gpu, "--nvidia_gpu_devices=1,1"], "not 1 twice"),
            (&[gpu, "--nvidia_gpu_devices=0,1"], "'gpus' too"),
            (&[gpu, "--resources=gpus:2"], "--nvidia_gpu_devices too"),
            (&[gpu, "--resources=gpus:2", "--nvidia_gpu_devices=0"], "as many 'gpus'"),
        ] {
            let error = refused(more).to_string();
            assert!(error.contains(words), "{more:?}: {error}");
        }
    }

    #[test]
    fn gpus_without_a_driver_are_an_error_and_zero_gpus_are_not_looked_for() {
        if std::path::Path::new("/dev/nvidiactl").exists() {
            return;
        }
        let gpu = "--isolation=gpu/nvidia";
        let error = offered(&[gpu]).expect_err("there is no driver");
        assert!(error.contains("install the driver"), "{error}");
        assert!(offered(&[gpu, "--resources=gpus:0"]).is_ok());
    }
}
