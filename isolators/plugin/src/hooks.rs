//! The agent's end of HOOK: a plugin as a [`Hook`].

use async_trait::async_trait;
use isolators::api::IsolatorError;
use isolators::hook::{Additions, Hook, HookContext};
use mesos::bulkhead::plugin::call::hook::Type;
use mesos::bulkhead::plugin::{Call, call, response};
use tracing::warn;

use crate::manifest::Policy;
use crate::messages::check_environment;
use crate::remote::RemoteIsolator;
use crate::wire::{CallError, bare};

impl RemoteIsolator {
    async fn ask(&self, kind: Type, told: &HookContext) -> Result<response::Hook, IsolatorError> {
        let policy = self.0.manifest.policy;
        match self.asked(kind, told).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.is_silence() && policy == Policy::Ignore => {
                self.0.ledger.skip();
                warn!(plugin = self.0.name, hook = kind.as_str_name(), error = %error.chain(),
                      "going on without the hook");
                Ok(response::Hook::default())
            }
            Err(error) => Err(self.0.error("run the hooks of", &told.id, error)),
        }
    }

    async fn asked(&self, kind: Type, told: &HookContext) -> Result<response::Hook, CallError> {
        let about = self.0.ready().await?;
        if !about.hooks.contains(&(kind as i32)) {
            return Ok(response::Hook::default());
        }
        let hook = call::Hook {
            r#type: Some(kind as i32),
            container_id: told.id.clone(),
            sandbox: told.sandbox.display().to_string(),
            task_info: told.task.clone(),
            executor_info: told.executor.clone(),
            framework_id: told.framework.clone(),
            labels: told.labels.clone(),
        };
        let call = Call { hook: Some(hook), ..bare(call::Type::Hook) };
        let answer = self.0.call(&call, Some(&told.id)).await?.hook.unwrap_or_default();
        check_environment(&answer.environment)
            .map_err(|error| CallError::Garbage { call: "HOOK", message: error.to_string() })?;
        Ok(answer)
    }
}

#[async_trait]
impl Hook for RemoteIsolator {
    fn name(&self) -> &'static str {
        self.0.name
    }

    async fn labels(&self, context: &HookContext) -> Result<Additions, IsolatorError> {
        Ok(self.ask(Type::Labels, context).await?.labels)
    }

    async fn environment(&self, context: &HookContext) -> Result<Additions, IsolatorError> {
        Ok(self.ask(Type::Environment, context).await?.environment)
    }

    async fn pre_launch(&self, context: &HookContext) -> Result<(), IsolatorError> {
        self.ask(Type::PreLaunch, context).await.map(drop)
    }

    async fn post_fetch(&self, context: &HookContext) -> Result<(), IsolatorError> {
        self.ask(Type::PostFetch, context).await.map(drop)
    }

    async fn removed(&self, context: &HookContext) -> Result<(), IsolatorError> {
        self.ask(Type::Remove, context).await.map(drop)
    }
}
