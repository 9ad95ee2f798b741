//! What operator and task ask of the logger: names, parameters, overrides. Pure.
//!
//! Parameters come as Mesos' `--modules` gives them, and again for each container
//! from those variables of its command that begin with the prefix
//! (`CONTAINER_LOGGER_MAX_STDOUT_SIZE=2MB`).

use std::path::PathBuf;

use super::options::{self, Author, Rotation};
use super::order::Files;
use super::rotation::PAGE;
use crate::daemon::flags::nearest;
use crate::daemon::units::parse_bytes;

/// Mesos' module that rotates files.
pub const LOGROTATE: &str = "org_apache_mesos_LogrotateContainerLogger";
/// The module of DC/OS that writes to the journal, to files, or to both.
pub const JOURNALD: &str = "com_mesosphere_mesos_JournaldLogger";
/// Largest file unless somebody says otherwise: 10 MB, as in Mesos.
pub const MAX_SIZE: u64 = 10 << 20;
/// Old files kept where nobody gave logrotate's options.
pub const KEEP: u32 = 9;

/// Whose parameters are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Those of [`LOGROTATE`], and of our own flags.
    Logrotate,
    /// Those of [`JOURNALD`].
    Journald,
}

/// What is asked for: by the operator for all containers, or for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whose parameters are understood.
    pub dialect: Dialect,
    /// Variables of a command that begin so are parameters.
    pub prefix: String,
    /// Lines go to the journal.
    pub journal: bool,
    /// Bytes go to files in the sandbox.
    pub files: bool,
    /// Files of standard output and error.
    pub streams: [Stream; 2],
    /// The logrotate program, for options that need it.
    pub logrotate: PathBuf,
    /// Socket of the journal.
    pub socket: PathBuf,
    /// More fields for the journal.
    pub extra: Vec<(String, String)>,
    /// Most bytes of labels that a container's lines carry.
    pub max_labels: u64,
}

/// One stream's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Most bytes of one file.
    pub max_size: u64,
    /// How old files are kept.
    pub rotation: Rotation,
}

impl Settings {
    /// The defaults of a dialect. Mesos keeps no old files unless options say so.
    #[must_use]
    pub fn new(dialect: Dialect) -> Settings {
        let stream = Stream { max_size: MAX_SIZE, rotation: Rotation::Own(0) };
        Settings {
            dialect,
            prefix: "CONTAINER_LOGGER_".into(),
            journal: dialect == Dialect::Journald,
            files: dialect == Dialect::Logrotate,
            streams: [stream.clone(), stream],
            logrotate: "logrotate".into(),
            socket: "/run/systemd/journal/socket".into(),
            extra: Vec::new(),
            max_labels: 10 << 10,
        }
    }

    /// Takes a parameter of the module.
    ///
    /// # Errors
    /// What is wrong, with the parameter's name; for people.
    pub fn parameter(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = || format!("'{name}' is '{value}'");
        match name {
            "environment_variable_prefix" if value.is_empty() => {
                return Err(format!("{}: expected the beginning of variables' names", text()));
            }
            "environment_variable_prefix" => value.clone_into(&mut self.prefix),
            "logrotate_path" => self.logrotate = value.into(),
            // Where companion programs lie, and their threads: here there are none.
            "launcher_dir" | "companion_dir" => {}
            "libprocess_num_worker_threads" => {
                if !value.parse::<u64>().is_ok_and(|threads| threads >= 1) {
                    return Err(format!("{}: expected a whole number of at least 1", text()));
                }
            }
            "max_label_payload_size" if self.dialect == Dialect::Journald => {
                let bytes = parse_bytes(value).map_err(|e| format!("{}: {e}", text()))?;
                if bytes > 1 << 20 {
                    return Err(format!("{}: expected at most 1MB", text()));
                }
                self.max_labels = bytes;
            }
            _ => return self.setting(name, value, Author::Operator),
        }
        Ok(())
    }

    /// What a container gets whose command sets these variables.
    ///
    /// # Errors
    /// What is wrong, with the variable's name; for people.
    pub fn for_command<'a>(
        &self,
        variables: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings, String> {
        let mut settings = self.clone();
        for (variable, value) in variables {
            if let Some(name) = variable.strip_prefix(&self.prefix) {
                settings
                    .setting(&name.to_ascii_lowercase(), value, Author::Task)
                    .map_err(|text| format!("{variable}: {text}"))?;
            }
        }
        Ok(settings)
    }

