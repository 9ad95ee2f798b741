//! Two engines, one container: what libcontainer makes of a plan is what our own
//! engine makes of it. Needs the feature `oci`; checks look at what the probe
//! reports from inside, at /proc and at cgroup files.

#[path = "../support/mod.rs"]
mod support;

#[path = "engines/cgroups.rs"]
mod cgroups;
#[path = "engines/differ.rs"]
mod differ;
#[path = "engines/life.rs"]
mod life;
#[path = "engines/plans.rs"]
mod plans;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead::launch::{End, Engine, LaunchError, Launcher, Running};
use isolators::plan::{LaunchPlan, LinuxNamespaceType as Kind, Spec, Stdio};
use oci_spec::runtime::{Linux, LinuxNamespace, Process};
use support::TempDir;

/// The helper, built with the feature `oci` like this test.
pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_bulkhead-helper");

/// A test's directory, and both engines.
pub(crate) struct Fixture {
    dir: TempDir,
    engines: BTreeMap<&'static str, Launcher>,
}

impl Fixture {
    pub(crate) fn new(name: &str) -> Fixture {
        let linux = Launcher::new(Engine::Linux).expect("the linux engine");
        let oci = Launcher::with_helper(Path::new(HELPER)).expect("the oci engine");
        let dir = TempDir::new(&format!("engines-{name}"));
        // A user without privileges has to get through.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), mode).expect("chmod");
        Fixture { dir, engines: BTreeMap::from([("linux", linux), ("oci", oci)]) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A plan that runs `args` in new namespaces, its output in the file `stdout`.
    pub(crate) fn plan(&self, kinds: &[Kind], args: &[&str]) -> LaunchPlan {
        let mut process = Process::default();
        process
            .set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()))
            .set_env(Some(vec!["PATH=/usr/bin:/bin:/usr/sbin:/sbin".to_owned()]))
            .set_cwd(PathBuf::from("/"))
            .set_no_new_privileges(None)
            .set_capabilities(None)
            .set_rlimits(None);
        let mut linux = Linux::default();
        linux
            .set_namespaces(Some(kinds.iter().map(|kind| namespace(*kind, None)).collect()))
            .set_masked_paths(None)
            .set_readonly_paths(None)
            .set_resources(None)
            .set_devices(None);
        let mut spec = Spec::default();
        spec.set_process(Some(process))
            .set_root(None)
            .set_mounts(None)
            .set_hostname(None)
            .set_linux(Some(linux));
        let stdout = self.path("stdout");
        let _ = std::fs::remove_file(&stdout);
        let output = || File::options().create(true).append(true).open(&stdout);
        LaunchPlan {
            spec,
            executable: None,
            overlay: None,
            tree: None,
            cgroups: Vec::new(),
            file_operations: Vec::new(),
            wild: Vec::new(),
            system_calls: None,
            oom_score_adj: None,
            stdio: Stdio {
                stdin: File::open("/dev/null").expect("null").into(),
                stdout: output().expect("stdout").into(),
                stderr: output().expect("stderr").into(),
            },
            wait_for: Vec::new(),
        }
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.path("record")
    }

    pub(crate) async fn launch(
        &self,
        engine: &str,
        plan: &LaunchPlan,
    ) -> Result<Running, LaunchError> {
        let record = self.record();
        let _ = std::fs::remove_file(&record);
        self.engines[engine].launch(plan, &record).await?.release().await
    }

    /// Launches, waits for the end, returns wait status and output.
    pub(crate) async fn run(&self, engine: &str, plan: &LaunchPlan) -> (Option<i32>, String) {
        match self.launch(engine, plan).await {
            Ok(running) => {
                let end = end_of(&running).await;
                (end.status(), self.output())
            }
            Err(error) => panic!("{engine}: {}: {}", chain(&error), self.output()),
        }
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.path("stdout")).expect("stdout")
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// The end of a container, within a time that no test needs.
pub(crate) async fn end_of(running: &Running) -> End {
    let end = tokio::time::timeout(Duration::from_secs(20), running.wait());
    end.await.expect("ends in time").expect("a readable record")
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

pub(crate) fn namespace(kind: Kind, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// The probe: static, so that it runs in any root.
pub(crate) fn probe() -> PathBuf {
    let beside = Path::new(HELPER).with_file_name("probe");
    assert!(beside.exists(), "{} is missing: cargo build --workspace --bins", beside.display());
    beside
}
