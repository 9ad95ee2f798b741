//! A container's output into the files of its sandbox, without loss or repetition.
//!
//! The engine keeps the output of each container, with the time of each line. A task
//! follows it and appends to `stdout` and `stderr`. For each of the two a *mark* is
//! kept on disk: "when the file had this length, everything before that time was in
//! it and nothing since". Whoever comes later, after a broken connection, a restart
//! of the engine or a `kill -9` of the agent, asks for what came since the mark and
//! leaves out as many bytes as the file has grown by meanwhile. So marks may be
//! written rarely and the files are exact; only this task may append to them.
//!
//! Where files have a limit, a *length* counts the old files too: beside the marks
//! is written how much they had, before a full file becomes one of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::engine::{Engine, EngineError};
use super::frames::{Decoder, Stream, stamped};
use crate::logs::files::Files;
use crate::logs::rotation::{Step, step};

/// Bytes after which a new mark is set ...
const MARK_EVERY: u64 = 64 << 10;
/// ... and where the engine drops what is old: it needs more for a line than we do.
const MARK_OFTEN: u64 = 4 << 10;
/// Wait before asking again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a stream may stay open after the container has ended.
const LINGER: Duration = Duration::from_secs(2);
/// Streams that fail for another reason than silence, before we give up.
const TRIES: u32 = 20;

/// Where one of the two outputs stands. Pure. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// The mark on disk: everything before this time was in the file ...
    time: u64,
    /// ... when it had this length.
    length: u64,
    /// The same for the newest line's time, in memory.
    newest: (u64, u64),
    /// The stream was asked for from this time on.
    start: u64,
    /// The file's length now.
    written: u64,
    /// Of what comes next, this much is in the file already.
    skip: u64,
    /// The engine says again what it has said.
    repeats: bool,
    /// The engine keeps only what is new, and may repeat itself when it drops the rest.
    limited: bool,
    /// Marks the newest whole line's text.
    last: u64,
}

impl Place {
    fn at(mark: (u64, u64), written: u64) -> Place {
        let (time, length) = mark;
        let skip = written.saturating_sub(length);
        Place { time, length, newest: mark, start: time, written, skip, ..Place::default() }
    }

    /// The stream begins again, at the newest line.
    fn rewind(&mut self) {
        self.start = self.newest.0;
        self.skip = self.written.saturating_sub(self.newest.1);
        self.repeats = false;
        self.last = 0;
    }

    /// Whether this is the newest line again, and not another one like it: where times
    /// are finer than seconds, they tell those apart.
    fn is_again(&mut self, time: u64, text: &[u8]) -> bool {
        let whole = self.limited && self.skip == 0 && text.ends_with(b"\n");
        let mut hasher = DefaultHasher::new();
        (time, text).hash(&mut hasher);
        let before = std::mem::replace(&mut self.last, if whole { hasher.finish() } else { 0 });
        whole && before == self.last && time == self.newest.0 && !time.is_multiple_of(1_000_000_000)
    }

    /// The part of a line that is not in the file yet, and whether the mark moved.
    /// `now` tells a clock that was set
    /// back from an engine that repeats itself, which Docker 20.10 does when a log
    /// file of its own is full.
    fn take<'a>(&mut self, time: u64, text: &'a [u8], now: u64) -> (&'a [u8], bool) {
        if time < self.start {
            return (&[], false);
        }
        if time < self.newest.0 && now >= self.newest.0 {
            if self.skip == 0 {
                self.skip = self.written.saturating_sub(self.newest.1);
                self.repeats = true;
            }
            return (&[], false);
        }
        if self.repeats && time > self.newest.0 {
            (self.repeats, self.skip) = (false, 0);
        }
        if self.is_again(time, text) {
            return (&[], false);
        }
        let every = if self.limited { MARK_OFTEN } else { MARK_EVERY };
        // With a new time everything before it is in the file: a mark may be set.
        let is_new = time != self.newest.0;
        let marks = is_new && self.skip == 0 && self.written - self.length >= every;
        if marks {
            (self.time, self.length) = (time, self.written);
        }
        if is_new {
            self.newest = (time, self.written.saturating_sub(self.skip));
        }
        let skipped = text.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        let rest = &text[skipped..];
        self.skip -= skipped as u64;
        self.written += rest.len() as u64;
        (rest, marks)
    }
}

/// What is known of one stream from before: its mark, and the old files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    time: u64,
    length: u64,
    /// Bytes in files that are no more the newest.
    past: u64,
    /// The file that is counted in `past` already, though it may have stayed the
    /// newest: its number in the file system; 0 for none.
    full: u64,
}

/// One stream: its files, and where it stands.
struct Track {
    files: Files,
    place: Place,
    past: u64,
    full: u64,
}

