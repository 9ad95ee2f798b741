//! The conformance suite over every built-in isolator, in this process and on
//! the real kernel, with cgroups and directories of its own.

use std::path::PathBuf;
use std::sync::Arc;

use isolators::api::ContainerContext;
use isolators::config::{Config, Launcher};
use isolators::ids::IdRange;
use isolators::registry::{self, CreateError};
use isolators::suite::{self, Fixture};
use kernel::cgroup::Hierarchies;

use crate::{Place, require};

/// Directories of made-up containers, and what is left of their cgroups.
struct Ground<'a>(&'a Place);

impl Ground<'_> {
    fn dir(&self, id: &str, what: &str) -> PathBuf {
        let path = self.0.path("suite").join(id).join(what);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }
}

impl Fixture for Ground<'_> {
    fn context(&self, id: &str) -> ContainerContext {
        let mut context = suite::context(id);
        context.sandbox = self.dir(id, "sandbox");
        context.runtime = self.dir(id, "runtime");
        context
    }

    fn residue(&self) -> Vec<String> {
        let groups = self.0.cgroup_roots().into_iter().flat_map(|root| crate::dirs_in(&root));
        let mark = self.0.path("").display().to_string();
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let mounts = table.lines().filter(|line| line.contains(&mark)).map(str::to_owned);
        groups.map(|group| group.display().to_string()).chain(mounts).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_built_in_isolator_conforms() {
    require!(root, cgroup);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (name, _) in registry::TABLE.iter().filter(|(_, has)| *has) {
        let place = Place::new("suite", name);
        let hierarchies = Hierarchies::detect().expect("cgroups");
        // This flag brings its isolator along, so only that one gets it. There are no
        // more ids than the suite has containers at a time: ids that are lost are missed.
        let remap = IdRange::parse("[1000000-1655359]").expect("ten blocks");
        let config = Config {
            cgroups_root: place.config.cgroups_root.clone(),
            userns_remap: (*name == "namespaces/user").then_some(remap),
            container_sysctls: [("kernel.msgmax".to_owned(), "4096".to_owned())].into(),
            ..Config::new(Launcher::Linux, hierarchies)
        };
        // Some need the file system isolator beside them.
        let create = |flag: &str| registry::create(flag, Arc::new(config.clone()));
        let made = create(name).or_else(|_| create(&format!("filesystem/linux,{name}")));
        let made = match made {
            Ok(made) => made,
            // This machine has no such device, file system or controller.
            Err(CreateError::Start(error)) => {
                eprintln!("{name}: not here: {}", error.chain());
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let mine = |isolator: &&Arc<dyn isolators::api::Isolator>| {
            isolator.name() == *name
                || (name.starts_with("cgroups/") && isolator.name().starts_with("cgroups"))
        };
        let Some(isolator) = made.all.iter().find(mine) else {
            wrong.push(format!("{name}: it was not made"));
            continue;
        };
        let outcomes = suite::run(&**isolator, &Ground(&place), "suite").await;
        checked += 1;
        wrong.extend(suite::failures(&outcomes).iter().map(|why| format!("{name}: {why}")));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(checked > 8, "only {checked} isolators were checked");
}
