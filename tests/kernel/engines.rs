//! Two engines, one container: what libcontainer makes of a plan is what our own
//! engine makes of it. Needs the feature `oci`; checks look at what the probe
//! reports from inside, at /proc and at cgroup files.

#[path = "../support/plan.rs"]
mod plan;
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
use std::path::{Path, PathBuf};

use bulkhead::launch::{Engine, LaunchError, Launcher, Running};
use isolators::plan::{LaunchPlan, LinuxNamespaceType as Kind};
pub(crate) use plan::{end_of, namespace, until};
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
        let stdout = self.path("stdout");
        let _ = std::fs::remove_file(&stdout);
        plan::by_hand(args, Some(plan::namespaces(kinds)), &stdout)
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
            Err(error) => panic!("{engine}: {}: {}", kernel::chain(&error), self.output()),
        }
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.path("stdout")).expect("stdout")
    }
}

/// The probe: static, so that it runs in any root.
pub(crate) fn probe() -> PathBuf {
    let beside = Path::new(HELPER).with_file_name("probe");
    assert!(beside.exists(), "{} is missing: cargo build --workspace --bins", beside.display());
    beside
}