impl Track {
    fn open(files: Files, known: Option<Known>) -> Track {
        let size = files.size();
        let mut known = known.unwrap_or(Known { length: size, ..Known::default() });
        if known.full != 0 && known.full == number(&files) {
            // The last agent died before the file became an old one.
            known.past = known.past.saturating_sub(size);
        }
        let place = Place::at((known.time, known.length), known.past + size);
        Track { files, place, past: known.past, full: 0 }
    }

    fn known(&self) -> Known {
        let Place { time, length, .. } = self.place;
        Known { time, length, past: self.past, full: self.full }
    }
}

/// The number of the newest file in its file system.
fn number(files: &Files) -> u64 {
    files.file().metadata().map_or(0, |metadata| metadata.ino())
}

/// The two streams of a container.
pub(super) struct Output {
    engine: Arc<Engine>,
    name: String,
    tracks: [Track; 2],
    marks: PathBuf,
    /// It comes from a terminal.
    terminal: bool,
}

impl Output {
    /// Opens the files; `marks` is where the marks are kept. If there are none yet,
    /// everything the container says is new.
    pub(super) fn open(
        engine: Arc<Engine>,
        name: &str,
        files: [Files; 2],
        marks: PathBuf,
    ) -> io::Result<Output> {
        let known = read_marks(&marks);
        let [out, err] = files;
        let of = |index: usize| known.map(|known| known[index]);
        let tracks = [Track::open(out, of(0)), Track::open(err, of(1))];
        let name = name.to_owned();
        let output = Output { engine, name, tracks, marks, terminal: false };
        if known.is_none() {
            output.write_marks()?;
        }
        Ok(output)
    }

    /// The engine does not keep everything.
    pub(super) fn limited(mut self) -> Output {
        self.tracks.iter_mut().for_each(|track| track.place.limited = true);
        self
    }

    /// There is one stream, of a terminal.
    pub(super) fn of_terminal(self) -> Output {
        Output { terminal: true, ..self }
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

    /// Reads from the marks to the end: the stream closes when the engine knows of the
    /// container's own, which it may learn later than we do.
    async fn pass(
        &mut self,
        over: bool,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        self.tracks.iter_mut().for_each(|track| track.place.rewind());
        let since = self.tracks[0].place.start.min(self.tracks[1].place.start);
        // Podman puts a time before every piece that was written, with nothing between.
        let plain = self.terminal && self.engine.is_podman().await?;
        let mut stream = match plain {
            true => self.engine.whole_log(&self.name).await?,
            false => self.engine.logs(&self.name, since).await?,
        };
        let mut decoder = Decoder::of_log(self.terminal);
        let mut deadline = over.then(|| tokio::time::Instant::now() + LINGER);
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
                Ok(None) => {
                    if let Some(rest) = decoder.rest() {
                        self.write(Stream::Out, &rest).await;
                    }
                    return Ok(());
                }
                Err(source) => {
                    let object = self.name.clone();
                    let operation = "read the output of container";
                    return Err(EngineError::Silent { operation, object, source });
                }
            };
            if plain {
                // All of it at once: the mark never moves.
                self.add(Stream::Out, 0, &bytes).await;
                continue;
            }
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
        self.add(stream, time, text).await;
    }

