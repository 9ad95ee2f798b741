//! The error of this crate: verb, object and the kernel's answer.

use std::io;

use thiserror::Error;

/// An error and all its causes in one line: what boundaries print. Displays never
/// print their own source.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// A kernel operation that failed.
#[derive(Debug, Error)]
#[error("failed to {verb} {object}")]
pub struct Error {
    /// What was being done.
    pub verb: &'static str,
    /// To what: a path, a pid, a name.
    pub object: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// An error with `source`.
    pub fn new(verb: &'static str, object: impl Into<String>, source: io::Error) -> Error {
        Error { verb, object: object.into(), source }
    }

    /// An error from the thread's `errno`.
    pub fn last(verb: &'static str, object: impl Into<String>) -> Error {
        Error::new(verb, object, io::Error::last_os_error())
    }

    /// The kernel's error number, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}
