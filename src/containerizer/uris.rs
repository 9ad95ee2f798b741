//! What a container's command names comes into its sandbox: the same for every kind.

use kernel::chain;

use super::LaunchRequest;
use super::progress::Progress;
use super::request::key;
use super::table::Failure;
use crate::fetch::{Fetcher, Wanted};

/// Fetches; `watcher` hears how far it is.
///
/// # Errors
/// In Mesos' words, with the first URI that failed.
pub(super) async fn fetch(
    fetcher: &Fetcher,
    request: &LaunchRequest,
    watcher: &(dyn Fn(Progress) + Sync),
) -> Result<(), Failure> {
    let wanted = Wanted {
        uris: &request.command.uris,
        sandbox: &request.sandbox,
        user: request.user.as_deref(),
    };
    let watcher = |far| watcher(Progress::Fetching(far));
    fetcher.fetch(wanted, &watcher).await.map_err(|error| {
        let (key, cause) = (key(&request.id), chain(&error));
        let message = format!("Failed to fetch all URIs for container '{key}': {cause}");
        Failure { step: "fetch", message }
    })
}
