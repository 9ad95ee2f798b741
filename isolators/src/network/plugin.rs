//! What our own CNI plugins have in common: variables, commands, answers, marks.
//!
//! They are in `bulkhead-helper`, under their own names; one process per call.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::cni::version::versions;

/// What went wrong, with its code for whoever called.
#[derive(Debug)]
pub struct Failure {
    code: u32,
    text: String,
}

/// How a call ended.
pub type Outcome<T> = Result<T, Failure>;

/// The arguments are wrong. (Codes below 100 are the specification's.)
pub const BAD_ARGUMENTS: u32 = 100;
/// The other plugin failed.
pub const DELEGATE_FAILED: u32 = 101;
/// nftables could not be changed, or are not as they should be.
pub const RULES_FAILED: u32 = 102;

/// A failure.
pub fn fail<T>(code: u32, text: impl Into<String>) -> Outcome<T> {
    Err(Failure { code, text: text.into() })
}

/// A call of a plugin.
#[derive(Debug)]
pub struct Call {
    /// `ADD`, `DEL`, `CHECK`, `GC` or `STATUS`.
    pub command: String,
    /// The container; not for `GC` and `STATUS`.
    pub container: String,
    /// The interface in it; not for `GC` and `STATUS`.
    pub interface: String,
    /// Where other plugins are.
    pub path: String,
    /// The configuration, as it came.
    pub input: Vec<u8>,
    /// The same, read.
    pub conf: Value,
}

impl Call {
    fn network(&self) -> &str {
        self.conf["name"].as_str().unwrap_or_default()
    }

    /// What marks all that is done for this attachment.
    #[must_use]
    pub fn tag(&self) -> String {
        tag(self.network(), &self.container, &self.interface)
    }

    /// Whether a mark is of this network, and of no attachment that is still valid.
    #[must_use]
    pub fn is_stale(&self, mark: &str) -> bool {
        let valid = self.conf["cni.dev/valid-attachments"].as_array();
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let stays = valid.into_iter().flatten().any(|entry| {
            mark == tag(self.network(), &text(entry, "containerID"), &text(entry, "ifname"))
        });
        mark.starts_with(&tag_of_network(self.network())) && !stays
    }
}

/// Network, attachment, and for people.
fn tag(network: &str, container: &str, interface: &str) -> String {
    let shown: String = container.chars().take(64).collect();
    format!("{}{:016x}:{shown}", tag_of_network(network), hash(&[container, interface]))
}

fn tag_of_network(network: &str) -> String {
    format!("{:016x}:", hash(&[network]))
}

/// Whom a mark tells people of.
#[must_use]
pub fn container_of(mark: &str) -> &str {
    mark.rsplit(':').next().unwrap_or_default()
}

/// FNV-1a: marks must be short, and the same in every version of this program.
pub fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Serves one call: reads it, has it done and prints the answer.
pub fn main(serve: fn(&Call) -> Outcome<Option<Value>>) -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut input = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut input);
    let conf: Value = serde_json::from_slice(&input).unwrap_or_default();
    let version = conf["cniVersion"].as_str().unwrap_or("0.2.0").to_owned();
    let call = Call {
        command: variable("CNI_COMMAND"),
        container: variable("CNI_CONTAINERID"),
        interface: variable("CNI_IFNAME"),
        path: variable("CNI_PATH"),
        input,
        conf,
    };
    let served = match read {
        Ok(_) => dispatch(&call, &version, serve),
        Err(error) => fail(BAD_ARGUMENTS, format!("failed to read the configuration: {error}")),
    };
    let (answer, code) = match served {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(Failure { code, text }) => {
            let answer = json!({ "cniVersion": version, "code": code, "msg": text });
            (Some(answer), ExitCode::FAILURE)
        }
    };
    if let Some(answer) = answer {
        // Whoever asked may be gone.
        let _ = writeln!(io::stdout(), "{answer}");
    }
    code
}

fn dispatch(
    call: &Call,
    version: &str,
    serve: fn(&Call) -> Outcome<Option<Value>>,
) -> Outcome<Option<Value>> {
    match call.command.as_str() {
        "VERSION" => Ok(Some(json!({ "cniVersion": version, "supportedVersions": versions() }))),
        "ADD" | "DEL" | "CHECK" if call.container.is_empty() || call.interface.is_empty() => {
            fail(BAD_ARGUMENTS, "CNI_CONTAINERID and CNI_IFNAME must be set")
        }
        "ADD" | "DEL" | "CHECK" | "GC" | "STATUS" => serve(call),
        other => fail(BAD_ARGUMENTS, format!("CNI_COMMAND is '{other}', expected ADD, DEL, ...")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let call = |conf: Value| Call {
            command: "GC".into(),
            container: "c1".into(),
            interface: "eth0".into(),
            path: String::new(),
            input: Vec::new(),
            conf,
        };
        let own = call(json!({ "name": "n" })).tag();
        assert_eq!(container_of(&own), "c1");
        assert_ne!(own, tag("n", "c1", "eth1"));
        assert!(tag("n", &"x".repeat(500), "eth0").len() <= 128);
        let valid = json!([{ "containerID": "c1", "ifname": "eth0" }]);
        let collect = call(json!({ "name": "n", "cni.dev/valid-attachments": valid }));
        assert!(!collect.is_stale(&own) && collect.is_stale(&tag("n", "c2", "eth0")));
        assert!(!collect.is_stale(&tag("m", "c2", "eth0")));
    }
}
