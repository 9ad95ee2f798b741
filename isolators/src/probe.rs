//! [`FileProbe`]: figures from one file behind a kept descriptor.

use std::path::PathBuf;

use kernel::cgroup::KeptFile;
use mesos::ResourceStatistics;

use crate::api::{IsolatorError, Probe};

/// Fills statistics from a file's bytes. Pure; what it cannot parse it leaves.
pub type Fill = fn(&[u8], &mut ResourceStatistics);

/// A file that is sampled again and again.
#[derive(Debug)]
pub struct FileProbe {
    isolator: &'static str,
    source: &'static str,
    file: KeptFile,
    fill: Fill,
}

impl FileProbe {
    /// `source` is the file's name, `path` where it is.
    #[must_use]
    pub fn boxed(
        isolator: &'static str,
        source: &'static str,
        path: PathBuf,
        fill: Fill,
    ) -> Box<dyn Probe> {
        Box::new(FileProbe { isolator, source, file: KeptFile::new(path), fill })
    }
}

impl Probe for FileProbe {
    fn source(&self) -> &'static str {
        self.source
    }

    fn sample(
        &mut self,
        buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        match self.file.read(buffer) {
            Ok(text) => {
                (self.fill)(text, statistics);
                Ok(())
            }
            Err(error) => {
                let path = self.file.path().display().to_string();
                Err(IsolatorError::new(self.isolator, "sample", path, error))
            }
        }
    }

    fn release(&mut self) {
        self.file.close();
    }
}
