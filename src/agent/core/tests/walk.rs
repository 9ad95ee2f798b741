//! Walks through a [`World`]: whatever may happen next does, and where the agent dies
//! is nobody's choice.

use std::fmt::Debug;

use proptest::prelude::*;

use super::world::World;
use crate::agent::core::event::Timer;
use crate::agent::core::state::is_terminal;

/// What happens next.
#[derive(Debug, Clone)]
pub enum Step<Own> {
    /// Something that only this walk knows.
    Own(Own),
    Inbox,
    Storage,
    Flush,
    Pending(u8),
    Timer(u8),
    /// The agent dies after this many more effects.
    Fuse(u8),
    Crash,
}

/// Steps of which `own` are `weight` to 34 of the world's.
pub fn step<Own: Debug + Clone>(
    weight: u32,
    own: impl Strategy<Value = Own>,
) -> impl Strategy<Value = Step<Own>> {
    prop_oneof![
        weight => own.prop_map(Step::Own),
        8 => Just(Step::Inbox),
        8 => Just(Step::Storage),
        8 => Just(Step::Flush),
        6 => any::<u8>().prop_map(Step::Pending),
        2 => any::<u8>().prop_map(Step::Timer),
        1 => (0u8..12).prop_map(Step::Fuse),
        1 => Just(Step::Crash),
    ]
}

/// So many walks, and more where they are fast.
pub fn walks(cases: u32) -> ProptestConfig {
    let cases = if cfg!(debug_assertions) { cases } else { 5 * cases };
    ProptestConfig { cases, ..ProptestConfig::default() }
}

impl World {
    /// Takes a step, or hands it back if it is the walk's own.
    pub fn take<'a, Own>(&mut self, step: &'a Step<Own>) -> Option<&'a Own> {
        match step {
            Step::Own(own) => return Some(own),
            Step::Inbox => drop(self.step_inbox()),
            Step::Storage => drop(self.step_storage()),
            Step::Flush => drop(self.step_flush()),
            Step::Pending(at) => drop(self.step_pending(usize::from(*at))),
            Step::Timer(at) => {
                self.fetched += 1;
                self.fire(usize::from(*at));
            }
            Step::Fuse(effects) => self.fuse = Some(usize::from(*effects)),
            Step::Crash => self.crash(),
        }
        None
    }

    /// Lets everything end; `end` is the walk's part in it.
    pub fn finish(&mut self, mut end: impl FnMut(&mut World)) {
        self.fuse = None;
        for _ in 0..50 {
            self.settle();
            end(self);
            self.fire_if(|t| {
                matches!(
                    t,
                    Timer::UpdateRetry { .. }
                        | Timer::OperationRetry { .. }
                        | Timer::KillGrace { .. }
                        | Timer::PingTimeout { .. }
                        | Timer::ExecutorReregistration
                        | Timer::ExecutorShutdown { .. }
                )
            });
            self.settle();
            if self.tasks.values().all(|state| is_terminal(*state)) {
                return;
            }
            // What the agent never heard of is told at the next registration.
            self.crash();
        }
    }
}
