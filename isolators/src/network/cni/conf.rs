//! Network configurations: one plugin (`.conf`) or a chain of them (`.conflist`). Pure.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::version::{UNSAID, Version};

/// A network.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// What tasks call it.
    pub name: String,
    /// The versions it is said to be in, at least one.
    pub versions: Vec<Version>,
    /// In the order in which they add a container.
    pub plugins: Vec<Plugin>,
    /// CHECK is not to be asked.
    pub disable_check: bool,
    /// GC is not to be asked: somebody else uses the network, too.
    pub disable_gc: bool,
    /// Plugins of the directory named after the network follow.
    pub load_more: bool,
}

/// One plugin of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// The program's name.
    pub kind: String,
    /// Its configuration, as it was written.
    pub conf: Map<String, Value>,
}

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{}: {text}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ConfError {
    file: PathBuf,
    line: Option<usize>,
    text: String,
}

impl ConfError {
    /// An error about a whole file.
    pub fn of_file(file: &Path, text: impl Into<String>) -> ConfError {
        ConfError { file: file.to_owned(), line: None, text: text.into() }
    }
}

/// A file that is being read.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// An error at the line where `key` is first said.
    fn error(&self, key: &str, text: impl Into<String>) -> ConfError {
        let quoted = format!("\"{key}\"");
        let line = self.text.lines().position(|line| line.contains(&quoted)).map(|at| at + 1);
        ConfError { file: self.file.to_owned(), line, text: text.into() }
    }

    fn object(&self) -> Result<Map<String, Value>, ConfError> {
        let failed = |line, text| ConfError { file: self.file.to_owned(), line, text };
        match serde_json::from_str(self.text) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(failed(Some(1), "expected an object in braces".into())),
            Err(error) => {
                // The place is said already.
                let text = error.to_string();
                let text = text.split(" at line ").next().unwrap_or_default().to_owned();
                Err(failed(Some(error.line()).filter(|line| *line > 0), text))
            }
        }
    }

    fn flag(&self, object: &Map<String, Value>, key: &str) -> Result<bool, ConfError> {
        match object.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            // Some writers of configurations quote them.
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(other) => Err(self.error(key, format!("'{key}' is {other}, not true or false"))),
        }
    }

    fn version(&self, key: &str, value: &Value) -> Result<Version, ConfError> {
        let text = value.as_str();
        let text = text.ok_or_else(|| self.error(key, format!("'{key}' is {value}, not text")))?;
        text.parse().map_err(|why| self.error(key, format!("'{key}': {why}")))
    }

    fn versions(&self, object: &Map<String, Value>) -> Result<Vec<Version>, ConfError> {
        let mut all = Vec::new();
        if let Some(value) = object.get("cniVersion").filter(|value| **value != json!("")) {
            all.push(self.version("cniVersion", value)?);
        }
        match object.get("cniVersions") {
            None => {}
            Some(Value::Array(list)) => {
                for value in list {
                    all.push(self.version("cniVersions", value)?);
                }
            }
            Some(_) => return Err(self.error("cniVersions", "'cniVersions' is not a list")),
        }
        all.sort_unstable();
        all.dedup();
        Ok(if all.is_empty() { vec![UNSAID] } else { all })
    }

    fn plugin(&self, value: Value) -> Result<Plugin, ConfError> {
        let Value::Object(conf) = value else {
            return Err(self.error("plugins", "a plugin is not an object in braces"));
        };
        let kind = match conf.get("type") {
            None => return Err(self.error("plugins", "a plugin without a 'type'")),
            Some(Value::String(kind)) => kind.clone(),
            Some(other) => return Err(self.error("type", format!("'type' is {other}, not text"))),
        };
        if kind.is_empty() || kind.starts_with('.') || kind.contains(['/', '\\', '\0']) {
            let text = format!("'type' is '{kind}', expected the name of a program");
            return Err(self.error("type", text));
        }
        Ok(Plugin { kind, conf })
    }
}

/// Whether the specification allows a name of a network, or an id of a container.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(rest)
}

