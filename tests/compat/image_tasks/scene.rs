//! What the tests share: a cluster with images in a directory, and tasks in them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::command;
use crate::image;
use crate::support::TempDir;

/// Says who, where and with what it runs.
const SHOW: &str = r#"echo "$(id -u):$(id -g) $(id -G) $(pwd) HOME=$HOME $IMAGE $BOTH $0 $*""#;

/// A cluster and the directory of its images.
pub struct Scene {
    pub cluster: Cluster,
    pub images: TempDir,
    layers: Vec<PathBuf>,
}

impl Scene {
    pub fn start(name: &str, more: &[&str]) -> Scene {
        let images = TempDir::new(&format!("{name}-images"));
        let layers = vec![image::base(images.path()), image::script(images.path(), "show", SHOW)];
        let dir = images.path().display();
        let isolation = "--isolation=cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,\
                         filesystem/linux,docker/runtime";
        let flags = [
            isolation.to_owned(),
            "--image_providers=docker".to_owned(),
            format!("--docker_registry={dir}"),
            format!("--docker_store_dir={dir}/store"),
        ];
        let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let cluster = Cluster::start(name, Options::default().agent(&all));
        Scene { cluster, images, layers }
    }

    /// Makes an image that is run like this.
    pub fn image(&self, name: &str, config: &Value) -> PathBuf {
        image::save(self.images.path(), name, &self.layers, config)
    }

    /// Where root file systems are made.
    pub fn roots(&self) -> PathBuf {
        self.cluster.dir.path().join("agent/provisioner/containers")
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.roots().with_file_name(dir));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Roots that were made ahead, by name; all but the last are ready.
    pub fn ready(&self) -> Vec<String> {
        self.names("ready")
    }

    /// Waits until nothing is left of any container.
    pub async fn wait_clean(&self) {
        eventually("the roots to go", || self.names("containers").is_empty()).await;
        eventually("them to be removed", || self.names("gone").is_empty()).await;
        self.cluster.wait_clean();
    }

    /// The host's path of a task's sandbox.
    pub fn sandbox(&self, task: &str) -> PathBuf {
        let state = get(&self.cluster.agent, "/state").expect("/state");
        let state: Value = serde_json::from_str(&state).expect("JSON");
        let lists = ["frameworks", "completed_frameworks"].map(|list| state[list].as_array());
        let executors = lists.into_iter().flatten().flatten();
        let executors = executors.flat_map(|f| [&f["executors"], &f["completed_executors"]]);
        let mut all = executors.filter_map(Value::as_array).flatten();
        let found = all.find(|executor| executor["id"] == task);
        let path = found.and_then(|executor| executor["directory"].as_str());
        path.unwrap_or_else(|| panic!("no sandbox of {task}: {state:#}")).into()
    }

    /// A file of a task's sandbox.
    pub fn file(&self, task: &str, name: &str) -> String {
        std::fs::read_to_string(self.sandbox(task).join(name)).unwrap_or_default()
    }
}

/// How the usual image is run.
pub fn config() -> Value {
    json!({
        "User": "app", "WorkingDir": "/srv/app",
        "Env": ["PATH=/bin", "IMAGE=image", "BOTH=image"],
        "Entrypoint": ["/show", "entry"], "Cmd": ["cmd"], "Volumes": { "/srv/app": {} },
    })
}

/// The container that a task asks for.
pub fn in_image(name: &str) -> Value {
    json!({ "type": "MESOS",
            "mesos": { "image": { "type": "DOCKER", "docker": { "name": name } } } })
}

/// A shell command in an image.
pub fn task(name: &str, image: &str, line: &str) -> Value {
    let mut task = command(name, line, 32.0);
    task["container"] = in_image(image);
    task
}

/// Waits until something holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let by = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < by, "waited 60 s for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
