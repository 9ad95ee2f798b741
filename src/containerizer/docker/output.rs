//! A container's output into the files of its sandbox, without loss or repetition.
//!
//! The engine keeps the output of each container, with the time of each line. A task
//! follows it and appends to `stdout` and `stderr`. For each of the two a *mark* is
//! kept on disk: "when the file had this length, everything before that time was in
//! it and nothing since". Whoever comes later, after a broken connection, a restart
//! of the engine or a `kill -9` of the agent, asks for what came since the mark and
//! leaves out as many bytes as the file has grown by meanwhile. So marks may be
//! written rarely and the files are exact; only this task may append to them.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use super::engine::{Engine, EngineError};
use super::frames::{Decoder, Stream, stamped};

/// Bytes after which a new mark is set.
const MARK_EVERY: u64 = 64 << 10;
/// Wait before asking again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a stream may stay open after the container has ended.
const LINGER: Duration = Duration::from_secs(2);
/// Streams that fail for another reason than silence, before we give up.
const TRIES: u32 = 20;

/// Where one of the two outputs stands. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// Everything before this time was in the file ...
    time: u64,
    /// ... when it had this length.
    length: u64,
    /// The file's length now.
    written: u64,
    /// Of what comes since `time`, this much is in the file already.
    skip: u64,
    /// The newest line's time.
    newest: u64,
}

impl Place {
    fn at(mark: (u64, u64), written: u64) -> Place {
        let (time, length) = mark;
        let skip = written.saturating_sub(length);
        Place { time, length, written, skip, newest: time }
    }

    /// The stream begins again at the mark.
    fn rewind(&mut self) {
        *self = Place::at((self.time, self.length), self.written);
    }

    /// The part of a line that is not in the file yet, and whether the mark moved.
    fn take<'a>(&mut self, time: u64, text: &'a [u8]) -> (&'a [u8], bool) {
        if time < self.time {
            return (&[], false);
        }
        let skipped = text.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        let rest = &text[skipped..];
        // With a new time everything before it is in the file: a mark may be set.
        let marks =
            self.skip == 0 && time > self.newest && self.written - self.length >= MARK_EVERY;
        if marks {
            (self.time, self.length) = (time, self.written);
        }
        self.skip -= skipped as u64;
        self.newest = self.newest.max(time);
        self.written += rest.len() as u64;
        (rest, marks)
    }
}

/// The two files and where they stand.
pub(super) struct Output {
    engine: Arc<Engine>,
    name: String,
    files: [Arc<File>; 2],
    places: [Place; 2],
    marks: PathBuf,
}

impl Output {
    /// Opens the files; `marks` is where the marks are kept. If there are none yet,
    /// everything the container says is new.
    pub(super) fn open(
        engine: Arc<Engine>,
        name: &str,
        files: [File; 2],
        marks: PathBuf,
    ) -> io::Result<Output> {
        let lengths = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let files = files.map(Arc::new);
        let known = read_marks(&marks);
        let at = |i: usize| match &known {
            Some(known) => Place::at(known[i], lengths[i]),
            None => Place::at((0, lengths[i]), lengths[i]),
        };
        let places = [at(0), at(1)];
        let output = Output { engine, name: name.to_owned(), files, places, marks };
        if known.is_none() {
            output.write_marks()?;
        }
        Ok(output)
    }

    /// Follows the container to its end and what it said before it. `ended` turns
    /// true when the container has ended.
    pub(super) async fn follow(mut self, mut ended: watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            // Nobody who could tell of an end is one as well.
            let over = *ended.borrow() || ended.has_changed().is_err();
            match self.pass(over, &mut ended).await {
                Ok(()) if over => return,
                Ok(()) => {}
                Err(error) if error.is_silence() => {}
                // Removed by somebody: there is nothing left to read.
                Err(error) if error.is_missing() => return,
                Err(error) => {
                    failures += 1;
                    if failures >= TRIES {
                        let error = kernel::chain(&error);
                        warn!(container = self.name, %error, "its output is not followed any more");
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = ended.changed(), if !over => {}
            }
        }
    }

    /// Reads from the marks to the end; while the container lives, until the stream
    /// breaks.
    async fn pass(
        &mut self,
        over: bool,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        self.places.iter_mut().for_each(Place::rewind);
        let since = self.places[0].time.min(self.places[1].time);
        let mut stream = self.engine.logs(&self.name, since, !over).await?;
        let mut decoder = Decoder::default();
        let mut deadline = None;
        loop {
            let lingering = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                next = stream.next() => next,
                () = lingering => return Ok(()),
                _ = ended.changed(), if !over && deadline.is_none() => {
                    deadline = Some(tokio::time::Instant::now() + LINGER);
                    continue;
                }
            };
            let bytes = match next {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(()),
                Err(source) => {
                    let object = self.name.clone();
                    let operation = "read the output of container";
                    return Err(EngineError::Silent { operation, object, source });
                }
            };
            decoder.feed(&bytes);
            loop {
                match decoder.next() {
                    Ok(Some((stream, frame))) => self.write(stream, &frame).await,
                    Ok(None) => break,
                    Err(message) => {
                        let (operation, object) = ("read the output of", self.name.clone());
                        return Err(EngineError::Unreadable { operation, object, message });
                    }
                }
            }
        }
    }

