//! Command line flags with Mesos' names, spellings and printed values.
//!
//! A daemon's flags are a table ([`master::FLAGS`], [`agent::FLAGS`]); [`Flags`]
//! holds one start's values. Sources, the later one wins: defaults, `MESOS_NAME`
//! in the environment, the command line (`--name=value`, `--name value`,
//! `--name`, `--no-name`). A value `file:///path` stands for the file's content.
//! What a flag does is decided by who reads it.

pub mod agent;
pub mod master;
mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value as Json;
use thiserror::Error;

use super::units;

pub use text::{nearest, usage};

/// Environment variables with this prefix are flags.
const ENVIRONMENT: &str = "MESOS_";

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; `file://` is not followed.
    Path,
    /// `true` or `false`, also by presence and `--no-`.
    Bool,
    /// A whole number from zero.
    Number,
    /// A number with a fraction.
    Float,
    /// As in [`units::parse_duration`].
    Duration,
    /// As in [`units::parse_bytes`].
    Bytes,
    /// An IP address.
    Ip,
    /// A JSON document; an absolute path stands for a file, as with `file://`.
    Json,
}

/// Whether setting a flag does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does what it says.
    Full,
    /// Accepted with a warning at start if it is not the default.
    NotYet,
    /// Refused if it is not the default: whoever sets it relies on a protection
    /// that is not there yet.
    Guard,
    /// Accepted silently: it has no meaning here and that harms nobody.
    Moot,
}

/// One row of a flags table.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Mesos' name.
    pub name: &'static str,
    /// The deprecated name, accepted with a warning.
    pub alias: Option<&'static str>,
    /// The form of the value.
    pub kind: Kind,
    /// As it would be typed; `None`: not set.
    pub default: Option<&'static str>,
    /// For `--help`.
    pub help: &'static str,
    /// Whether it works.
    pub support: Support,
    /// Whether there is no start without it.
    pub required: bool,
}

impl Flag {
    /// A supported flag.
    #[must_use]
    pub const fn new(
        name: &'static str,
        kind: Kind,
        default: Option<&'static str>,
        help: &'static str,
    ) -> Flag {
        let support = Support::Full;
        Flag { name, alias: None, kind, default, help, support, required: false }
    }

    /// A flag that is accepted but does nothing yet.
    #[must_use]
    pub const fn not_yet(mut self) -> Flag {
        self.support = Support::NotYet;
        self
    }

    /// A flag that does nothing yet and must not be believed to.
    #[must_use]
    pub const fn guard(mut self) -> Flag {
        self.support = Support::Guard;
        self
    }

    /// A flag without meaning here.
    #[must_use]
    pub const fn moot(mut self) -> Flag {
        self.support = Support::Moot;
        self
    }

    /// The deprecated name.
    #[must_use]
    pub const fn alias(mut self, name: &'static str) -> Flag {
        self.alias = Some(name);
        self
    }

    /// A flag that must be given.
    #[must_use]
    pub const fn required(mut self) -> Flag {
        self.required = true;
        self
    }
}

