//! Work that several wait for, and that ends when nobody does.

use std::future::Future;

use tokio::sync::watch;

/// Does `work` as long as somebody waits. When nobody does, `leave` looks again under
/// its lock, since somebody may have come: `true` if it took the work off the list.
/// `None`: it did, and the work is dropped.
pub async fn while_wanted<T, L>(
    work: impl Future<Output = T>,
    waiting: &watch::Sender<L>,
    leave: impl Fn() -> bool,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            () = waiting.closed() => {
                if leave() {
                    return None;
                }
            }
        }
    }
}
