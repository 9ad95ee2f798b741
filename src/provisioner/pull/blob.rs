//! The content of layers as it comes: taken up where it broke, counted and checked.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::registry::{PAUSE, Registry};
use super::{PullError, RegistryError, tell};
use crate::provisioner::message::{Progress, Report};
use crate::provisioner::reference::Digest;
use crate::wire::blocking::{Body, HttpError};

/// Times that a download is taken up again without a byte in between.
const RESUMES: u32 = 6;
/// Time between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How far a pull is, and whether it is still wanted: one for all of its threads.
#[derive(Debug)]
pub(super) struct Meter {
    bytes: AtomicU64,
    of: AtomicU64,
    layers: AtomicU32,
    layers_of: AtomicU32,
    over: AtomicBool,
    due: Mutex<Instant>,
}

impl Meter {
    pub fn new() -> Meter {
        Meter {
            bytes: AtomicU64::new(0),
            of: AtomicU64::new(0),
            layers: AtomicU32::new(0),
            layers_of: AtomicU32::new(0),
            over: AtomicBool::new(false),
            due: Mutex::new(Instant::now()),
        }
    }

    /// What is expected.
    pub fn expect(&self, bytes: u64, layers: usize) {
        self.of.store(bytes, Relaxed);
        self.layers_of.store(u32::try_from(layers).unwrap_or(u32::MAX), Relaxed);
        self.report();
    }

    fn came(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        // Whoever finds it locked need not report: somebody does.
        if let Ok(mut due) = self.due.try_lock()
            && *due <= Instant::now()
        {
            *due = Instant::now() + REPORT_EVERY;
            self.report();
        }
    }

    /// A layer is there; `bytes` of it did not have to come.
    pub fn layer(&self, bytes: u64) {
        self.layers.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.report();
    }

    /// Another layer failed: the rest need not go on.
    pub fn end(&self) {
        self.over.store(true, Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn report(&self) {
        tell(&Report::Progress(Progress {
            bytes: self.bytes.load(Relaxed),
            of: self.of.load(Relaxed),
            layers: self.layers.load(Relaxed),
            layers_of: self.layers_of.load(Relaxed),
        }));
    }
}

/// What is known of a blob before it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// `None`: only what is in it is known.
    pub digest: Option<Digest>,
    pub size: u64,
}

/// A blob on its way.
pub(super) struct Checked<'a> {
    inner: Box<dyn Read + Send + 'a>,
    expected: Expected,
    read: u64,
    hash: Option<Sha256>,
    meter: &'a Meter,
}

impl<'a> Checked<'a> {
    pub fn new(
        inner: Box<dyn Read + Send + 'a>,
        expected: Expected,
        meter: &'a Meter,
    ) -> Checked<'a> {
        let hash = expected.digest.map(|_| Sha256::new());
        Checked { inner, expected, read: 0, hash, meter }
    }

    /// Reads what is left, and tells whether it is what was expected.
    pub fn finish(mut self) -> Result<(), PullError> {
        io::copy(&mut self, &mut io::sink()).map_err(|source| PullError::Read { source })?;
        let (Some(hash), Some(wanted)) = (self.hash, self.expected.digest) else { return Ok(()) };
        let found = Digest::new(hash.finalize().into());
        if found != wanted {
            return Err(PullError::Digest { what: "content", wanted, found });
        }
        Ok(())
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.meter.is_over() {
            return Err(io::Error::other("another layer failed"));
        }
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        let wanted = self.expected.size;
        if self.read > wanted || (count == 0 && !buffer.is_empty() && self.read < wanted) {
            let text = if count == 0 { "ends after" } else { "has more than" };
            let bytes = if count == 0 { self.read } else { wanted };
            let text = format!("its content {text} {bytes} bytes; {wanted} were promised");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..count]);
        }
        self.meter.came(count);
        Ok(count)
    }
}

/// A blob of a registry.
pub(super) struct Download<'a> {
    registry: &'a Registry<'a>,
    host: usize,
    digest: Digest,
    offset: u64,
    body: Option<Body>,
    failures: u32,
}

impl<'a> Download<'a> {
    pub fn new(registry: &'a Registry<'a>, host: usize, digest: Digest) -> Download<'a> {
        Download { registry, host, digest, offset: 0, body: None, failures: 0 }
    }

    fn attempt(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        if self.body.is_none() {
            let (mut body, start) = self.registry.open(self.host, self.digest, self.offset)?;
            // It began anew: pass what is here already.
            let mut left = self.offset - start;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                match body.read(&mut buffer[..most])? {
                    0 => return Err(self.short()),
                    count => left -= count as u64,
                }
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().expect("made above");
        let count = body.read(buffer)?;
        self.offset += count as u64;
        Ok(count)
    }

    fn short(&self) -> RegistryError {
        let source = io::ErrorKind::UnexpectedEof.into();
        HttpError::Broken { host: "the registry".into(), source }.into()
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.attempt(buffer) {
                Ok(count) => {
                    self.failures = 0;
                    return Ok(count);
                }
                Err(error) if error.is_passing() && self.failures < RESUMES => {
                    std::thread::sleep(PAUSE * 2_u32.pow(self.failures.min(4)));
                    self.failures += 1;
                    self.body = None;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
