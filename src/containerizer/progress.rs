//! How far a launch is that takes its time, for people, frameworks and `/containers`.

use std::fmt;

use isolators::quantity::readable;
use serde_json::{Value, json};

use super::images;
use crate::fetch;

/// What a launch is busy with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Its image is being pulled.
    Pulling(images::Progress),
    /// Its URIs are being fetched.
    Fetching(fetch::Progress),
}

impl Progress {
    /// As a member of an object in `/containers`: its name and value.
    #[must_use]
    pub fn to_json(&self) -> (&'static str, Value) {
        match self {
            Progress::Pulling(far) => ("provisioning", far.to_json()),
            Progress::Fetching(far) => (
                "fetching",
                json!({
                    "uris": far.uris, "uris_done": far.uris_done, "name": far.name,
                    "bytes": far.bytes, "bytes_done": far.bytes_done,
                }),
            ),
        }
    }
}

/// `Fetching 'big.tgz', 3 of 7: 210.0 MB of 1.2 GB`
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, of) = match self {
            Progress::Pulling(far) => {
                f.write_str("Pulling the image")?;
                if far.layers > 0 {
                    write!(f, ", {} of {} layers", far.layers_done, far.layers)?;
                }
                (far.bytes_done, Some(far.bytes).filter(|bytes| *bytes > 0))
            }
            Progress::Fetching(far) => {
                write!(f, "Fetching '{}'", far.name)?;
                if far.uris > 1 {
                    write!(f, ", {} of {}", far.uris_done + 1, far.uris)?;
                }
                (far.bytes_done, far.bytes)
            }
        };
        match of {
            Some(of) => write!(f, ": {} of {}", readable(done), readable(of)),
            None if done > 0 => write!(f, ": {}", readable(done)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetching(uris: usize, bytes: Option<u64>, bytes_done: u64) -> Progress {
        let name = "big.tgz".into();
        Progress::Fetching(fetch::Progress { uris, uris_done: uris - 1, name, bytes, bytes_done })
    }

    #[test]
    fn people_read_how_far_it_is() {
        let pulling = |layers, bytes| {
            let (layers_done, bytes_done) = (layers / 2, bytes / 2);
            Progress::Pulling(images::Progress { layers, layers_done, bytes, bytes_done })
        };
        for (progress, text) in [
            (fetching(1, None, 0), "Fetching 'big.tgz'"),
            (fetching(1, None, 5 << 20), "Fetching 'big.tgz': 5.0 MB"),
            (fetching(1, Some(1 << 30), 0), "Fetching 'big.tgz': 0 B of 1.0 GB"),
            (fetching(7, Some(3 << 30), 1 << 30), "Fetching 'big.tgz', 7 of 7: 1.0 GB of 3.0 GB"),
            (pulling(0, 0), "Pulling the image"),
            (pulling(4, 2 << 20), "Pulling the image, 2 of 4 layers: 1.0 MB of 2.0 MB"),
        ] {
            assert_eq!(progress.to_string(), text);
        }
        let (name, value) = fetching(2, Some(9), 3).to_json();
        let text = r#"{"bytes":9,"bytes_done":3,"name":"big.tgz","uris":2,"uris_done":1}"#;
        let expected: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!((name, value), ("fetching", expected));
    }
}