    fn setting(&mut self, name: &str, value: &str, author: Author) -> Result<(), String> {
        let own = self.dialect == Dialect::Journald;
        let plain = match (own, name.strip_prefix("logrotate_max_")) {
            (true, Some(rest)) => format!("max_{rest}"),
            _ => name.to_owned(),
        };
        match plain.as_str() {
            // DC/OS has another name for these.
            "max_stdout_size" | "max_stderr_size" if own && plain == name => {
                return Err(self.unknown(name));
            }
            "max_stdout_size" => self.streams[0].max_size = size(name, value)?,
            "max_stderr_size" => self.streams[1].max_size = size(name, value)?,
            "logrotate_stdout_options" => self.streams[0].rotation = rotation(name, value, author)?,
            "logrotate_stderr_options" => self.streams[1].rotation = rotation(name, value, author)?,
            "destination_type" if own => (self.journal, self.files) = destination(value)?,
            "extra_labels" if own => self.extra = labels(value)?,
            _ => return Err(self.unknown(name)),
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> String {
        let common = ["logrotate_stdout_options", "logrotate_stderr_options"];
        let known: &[&str] = match self.dialect {
            Dialect::Logrotate => &["max_stdout_size", "max_stderr_size"],
            Dialect::Journald => &[
                "destination_type",
                "extra_labels",
                "logrotate_max_stdout_size",
                "logrotate_max_stderr_size",
            ],
        };
        let all = common.iter().chain(known).copied();
        let longer = all.clone().find(|known| known.ends_with(name));
        let hint = match longer.or_else(|| nearest(name, all.clone())) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known are {}", all.collect::<Vec<_>>().join(", ")),
        };
        format!("unknown setting '{name}': {hint}")
    }

    /// The programs that the settings need: logrotate, or none.
    #[must_use]
    pub fn needs_logrotate(&self) -> bool {
        let program = |stream: &Stream| matches!(stream.rotation, Rotation::Program(..));
        self.files && self.streams.iter().any(program)
    }

    /// The streams' files in an order's words.
    #[must_use]
    pub fn files(&self) -> Option<[Files; 2]> {
        self.files.then(|| self.limits())
    }

    /// The limits of files, also where none were asked for.
    #[must_use]
    pub fn limits(&self) -> [Files; 2] {
        let files = |stream: &Stream| {
            let (keep, options) = match &stream.rotation {
                Rotation::Own(keep) => (*keep, None),
                Rotation::Program(options, keep) => (*keep, Some(options.clone())),
            };
            let logrotate = self.logrotate.clone();
            Files { max_size: stream.max_size, keep, options, logrotate }
        };
        [files(&self.streams[0]), files(&self.streams[1])]
    }
}

/// The most bytes of one file.
///
/// # Errors
/// It is no size, or smaller than a page.
pub fn size(name: &str, value: &str) -> Result<u64, String> {
    let bytes = parse_bytes(value).map_err(|error| format!("'{name}' is '{value}': {error}"))?;
    if bytes < PAGE {
        return Err(format!("'{name}' is '{value}': expected at least {PAGE} bytes"));
    }
    Ok(bytes)
}

fn rotation(name: &str, value: &str, author: Author) -> Result<Rotation, String> {
    options::parse(value, author).map_err(|text| format!("'{name}': {text}"))
}

/// Whether lines go to the journal, and bytes to files.
fn destination(value: &str) -> Result<(bool, bool), String> {
    match value {
        "journald" => Ok((true, false)),
        "logrotate" => Ok((false, true)),
        "journald+logrotate" => Ok((true, true)),
        other => {
            let known = ["journald", "logrotate", "journald+logrotate"];
            let hint = nearest(other, known)
                .map_or_else(|| known.join(", "), |near| format!("did you mean '{near}'?"));
            Err(format!("'destination_type' is '{other}': {hint}"))
        }
    }
}

/// A JSON object of texts.
fn labels(value: &str) -> Result<Vec<(String, String)>, String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(value)
        .map_err(|error| format!("'extra_labels' is '{value}': expected a JSON object: {error}"))?;
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(object.into_iter().map(|(name, value)| (name, text(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overridden(settings: &Settings, variables: &[(&str, &str)]) -> Result<Settings, String> {
        settings.for_command(variables.iter().copied())
    }

    #[test]
    fn parameters_are_mesos() {
        let mut settings = Settings::new(Dialect::Logrotate);
        assert_eq!(settings.streams[0], Stream { max_size: 10 << 20, rotation: Rotation::Own(0) });
        for (name, value) in [
            ("max_stdout_size", "2MB"),
            ("max_stderr_size", "4096B"),
            ("logrotate_stdout_options", "rotate 9"),
            ("environment_variable_prefix", "LOG_"),
            ("launcher_dir", "/usr/libexec/mesos"),
            ("logrotate_path", "/usr/sbin/logrotate"),
            ("libprocess_num_worker_threads", "8"),
        ] {
            settings.parameter(name, value).expect(name);
        }
        let [out, err] = settings.files().expect("files");
        assert_eq!((out.max_size, out.keep, out.options), (2 << 20, 9, None));
        assert_eq!((err.max_size, err.keep), (4096, 0));
        assert!(!settings.needs_logrotate());
        settings.parameter("logrotate_stderr_options", "compress").expect("an option");
        assert!(settings.needs_logrotate());
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value, words) in [
            ("max_stdout_size", "4095B", "'max_stdout_size' is '4095B': expected at least 4096"),
            ("max_stderr_size", "big", "'max_stderr_size' is 'big'"),
            ("max_stdout_sise", "2MB", "did you mean 'max_stdout_size'?"),
            ("logrotate_stdout_options", "rotate x", "'logrotate_stdout_options': 'rotate x'"),
            ("libprocess_num_worker_threads", "0", "at least 1"),
            ("environment_variable_prefix", "", "'environment_variable_prefix'"),
            ("destination_type", "journald", "unknown setting 'destination_type'"),
        ] {
            let text = Settings::new(Dialect::Logrotate).parameter(name, value).expect_err(name);
            assert!(text.contains(words), "{text}");
        }
        for (name, value, words) in [
            ("destination_type", "journal", "did you mean 'journald'?"),
            ("max_stdout_size", "2MB", "did you mean 'logrotate_max_stdout_size'?"),
            ("extra_labels", "[]", "expected a JSON object"),
            ("max_label_payload_size", "2MB", "at most 1MB"),
        ] {
            let text = Settings::new(Dialect::Journald).parameter(name, value).expect_err(name);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_task_overrides_what_the_operator_set() {
        let mut settings = Settings::new(Dialect::Logrotate);
        settings.parameter("max_stderr_size", "1MB").expect("a size");
        let wanted = overridden(
            &settings,
            &[
                ("PATH", "/bin"),
                ("CONTAINER_LOGGER_MAX_STDOUT_SIZE", "8KB"),
                ("CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS", "rotate 2"),
            ],
        );
        let wanted = wanted.expect("settings");
        assert_eq!(wanted.streams[0], Stream { max_size: 8192, rotation: Rotation::Own(2) });
        assert_eq!(wanted.streams[1].max_size, 1 << 20);
        let unknown = overridden(&settings, &[("CONTAINER_LOGGER_MAX_SIZE", "8KB")]);
        let text = unknown.expect_err("unknown");
        assert!(text.starts_with("CONTAINER_LOGGER_MAX_SIZE: unknown setting"), "{text}");
        // Parameters of the agent are not a task's to set.
        let program = [("CONTAINER_LOGGER_LOGROTATE_PATH", "/tmp/evil")];
        assert!(overridden(&settings, &program).is_err());
        let script = [("CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS", "postrotate\nx\nendscript")];
        assert!(overridden(&settings, &script).expect_err("a script").contains("'postrotate'"));
    }

    #[test]
    fn destinations_of_dcos() {
        let settings = Settings::new(Dialect::Journald);
        assert!(settings.journal && settings.files().is_none());
        let both = [
            ("CONTAINER_LOGGER_DESTINATION_TYPE", "journald+logrotate"),
            ("CONTAINER_LOGGER_LOGROTATE_MAX_STDOUT_SIZE", "2MB"),
            ("CONTAINER_LOGGER_EXTRA_LABELS", r#"{"team": "a", "n": 1}"#),
        ];
        let both = overridden(&settings, &both).expect("settings");
        assert!(both.journal);
        assert_eq!(both.files().expect("files")[0].max_size, 2 << 20);
        assert_eq!(both.extra, [("team".into(), "a".into()), ("n".into(), "1".into())]);
        let files = [("CONTAINER_LOGGER_DESTINATION_TYPE", "logrotate")];
        assert!(!overridden(&settings, &files).expect("settings").journal);
    }
}
