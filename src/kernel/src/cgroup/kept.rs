//! A file that is read again and again: opened at the first read, then kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;

/// A knob or statistics file behind a kept descriptor. An open cgroup file costs
/// the kernel about 4 kB, so [`KeptFile::close`] it when nobody reads for long.
#[derive(Debug)]
pub struct KeptFile {
    path: PathBuf,
    file: Option<File>,
}

impl KeptFile {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(path: PathBuf) -> KeptFile {
        KeptFile { path, file: None }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file into `buffer`, replacing what is there.
    ///
    /// # Errors
    /// It cannot be opened or read; the next call opens it again.
    pub fn read<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Error> {
        match self.read_at_start(buffer) {
            Ok(length) => Ok(&buffer[..length]),
            Err(source) => {
                self.file = None;
                Err(Error::io("read", &self.path, source))
            }
        }
    }

    /// Gives the descriptor back; the next read opens the file again.
    pub fn close(&mut self) {
        self.file = None;
    }

    fn read_at_start(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        // Files of seq_file come page by page: read until nothing is left.
        if buffer.len() < 4096 {
            buffer.resize(4096, 0);
        }
        let mut length = 0;
        loop {
            let got = file.read_at(&mut buffer[length..], length as u64)?;
            if got == 0 {
                return Ok(length);
            }
            length += got;
            if length == buffer.len() {
                buffer.resize(length * 2, 0);
            } else {
                return Ok(length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_content_and_opens_again() {
        let path = std::env::temp_dir().join(format!("kept-{}", std::process::id()));
        let mut kept = KeptFile::new(path.clone());
        let mut buffer = Vec::new();
        assert!(kept.read(&mut buffer).unwrap_err().is_missing());
        std::fs::write(&path, "1").unwrap();
        assert_eq!(kept.read(&mut buffer).unwrap(), b"1");
        let long = "x".repeat(10_000);
        std::fs::write(&path, &long).unwrap();
        assert_eq!(kept.read(&mut buffer).unwrap(), long.as_bytes());
        kept.close();
        std::fs::write(&path, "22").unwrap();
        assert_eq!(kept.read(&mut buffer).unwrap(), b"22");
        std::fs::remove_file(&path).unwrap();
    }
}
