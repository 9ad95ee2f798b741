//! What reads bytes from strangers during a pull, for the fuzzer (`tests/fuzz`): each says
//! in a word how it went.

use std::io::Read;

use super::auth::challenges;
use super::manifest::{self, Parsed, Platform};
use super::tar::Reader;

/// A manifest.
#[must_use]
pub fn manifest(bytes: &[u8]) -> String {
    match manifest::parse(bytes, &Platform::own()) {
        Ok(Parsed::Image(image)) => format!("image of {}", image.layers.len().min(3)),
        Ok(Parsed::Choice(_)) => "choice".into(),
        Err(error) => error.to_string(),
    }
}

/// An archive, read in pieces of `piece` bytes: its entries and all their content.
#[must_use]
pub fn archive(bytes: &[u8], piece: usize) -> String {
    let mut reader = Reader::new(Pieces { bytes, piece: piece.max(1) });
    let (mut buffer, mut told) = (vec![0; 512], String::new());
    loop {
        match reader.next() {
            Ok(Some(entry)) => told.push_str(&format!("{:?} {} ", entry.kind, entry.size)),
            Ok(None) => return told,
            Err(error) => return format!("{told}{error}"),
        }
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return format!("{told}{error}"),
            }
        }
    }
}

/// The value of a `WWW-Authenticate`.
#[must_use]
pub fn ways_in(text: &str) -> String {
    let schemes = challenges(text).into_iter().map(|challenge| challenge.parameters.len());
    schemes.take(4).map(|count| count.to_string()).collect()
}

struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(self.piece);
        self.bytes.read(&mut buffer[..most])
    }
}
