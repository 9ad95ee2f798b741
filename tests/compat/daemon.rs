//! What both daemons share against recordings of the real Mesos: flags.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead::daemon::flags::{Flag, Flags, Kind, agent, master};

/// What is recorded of one flag.
struct Recorded {
    aliases: Vec<String>,
    boolean: bool,
    default: Option<String>,
}

fn recorded(golden: &Path, daemon: &str) -> BTreeMap<String, Recorded> {
    let text = std::fs::read(golden.join(format!("flags/{daemon}.json"))).expect("recorded");
    let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let flag = |value: &serde_json::Value| Recorded {
        aliases: value["aliases"]
            .as_array()
            .map(|a| a.iter().filter_map(|v| v.as_str()).map(str::to_owned).collect())
            .unwrap_or_default(),
        boolean: value["boolean"].as_bool().expect("a boolean"),
        default: value["default"].as_str().map(str::to_owned),
    };
    json.as_object().expect("an object").iter().map(|(n, v)| (n.clone(), flag(v))).collect()
}

/// Defaults that are worked out at start here, or have no fixed value there.
const AT_START: [&str; 4] = ["launcher", "launcher_dir", "webui_dir", "work_dir"];

fn compare(golden: &Path, daemon: &str, table: &'static [Flag]) {
    let recorded = recorded(golden, daemon);
    let flags = Flags::parse(table, ["--help".to_owned()], []).expect("defaults fit");
    let mut shown: BTreeMap<&str, String> = flags.shown().collect();
    shown.insert("help", "false".to_owned());
    for (name, there) in &recorded {
        let here = table.iter().find(|f| f.name == name);
        let here = here.unwrap_or_else(|| panic!("{daemon}: no flag {name}"));
        let aliases: Vec<String> = here.alias.iter().map(|a| (*a).to_owned()).collect();
        assert_eq!(aliases, there.aliases, "{daemon}: aliases of {name}");
        assert_eq!(here.kind == Kind::Bool, there.boolean, "{daemon}: kind of {name}");
        if !AT_START.contains(&name.as_str()) {
            assert_eq!(shown.get(name.as_str()), there.default.as_ref(), "{daemon}: {name}");
        }
    }
    for flag in table {
        if !recorded.contains_key(flag.name) {
            assert!(flag.default.is_none(), "{daemon}: {} is not in the usual build", flag.name);
        }
    }
}

#[test]
fn flags_are_those_of_the_recordings() {
    require!(golden);
    let golden = support::golden().expect("required");
    compare(&golden, "agent", agent::FLAGS);
    compare(&golden, "master", master::FLAGS);
}

/// Giving every recorded value of `/flags` back prints the recorded body.
fn reprint(body: &Path, table: &'static [Flag]) {
    let expected = std::fs::read_to_string(body).expect("recorded");
    let json: serde_json::Value = serde_json::from_str(&expected).expect("JSON");
    let values = json["flags"].as_object().expect("an object");
    let arguments = values.iter().map(|(n, v)| format!("--{n}={}", v.as_str().expect("text")));
    let flags = Flags::parse(table, arguments, []).expect("accepted");
    let printed = String::from_utf8(flags.to_json()).expect("text");
    assert_eq!(printed, expected, "{}", body.display());
}

#[test]
fn flags_print_as_recorded() {
    require!(golden);
    let golden = support::golden().expect("required");
    reprint(&golden.join("http/agent/flags.idle.json"), agent::FLAGS);
    reprint(&golden.join("http/master/flags.empty.json"), master::FLAGS);
}
