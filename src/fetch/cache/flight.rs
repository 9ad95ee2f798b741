//! One download into the cache, for all who wait for it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kernel::chain;
use tokio::sync::watch;
use tracing::{info, warn};

use super::core::{Key, Reservation};
use super::{Inner, Landing, Lease};
use crate::fetch::message::{Amount, Job, Report, Task, Trouble, Validators};
use crate::fetch::process::Program;
use crate::fetch::uri;

/// What a download is made with: those of the task that asked first.
#[derive(Debug)]
pub(in crate::fetch) struct Order {
    pub program: Arc<Program>,
    /// Its task is filled in.
    pub job: Job,
    pub log: File,
    pub sandbox: OwnedFd,
}

/// Downloads, unless all who wait lose interest.
pub(super) async fn fly(
    inner: Arc<Inner>,
    key: Key,
    order: Order,
    waiting: Arc<watch::Sender<Landing>>,
) {
    let work = download(&inner, &key, order, &waiting);
    let Some(landing) = inner.flights.while_wanted(&key, &waiting, work).await else {
        info!(uri = %key.uri, "gave up a download that nobody waits for");
        return;
    };
    waiting.send_replace(landing);
}

async fn download(
    inner: &Arc<Inner>,
    key: &Key,
    mut order: Order,
    waiting: &watch::Sender<Landing>,
) -> Landing {
    let (known, mut part) = match begin(inner, key) {
        Ok(begun) => begun,
        Err(text) => return Landing::Bypass(text),
    };
    // Its content cannot change, or nobody could tell: as in Mesos, it is taken as it is.
    let pinned = uri::checksum(&key.uri).ok().flatten().is_some();
    let validators = known.as_ref().map(|(validators, _)| validators.clone());
    if let Some((validators, lease)) = &known
        && (pinned || validators.is_empty())
    {
        return Landing::Ready(Arc::clone(lease));
    }
    order.job.task = Task::Fill { known: validators };
    let more = [order.log.as_fd(), order.sandbox.as_fd(), part.file.as_fd()];
    let mut helper = match order.program.start(c"fetch", &order.job, &more).await {
        Ok(helper) => helper,
        Err(error) => return Landing::Failed(chain(&error)),
    };
    let mut amount = Amount::default();
    loop {
        match helper.next().await {
            Ok(report @ (Report::Begins { .. } | Report::Progress { .. })) => amount.hear(&report),
            Ok(Report::Done { validators, .. }) => return part.commit(validators),
            Ok(Report::Unchanged) => {
                let Some((_, lease)) = known else {
                    return Landing::Failed("nothing is known that could be unchanged".into());
                };
                return Landing::Ready(lease);
            }
            Ok(Report::Failed { message, trouble: Trouble::Disk }) => {
                return Landing::Bypass(message);
            }
            Ok(Report::Failed { message, trouble }) => {
                return lost(inner, key, known, message, trouble);
            }
            Err(error) => return lost(inner, key, known, chain(&error), Trouble::Other),
        }
        waiting.send_replace(Landing::Flying(amount));
        if let Err(text) = part.grow(amount.done.max(amount.of.unwrap_or(0))) {
            return Landing::Bypass(text);
        }
    }
}

/// What is said of a failed download: an old copy is better than none, unless the
/// source says that there is no such thing any more.
fn lost(
    inner: &Inner,
    key: &Key,
    known: Option<(Validators, Arc<Lease>)>,
    message: String,
    trouble: Trouble,
) -> Landing {
    let Some((_, lease)) = known else { return Landing::Failed(message) };
    if trouble == Trouble::Gone {
        let mut state = inner.lock();
        let removed = state.book.remove(key);
        state.sweep(removed);
        return Landing::Failed(message);
    }
    warn!(uri = %key.uri, %message, "using the cached copy, which could not be checked");
    Landing::Ready(lease)
}

type Begun<'a> = (Option<(Validators, Arc<Lease>)>, Part<'a>);

/// What is in the cache already, and a new file.
fn begin<'a>(inner: &'a Arc<Inner>, key: &'a Key) -> Result<Begun<'a>, String> {
    let mut state = inner.lock();
    let (name, file) = state.files(inner)?.begin(key).map_err(|error| chain(&error))?;
    let known = Lease::take(inner, &mut state, key);
    let known = known.map(|(validators, lease)| (validators, Arc::new(lease)));
    drop(state);
    Ok((known, Part { inner, key, name, file, reservation: Reservation::default(), kept: false }))
}

