//! Makes room on the disk of the store, now and then: `--image_gc_config`.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{Pruned, Reference, Store};

/// When images go by themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Part of the disk that is to be free, 0 to 1.
    pub headroom: f64,
    /// Between two looks.
    pub interval: Duration,
    /// Never go.
    pub excluded: Vec<Reference>,
}

impl Collection {
    /// Looks at the disk for ever. Not to be begun before it is known which images are
    /// used.
    pub async fn watch(self, store: Store) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match store.make_room(self.headroom, &self.excluded).await {
                Ok(pruned) if pruned == Pruned::default() => {}
                Ok(pruned) => {
                    let names: Vec<String> =
                        pruned.images.iter().map(ToString::to_string).collect();
                    info!(images = names.join(", "), bytes = pruned.bytes, "removed unused images");
                }
                Err(error) => warn!(error = %kernel::chain(&error), "failed to make room"),
            }
        }
    }
}
