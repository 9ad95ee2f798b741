//! What the master refuses, and the words it says so with.
//!
//! Pure checks over messages and the visible state; the wording is that of
//! Mesos, which frameworks and people know. An error is a `String` because it
//! is only ever shown: nobody distinguishes them.

pub mod agent;
pub mod call;
pub mod framework;
pub mod group;
pub mod operation;
pub mod parts;
pub mod resources;
pub mod task;

/// What a check says.
pub type Check = Result<(), String>;

/// Longest id that is accepted, in bytes.
const MAX_ID: usize = 255;

/// Ids become file names on agents: no separators, no control characters.
///
/// # Errors
/// What is wrong with it.
pub fn id(id: &str) -> Check {
    if id.is_empty() {
        return Err("ID must not be empty".into());
    }
    if id.len() > MAX_ID {
        return Err("ID must not be greater than 255 characters".into());
    }
    if id == "." || id == ".." {
        return Err(format!("'{id}' is disallowed"));
    }
    if id.bytes().any(|b| b.is_ascii_control() || b == b'/' || b == b'\\') {
        return Err(format!("'{id}' contains invalid characters"));
    }
    Ok(())
}

fn expect(present: bool, what: &str) -> Check {
    if present { Ok(()) } else { Err(format!("Expecting '{what}' to be present")) }
}

#[cfg(test)]
mod tests {
    use super::id;

    #[test]
    fn ids() {
        let long = "x".repeat(256);
        let rows = [
            ("ok.1", None),
            ("", Some("ID must not be empty")),
            (long.as_str(), Some("ID must not be greater than 255 characters")),
            ("..", Some("'..' is disallowed")),
            ("a/b", Some("'a/b' contains invalid characters")),
            ("a\\b", Some("'a\\b' contains invalid characters")),
            ("a\nb", Some("'a\nb' contains invalid characters")),
        ];
        for (given, wanted) in rows {
            assert_eq!(id(given).err().as_deref(), wanted, "{given:?}");
        }
    }
}
