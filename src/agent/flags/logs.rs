//! `--container_logger`, its module's parameters in `--modules`, and our own flags.
//!
//! Mesos' loggers are shared libraries; two of them are built in here under the names
//! of their modules, so their part of `--modules` is understood. Everything else in
//! `--modules` is refused elsewhere.

use serde_json::Value as Json;

use super::values::{StartError, invalid};
use crate::daemon::flags::{Flags, nearest};
use crate::logs::options::Rotation;
use crate::logs::rotation::PAGE;
use crate::logs::settings::{Dialect, JOURNALD, KEEP, LOGROTATE, Settings};

/// Names for `--container_logger` and what they choose; the first is the default.
const NAMES: [(&str, Option<Dialect>); 5] = [
    ("sandbox", None),
    ("logrotate", Some(Dialect::Logrotate)),
    ("journald", Some(Dialect::Journald)),
    (LOGROTATE, Some(Dialect::Logrotate)),
    (JOURNALD, Some(Dialect::Journald)),
];

/// What containers' output is subject to; `None`: plain files without a limit.
///
/// # Errors
/// [`StartError`] naming the flag.
pub(super) fn settings(flags: &Flags) -> Result<Option<Settings>, StartError> {
    let name = flags.text("container_logger").filter(|name| !name.is_empty());
    let name = name.unwrap_or(NAMES[0].0);
    let Some((_, dialect)) = NAMES.iter().find(|(known, _)| *known == name) else {
        let hint = nearest(name, NAMES.map(|(known, _)| known)).map_or_else(
            || format!("expected one of {}", NAMES.map(|(known, _)| known).join(", ")),
            |near| format!("did you mean '{near}'?"),
        );
        return Err(invalid("container_logger", name, hint));
    };
    let own = own(flags)?;
    let mut settings = match (dialect, &own) {
        (None, None) => return Ok(None),
        (dialect, own) => {
            let mut settings = Settings::new(dialect.unwrap_or(Dialect::Logrotate));
            if let Some((max_size, keep)) = own {
                for stream in &mut settings.streams {
                    stream.max_size = max_size.unwrap_or(stream.max_size);
                    stream.rotation = Rotation::Own(*keep);
                }
            }
            settings
        }
    };
    if let Some(socket) = flags.text("container_log_journal_socket") {
        settings.socket = socket.into();
    }
    let modules = flags.json("modules").map(|modules| split(modules).0).unwrap_or_default();
    for (module, parameters) in &modules {
        // One that is loaded and not chosen does nothing, as in Mesos.
        let chosen = NAMES.iter().find(|(known, _)| known == module).map(|(_, dialect)| *dialect);
        if chosen != Some(*dialect) {
            continue;
        }
        for (key, value) in parameters {
            settings.parameter(key, value).map_err(|text| invalid("modules", module, text))?;
        }
    }
    if settings.needs_logrotate() && !crate::logs::is_program(&settings.logrotate) {
        return Err(invalid("modules", name, crate::logs::no_logrotate(&settings.logrotate)));
    }
    Ok(Some(settings))
}

/// Our own flags: the cap, if there is one, and how many old files are kept.
fn own(flags: &Flags) -> Result<Option<(Option<u64>, u32)>, StartError> {
    let (size, files) =
        (flags.bytes("container_log_max_size"), flags.number("container_log_max_files"));
    if let Some(size) = size.filter(|size| *size < PAGE) {
        let expected = format!("at least {PAGE}B");
        return Err(invalid("container_log_max_size", &format!("{size}B"), expected));
    }
    let keep = files.map_or(Ok(KEEP), |files| {
        u32::try_from(files)
            .ok()
            .filter(|files| *files <= 1000)
            .ok_or_else(|| invalid("container_log_max_files", &files.to_string(), "at most 1000"))
    })?;
    if files.is_some() && size.is_none() && flags.text("container_logger").is_none() {
        let expected = "--container_log_max_size too: without it files are never full";
        return Err(invalid("container_log_max_files", &keep.to_string(), expected));
    }
    Ok((size.is_some() || files.is_some()).then_some((size, keep)))
}

/// A module's name and its parameters.
type Module = (String, Vec<(String, String)>);

