//! What a helper hears and says: the other end of [`super::Program`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads the job, one line of JSON on standard input. The input stays open: its end
/// says that the agent is gone.
///
/// # Errors
/// It cannot be read, or is none, or not of the `version` of this program.
pub fn read_job<J: DeserializeOwned>(version: u32, of: impl Fn(&J) -> u32) -> io::Result<J> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    while !bytes.ends_with(b"\n") {
        match stdin.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    let job: J = serde_json::from_slice(&bytes)?;
    let found = of(&job);
    if found != version {
        let text = format!("it is of version {found}, this program of {version}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(job)
}

/// Tells the agent; if it is gone, so are we.
pub fn tell(report: &impl Serialize) {
    let line = serde_json::to_string(report).unwrap_or_default() + "\n";
    let mut output = io::stdout().lock();
    let _ = output.write_all(line.as_bytes());
    let _ = output.flush();
}
