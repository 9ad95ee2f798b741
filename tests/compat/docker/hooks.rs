//! Hooks of a plugin on docker containers. The plugin is this program again, started by
//! the agent.

use async_trait::async_trait;
use isolator_plugin::Plugin;
use isolators::api::{
    About, ContainerContext, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use isolators::hook::{Additions, Hook, HookContext};
use mesos::bulkhead::plugin::call::hook::Type;
use serde_json::json;

use super::scene::{docker_task, eventually, file, sandbox};
use crate::cluster::{Cluster, Options};
use crate::dockerd::{Dockerd, Network};
use crate::framework::{Framework, command};
use crate::require;

const NAME: &str = "test/decorator";

/// Not a test of its own: the plugin.
#[tokio::test]
#[ignore = "a plugin that the test below has an agent start"]
async fn decorates() {
    if std::env::var_os("BULKHEAD_PLUGIN_SOCKET").is_none() {
        return;
    }
    let hooks = [Type::Labels, Type::Environment, Type::PreLaunch, Type::PostFetch, Type::Remove];
    let plugin = Plugin::of(Nothing, "1").hook(Decorator, &hooks);
    plugin.run().await.expect("it is served");
}

struct Nothing;

#[derive(Debug)]
struct Nobody;

impl Isolation for Nobody {}

#[async_trait]
impl Isolator for Nothing {
    fn about(&self) -> About {
        About::top_level(NAME)
    }

    fn attach(&self, _: &std::sync::Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(Nobody)
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(Recovered::attached(self, known))
    }
}

struct Decorator;

/// One more line in the sandbox's book of what the hooks were asked.
fn note(context: &HookContext, what: &str) {
    let path = context.sandbox.join("hooks");
    let mut text = std::fs::read_to_string(&path).unwrap_or_default();
    text.push_str(what);
    text.push('\n');
    std::fs::write(&path, text).expect("write to the sandbox");
}

#[async_trait]
impl Hook for Decorator {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn labels(&self, context: &HookContext) -> Result<Additions, IsolatorError> {
        note(context, "labels");
        Ok(Additions::from([("rack".into(), "r1".into())]))
    }

    async fn environment(&self, context: &HookContext) -> Result<Additions, IsolatorError> {
        note(context, "environment");
        let rack = context.labels.get("rack").cloned().unwrap_or_default();
        Ok(Additions::from([("RACK".into(), rack), ("MODE".into(), "hook".into())]))
    }

    async fn pre_launch(&self, context: &HookContext) -> Result<(), IsolatorError> {
        note(context, "pre_launch");
        match context.task.as_ref().map(|task| task.name.as_str()) {
            Some("unwanted") => Err(IsolatorError::plain(NAME, "want", "this container")),
            _ => Ok(()),
        }
    }

    async fn post_fetch(&self, context: &HookContext) -> Result<(), IsolatorError> {
        let there = context.sandbox.join("fetched").exists();
        note(context, if there { "post_fetch" } else { "post_fetch too early" });
        Ok(())
    }

    async fn removed(&self, context: &HookContext) -> Result<(), IsolatorError> {
        note(context, "removed");
        Ok(())
    }
}

#[tokio::test]
async fn hooks_decorate_docker_containers_too() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("hooks", Network::Host);
    let dir = crate::support::TempDir::new("docker-hooks");
    let manifests = dir.path().join("plugins");
    std::fs::create_dir(&manifests).expect("make a directory");
    let own = std::env::current_exe().expect("own path").display().to_string();
    let manifest = json!({ "name": NAME, "deadline_ms": 60_000,
        "command": [own, "--exact", "docker::hooks::decorates", "--ignored", "--nocapture"] });
    std::fs::write(manifests.join("decorator.json"), manifest.to_string()).expect("write it");
    let fetched = dir.path().join("fetched");
    std::fs::write(&fetched, "").expect("write a file");
    let mut flags = engine.flags();
    flags.push(format!("--isolator_plugins={}", manifests.display()));
    flags.push(format!("--hooks={NAME}"));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start("docker-hooks", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "docker-hooks").await;

    let mut wanted = docker_task("wanted", "echo $RACK $MODE $OWN");
    wanted["command"]["uris"] = json!([{ "value": fetched }]);
    wanted["command"]["environment"] = json!({ "variables": [
        { "name": "MODE", "value": "task" }, { "name": "OWN", "value": "own" }] });
    let end = framework.run(wanted, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    // As in Mesos, a hook's word is the last one here.
    assert_eq!(file(&cluster, "wanted", "stdout"), "r1 hook own\n");
    let all = "pre_launch\nlabels\nenvironment\npost_fetch\nremoved\n";
    let book = format!("{}/hooks", sandbox(&cluster, "wanted"));
    eventually("each hook, once", || std::fs::read_to_string(&book).unwrap_or_default() == all)
        .await;

    let end = framework.run(docker_task("unwanted", "true"), 60).await;
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("failed to want this container"), "{message}");
    assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{end}");
    // Native ones as ever.
    let end = framework.run(command("native", "test $RACK = r1", 32.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
}