/// The loggers that `--modules` names, and what of it is left for others to refuse.
pub(super) fn split(modules: &Json) -> (Vec<Module>, Json) {
    let mut loggers = Vec::new();
    let mut left = Vec::new();
    for library in modules.get("libraries").and_then(Json::as_array).into_iter().flatten() {
        let named = library.get("modules").and_then(Json::as_array);
        let (ours, others): (Vec<&Json>, Vec<&Json>) =
            named.into_iter().flatten().partition(|module| {
                let name = module.get("name").and_then(Json::as_str).unwrap_or_default();
                [LOGROTATE, JOURNALD].contains(&name)
            });
        if ours.is_empty() || !others.is_empty() {
            let mut rest = library.clone();
            rest["modules"] = others.into_iter().cloned().collect();
            left.push(rest);
        }
        loggers.extend(ours.into_iter().map(module));
    }
    (loggers, serde_json::json!({ "libraries": left }))
}

fn module(module: &Json) -> Module {
    let text = |value: &Json, key: &str| match value.get(key) {
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let parameters = module.get("parameters").and_then(Json::as_array).into_iter().flatten();
    (text(module, "name"), parameters.map(|p| (text(p, "key"), text(p, "value"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn built(arguments: &[&str]) -> Result<Option<Settings>, StartError> {
        let arguments = ["--work_dir=/w"].iter().chain(arguments).map(|a| (*a).to_owned());
        settings(&Flags::parse(FLAGS, arguments, []).expect("flags"))
    }

    fn modules(key: &str, value: &str) -> String {
        let parameter = serde_json::json!({ "key": key, "value": value });
        let module = serde_json::json!({ "name": LOGROTATE, "parameters": [parameter] });
        let file = "/usr/lib/liblogrotate_container_logger.so";
        let library = serde_json::json!({ "file": file, "modules": [module] });
        format!("--modules={}", serde_json::json!({ "libraries": [library] }))
    }

    #[test]
    fn loggers_and_their_parameters() {
        assert_eq!(built(&[]).expect("none"), None);
        assert_eq!(built(&["--container_logger=sandbox"]).expect("none"), None);
        let capped = built(&["--container_log_max_size=2MB"]).expect("ours").expect("settings");
        assert!(capped.files && !capped.journal);
        assert_eq!(capped.streams[1].max_size, 2 << 20);
        assert_eq!(capped.streams[1].rotation, Rotation::Own(9));

        let logger = format!("--container_logger={LOGROTATE}");
        let plain = built(&[&logger]).expect("Mesos'").expect("settings");
        assert_eq!(plain.streams[0].rotation, Rotation::Own(0), "logrotate's own default");
        let given = modules("max_stdout_size", "4MB");
        let given = built(&[&logger, &given]).expect("Mesos'").expect("settings");
        assert_eq!((given.streams[0].max_size, given.streams[1].max_size), (4 << 20, 10 << 20));
        // Loaded, but not chosen.
        assert_eq!(built(&[&modules("max_stdout_size", "4MB")]).expect("none"), None);

        let socket = "--container_log_journal_socket=/run/j";
        let journal = built(&["--container_logger=journald", socket]).expect("ours");
        let journal = journal.expect("settings");
        assert!(journal.journal && !journal.files);
        assert_eq!(journal.socket, std::path::Path::new("/run/j"));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let logger = format!("--container_logger={LOGROTATE}");
        for (given, words) in [
            (vec!["--container_logger=logrotat"], "did you mean 'logrotate'?"),
            (vec!["--container_logger=/lib/x.so"], "expected one of sandbox"),
            (vec!["--container_log_max_size=100B"], "--container_log_max_size: at least 4096B"),
            (vec!["--container_log_max_files=3"], "--container_log_max_size too"),
            (vec![&*logger, "--container_log_max_files=1001"], "at most 1000"),
            (vec![&logger, &modules("max_stdout_size", "1KB")], "'max_stdout_size' is '1KB'"),
            (vec![&logger, &modules("max_size", "1MB")], "unknown setting 'max_size'"),
        ] {
            let text = built(&given).expect_err("refused").to_string();
            assert!(text.contains(words), "{given:?}: {text}");
        }
    }

    #[test]
    fn only_loggers_are_taken_out_of_modules() {
        let json = serde_json::json!({ "libraries": [
            { "file": "a.so", "modules": [{ "name": LOGROTATE }, { "name": "com_acme_X" }] },
            { "file": "b.so", "modules": [{ "name": JOURNALD }] },
            { "file": "c.so" },
        ]});
        let (loggers, rest) = split(&json);
        let names: Vec<&str> = loggers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [LOGROTATE, JOURNALD]);
        assert_eq!(rest["libraries"][0]["modules"][0]["name"], "com_acme_X");
        assert_eq!(rest["libraries"][1]["file"], "c.so");
        assert_eq!(rest["libraries"].as_array().map(Vec::len), Some(2));
    }
}