/// Why the flags of a start cannot be used, in Mesos' words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FlagError {
    /// No such flag; says which one was probably meant.
    #[error("Failed to load unknown flag '{name}'{via}{hint}")]
    Unknown {
        /// As given, without dashes.
        name: String,
        /// ` via 'no-name'` if negated.
        via: String,
        /// `; did you mean '--x'?` or nothing.
        hint: String,
    },
    /// An argument that is not a flag.
    #[error("Unexpected argument '{0}': flags are written '--name=value'")]
    Argument(String),
    /// Given twice, perhaps under both of its names.
    #[error("Flag '{name}' is already loaded via name '{earlier}'")]
    Duplicate {
        /// The second spelling.
        name: String,
        /// The first spelling.
        earlier: String,
    },
    /// `--no-name` for something that is not a boolean.
    #[error("Failed to load non-boolean flag '{0}' via 'no-{0}'")]
    NotBoolean(String),
    /// `--no-name=value`.
    #[error("Failed to load boolean flag '{name}' via 'no-{name}' with value '{value}'")]
    NegatedValue {
        /// The flag.
        name: String,
        /// The value.
        value: String,
    },
    /// `--name` without a value.
    #[error("Failed to load non-boolean flag '{0}': Missing value")]
    Missing(String),
    /// What it protects from is not prevented yet.
    #[error(
        "Flag '{0}' is not supported yet, and starting without what it asks for would not be \
         safe: leave it out, or keep this host on the daemon that has it"
    )]
    Guard(String),
    /// The value does not fit.
    #[error("Failed to load flag '{name}': {message}")]
    Value {
        /// The flag.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A required flag is not there.
    #[error("Flag '{0}' is required, but it was not provided")]
    Required(&'static str),
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Bool(bool),
    Number(u64),
    Float(f64),
    Duration(Duration),
    Bytes(u64),
    Ip(IpAddr),
    Json(Json),
}

/// The flags of one start.
#[derive(Debug, Clone)]
pub struct Flags {
    table: &'static [Flag],
    values: BTreeMap<&'static str, Value>,
    given: BTreeMap<&'static str, String>,
    warnings: Vec<String>,
}

impl Flags {
    /// Reads flags from arguments (without the program's name) and environment.
    /// If `help` or `version` is asked for, required flags may be missing.
    ///
    /// # Errors
    /// [`FlagError`]; for people, to be printed as it is.
    pub fn parse(
        table: &'static [Flag],
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Flags, FlagError> {
        let mut flags =
            Flags { table, values: BTreeMap::new(), given: BTreeMap::new(), warnings: Vec::new() };
        for flag in table {
            if let Some(default) = flag.default {
                let value = read(flag.kind, default).map_err(|message| bad(flag.name, message))?;
                flags.values.insert(flag.name, value);
            }
        }
        flags.read_arguments(arguments)?;
        flags.read_environment(environment)?;
        flags.check()?;
        Ok(flags)
    }

    fn read_arguments(
        &mut self,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<(), FlagError> {
        let mut arguments = arguments.into_iter().peekable();
        while let Some(argument) = arguments.next() {
            let argument = argument.trim();
            if argument == "--" {
                break;
            }
            let Some(given) = argument.strip_prefix("--") else {
                return Err(FlagError::Argument(argument.to_owned()));
            };
            let (name, value) = match given.split_once('=') {
                Some((name, value)) => (name.to_ascii_lowercase(), Some(value.to_owned())),
                None => (given.to_ascii_lowercase(), None),
            };
            // Friendlier than Mesos, which wants the `=`.
            let wants_value = self.find(&name).is_some_and(|f| f.kind != Kind::Bool);
            let value = match value {
                None if wants_value => arguments.next_if(|next| !next.starts_with("--")),
                value => value,
            };
            self.load(&name, value)?;
        }
        Ok(())
    }

    fn read_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), FlagError> {
        let mut seen: Vec<(String, String)> = environment
            .into_iter()
            .filter_map(|(n, v)| Some((n.strip_prefix(ENVIRONMENT)?.to_ascii_lowercase(), v)))
            .collect();
        seen.sort();
        for (name, value) in seen {
            let bare = name.strip_prefix("no-").unwrap_or(&name);
            // compat: other MESOS_ variables belong to executors and drivers.
            let Some(flag) = self.find(bare) else { continue };
            if !self.given.contains_key(flag.name) {
                self.load(&name, Some(value))?;
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&'static Flag> {
        self.table.iter().find(|f| f.name == name || f.alias == Some(name))
    }

    fn load(&mut self, given: &str, value: Option<String>) -> Result<(), FlagError> {
        let (name, negated) = match given.strip_prefix("no-") {
            Some(name) => (name, true),
            None => (given, false),
        };
        let flag = self.find(name).ok_or_else(|| self.unknown(name, negated))?;
        if let Some(earlier) = self.given.get(flag.name) {
            let (name, earlier) = (name.to_owned(), earlier.clone());
            return Err(FlagError::Duplicate { name, earlier });
        }
        let text = match (flag.kind, negated, value) {
            (Kind::Bool, true, Some(value)) if !value.is_empty() => {
                return Err(FlagError::NegatedValue { name: name.to_owned(), value });
            }
            (Kind::Bool, negated, value) => match value.filter(|v| !v.is_empty()) {
                Some(value) => value,
                None => (!negated).to_string(),
            },
            (_, true, _) => return Err(FlagError::NotBoolean(name.to_owned())),
            (_, false, None) => return Err(FlagError::Missing(name.to_owned())),
            (_, false, Some(value)) => value,
        };
        let text = fetch(flag.kind, text).map_err(|message| bad(name, message))?;
        let value = read(flag.kind, &text).map_err(|message| bad(name, message))?;
        if flag.alias == Some(name) {
            self.warnings
                .push(format!("Loaded deprecated flag '{name}': use '{}' instead", flag.name));
        }
        let unchanged = self.values.get(flag.name) == Some(&value);
        match flag.support {
            Support::Guard if !unchanged => return Err(FlagError::Guard(name.to_owned())),
            Support::NotYet if !unchanged => {
                self.warnings.push(format!("Flag '{name}' is not supported yet and has no effect"));
            }
            _ => {}
        }
        self.values.insert(flag.name, value);
        self.given.insert(flag.name, name.to_owned());
        Ok(())
    }

    fn unknown(&self, name: &str, negated: bool) -> FlagError {
        let names = self.table.iter().flat_map(|f| [Some(f.name), f.alias]).flatten();
        let hint = nearest(name, names).map_or_else(String::new, |near| {
            let no = if negated { "no-" } else { "" };
            format!("; did you mean '--{no}{near}'?")
        });
        let via = if negated { format!(" via 'no-{name}'") } else { String::new() };
        FlagError::Unknown { name: name.to_owned(), via, hint }
    }

    fn check(&self) -> Result<(), FlagError> {
        if self.is_on("help") || self.is_on("version") {
            return Ok(());
        }
        match self.table.iter().find(|f| f.required && !self.given.contains_key(f.name)) {
            Some(flag) => Err(FlagError::Required(flag.name)),
            None => Ok(()),
        }
    }

    fn is_on(&self, name: &str) -> bool {
        self.values.get(name) == Some(&Value::Bool(true))
    }

    fn value(&self, name: &str, kinds: &[Kind]) -> Option<&Value> {
        let flag = self.table.iter().find(|f| f.name == name);
        let flag = flag.expect("flags are read by names of their table");
        assert!(kinds.contains(&flag.kind), "flag '{name}' is read as what it is in its table");
        self.values.get(name)
    }

    /// A text, path or IP flag.
    ///
    /// # Panics
    /// This and the other readers: if the table has no such flag of that kind.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name, &[Kind::Text, Kind::Path])? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A boolean flag; false without a default.
    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        self.value(name, &[Kind::Bool]) == Some(&Value::Bool(true))
    }

    /// A boolean flag, or what it is without a value.
    #[must_use]
    pub fn bool_or(&self, name: &str, default: bool) -> bool {
        self.value(name, &[Kind::Bool]).map_or(default, |value| *value == Value::Bool(true))
    }

    /// A whole number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name, &[Kind::Number])? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A number with a fraction.
    #[must_use]
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.value(name, &[Kind::Float])? {
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// A duration.
    #[must_use]
    pub fn duration(&self, name: &str) -> Option<Duration> {
        match self.value(name, &[Kind::Duration])? {
            Value::Duration(duration) => Some(*duration),
            _ => None,
        }
    }

    /// A size in bytes.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<u64> {
        match self.value(name, &[Kind::Bytes])? {
            Value::Bytes(bytes) => Some(*bytes),
            _ => None,
        }
    }

    /// An IP address.
    #[must_use]
    pub fn ip(&self, name: &str) -> Option<IpAddr> {
        match self.value(name, &[Kind::Ip])? {
            Value::Ip(ip) => Some(*ip),
            _ => None,
        }
    }

    /// A JSON document.
    #[must_use]
    pub fn json(&self, name: &str) -> Option<&Json> {
        match self.value(name, &[Kind::Json])? {
            Value::Json(json) => Some(json),
            _ => None,
        }
    }

    /// Whether the flag was given, on the command line or in the environment.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Fills in what was found out at start, for example the launcher. A flag
    /// that was given keeps its value.
    ///
    /// # Errors
    /// [`FlagError::Value`] if the text does not fit the flag's kind.
    pub fn fill_in(&mut self, name: &'static str, text: &str) -> Result<(), FlagError> {
        let flag = self.find(name).ok_or_else(|| self.unknown(name, false))?;
        if !self.given.contains_key(flag.name) {
            let value = read(flag.kind, text).map_err(|message| bad(name, message))?;
            self.values.insert(flag.name, value);
        }
        Ok(())
    }

    /// What should be said at start: deprecated and unsupported flags.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every flag that has a value, sorted, printed as `/flags` shows it.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.values.iter().map(|(name, value)| (*name, value.show()))
    }

    /// The body of `/flags`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let flags: serde_json::Map<String, Json> =
            self.shown().map(|(name, value)| (name.to_owned(), Json::String(value))).collect();
        serde_json::json!({ "flags": flags }).to_string().into_bytes()
    }
}

impl Value {
    fn show(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Bool(on) => on.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Duration(duration) => units::show_duration(*duration),
            Value::Bytes(bytes) => units::show_bytes(*bytes),
            Value::Ip(ip) => ip.to_string(),
            Value::Json(json) => json.to_string(),
        }
    }
}

