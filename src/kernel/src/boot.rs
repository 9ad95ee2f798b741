//! The identity of this boot, and its clock.

use std::fs;
use std::io;

use crate::Error;

/// Random identity of the running kernel; differs after each reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

const PATH: &str = "/proc/sys/kernel/random/boot_id";

impl BootId {
    /// Reads `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// If the file cannot be read or is not a UUID.
    pub fn read() -> Result<BootId, Error> {
        let text = fs::read_to_string(PATH).map_err(|e| Error::new("read", PATH, e))?;
        BootId::parse(&text).ok_or_else(|| {
            Error::new("parse", PATH, io::Error::new(io::ErrorKind::InvalidData, text))
        })
    }

    fn parse(text: &str) -> Option<BootId> {
        let digits: Vec<u32> = text
            .trim_end()
            .chars()
            .filter(|c| *c != '-')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()?;
        let mut id = [0; 16];
        if digits.len() != 32 {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Some(BootId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_uuid_and_nothing_else() {
        let id = BootId::parse("00112233-4455-6677-8899-aabbccddeeff\n").expect("a uuid");
        assert_eq!(id.0[0], 0);
        assert_eq!(id.0[15], 0xff);
        assert!(BootId::parse("0011").is_none());
        assert!(BootId::parse("x0112233-4455-6677-8899-aabbccddeeff").is_none());
    }

    #[test]
    fn is_stable() {
        assert_eq!(BootId::read().expect("read"), BootId::read().expect("read"));
    }
}
