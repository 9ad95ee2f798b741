//! Where a download goes: a file, counted, held to a limit, hashed if that is wanted,
//! with progress told to the agent and to people.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use isolators::quantity::readable;
use sha2::{Digest, Sha256};

use super::{FetchFailure, log, tell};
use crate::fetch::message::Report;

/// Time between two lines for people.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Bytes between two reports to the agent: it keeps room in the cache for them.
const REPORT_EVERY: u64 = 1 << 20;

/// The file a download goes to.
pub(super) struct Sink {
    pub file: File,
    digest: Option<Sha256>,
    written: u64,
    expected: Option<u64>,
    limit: u64,
    reported: u64,
    line_due: Instant,
}

impl Sink {
    /// `file` is empty. `hashed`: its SHA-256 is wanted.
    pub fn new(file: File, limit: u64, hashed: bool) -> Sink {
        Sink {
            file,
            digest: hashed.then(Sha256::new),
            written: 0,
            expected: None,
            limit,
            reported: 0,
            line_due: Instant::now() + LINE_EVERY,
        }
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The download begins (again), of `size` bytes in all.
    ///
    /// # Errors
    /// It is too large.
    pub fn begin(&mut self, size: Option<u64>) -> Result<(), FetchFailure> {
        if size.is_some_and(|size| size > self.limit) {
            return Err(self.too_large());
        }
        self.expected = size;
        tell(&Report::Begins { size });
        Ok(())
    }

    fn too_large(&self) -> FetchFailure {
        FetchFailure::TooLarge { limit: self.limit }
    }

    /// Forgets what came so far.
    ///
    /// # Errors
    /// The system's.
    pub fn restart(&mut self) -> Result<(), FetchFailure> {
        let failed = |source| FetchFailure::Write { source };
        self.file.set_len(0).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.written = 0;
        self.digest = self.digest.as_ref().map(|_| Sha256::new());
        Ok(())
    }

    /// Appends.
    ///
    /// # Errors
    /// It is too large, or the disk is full.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FetchFailure> {
        if self.written + bytes.len() as u64 > self.limit {
            return Err(self.too_large());
        }
        self.file.write_all(bytes).map_err(|source| FetchFailure::Write { source })?;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.grown(bytes.len() as u64);
        Ok(())
    }

    /// Copies from a file, by the kernel where it can.
    ///
    /// # Errors
    /// As [`Sink::put`], or the file cannot be read.
    pub fn copy(&mut self, from: &mut File) -> Result<(), FetchFailure> {
        if self.digest.is_some() {
            let mut buffer = vec![0; 256 << 10];
            loop {
                let read = io::Read::read(from, &mut buffer);
                match read.map_err(|source| FetchFailure::Read { source })? {
                    0 => return Ok(()),
                    count => self.put(&buffer[..count])?,
                }
            }
        }
        loop {
            let room = (self.limit - self.written).saturating_add(1).min(64 << 20);
            let mut part = io::Read::take(&mut *from, room);
            match io::copy(&mut part, &mut self.file) {
                Ok(0) => return Ok(()),
                Ok(count) if self.written + count > self.limit => return Err(self.too_large()),
                Ok(count) => self.grown(count),
                Err(source) => return Err(self.stopped(source)),
            }
        }
    }

    /// Of a copy, one cannot see which side it was.
    fn stopped(&self, source: io::Error) -> FetchFailure {
        match source.kind() {
            _ if source.raw_os_error() == Some(libc::EFBIG) => self.too_large(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                FetchFailure::Write { source }
            }
            _ => FetchFailure::Read { source },
        }
    }

    fn grown(&mut self, count: u64) {
        self.written += count;
        if self.written - self.reported >= REPORT_EVERY {
            self.reported = self.written;
            tell(&Report::Progress { bytes: self.written });
            if Instant::now() >= self.line_due {
                self.line_due = Instant::now() + LINE_EVERY;
                let of = self.expected.map(|all| format!(" of {}", readable(all)));
                let done = readable(self.written);
                log::info(&format!("Downloaded {done}{}", of.unwrap_or_default()));
            }
        }
    }

    /// The SHA-256 of everything, if it was wanted.
    pub fn digest(&self) -> Option<String> {
        let sum = self.digest.clone()?.finalize();
        Some(sum.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Takes note of what another program wrote to the file.
    ///
    /// # Errors
    /// The system's.
    pub fn look(&mut self) -> Result<(), FetchFailure> {
        let read = |source| FetchFailure::Read { source };
        self.written = self.file.metadata().map_err(read)?.len();
        if let Some(digest) = &mut self.digest {
            self.file.seek(SeekFrom::Start(0)).map_err(read)?;
            let mut buffer = vec![0; 256 << 10];
            loop {
                match io::Read::read(&mut self.file, &mut buffer).map_err(read)? {
                    0 => break,
                    count => digest.update(&buffer[..count]),
                }
            }
        }
        Ok(())
    }
}
