//! Plugins in the containerizer: which ones run, their hooks, their reports.
//!
//! Owns no state of a container. `Native` starts the plugins that `--isolation`
//! or `--hooks` name; `launch`, `start` and `finish` call the hooks, in the order
//! of `--hooks`. What the agent asks for debugging and metrics is answered here.

use std::sync::Arc;
use std::time::Duration;

use isolator_plugin::{RemoteIsolator, Report};
use isolators::api::IsolatorError;
use isolators::hook::{Additions, Hook, HookContext};
use isolators::traced::Pending;
use mesos::{Label, Labels};
use tracing::{info, warn};

use crate::containerizer::table::Failure;
use crate::containerizer::{ContainerizerError, LaunchRequest, request};

/// The plugins of an agent.
pub(super) struct Plugins {
    running: Vec<RemoteIsolator>,
    hooks: Vec<Arc<dyn Hook>>,
}

impl Plugins {
    /// Starts those that are named; the others are mentioned.
    ///
    /// # Errors
    /// `--hooks` names a plugin that there is not.
    pub(super) fn start(
        all: &[RemoteIsolator],
        isolation: &[&'static str],
        hooks: &[String],
    ) -> Result<Plugins, ContainerizerError> {
        let names: Vec<&'static str> = all.iter().map(|plugin| Hook::name(plugin)).collect();
        let mut hooked: Vec<Arc<dyn Hook>> = Vec::new();
        for hook in hooks {
            let found = all.iter().find(|plugin| Hook::name(*plugin) == hook);
            let plugin = found.ok_or_else(|| {
                ContainerizerError::Start(format!(
                    "unknown plugin '{hook}' in --hooks; the plugins of --isolator_plugins are: {}",
                    names.join(", ")
                ))
            })?;
            hooked.push(Arc::new(plugin.clone()));
        }
        let mut running = Vec::new();
        for plugin in all {
            let name = Hook::name(plugin);
            let isolator = isolation.contains(&name);
            if !isolator && !hooks.iter().any(|hook| hook == name) {
                info!(plugin = name, "neither --isolation nor --hooks names the plugin");
                continue;
            }
            plugin.start(isolator);
            running.push(plugin.clone());
        }
        Ok(Plugins { running, hooks: hooked })
    }

    /// One report each.
    pub(super) fn reports(&self) -> Vec<Report> {
        self.running.iter().map(RemoteIsolator::report).collect()
    }

    /// The body of `/containerizer/debug`. Without plugins it is Mesos'.
    pub(super) fn debug(&self) -> serde_json::Value {
        let reports = self.reports();
        let pending: Vec<serde_json::Value> = reports
            .iter()
            .flat_map(|report| report.pending.iter().map(|call| (report.name, call)))
            .map(|(plugin, call)| {
                let operation = format!("{plugin}::{}", call.call.to_lowercase());
                under_way(&operation, call.container.as_deref(), call.age)
            })
            .collect();
        let mut body = serde_json::json!({ "pending": pending });
        if !reports.is_empty() {
            body["plugins"] = reports.iter().map(Report::json).collect();
        }
        body
    }

    /// Hooks before anything is done: additions to the request, or a refusal.
    pub(super) async fn decorate(&self, asked: &mut LaunchRequest) -> Result<(), Failure> {
        for hook in &self.hooks {
            let context = context(asked);
            hook.pre_launch(&context).await.map_err(|e| refused(&e))?;
            add_labels(asked, hook.labels(&context).await.map_err(|e| refused(&e))?);
            let context = self::context(asked);
            let environment = hook.environment(&context).await.map_err(|e| refused(&e))?;
            asked.environment.extend(environment);
        }
        Ok(())
    }

    /// Hooks between the fetcher and the process.
    pub(super) async fn fetched(&self, asked: &LaunchRequest) -> Result<(), Failure> {
        for hook in &self.hooks {
            hook.post_fetch(&context(asked)).await.map_err(|e| refused(&e))?;
        }
        Ok(())
    }

    /// Hooks when a container is gone: nothing can fail any more.
    pub(super) async fn removed(&self, asked: &LaunchRequest) {
        for hook in &self.hooks {
            if let Err(error) = hook.removed(&context(asked)).await {
                warn!(container = %request::key(&asked.id), error = %error.chain(),
                      "a hook failed after the end of a container");
            }
        }
    }
}

/// A call to a built-in isolator, as an entry of the list.
pub(super) fn pending_call(call: &Pending) -> serde_json::Value {
    let operation = format!("{}::{}", call.isolator, call.call);
    under_way(&operation, call.container.as_deref(), call.age)
}

/// An entry of the list of calls under way: Mesos' members, and the age.
fn under_way(operation: &str, container: Option<&str>, age: Duration) -> serde_json::Value {
    let mut arguments = serde_json::Map::new();
    if let Some(container) = container {
        arguments.insert("containerId".into(), container.into());
    }
    arguments.insert("age_secs".into(), age.as_secs_f64().into());
    serde_json::json!({"operation": operation, "args": arguments})
}

fn refused(error: &IsolatorError) -> Failure {
    Failure { step: "hook", message: error.chain() }
}

fn context(asked: &LaunchRequest) -> HookContext {
    HookContext {
        id: asked.id.clone(),
        sandbox: asked.sandbox.clone(),
        task: asked.task.clone(),
        executor: asked.executor.clone(),
        framework: asked.framework_id.clone(),
        labels: request::labels(asked),
    }
}

/// Adds labels where the isolators look for them; one of the same name is replaced.
fn add_labels(asked: &mut LaunchRequest, additions: Additions) {
    if additions.is_empty() {
        return;
    }
    let labels = match (&mut asked.task, &mut asked.executor) {
        (Some(task), _) => &mut task.labels,
        (None, Some(executor)) => &mut executor.labels,
        (None, None) => return,
    };
    let labels = &mut labels.get_or_insert_with(Labels::default).labels;
    labels.retain(|label| !additions.contains_key(&label.key));
    labels.extend(additions.into_iter().map(|(key, value)| Label { key, value: Some(value) }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerizer::request::tests::request;

    #[test]
    fn labels_go_where_isolators_look() {
        let mut asked = request("a", mesos::CommandInfo::default());
        let additions = || Additions::from([("rack".to_owned(), "b".to_owned())]);
        add_labels(&mut asked, additions());
        assert!(request::labels(&asked).is_empty(), "there is neither task nor executor");
        let old = Label { key: "rack".into(), value: Some("a".into()) };
        asked.task = Some(mesos::TaskInfo {
            labels: Some(Labels { labels: vec![old] }),
            ..mesos::TaskInfo::default()
        });
        add_labels(&mut asked, additions());
        assert_eq!(request::labels(&asked), additions());
    }

    #[tokio::test]
    async fn unknown_hooks_are_named() {
        let error = Plugins::start(&[], &[], &["acme".into()]).err().unwrap().to_string();
        assert!(error.contains("unknown plugin 'acme' in --hooks"), "{error}");
        let none = Plugins::start(&[], &[], &[]).unwrap();
        assert_eq!(none.debug().to_string(), r#"{"pending":[]}"#);
    }
}
