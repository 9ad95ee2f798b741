//! Launching: plans become running containers, failures name their step, ends
//! are recorded. Checks look at /proc and at what the command prints.

#[path = "../support/plan.rs"]
mod plan;
#[path = "../support/mod.rs"]
mod support;

#[path = "launch/failures.rs"]
mod failures;
#[path = "launch/files.rs"]
mod files;
#[path = "launch/namespaces.rs"]
mod namespaces;
#[path = "launch/processes.rs"]
mod processes;
#[path = "launch/ready.rs"]
mod ready;
#[path = "launch/recovery.rs"]
mod recovery;
#[path = "launch/roots.rs"]
mod roots;
#[path = "launch/terminals.rs"]
mod terminals;
#[path = "launch/users.rs"]
mod users;

use std::path::{Path, PathBuf};

use bulkhead::launch::{Engine, LaunchError, Launcher, Running};
use isolators::plan::{LaunchPlan, LinuxNamespaceType as Kind};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Root};
pub(crate) use plan::{empty_linux, end_of, namespace, until};
use support::TempDir;

/// A test's directory, launcher and containers.
pub(crate) struct Fixture {
    dir: TempDir,
    launcher: Launcher,
}

impl Fixture {
    pub(crate) fn new(name: &str, engine: Engine) -> Fixture {
        let launcher = Launcher::new(engine).expect("a launcher");
        Fixture { dir: TempDir::new(&format!("launch-{name}")), launcher }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A plan that runs `args`, its output in the file `stdout`.
    pub(crate) fn plan(&self, args: &[&str]) -> LaunchPlan {
        plan::by_hand(args, None, &self.path("stdout"))
    }

    /// As [`Fixture::plan`], in new namespaces.
    pub(crate) fn plan_in(&self, kinds: &[Kind], args: &[&str]) -> LaunchPlan {
        plan::by_hand(args, Some(plan::namespaces(kinds)), &self.path("stdout"))
    }

    /// As [`Fixture::plan_in`], in a root file system with only busybox in it.
    pub(crate) fn plan_in_root(&self, args: &[&str]) -> LaunchPlan {
        let root = self.path("root");
        busybox_root(&root);
        let mut plan = self.plan_in(&[Kind::Mount, Kind::Pid], args);
        plan.spec.set_root(Some(root_at(&root)));
        plan
    }

    pub(crate) async fn launch(&self, plan: &LaunchPlan) -> Result<Running, LaunchError> {
        let record = self.path("record");
        let _ = std::fs::remove_file(&record);
        self.launcher.launch(plan, &record).await?.release().await
    }

    /// Launches, waits for the end, returns wait status and output.
    pub(crate) async fn run(&self, plan: &LaunchPlan) -> (Option<i32>, String) {
        let running = self.launch(plan).await.expect("launch");
        let end = end_of(&running).await;
        (end.status(), self.output())
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.path("stdout")).expect("stdout")
    }
}

/// A limit of open files.
pub(crate) fn nofile(soft: u64, hard: u64) -> PosixRlimit {
    let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile);
    limit.soft(soft).hard(hard).build().expect("complete")
}

pub(crate) fn root_at(path: &Path) -> Root {
    let mut root = Root::default();
    root.set_path(path.to_owned()).set_readonly(None);
    root
}

/// Makes a root file system with busybox as every program.
pub(crate) fn busybox_root(root: &Path) {
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).expect("mkdir");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox.iter().find(|path| Path::new(path).exists()).expect("busybox");
    std::fs::copy(busybox, bin.join("busybox")).expect("copy");
    for name in ["sh", "ls", "cat", "true", "echo", "mount", "id", "stat", "touch", "sleep"] {
        let link = bin.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link).expect("link");
        }
    }
}
