//! `gpu/nvidia` against a stand-in for Nvidia's library: what the isolator does
//! with what the library says. No GPU is opened here; that needs one.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, LaunchRequest};
use isolators::gpu::Settings;
use isolators::quantity::scalar;
use kernel::nvml::Nvml;

use crate::recovery::{in_a_life, known};
use crate::{ALL, Place, end, have_controller, require, resources, top};

/// Up to sixteen GPUs whose minor numbers are not their indices.
const LIBRARY: &str = r#"
#include <stdio.h>
static unsigned minors[] = {2, 0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "999.1"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index >= COUNT) return 2;
  *device = &minors[index];
  return 0;
}
int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { *minor = *(unsigned *)device; return 0; }
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) { rates[0] = 42; rates[1] = 0; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
  memory[0] = 1000; memory[1] = 400; memory[2] = 600;
  return 0;
}
const char *nvmlErrorString(int status) { return status == 9 ? "Driver Not Loaded" : "Invalid Argument"; }
"#;

/// Builds it with `count` GPUs; `init` is what its start answers.
fn library(dir: &Path, count: u32, init: u32) -> PathBuf {
    let (source, library) = (dir.join("nvml.c"), dir.join(format!("nvml{init}.so")));
    std::fs::write(&source, LIBRARY).expect("write");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-DINIT={init}"), &format!("-DCOUNT={count}"), "-o"])
        .args([&library, &source])
        .status()
        .expect("cc");
    assert!(built.success());
    library
}

fn place(name: &str) -> Place {
    let mut place = Place::new(name, &format!("{ALL},cgroups/devices,gpu/nvidia"));
    place.config.isolators.gpu = settings(&place, 3);
    place
}

/// A machine with `count` GPUs.
pub(crate) fn settings(place: &Place, count: u32) -> Settings {
    let dev = place.path("dev");
    std::fs::create_dir(&dev).expect("mkdir");
    // Control devices that no container may open by itself.
    for (node, minor) in [("nvidiactl", "11"), ("nvidia-uvm", "1")] {
        let made = Command::new("mknod").arg(dev.join(node)).args(["c", "1", minor]).status();
        assert!(made.expect("mknod").success());
    }
    let library = library(&place.path(""), count, 0);
    Settings { indices: None, library, devices: dev }
}

fn asking(place: &Place, id: &str, gpus: f64) -> LaunchRequest {
    let mut request = place.shell(id, "sleep 1000");
    request.requests.push(scalar("gpus", gpus));
    request
}

/// Minor numbers of the GPUs in the container's device list, on v1.
fn listed(place: &Place, id: &str) -> Option<Vec<String>> {
    let list = place.knob(id, "devices.list")?;
    let gpus = list.lines().filter_map(|line| line.strip_prefix("c 195:"));
    let mut gpus: Vec<String> = gpus.map(|gpu| gpu.to_owned()).collect();
    gpus.sort();
    Some(gpus)
}

/// In the device list, where it can be read, and in the runtime directory.
fn check(place: &Place, id: &str, gpus: &[u32]) {
    if let Some(listed) = listed(place, id) {
        let wanted: Vec<String> = gpus.iter().map(|gpu| format!("{gpu} rw")).collect();
        assert_eq!(listed, wanted, "{id}");
    }
    let file = place.path("runtime").join("containers").join(id).join("gpus");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let wanted: Vec<String> = gpus.iter().map(u32::to_string).collect();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), wanted, "{id}");
}

async fn stop(native: &Native, id: &str) {
    native.destroy(&top(id), None).await.expect("known");
    end(native, id).await;
}

#[test]
fn gpus_are_whole_exclusive_and_kept_over_a_restart() {
    require!(root, cgroup, compiler);
    if !have_controller("gpu::gpus_are_whole_exclusive_and_kept_over_a_restart", "devices") {
        return;
    }
    let place = place("gpu");
    let (a, b) = (asking(&place, "a", 1.0), asking(&place, "b", 1.0));
    in_a_life(async {
        let native = place.start();
        native.launch(a.clone()).await.expect("launch");
        native.launch(b.clone()).await.expect("launch");
        check(&place, "a", &[0]);
        check(&place, "b", &[1]);
        for (gpus, words) in [
            (2.0, "Requested 2 gpus but only 1 available"),
            (0.5, "0.5 gpus: the 'gpus' resource must be an unsigned integer"),
        ] {
            let error = native.launch(asking(&place, "c", gpus)).await.expect_err("must fail");
            assert!(error.to_string().contains(words), "{error}");
        }
        // One more, which Mesos would forget about the first one for.
        let more = resources(0.1, 64.0).into_iter().chain([scalar("gpus", 2.0)]).collect();
        native.update(&top("a"), more, Default::default()).await.expect("update");
        check(&place, "a", &[0, 2]);
        let figures = native.gpus();
        let owners: Vec<_> = figures.iter().map(|gpu| gpu.container.as_deref()).collect();
        assert_eq!(owners, [Some("a"), Some("b"), Some("a")]);
        let usage = figures[0].usage;
        assert_eq!((usage.percent, usage.memory_used), (Some(42), Some(600)));
    });
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&a, None), known(&b, None)]).await.expect("recover");
        check(&place, "a", &[0, 2]);
        let error = native.launch(asking(&place, "c", 1.0)).await.expect_err("all are given");
        assert!(error.to_string().contains("only 0 available"), "{error}");
        stop(&native, "b").await;
        native.launch(asking(&place, "d", 1.0)).await.expect("launch");
        check(&place, "d", &[1]);
        native.update(&top("a"), resources(0.1, 64.0), Default::default()).await.expect("update");
        check(&place, "a", &[]);
        for id in ["a", "d"] {
            stop(&native, id).await;
        }
    });
}

#[test]
fn what_is_missing_of_the_driver_is_said_at_start() {
    require!(root, cgroup, compiler);
    if !have_controller("gpu::what_is_missing_of_the_driver_is_said_at_start", "devices") {
        return;
    }
    let dir = crate::support::TempDir::new("nvml");
    let open = |init| Nvml::open(&library(dir.path(), 3, init));
    let nvml = open(0).expect("it answers");
    assert_eq!(nvml.driver_version().expect("a version"), "999.1");
    assert_eq!((nvml.count().expect("a count"), nvml.minor(0).expect("a GPU")), (3, 2));
    let error = kernel::chain(&nvml.minor(7).expect_err("no such GPU"));
    assert_eq!(error, "failed to find the Nvidia GPU 7: Invalid Argument (2)");
    let error = kernel::chain(&open(9).expect_err("no driver"));
    assert_eq!(error, "failed to initialise the Nvidia driver: Driver Not Loaded (9)");

    let mut place = place("gpubad");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let refused = |place: &Place| match Native::new(place.config.clone()) {
        Ok(_) => panic!("it must not start"),
        Err(error) => error.to_string(),
    };
    place.config.isolators.gpu.indices = Some(vec![7]);
    assert!(refused(&place).contains("the Nvidia GPU 7"), "{}", refused(&place));
    place.config.isolators.gpu.indices = None;
    std::fs::remove_file(place.path("dev/nvidiactl")).expect("remove");
    assert!(refused(&place).contains("nvidiactl"), "{}", refused(&place));
    place.config.isolators.gpu.library = "libbulkhead-none.so.1".into();
    assert!(refused(&place).contains("install the driver"), "{}", refused(&place));
    place.config.isolation = "filesystem/linux,gpu/nvidia".into();
    assert!(refused(&place).contains("'cgroups/devices'"), "{}", refused(&place));
}