    /// Adds what is not in the file yet of what was said at that time.
    async fn add(&mut self, stream: Stream, time: u64, text: &[u8]) {
        let index = stream.index();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let (rest, marked) = self.tracks[index].place.take(time, text, now);
        if marked && let Err(error) = self.write_marks() {
            warn!(container = self.name, %error, "failed to mark how far its output is read");
        }
        let mut rest = rest.to_vec();
        while !rest.is_empty() {
            let files = &self.tracks[index].files;
            let size = files.size();
            let done = match step(size, rest.len() as u64, files.max_size()) {
                Step::Rotate => self.rotate(index, size).await,
                Step::Write(count) => {
                    let count = rest.len().min(usize::try_from(count).unwrap_or(usize::MAX));
                    let file = files.file().try_clone();
                    let writing = tokio::task::spawn_blocking(move || {
                        let done = file.and_then(|file| file.write_at(&rest[..count], size));
                        (rest, done)
                    });
                    // Fails only when the agent ends.
                    let Ok((bytes, done)) = writing.await else { return };
                    rest = bytes;
                    done.map(|count| drop(rest.drain(..count)))
                }
            };
            if let Err(error) = done {
                warn!(container = self.name, %error, "its output waits for the disk");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// The newest file, of `size` bytes, becomes an old one.
    async fn rotate(&mut self, index: usize, size: u64) -> io::Result<()> {
        let track = &mut self.tracks[index];
        let number_before = number(&track.files);
        if track.full != number_before {
            (track.past, track.full) = (track.past + size, number_before);
        }
        self.write_marks()?;
        let track = &mut self.tracks[index];
        if let Some(error) = track.files.rotate().await? {
            warn!(container = self.name, %error, "failed to rotate {}", track.files.path().display());
        }
        if track.full == number(&track.files) {
            // It was copied and cut: what it will have from now on is not counted yet.
            track.full = 0;
            self.write_marks()?;
        }
        Ok(())
    }

    fn write_marks(&self) -> io::Result<()> {
        let line = |track: &Track| {
            let Known { time, length, past, full } = track.known();
            format!("{time} {length} {past} {full}\n")
        };
        let text: String = self.tracks.iter().map(line).collect();
        let temporary = self.marks.with_extension("new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &self.marks)
    }
}

fn read_marks(path: &Path) -> Option<[Known; 2]> {
    let text = std::fs::read_to_string(path).ok()?;
    let numbers = text.split_whitespace().map(|word| word.parse::<u64>().ok());
    let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
    let mark = |time, length| Known { time, length, ..Known::default() };
    match numbers[..] {
        // As agents wrote it that knew no limits.
        [t, l, u, m] => Some([mark(t, l), mark(u, m)]),
        [t, l, past, full, u, m, past_err, full_err] => Some([
            Known { past, full, ..mark(t, l) },
            Known { past: past_err, full: full_err, ..mark(u, m) },
        ]),
        _ => None,
    }
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
            let (rest, marked) = place.take(*time, text, u64::MAX);
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
    fn an_engine_that_repeats_itself_is_not_believed() {
        let mut place = Place { limited: true, ..Place::at((0, 0), 0) };
        let mut taken = String::new();
        let mut said = |time: u64, text: &str, now: u64| {
            let (rest, _) = place.take(time, text.as_bytes(), now);
            taken.push_str(std::str::from_utf8(rest).unwrap());
        };
        for (time, text) in [(1, "a"), (2, "b"), (3, "c"), (3, "d")] {
            said(time, text, 10);
        }
        // All of the newest file again, then what is new.
        for (time, text) in [(2, "b"), (3, "c"), (3, "d"), (3, "e"), (4, "f")] {
            said(time, text, 10);
        }
        // Only a part of it.
        for (time, text) in [(3, "c"), (5, "g"), (6, "h")] {
            said(time, text, 10);
        }
        // Only the newest line, and one that says the same at another time.
        for (time, text) in [(7, "n\n"), (7, "n\n"), (8, "n\n")] {
            said(time, text, 10);
        }
        // A clock that was set back.
        for (time, text) in [(2, "i"), (3, "j"), (9, "k")] {
            said(time, text, time);
        }
        assert_eq!(taken, "abcdefghn\nn\nijk");
        place.rewind();
        assert_eq!((place.start, place.skip), (9, 1));
    }

    #[test]
    fn marks_are_read_back() {
        let dir = std::env::temp_dir().join(format!("marks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("output");
        assert_eq!(read_marks(&path), None);
        let known = |time, length, past, full| Known { time, length, past, full };
        std::fs::write(&path, "1 2 3 4\n").unwrap();
        assert_eq!(read_marks(&path), Some([known(1, 2, 0, 0), known(3, 4, 0, 0)]));
        std::fs::write(&path, "1 2 3 4\n5 6 7 8\n").unwrap();
        assert_eq!(read_marks(&path), Some([known(1, 2, 3, 4), known(5, 6, 7, 8)]));
        std::fs::write(&path, "1 2 3").unwrap();
        assert_eq!(read_marks(&path), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_death_at_any_step_of_a_rotation_keeps_count() {
        let dir = std::env::temp_dir().join(format!("rotation-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let limits = crate::logs::order::Files {
            max_size: 4096,
            keep: 2,
            ..crate::logs::order::Files::unlimited()
        };
        let marks = dir.join("output");
        let open = || {
            let file = |name| Files::open(&dir, None, limits.clone(), name).unwrap();
            let engine = Arc::new(Engine::new(Path::new("/nonexistent")));
            Output::open(engine, "c", [file("stdout"), file("stderr")], marks.clone()).unwrap()
        };
        let written = |output: &Output| output.tracks[0].place.written;
        let mut output = open();
        let stamp = b"1970-01-01T00:00:01Z ";
        let line = |byte: u8| [&stamp[..], &[byte; 3000]].concat();
        output.write(Stream::Out, &line(b'a')).await;
        assert_eq!(written(&open()), 3000);
        // Between the note and the rename.
        let mut dying = open();
        let size = dying.tracks[0].files.size();
        let number = number(&dying.tracks[0].files);
        (dying.tracks[0].past, dying.tracks[0].full) = (size, number);
        dying.write_marks().unwrap();
        assert_eq!(written(&open()), 3000);
        // And after it.
        dying.tracks[0].files.rotate().await.unwrap();
        assert_eq!(written(&open()), 3000);
        let mut output = open();
        output.tracks[0].place.newest = (0, 3000);
        output.tracks[0].place.skip = 0;
        for _ in 0..3 {
            output.write(Stream::Out, &line(b'b')).await;
        }
        assert_eq!((written(&output), written(&open())), (12_000, 12_000));
        assert_eq!(std::fs::metadata(dir.join("stdout")).unwrap().len(), 3000);
        assert!(!dir.join("stdout.3").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
