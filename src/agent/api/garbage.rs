//! `/gc`: what garbage collection would delete now, what it keeps, and why.
//!
//! Looks at the work directory as `bulkhead agent gc --dry-run` does, so that the
//! agent's owner is not asked; what runs without checkpoints is left out.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Context;
use crate::agent::snapshot::Snapshot;
use crate::checkpoint::{Garbage, survey};
use crate::gc::{self, Disk, Schedule};
use crate::wire::http::{Response, StatusCode};

/// The body of `/gc`.
pub(super) async fn plan(context: &Arc<Context>, snapshot: &Snapshot) -> Response {
    let (work, policy) = (context.work_dir.clone(), context.collection);
    let live: Vec<Garbage> =
        snapshot.executors().map(|(_, e)| Garbage::Run(e.run.clone())).collect();
    let look = move || {
        let space = kernel::machine::space(work.root()).map_err(|e| e.to_string())?;
        let found = survey(&work).map_err(|e| kernel::chain(&e))?;
        let mut schedule = Schedule::default();
        for (garbage, item) in found.garbage {
            if !live.iter().any(|run| run.is_within(&garbage)) {
                schedule.add(garbage, item);
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let disk = Disk { used: space.used(), total: space.total };
        Ok(gc::json(&work, &policy, &disk, &schedule.plan(now, &policy, &disk)))
    };
    let failed = |error: String| {
        let message = format!("Failed to look at the work directory: {error}");
        Response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(Ok(plan)) => Response::json(plan.to_string()),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error.to_string()),
    }
}
