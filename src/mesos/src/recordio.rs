//! RecordIO: the framing of event streams, `<length in decimal>\n<bytes>`.
//!
//! Used by scheduler, executor and operator streams in both directions.

use thiserror::Error;

/// Longest accepted length prefix: twenty digits hold any 64-bit number.
const MAX_PREFIX: usize = 20;

/// Appends one record to `out`.
pub fn encode(record: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(record.len().to_string().as_bytes());
    out.push(b'\n');
    out.extend_from_slice(record);
}

/// Why a byte stream is not RecordIO. The stream cannot be continued after it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// The length line is not a decimal number.
    #[error("failed to decode record length: expected decimal digits and a newline, got {0:?}")]
    Length(String),
    /// The record is longer than this decoder accepts.
    #[error("record of {len} bytes is over the limit of {max} bytes")]
    TooLong {
        /// Announced length in bytes.
        len: u64,
        /// The decoder's limit in bytes.
        max: usize,
    },
}

/// Incremental decoder; feed it chunks as they arrive.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
    max: usize,
}

impl Decoder {
    /// A decoder that refuses records of more than `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Decoder { buffer: Vec::new(), at: 0, max }
    }

    /// Adds received bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole record, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`RecordError`] when the stream is broken for good.
    pub fn next_record(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        let rest = &self.buffer[self.at..];
        let Some(newline) = rest.iter().take(MAX_PREFIX + 1).position(|b| *b == b'\n') else {
            let digits = rest.iter().take(MAX_PREFIX + 1).all(u8::is_ascii_digit);
            return if rest.len() > MAX_PREFIX || !digits {
                Err(bad_length(rest))
            } else {
                Ok(None)
            };
        };
        let prefix = &rest[..newline];
        let len: u64 = std::str::from_utf8(prefix)
            .ok()
            .filter(|s| s.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| bad_length(prefix))?;
        let size = usize::try_from(len)
            .ok()
            .filter(|l| *l <= self.max)
            .ok_or(RecordError::TooLong { len, max: self.max })?;
        let start = newline + 1;
        if rest.len() - start < size {
            return Ok(None);
        }
        let record = rest[start..start + size].to_vec();
        self.at += start + size;
        Ok(Some(record))
    }

    /// Whether bytes of an unfinished record are held back.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.at < self.buffer.len()
    }
}

fn bad_length(bytes: &[u8]) -> RecordError {
    RecordError::Length(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_PREFIX)]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_any_chunking() {
        let mut wire = Vec::new();
        for record in [&b"one"[..], b"", b"3\nx", &[0u8; 1000]] {
            encode(record, &mut wire);
        }
        for chunk in [1, 2, 7, 4096] {
            let mut decoder = Decoder::new(1 << 20);
            let mut seen = Vec::new();
            for part in wire.chunks(chunk) {
                decoder.feed(part);
                while let Some(r) = decoder.next_record().expect("valid stream") {
                    seen.push(r);
                }
            }
            assert_eq!(seen, [b"one".to_vec(), vec![], b"3\nx".to_vec(), vec![0; 1000]]);
            assert!(!decoder.is_partial());
        }
    }

    #[test]
    fn broken_lengths_are_refused() {
        for bad in ["x\n", "-1\n", "\n", "1 \n", "111111111111111111111111"] {
            let mut decoder = Decoder::new(100);
            decoder.feed(bad.as_bytes());
            assert!(matches!(decoder.next_record(), Err(RecordError::Length(_))), "{bad:?}");
        }
        let mut decoder = Decoder::new(100);
        decoder.feed(b"101\n");
        assert_eq!(decoder.next_record(), Err(RecordError::TooLong { len: 101, max: 100 }));
    }
}