impl Network {
    /// Reads a configuration; `file` is for messages.
    ///
    /// # Errors
    /// Says file, line and what is wrong.
    pub fn parse(file: &Path, text: &str) -> Result<Network, ConfError> {
        let source = Source { file, text };
        let mut object = source.object()?;
        let name = match object.get("name") {
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(source.error("name", "'name' is not text")),
            None => return Err(source.error("", "the network has no 'name'")),
        };
        if !is_name(&name) {
            let text = format!(
                "'name' is '{name}', expected letters, digits, '_', '.' and '-', not first"
            );
            return Err(source.error("name", text));
        }
        let versions = source.versions(&object)?;
        let disable_check = source.flag(&object, "disableCheck")?;
        let disable_gc = source.flag(&object, "disableGC")?;
        let inlined = source.flag(&object, "loadOnlyInlinedPlugins")?;
        let chain = object.contains_key("plugins") || object.contains_key("loadOnlyInlinedPlugins");
        let plugins = match object.remove("plugins") {
            Some(Value::Array(list)) => {
                list.into_iter().map(|value| source.plugin(value)).collect::<Result<Vec<_>, _>>()?
            }
            Some(_) => return Err(source.error("plugins", "'plugins' is not a list")),
            None if chain && inlined => {
                let text = "'loadOnlyInlinedPlugins' without 'plugins'";
                return Err(source.error("loadOnlyInlinedPlugins", text));
            }
            None if chain => Vec::new(),
            None if !object.contains_key("type") => {
                return Err(source.error("name", "the network has neither 'type' nor 'plugins'"));
            }
            None => vec![source.plugin(Value::Object(object))?],
        };
        let load_more = chain && !inlined;
        Ok(Network { name, versions, plugins, disable_check, disable_gc, load_more })
    }

    /// Reads one more plugin of the chain.
    ///
    /// # Errors
    /// As [`Network::parse`].
    pub fn add(&mut self, file: &Path, text: &str) -> Result<(), ConfError> {
        let source = Source { file, text };
        let object = source.object()?;
        self.plugins.push(source.plugin(Value::Object(object))?);
        Ok(())
    }

    /// As it is written down for the time when the file may be another.
    #[must_use]
    pub fn to_json(&self, version: Version) -> Value {
        let plugins: Vec<&Map<String, Value>> = self.plugins.iter().map(|p| &p.conf).collect();
        json!({
            "cniVersion": version.to_string(),
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "loadOnlyInlinedPlugins": true,
            "plugins": plugins,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Network, String> {
        Network::parse(Path::new("/etc/n.conf"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_plugin() {
        let network = parse(r#"{"name":"a.b-c_1","type":"bridge","x":1}"#).unwrap();
        assert_eq!((network.name.as_str(), network.plugins.len()), ("a.b-c_1", 1));
        assert_eq!((network.versions.as_slice(), network.load_more), (&[UNSAID][..], false));
        assert_eq!(network.plugins[0].conf["x"], 1);
    }

    #[test]
    fn a_chain_and_back() {
        let text = r#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.0.0"],"name":"n",
            "disableCheck":"true","disableGC":true,
            "plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let network = parse(text).unwrap();
        assert_eq!(network.versions.len(), 2);
        assert!(network.disable_check && network.disable_gc && network.load_more);
        let again = parse(&network.to_json(network.versions[1]).to_string()).unwrap();
        assert_eq!(again.plugins, network.plugins);
        assert_eq!(again.versions, network.versions[1..]);
        assert!(again.disable_check && !again.load_more);
    }

    #[test]
    fn more_plugins_from_elsewhere() {
        let mut network = parse("{\"name\":\"n\",\"plugins\":[]}").unwrap();
        assert!(network.load_more);
        network.add(Path::new("/etc/n/1.conf"), r#"{"type":"tuning"}"#).unwrap();
        assert_eq!(network.plugins[0].kind, "tuning");
        let error = network.add(Path::new("/etc/n/2.conf"), "{}").unwrap_err();
        assert_eq!(error.to_string(), "/etc/n/2.conf: a plugin without a 'type'");
    }

    #[test]
    fn errors_say_where() {
        let rows = [
            ("{\n \"name\": \"n\",\n \"type\" \"x\"}", "/etc/n.conf:3: expected `:`"),
            ("[]", "/etc/n.conf:1: expected an object in braces"),
            ("{\"type\":\"x\"}", "/etc/n.conf: the network has no 'name'"),
            (
                "{\n\n\"name\":\"a/b\",\"type\":\"x\"}",
                "/etc/n.conf:3: 'name' is 'a/b', expected letters, digits, '_', '.' and '-', not \
                 first",
            ),
            ("{\"name\":\"n\"}", "/etc/n.conf:1: the network has neither 'type' nor 'plugins'"),
            (
                "{\"name\":\"n\",\n\"type\":\"../x\"}",
                "/etc/n.conf:2: 'type' is '../x', expected the name of a program",
            ),
            (
                "{\"name\":\"n\",\"type\":\"x\",\n\n\"cniVersion\":\"one\"}",
                "/etc/n.conf:3: 'cniVersion': 'one' is not a version such as 1.0.0",
            ),
            (
                "{\"name\":\"n\",\"type\":\"x\",\"disableGC\":3}",
                "/etc/n.conf:1: 'disableGC' is 3, not true or false",
            ),
            ("{\"name\":\"n\",\n\"plugins\":{}}", "/etc/n.conf:2: 'plugins' is not a list"),
            ("", "/etc/n.conf:1: EOF while parsing a value"),
        ];
        for (text, wanted) in rows {
            assert_eq!(parse(text).unwrap_err(), wanted, "{text}");
        }
    }
}