    async fn write(&mut self, stream: Stream, frame: &[u8]) {
        let Some((time, text)) = stamped(frame) else {
            // The engine's own words, for example that it cannot read its files.
            let text = String::from_utf8_lossy(frame).trim().to_owned();
            return debug!(container = self.name, text, "docker says");
        };
        let index = stream.index();
        let (rest, marked) = self.places[index].take(time, text);
        if marked && let Err(error) = self.write_marks() {
            warn!(container = self.name, %error, "failed to mark how far its output is read");
        }
        let mut rest = rest.to_vec();
        while !rest.is_empty() {
            let file = Arc::clone(&self.files[index]);
            let writing = tokio::task::spawn_blocking(move || {
                let done = (&*file).write(&rest);
                (rest, done)
            });
            // Fails only when the agent ends.
            let Ok((bytes, done)) = writing.await else { return };
            rest = bytes;
            match done {
                Ok(count) => drop(rest.drain(..count)),
                Err(error) => {
                    warn!(container = self.name, %error, "its output waits for the disk");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn write_marks(&self) -> io::Result<()> {
        let [out, err] = &self.places;
        let text = format!("{} {} {} {}\n", out.time, out.length, err.time, err.length);
        let temporary = self.marks.with_extension("new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &self.marks)
    }
}

fn read_marks(path: &Path) -> Option<[(u64, u64); 2]> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    Some([(next()?, next()?), (next()?, next()?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of 40 bytes; the first ten at one time.
    fn lines() -> Vec<(u64, Vec<u8>)> {
        let line = |i: u64| (100 + i.saturating_sub(9), format!("{i:039}\n").into_bytes());
        (0..8000).map(line).collect()
    }

    /// Reads all lines since the mark until the file has `stop` bytes: a death there.
    fn read(mark: (u64, u64), file: &mut Vec<u8>, stop: usize) -> (u64, u64) {
        let mut place = Place::at(mark, file.len() as u64);
        let since = mark.0;
        let mut mark = mark;
        for (time, text) in lines().iter().filter(|(time, _)| *time >= since) {
            let (rest, marked) = place.take(*time, text);
            if marked {
                // On disk before the bytes that follow.
                mark = (place.time, place.length);
            }
            let room = stop.saturating_sub(file.len()).min(rest.len());
            file.extend_from_slice(&rest[..room]);
            if room < rest.len() {
                break;
            }
        }
        mark
    }

    #[test]
    fn deaths_anywhere_lose_and_repeat_nothing() {
        let all: Vec<u8> = lines().into_iter().flat_map(|(_, text)| text).collect();
        for step in [1, 39, 40, 401, 65_535, 65_536, 65_537, 100_000, 400_000] {
            let (mut file, mut mark, mut stop) = (b"before".to_vec(), (0, 6), 6);
            let mut deaths = 0;
            while file.len() < all.len() + 6 && deaths < 200 {
                stop += if deaths == 199 { usize::MAX / 2 } else { step };
                mark = read(mark, &mut file, stop);
                deaths += 1;
            }
            assert!(file[6..] == all[..], "with deaths every {step} bytes");
        }
    }

    #[test]
    fn marks_are_read_back() {
        let dir = std::env::temp_dir().join(format!("marks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("output");
        assert_eq!(read_marks(&path), None);
        std::fs::write(&path, "1 2 3 4\n").unwrap();
        assert_eq!(read_marks(&path), Some([(1, 2), (3, 4)]));
        std::fs::write(&path, "1 2 3").unwrap();
        assert_eq!(read_marks(&path), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
