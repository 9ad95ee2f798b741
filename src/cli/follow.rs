//! Reading a log while it is rotated: every byte once, whatever file it is in by now.
//!
//! A place in a log is a file's identity and an offset, not a name: `stdout` becomes
//! `stdout.1` between two reads. [`Follow`] asks a [`Source`] by name, checks who
//! answered, and looks for its file again when it was somebody else. Agents of Mesos
//! tell no identities; there a file that has become shorter counts as rotated.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::error::CliError;

/// How much one request reads, in bytes.
pub const PIECE: u64 = 65_536;
/// How often a log may change under a look at all of its files.
const ATTEMPTS: usize = 20;

/// How many files that were read are remembered.
const MEMORY: usize = 1000;

/// A file of a sandbox, as listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Without directories.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970 of the last write.
    pub modified: f64,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose bytes these are; empty if the agent does not tell.
    pub identity: String,
    /// Nothing at the end of the file.
    pub data: Vec<u8>,
}

/// A sandbox, read from afar.
#[async_trait]
pub trait Source: Sync {
    /// Its files.
    async fn list(&self) -> Result<Vec<Entry>, CliError>;
    /// At most `length` bytes; `None` if there is no such file.
    async fn read(&self, name: &str, offset: u64, length: u64) -> Result<Option<Piece>, CliError>;
    /// The size of a file.
    async fn size(&self, name: &str) -> Result<u64, CliError>;
}

/// Where to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Begin {
    /// With the last lines only.
    pub lines: Option<u64>,
    /// With the first file that was written to since then (seconds since 1970).
    pub since: Option<f64>,
}

/// What came of looking for a file that was renamed.
enum Caught {
    /// It is read, and there is one after it.
    Up,
    /// It is read, and the one after it is not there yet.
    Newest,
    /// It is not there, or moved meanwhile.
    Nothing,
}

/// A log and how far it has been read.
#[derive(Debug)]
pub struct Follow {
    name: String,
    begin: Begin,
    /// Identity of a file and bytes of it that were read.
    at: Option<(String, u64)>,
    /// Identities of the files before it that were read.
    past: VecDeque<String>,
    /// Whether something was rotated away before it could be read.
    lost: bool,
}

impl Follow {
    /// The log `name` (`stdout`), of which nothing has been read.
    pub fn new(name: &str, begin: Begin) -> Follow {
        Follow { name: name.to_owned(), begin, at: None, past: VecDeque::new(), lost: false }
    }

