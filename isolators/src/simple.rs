//! [`Prepared`]: the handle of isolators that only contribute to the plan.

use std::sync::Arc;

use async_trait::async_trait;

use crate::api::{ContainerContext, Contribution, Isolation, IsolatorError, Known, Recovered};

/// Makes a contribution from a context; the isolator has no other part.
pub(crate) type Prepare<C> = fn(&C, &ContainerContext) -> Result<Contribution, IsolatorError>;

/// A handle that acts in `prepare` only.
pub(crate) struct Prepared<C> {
    pub config: C,
    pub context: Arc<ContainerContext>,
    pub prepare: Prepare<C>,
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

/// Handles for recovered containers: nothing is left to do for them.
pub(crate) fn recovered<C: Clone + Send + Sync + 'static>(
    config: &C,
    prepare: Prepare<C>,
    known: &[Known],
) -> Recovered {
    let handle = |known: &Known| -> Box<dyn Isolation> {
        Box::new(Prepared { config: config.clone(), context: Arc::clone(&known.context), prepare })
    };
    Recovered { handles: known.iter().map(handle).collect(), leftovers: Vec::new() }
}
