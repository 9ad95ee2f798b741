//! [`Preparing`]: an isolator that only contributes to the plan.
//!
//! Most isolators need nothing but a function from a container's context to its
//! contribution; this is the rest of them. Nothing is kept, so nothing is left to
//! clean up or to recover.

use std::sync::Arc;

use async_trait::async_trait;

use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};

/// Makes a contribution from a context; the isolator has no other part.
pub(crate) type Prepare<C> = fn(&C, &ContainerContext) -> Result<Contribution, IsolatorError>;

/// An isolator that acts in `prepare` only.
pub(crate) struct Preparing<C> {
    name: &'static str,
    config: C,
    prepare: Prepare<C>,
}

impl<C: Clone + Send + Sync + 'static> Preparing<C> {
    /// An isolator of all kinds of containers: top-level, nested and standalone.
    pub(crate) fn everywhere(
        name: &'static str,
        config: C,
        prepare: Prepare<C>,
    ) -> Arc<dyn Isolator> {
        Arc::new(Preparing { name, config, prepare })
    }
}

#[async_trait]
impl<C: Clone + Send + Sync + 'static> Isolator for Preparing<C> {
    fn about(&self) -> About {
        About::everywhere(self.name)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (config, context) = (self.config.clone(), Arc::clone(context));
        Box::new(Prepared { config, context, prepare: self.prepare })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(Recovered::attached(self, known))
    }
}

/// A handle that acts in `prepare` only.
struct Prepared<C> {
    config: C,
    context: Arc<ContainerContext>,
    prepare: Prepare<C>,
}

impl<C> std::fmt::Debug for Prepared<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("id", &self.context.id.value).finish_non_exhaustive()
    }
}

#[async_trait]
impl<C: Send + Sync> Isolation for Prepared<C> {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        (self.prepare)(&self.config, &self.context)
    }
}