    /// Whether output was rotated away unread since the last call.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Reads up to the end as it is now.
    ///
    /// # Errors
    /// The agent does not answer, or there is no such log.
    pub async fn advance(
        &mut self,
        source: &dyn Source,
        print: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), CliError> {
        let mut misses = 0;
        loop {
            let Some((identity, offset)) = self.at.clone() else {
                match self.start(source).await? {
                    Some(at) => self.at = Some(at),
                    None => return Ok(()),
                }
                continue;
            };
            let piece = source.read(&self.name, offset, PIECE).await?;
            match piece.filter(|piece| piece.identity == identity) {
                Some(piece) if !piece.data.is_empty() => {
                    misses = 0;
                    self.print(&piece.data, print);
                }
                Some(_) if !identity.is_empty() || self.shrunk(source).await?.is_none() => {
                    return Ok(());
                }
                Some(_) => self.after_shrinking(source, print).await?,
                // It has another name by now.
                None if misses < ATTEMPTS => match self.catch_up(source, print).await? {
                    Caught::Up => misses = 0,
                    Caught::Nothing => misses += 1,
                    Caught::Newest => return Ok(()),
                },
                None => {
                    misses = 0;
                    match self.resume(source, &identity).await? {
                        Some(next) => self.go_on(next),
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// Goes to the beginning of another file.
    fn go_on(&mut self, identity: String) {
        if let Some((old, _)) = self.at.replace((identity, 0)) {
            self.past.push_back(old);
            if self.past.len() > MEMORY {
                self.past.pop_front();
            }
        }
    }

    /// The oldest file that was not read yet, when the one being read is not to be
    /// found; `None` if it is there after all.
    async fn resume(
        &mut self,
        source: &dyn Source,
        current: &str,
    ) -> Result<Option<String>, CliError> {
        let mut found = None;
        for _ in 0..ATTEMPTS {
            found = None;
            let first = identity(source, &self.name).await?;
            for name in chain(&source.list().await?, &self.name).iter().rev() {
                match identity(source, name).await? {
                    Some(seen) if seen == current => return Ok(None),
                    Some(seen) if !self.past.contains(&seen) => found = Some(seen),
                    _ => break,
                }
            }
            // Only if nobody moved meanwhile is it what it looks like.
            if first.is_some() && first == identity(source, &self.name).await? {
                break;
            }
        }
        self.lost |= found.is_some();
        Ok(found)
    }

    fn print(&mut self, data: &[u8], print: &mut (dyn FnMut(&[u8]) + Send)) {
        print(data);
        if let Some((_, offset)) = &mut self.at {
            *offset += data.len() as u64;
        }
    }

    /// Whether there was such a log.
    pub fn found(&self) -> bool {
        self.at.is_some()
    }

    /// Reads the rest of a file that was renamed, and goes on with the one after it.
    async fn catch_up(
        &mut self,
        source: &dyn Source,
        print: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Caught, CliError> {
        let chain = chain(&source.list().await?, &self.name);
        let Some((identity, _)) = self.at.clone() else { return Ok(Caught::Nothing) };
        for (index, name) in chain.iter().enumerate().rev() {
            loop {
                let offset = self.at.as_ref().map_or(0, |(_, offset)| *offset);
                let piece = source.read(name, offset, PIECE).await?;
                let Some(piece) = piece.filter(|piece| piece.identity == identity) else { break };
                if !piece.data.is_empty() {
                    self.print(&piece.data, print);
                    continue;
                }
                let Some(next) = chain.get(index + 1) else { return Ok(Caught::Newest) };
                let successor = source.read(next, 0, 0).await?;
                // The successor is the right one only if nobody moved meanwhile.
                let still = source.read(name, 0, 0).await?;
                return Ok(match (successor, still) {
                    (Some(next), Some(still))
                        if still.identity == identity && next.identity != identity =>
                    {
                        self.go_on(next.identity);
                        Caught::Up
                    }
                    _ => Caught::Nothing,
                });
            }
        }
        Ok(Caught::Nothing)
    }

    /// The new size, if the file is shorter than what was read of it.
    async fn shrunk(&self, source: &dyn Source) -> Result<Option<u64>, CliError> {
        let read = self.at.as_ref().map_or(0, |(_, offset)| *offset);
        Ok(Some(source.size(&self.name).await?).filter(|size| *size < read))
    }

    /// As good as it gets without identities: the rest is in the newest old file.
    async fn after_shrinking(
        &mut self,
        source: &dyn Source,
        print: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), CliError> {
        let old = format!("{}.1", self.name);
        while let Some((_, offset)) = &self.at
            && let Some(piece) = source.read(&old, *offset, PIECE).await?
            && !piece.data.is_empty()
        {
            self.print(&piece.data, print);
        }
        self.at = Some((String::new(), 0));
        Ok(())
    }

    /// Where to begin; `None` if there is nothing yet.
    async fn start(&self, source: &dyn Source) -> Result<Option<(String, u64)>, CliError> {
        for _ in 0..ATTEMPTS {
            let first = identity(source, &self.name).await?;
            let entries = source.list().await?;
            let mut chain = chain(&entries, &self.name);
            if let Some(since) = self.begin.since {
                let modified = |name: &str| {
                    entries.iter().find(|e| e.name == name).map_or(0.0, |e| e.modified)
                };
                let first = chain.iter().position(|name| modified(name) >= since);
                let Some(first) = first else { return end(source, &self.name).await };
                chain.drain(..first);
            }
            let Some(oldest) = chain.first() else { return Ok(None) };
            let begun = match self.begin.lines {
                Some(lines) => last_lines(source, &chain, lines).await?,
                None => identity(source, oldest).await?.map(|identity| (identity, 0)),
            };
            // Only if nobody moved meanwhile is the name still that of the same file.
            if begun.is_some() && first == identity(source, &self.name).await? {
                return Ok(begun);
            }
        }
        Ok(None)
    }
}

async fn identity(source: &dyn Source, name: &str) -> Result<Option<String>, CliError> {
    Ok(source.read(name, 0, 0).await?.map(|piece| piece.identity))
}

async fn end(source: &dyn Source, name: &str) -> Result<Option<(String, u64)>, CliError> {
    let size = source.size(name).await?;
    Ok(source.read(name, size, 0).await?.map(|piece| (piece.identity, size)))
}

/// Names of a log's files, the oldest first; compressed ones cannot be read.
fn chain(entries: &[Entry], name: &str) -> Vec<String> {
    let number = |entry: &Entry| -> Option<u32> {
        match entry.name.strip_prefix(name)? {
            "" => Some(0),
            rest => rest.strip_prefix('.')?.parse().ok(),
        }
    };
    let mut numbered: Vec<(u32, &str)> =
        entries.iter().filter_map(|entry| Some((number(entry)?, entry.name.as_str()))).collect();
    numbered.sort_unstable_by(|a, b| b.cmp(a));
    numbered.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The place from which there are `lines` lines to the end; `None` if files moved
/// during the search.
async fn last_lines(
    source: &dyn Source,
    chain: &[String],
    lines: u64,
) -> Result<Option<(String, u64)>, CliError> {
    // The end of the last line is no beginning of another one.
    let mut wanted = lines;
    let mut at = None;
    for (index, name) in chain.iter().enumerate().rev() {
        let size = source.size(name).await?;
        let Some(identity) = source.read(name, size, 0).await?.map(|piece| piece.identity) else {
            return Ok(None);
        };
        if at.is_none() && lines == 0 {
            return Ok(Some((identity, size)));
        }
        let mut end = size;
        while end > 0 {
            let begin = end.saturating_sub(PIECE);
            let piece = source.read(name, begin, end - begin).await?;
            let Some(piece) = piece.filter(|piece| piece.identity == identity) else {
                return Ok(None);
            };
            let newest = at.is_none() && index + 1 == chain.len();
            let data = match piece.data.strip_suffix(b"\n") {
                Some(data) if newest && end == size => data,
                _ => &piece.data[..],
            };
            for (position, _) in data.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
                wanted -= 1;
                if wanted == 0 {
                    return Ok(Some((identity, begin + position as u64 + 1)));
                }
            }
            at = Some((identity.clone(), begin));
            end = begin;
        }
        at = Some((identity, 0));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A sandbox in memory, written to and rotated between any two requests.
    struct Sandbox {
        files: Mutex<VecDeque<(String, Vec<u8>)>>,
        told: bool,
        work: Mutex<Work>,
    }

    struct Work {
        seed: u64,
        keep: usize,
        written: Vec<u8>,
        left: usize,
        born: u64,
    }

    impl Sandbox {
        fn new(seed: u64, keep: usize, left: usize) -> Sandbox {
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let work = Work { seed, keep, written: Vec::new(), left, born: 0 };
            let files = Mutex::new(VecDeque::from([("f0".to_owned(), Vec::new())]));
            Sandbox { files, told: true, work: Mutex::new(work) }
        }

        /// Something happens, or nothing.
        fn step(&self) {
            let mut work = self.work.lock().unwrap();
            let mut files = self.files.lock().unwrap();
            let mut dice = |sides: u64| {
                work.seed ^= work.seed << 13;
                work.seed ^= work.seed >> 7;
                work.seed ^= work.seed << 17;
                work.seed % sides
            };
            let (event, length) = (dice(4), dice(30));
            if work.left == 0 {
                return;
            }
            match event {
                0 | 1 => {
                    let (n, x) = (work.left, "x".repeat(1 + length as usize));
                    let line = format!("{n}{x}{n}\n");
                    files[0].1.extend(line.bytes());
                    work.written.extend(line.bytes());
                    work.left -= 1;
                }
                2 if !files[0].1.is_empty() => {
                    work.born += 1;
                    let identity = format!("f{}", work.born);
                    files.push_front((identity, Vec::new()));
                    let keep = work.keep;
                    files.truncate(keep + 1);
                }
                _ => {}
            }
        }

        fn index(name: &str) -> Option<usize> {
            match name.strip_prefix("stdout")? {
                "" => Some(0),
                rest => rest.strip_prefix('.')?.parse().ok(),
            }
        }
    }

    #[async_trait]
    impl Source for Sandbox {
        async fn list(&self) -> Result<Vec<Entry>, CliError> {
            self.step();
            let files = self.files.lock().unwrap();
            let name = |i: usize| if i == 0 { "stdout".into() } else { format!("stdout.{i}") };
            let entry = |(i, (_, data)): (usize, &(String, Vec<u8>))| Entry {
                name: name(i),
                size: data.len() as u64,
                modified: 100.0 - i as f64,
            };
            let other = Entry { name: "stdout.1.gz".into(), size: 1, modified: 0.0 };
            Ok(files.iter().enumerate().map(entry).chain([other]).collect())
        }

        async fn read(&self, name: &str, at: u64, length: u64) -> Result<Option<Piece>, CliError> {
            self.step();
            let files = self.files.lock().unwrap();
            let file = Sandbox::index(name).and_then(|index| files.get(index));
            Ok(file.map(|(identity, data)| {
                let from = data.len().min(at as usize);
                // Short reads are normal.
                let to = data.len().min(from + length.min(50) as usize);
                let identity = if self.told { identity.clone() } else { String::new() };
                Piece { identity, data: data[from..to].to_vec() }
            }))
        }

        async fn size(&self, name: &str) -> Result<u64, CliError> {
            let files = self.files.lock().unwrap();
            let file = Sandbox::index(name).and_then(|index| files.get(index));
            Ok(file.map_or(0, |(_, data)| data.len() as u64))
        }
    }

    async fn all(follow: &mut Follow, sandbox: &Sandbox) -> Vec<u8> {
        let mut seen = Vec::new();
        let mut quiet = 0;
        while quiet < 2 {
            let mut print = |data: &[u8]| seen.extend_from_slice(data);
            follow.advance(sandbox, &mut print).await.unwrap();
            quiet = if sandbox.work.lock().unwrap().left == 0 { quiet + 1 } else { 0 };
        }
        seen
    }

    #[tokio::test]
    async fn every_byte_once_whenever_files_are_rotated() {
        for seed in 1..500 {
            let sandbox = Sandbox::new(seed, 1000, 200);
            let mut follow = Follow::new("stdout", Begin::default());
            let seen = all(&mut follow, &sandbox).await;
            let written = sandbox.work.lock().unwrap().written.clone();
            assert!(!follow.take_lost(), "seed {seed}");
            assert!(seen == written, "seed {seed}: {} of {}", seen.len(), written.len());
        }
    }

    #[tokio::test]
    async fn what_is_rotated_away_is_said_and_nothing_comes_twice() {
        let mut losses = 0;
        for seed in 1..300 {
            let sandbox = Sandbox::new(seed, 1, 200);
            let mut follow = Follow::new("stdout", Begin::default());
            let seen = String::from_utf8(all(&mut follow, &sandbox).await).unwrap();
            let written = sandbox.work.lock().unwrap().written.len();
            let lost = follow.take_lost();
            losses += usize::from(lost);
            assert!(lost || seen.len() == written, "seed {seed}");
            // Numbers of whole lines only fall: none is repeated.
            let number = |line: &str| -> Option<u64> {
                let (first, last) = (line.split('x').next()?, line.rsplit('x').next()?);
                (first == last).then(|| first.parse().ok())?
            };
            let numbers: Vec<u64> = seen.lines().filter_map(number).collect();
            assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]), "seed {seed}: {seen}");
        }
        assert!(losses > 0);
    }

    fn still(files: &[&str], told: bool) -> Sandbox {
        let mut sandbox = Sandbox::new(1, 10, 0);
        sandbox.told = told;
        let named =
            files.iter().enumerate().map(|(i, data)| (format!("f{i}"), data.bytes().collect()));
        *sandbox.files.lock().unwrap() = named.collect();
        sandbox
    }

    #[tokio::test]
    async fn the_last_lines_and_the_newest_files() {
        let sandbox = still(&["e\nf", "c\nd\n", "a\nb\n"], true);
        let lines = |lines| Begin { lines: Some(lines), since: None };
        for (begin, expected) in [
            (Begin::default(), "a\nb\nc\nd\ne\nf"),
            (lines(0), ""),
            (lines(1), "f"),
            (lines(2), "e\nf"),
            (lines(3), "d\ne\nf"),
            (lines(5), "b\nc\nd\ne\nf"),
            (lines(60), "a\nb\nc\nd\ne\nf"),
            (Begin { lines: None, since: Some(99.0) }, "c\nd\ne\nf"),
            (Begin { lines: Some(1), since: Some(99.0) }, "f"),
            (Begin { lines: None, since: Some(101.0) }, ""),
        ] {
            let seen = all(&mut Follow::new("stdout", begin), &sandbox).await;
            assert_eq!(String::from_utf8(seen).unwrap(), expected, "{begin:?}");
        }
        let ended = still(&["x\ny\n"], true);
        let seen = all(&mut Follow::new("stdout", lines(1)), &ended).await;
        assert_eq!(seen, b"y\n");
        assert_eq!(all(&mut Follow::new("stderr", lines(1)), &ended).await, b"");
    }

    #[tokio::test]
    async fn without_identities_a_shorter_file_is_a_new_one() {
        let sandbox = still(&["one\ntwo\n"], false);
        let mut follow = Follow::new("stdout", Begin::default());
        assert_eq!(all(&mut follow, &sandbox).await, b"one\ntwo\n");
        {
            let mut files = sandbox.files.lock().unwrap();
            files[0].1.extend(b"three\n");
            files.push_front(("f".into(), b"four\n".to_vec()));
        }
        assert_eq!(all(&mut follow, &sandbox).await, b"three\nfour\n");
    }
}