/// A file that is being filled; dropped, it is gone.
struct Part<'a> {
    inner: &'a Arc<Inner>,
    key: &'a Key,
    name: String,
    file: File,
    reservation: Reservation,
    kept: bool,
}

impl Part<'_> {
    /// Makes room for `bytes` in all.
    fn grow(&mut self, bytes: u64) -> Result<(), String> {
        let mut state = self.inner.lock();
        let removed = state.book.reserve(&mut self.reservation, bytes).map_err(|full| {
            format!("{} bytes do not fit into the cache of {}", full.wanted, full.capacity)
        })?;
        state.sweep(removed);
        Ok(())
    }

    /// Makes the file count. Its size is what we see, not what we are told.
    fn commit(mut self, validators: Validators) -> Landing {
        let size = match self.file.metadata() {
            Ok(data) => data.len(),
            Err(error) => return Landing::Bypass(format!("the cache cannot be read: {error}")),
        };
        if let Err(text) = self.grow(size) {
            return Landing::Bypass(text);
        }
        let mut guard = self.inner.lock();
        let state = &mut *guard;
        let committed = state.files(self.inner).and_then(|files| {
            files.commit(self.key, &self.name, size, &validators).map_err(|e| chain(&e))
        });
        if let Err(text) = committed {
            return Landing::Bypass(text);
        }
        state.book.cancel(&mut self.reservation);
        let old = state.book.enter(self.key.clone(), self.name.clone(), size, validators);
        state.sweep(old);
        self.kept = true;
        match Lease::take(self.inner, state, self.key) {
            Some((_, lease)) => Landing::Ready(Arc::new(lease)),
            None => Landing::Bypass("its file is gone from the cache".into()),
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut state = self.inner.lock();
        state.book.cancel(&mut self.reservation);
        if let Some(files) = &mut state.files
            && let Err(error) = files.remove(self.key, &self.name)
        {
            warn!(error = %chain(&error), "an unfinished download stays in the cache");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::Cache;
    use super::*;

    fn text(lease: &Lease) -> String {
        let mut text = String::new();
        lease.open().expect("open").read_to_string(&mut text).expect("read");
        text
    }

    fn committed(inner: &Arc<Inner>, key: &Key, content: &str) -> Arc<Lease> {
        let (_, mut part) = begin(inner, key).expect("begun");
        part.file.write_all(content.as_bytes()).expect("write");
        let validators =
            Validators { etag: Some(content.into()), modified: None, mode: Some(0o700) };
        match part.commit(validators) {
            Landing::Ready(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_read_is_whole_whatever_comes_after() {
        let dir = std::env::temp_dir().join(format!("fetch-flight-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let cache = Cache::new(&dir, 10);
        let (inner, key) = (&cache.inner, Key { user: None, uri: "http://x/y".into() });
        let old = committed(inner, &key, "first");
        let new = committed(inner, &key, "other");
        assert_eq!(
            (text(&old), text(&new), text(&old)),
            ("first".into(), "other".into(), "first".into())
        );
        assert_eq!((cache.sizes(), new.mode), ((5, 10), Some(0o700)));
        // An unfinished one leaves nothing, and does not take what others read.
        let (known, mut part) = begin(inner, &key).expect("begun");
        assert_eq!(known.expect("known").0.etag.as_deref(), Some("other"));
        assert!(part.grow(6).is_err() && part.grow(5).is_ok());
        drop(part);
        assert_eq!(cache.sizes(), (5, 10));
        let mut names: Vec<_> = std::fs::read_dir(&dir)
            .expect("there")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, [".lock", "c2-y", "c2-y.entry"]);
        // Somebody cleaned up by hand.
        std::fs::remove_file(dir.join("c2-y")).expect("remove");
        assert!(begin(inner, &key).expect("begun").0.is_none());
        assert_eq!(cache.sizes(), (0, 10));
        drop((old, new));
        std::fs::remove_dir_all(&dir).expect("remove");
    }
}