fn bad(name: &str, message: String) -> FlagError {
    FlagError::Value { name: name.to_owned(), message }
}

/// Follows `file://`; a trailing newline of the file is not part of the value.
fn fetch(kind: Kind, text: String) -> Result<String, String> {
    let path = match (kind, text.strip_prefix("file://")) {
        (Kind::Path, _) => return Ok(text),
        (_, Some(path)) => path,
        (Kind::Json, None) if text.starts_with('/') => text.as_str(),
        _ => return Ok(text),
    };
    let read = std::fs::read_to_string(path)
        .map_err(|error| format!("Error reading file '{path}': {error}"))?;
    Ok(read.trim_end_matches(['\n', '\r']).to_owned())
}

fn read(kind: Kind, text: &str) -> Result<Value, String> {
    let number = |_| format!("Failed to convert '{text}' to number");
    Ok(match kind {
        Kind::Text | Kind::Path => Value::Text(text.to_owned()),
        Kind::Bool => Value::Bool(match text {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return Err("Expecting a boolean (e.g., true or false)".to_owned()),
        }),
        Kind::Number => Value::Number(text.parse().map_err(|e: std::num::ParseIntError| {
            format!("Failed to convert '{text}' to number: {e}")
        })?),
        Kind::Float => Value::Float(text.parse::<f64>().map_err(|_| ()).map_err(number)?),
        Kind::Duration => Value::Duration(units::parse_duration(text).map_err(|e| e.to_string())?),
        Kind::Bytes => Value::Bytes(units::parse_bytes(text).map_err(|e| e.to_string())?),
        Kind::Ip => Value::Ip(text.parse().map_err(|_| format!("Failed to parse IP '{text}'"))?),
        Kind::Json => Value::Json(sorted(
            serde_json::from_str(text).map_err(|e| format!("Failed to parse JSON: {e}"))?,
        )),
    })
}

/// Objects with their keys in order, as Mesos keeps them.
fn sorted(json: Json) -> Json {
    match json {
        Json::Object(map) => {
            let ordered: BTreeMap<String, Json> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Json::Object(ordered.into_iter().collect())
        }
        Json::Array(items) => Json::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
