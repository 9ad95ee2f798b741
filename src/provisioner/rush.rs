//! Launches go first: what is made ahead of them, or removed behind, lets those pass that
//! are under way.
//!
//! Such work takes as long as a launch. On a machine with few processors it was on one of
//! them whenever the launch had something to do there; with a lower priority the kernel
//! still counts that processor as busy. It waits between its steps, where it holds
//! nothing, and never for long: many launches at a time need what it makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// How long a step waits, and how often it looks.
const TRIES: u32 = 3;
const TRY: Duration = Duration::from_millis(1);

/// How many launches are under way.
#[derive(Debug, Default)]
pub(super) struct Rush(AtomicUsize);

/// A launch that is under way, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct UnderWay(Arc<Rush>);

impl Rush {
    /// Notes a launch.
    pub fn launch(self: &Arc<Rush>) -> UnderWay {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Waits while launches are under way, a few milliseconds at most. Blocks.
    pub fn let_pass(&self) {
        for _ in 0..TRIES {
            if self.0.load(Ordering::Relaxed) == 0 {
                return;
            }
            sleep(TRY);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn launches_pass_and_what_waits_does_not_wait_forever() {
        let rush = Arc::new(Rush::default());
        let waited = || {
            let start = Instant::now();
            rush.let_pass();
            start.elapsed()
        };
        let (one, two) = (rush.launch(), rush.launch());
        drop(one);
        assert!(waited() >= TRY * TRIES, "one is under way");
        drop(two);
        // Nobody is: it does not sleep at all, but may be interrupted.
        assert!((0..100).any(|_| waited() < TRY));
    }
}
