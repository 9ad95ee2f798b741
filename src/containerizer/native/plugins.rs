//! Plugins in the containerizer: which ones run, their reports.
//!
//! Owns no state of a container. `Native` starts the plugins that `--isolation`
//! or `--hooks` name; `launch`, `start` and `finish` call the hooks. What the agent
//! asks for debugging and metrics is answered here.

use std::time::Duration;

use isolator_plugin::{RemoteIsolator, Report};
use isolators::hook::Hook;
use isolators::traced::Pending;
use tracing::info;

use crate::containerizer::ContainerizerError;
use crate::containerizer::hooks::Hooks;

/// The plugins of an agent.
pub(super) struct Plugins {
    running: Vec<RemoteIsolator>,
    pub(super) hooks: Hooks,
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
        let hooked = Hooks::named(all, hooks)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_plugins_the_report_is_mesos_own() {
        let none = Plugins::start(&[], &[], &[]).unwrap();
        assert_eq!(none.debug().to_string(), r#"{"pending":[]}"#);
    }
}
