//! Hooks of plugins on the containers of every containerizer, in the order of `--hooks`.

use std::fmt;
use std::sync::Arc;

use isolator_plugin::RemoteIsolator;
use isolators::api::IsolatorError;
use isolators::hook::{Additions, Hook, HookContext};
use mesos::{Label, Labels};
use tracing::warn;

use super::table::Failure;
use super::{ContainerizerError, LaunchRequest, request};

/// Those that are turned on.
#[derive(Clone, Default)]
pub struct Hooks(Vec<Arc<dyn Hook>>);

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|hook| hook.name())).finish()
    }
}

impl Hooks {
    /// Those of `plugins` that `names` names. Starts nothing.
    ///
    /// # Errors
    /// `--hooks` names a plugin that there is not.
    pub fn named(
        plugins: &[RemoteIsolator],
        names: &[String],
    ) -> Result<Hooks, ContainerizerError> {
        let mut hooks: Vec<Arc<dyn Hook>> = Vec::new();
        for name in names {
            let found = plugins.iter().find(|plugin| Hook::name(*plugin) == name);
            let plugin = found.ok_or_else(|| {
                let known: Vec<&'static str> = plugins.iter().map(Hook::name).collect();
                ContainerizerError::Start(format!(
                    "unknown plugin '{name}' in --hooks; the plugins of --isolator_plugins are: {}",
                    known.join(", ")
                ))
            })?;
            hooks.push(Arc::new(plugin.clone()));
        }
        Ok(Hooks(hooks))
    }

    /// The same, for an agent whose only use of plugins they are: starts them. Must be
    /// called on a tokio runtime.
    ///
    /// # Errors
    /// `--hooks` names a plugin that there is not.
    pub fn start(
        plugins: &[RemoteIsolator],
        names: &[String],
    ) -> Result<Hooks, ContainerizerError> {
        let hooks = Hooks::named(plugins, names)?;
        let named = |plugin: &&RemoteIsolator| names.iter().any(|name| Hook::name(*plugin) == name);
        plugins.iter().filter(named).for_each(|plugin| plugin.start(false));
        Ok(hooks)
    }

    /// Hooks before anything is done: labels are added to the request, the variables that
    /// the container gets are returned; or a refusal.
    pub(super) async fn decorate(&self, asked: &mut LaunchRequest) -> Result<Additions, Failure> {
        let mut variables = Additions::new();
        for hook in &self.0 {
            let context = context(asked);
            hook.pre_launch(&context).await.map_err(|e| refused(&e))?;
            add_labels(asked, hook.labels(&context).await.map_err(|e| refused(&e))?);
            let context = self::context(asked);
            variables.extend(hook.environment(&context).await.map_err(|e| refused(&e))?);
        }
        Ok(variables)
    }

    /// Hooks between the fetcher and the process.
    pub(super) async fn fetched(&self, asked: &LaunchRequest) -> Result<(), Failure> {
        for hook in &self.0 {
            hook.post_fetch(&context(asked)).await.map_err(|e| refused(&e))?;
        }
        Ok(())
    }

    /// Hooks when a container is gone: nothing can fail any more.
    pub(super) async fn removed(&self, asked: &LaunchRequest) {
        for hook in &self.0 {
            if let Err(error) = hook.removed(&context(asked)).await {
                warn!(container = %request::key(&asked.id), error = %error.chain(),
                      "a hook failed after the end of a container");
            }
        }
    }
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

    #[test]
    fn unknown_hooks_are_named() {
        let error = Hooks::named(&[], &["acme".into()]).unwrap_err().to_string();
        assert!(error.contains("unknown plugin 'acme' in --hooks"), "{error}");
    }
}
