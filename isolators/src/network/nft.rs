//! nftables through the program `nft`: whole transactions in its language, and what is
//! there as JSON (docs/decisions/0045).
//!
//! Only for processes that may wait: our CNI plugins.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Serialises all changes: who looks and then acts must not be overtaken.
const LOCK: &str = "/run/bulkhead-nft.lock";

/// An element of a map or a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The map or set.
    pub map: String,
    /// As it is written.
    pub key: String,
    /// Where it leads; of a set, nothing.
    pub target: Option<String>,
    /// Its comment: whose it is.
    pub tag: String,
}

/// Held while something is looked at and changed.
///
/// # Errors
/// For people.
pub fn lock() -> Result<File, String> {
    let locked = File::create(LOCK).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|error| format!("failed to lock {LOCK}: {error}"))
}

fn run(arguments: &[&str], input: &str) -> Result<Output, String> {
    let run = || -> io::Result<Output> {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    run().map_err(|error| format!("failed to run the program nft: {error}"))
}

/// One transaction.
///
/// # Errors
/// For people; nothing has changed then.
pub fn apply(text: &str) -> Result<(), String> {
    let output = run(&["-f", "-"], text)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("failed to change nftables: {}", said.trim()))
        }
    }
}

/// All elements of a table; none if there is no such table.
///
/// # Errors
/// For people.
pub fn list(family: &str, table: &str) -> Result<Vec<Element>, String> {
    let output = run(&["-j", "list", "table", family, table], "")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return match said.contains("No such file or directory") {
            true => Ok(Vec::new()),
            false => Err(format!("failed to list nftables: {}", said.trim())),
        };
    }
    let listing: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("failed to read nft's answer: {error}"))?;
    Ok(read(&listing))
}

/// Text that adds an element.
#[must_use]
pub fn add(family: &str, table: &str, element: &Element) -> String {
    let Element { map, key, target, tag } = element;
    let target = target.as_ref().map(|target| format!(" : {target}")).unwrap_or_default();
    format!("add element {family} {table} {map} {{ {key} comment \"{tag}\"{target} }}\n")
}

/// Text that removes an element.
#[must_use]
pub fn remove(family: &str, table: &str, element: &Element) -> String {
    format!("delete element {family} {table} {} {{ {} }}\n", element.map, element.key)
}

/// Text that removes a whole table.
#[must_use]
pub fn remove_table(family: &str, table: &str) -> String {
    format!("delete table {family} {table}\n")
}

/// Elements in a listing.
fn read(listing: &Value) -> Vec<Element> {
    let entries = listing.get("nftables").and_then(Value::as_array);
    let entries = entries.into_iter().flatten();
    let maps = entries.filter_map(|entry| entry.get("map").or_else(|| entry.get("set")));
    let mut all = Vec::new();
    for map in maps {
        let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
        let elements = map.get("elem").and_then(Value::as_array);
        for entry in elements.into_iter().flatten() {
            let (key, target) = match entry.as_array().map(Vec::as_slice) {
                Some([key, target]) => (key, Some(words(target))),
                _ => (entry, None),
            };
            let (key, tag) = match key.get("elem") {
                Some(inner) => (
                    words(inner.get("val").unwrap_or(&Value::Null)),
                    inner.get("comment").and_then(Value::as_str).unwrap_or_default(),
                ),
                None => (words(key), ""),
            };
            all.push(Element { map: name.to_owned(), key, target, tag: tag.to_owned() });
        }
    }
    all
}

/// A value as it is written.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(object) => match object.get("concat").and_then(Value::as_array) {
            Some(parts) => parts.iter().map(words).collect::<Vec<_>>().join(" . "),
            None => value.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_and_back() {
        let element = |map: &str, key: &str, target: Option<&str>| Element {
            map: map.into(),
            key: key.into(),
            target: target.map(str::to_owned),
            tag: "t".into(),
        };
        let all =
            [element("m", "tcp . 8080", Some("10.0.0.2 . 80")), element("s", "10.0.0.2", None)];
        assert_eq!(
            add("inet", "T", &all[0]),
            "add element inet T m { tcp . 8080 comment \"t\" : 10.0.0.2 . 80 }\n"
        );
        assert_eq!(add("inet", "T", &all[1]), "add element inet T s { 10.0.0.2 comment \"t\" }\n");
        assert_eq!(remove("inet", "T", &all[0]), "delete element inet T m { tcp . 8080 }\n");
        let listing = json!({ "nftables": [{ "metainfo": {} },
            { "map": { "name": "m", "elem": [[
                { "elem": { "val": { "concat": ["tcp", 8080] }, "comment": "t" } },
                { "concat": ["10.0.0.2", 80] }]] } },
            { "set": { "name": "s", "elem": [{ "elem": { "val": "10.0.0.2", "comment": "t" } }] } },
            { "set": { "name": "empty" } }] });
        assert_eq!(read(&listing), all);
        assert!(read(&Value::Null).is_empty());
    }
}
