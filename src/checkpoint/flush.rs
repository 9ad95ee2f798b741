//! Flushing many files at once.
//!
//! A file system commits once for all that flush at the same time, so sixteen
//! threads with a file each wait hardly longer than one: a disk with 4 ms per flush
//! then takes thousands of checkpoints a second, each in its own file as Mesos has
//! it, without a journal of our own (docs/decisions/0025). The storage task owns
//! one [`Flusher`]; its threads start when there is more than one file to flush.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{StorageError, Unflushed};

/// Files that are flushed at the same time.
const THREADS: usize = 16;

type Done = Result<(), StorageError>;

/// A pool of threads that flush.
#[derive(Debug, Default)]
pub struct Flusher {
    jobs: Option<Sender<(PathBuf, File, Sender<Done>)>>,
}

impl Flusher {
    /// Makes sure that all of it is on the disk.
    ///
    /// # Errors
    /// The first file that could not be flushed: what it holds may be lost with the
    /// machine.
    pub fn flush(&mut self, files: Unflushed) -> Done {
        let mut files = files.0.into_iter();
        if files.len() <= 1 {
            return files.next().map_or(Ok(()), |(path, file)| sync(path, &file));
        }
        let jobs = self.jobs.get_or_insert_with(start);
        let (done, results) = channel();
        for (path, file) in files {
            if let Err(refused) = jobs.send((path, file, done.clone())) {
                // No thread could be started: do it here.
                let (path, file, done) = refused.0;
                let _ = done.send(sync(path, &file));
            }
        }
        drop(done);
        results.iter().fold(Ok(()), Result::and)
    }
}

fn start() -> Sender<(PathBuf, File, Sender<Done>)> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..THREADS {
        let receiver = receiver.clone();
        let started = thread::Builder::new()
            .name("flush".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || work(&receiver));
        if let Err(error) = started {
            tracing::warn!(%error, "failed to start a thread for flushing");
        }
    }
    sender
}

fn work(jobs: &Mutex<Receiver<(PathBuf, File, Sender<Done>)>>) {
    loop {
        // Only the wait for a job is under the lock.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((path, file, done)) = job else { return };
        let _ = done.send(sync(path, &file));
    }
}

fn sync(path: PathBuf, file: &File) -> Done {
    file.sync_data().map_err(|source| StorageError::Flush { path, source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_are_flushed_and_a_failure_is_told() {
        let dir = std::env::temp_dir().join(format!("flush-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let files = |count: usize| {
            let mut files = Unflushed::default();
            for n in 0..count {
                let path = dir.join(n.to_string());
                files.0.insert(path.clone(), File::create(path).unwrap());
            }
            files
        };
        let mut flusher = Flusher::default();
        for count in [0, 1, 2, 100] {
            flusher.flush(files(count)).unwrap();
        }
        let mut some = files(10);
        // Nothing that could be flushed.
        some.0.insert("/dev/null".into(), File::open("/dev/null").unwrap());
        let error = flusher.flush(some).unwrap_err().to_string();
        assert_eq!(error, "failed to flush '/dev/null'");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
