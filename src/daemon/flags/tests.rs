//! Tests of the flag parser: spellings, sources, types, errors.

use super::*;

const TABLE: &[Flag] = &[
    Flag::new("help", Kind::Bool, Some("false"), "Help."),
    Flag::new("version", Kind::Bool, Some("false"), "Version."),
    Flag::new("work_dir", Kind::Path, None, "Where.").required(),
    Flag::new("switch_user", Kind::Bool, Some("true"), "Whether."),
    Flag::new("port", Kind::Number, Some("5051"), "Which."),
    Flag::new("ip", Kind::Ip, None, "Which."),
    Flag::new("gc_delay", Kind::Duration, Some("7days"), "When."),
    Flag::new("cache", Kind::Bytes, Some("2048MB"), "How much."),
    Flag::new("headroom", Kind::Float, Some("0.1"), "How much."),
    Flag::new("timeout", Kind::Duration, None, "When.").alias("slave_timeout"),
    Flag::new("acls", Kind::Json, None, "Who.").not_yet(),
    Flag::new("quiet", Kind::Bool, Some("false"), "Whether.").not_yet(),
    Flag::new("authenticate", Kind::Bool, Some("false"), "Whether.").guard(),
];

fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Flags, FlagError> {
    let arguments = arguments.iter().map(|a| (*a).to_owned());
    let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    Flags::parse(TABLE, arguments, environment)
}

fn message(arguments: &[&str]) -> String {
    parse(arguments, &[]).expect_err("refused").to_string()
}

#[test]
fn every_source_and_spelling() {
    let flags = parse(
        &["--work_dir=/w", "--no-switch_user", "--PORT", "9", "--slave_timeout=1.5hrs"],
        &[("MESOS_PORT", "7"), ("MESOS_IP", "127.0.0.1"), ("MESOS_SANDBOX", "/x"), ("HOME", "/")],
    )
    .expect("valid");
    assert_eq!(flags.text("work_dir"), Some("/w"));
    assert!(!flags.bool("switch_user"));
    assert_eq!(flags.number("port"), Some(9));
    assert_eq!(flags.ip("ip"), Some(IpAddr::from([127, 0, 0, 1])));
    assert_eq!(flags.duration("timeout"), Some(Duration::from_secs(5400)));
    assert_eq!(flags.bytes("cache"), Some(2 << 30));
    assert_eq!(flags.float("headroom"), Some(0.1));
    assert_eq!(flags.json("acls"), None);
    assert_eq!(flags.warnings(), ["Loaded deprecated flag 'slave_timeout': use 'timeout' instead"]);
    let shown: Vec<String> = flags.shown().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        shown,
        [
            "authenticate=false",
            "cache=2GB",
            "gc_delay=1weeks",
            "headroom=0.1",
            "help=false",
            "ip=127.0.0.1",
            "port=9",
            "quiet=false",
            "switch_user=false",
            "timeout=90mins",
            "version=false",
            "work_dir=/w"
        ]
    );
    assert!(flags.to_json().starts_with(b"{\"flags\":{\"authenticate\":\"false\",\"cache\":"));
}

#[test]
fn booleans() {
    for (argument, expected) in [
        ("--switch_user", true),
        ("--switch_user=true", true),
        ("--switch_user=1", true),
        ("--switch_user=", true),
        ("--switch_user=false", false),
        ("--switch_user=0", false),
        ("--no-switch_user", false),
        ("--no-switch_user=", false),
    ] {
        let flags = parse(&["--work_dir=/w", argument], &[]).expect(argument);
        assert_eq!(flags.bool("switch_user"), expected, "{argument}");
    }
    let flags = parse(&["--work_dir=/w"], &[("MESOS_SWITCH_USER", "false")]).expect("valid");
    assert!(!flags.bool("switch_user"));
}

#[test]
fn refusals_say_what_to_do() {
    for (arguments, expected) in [
        (
            &["--wrok_dir=/w"][..],
            "Failed to load unknown flag 'wrok_dir'; did you mean '--work_dir'?",
        ),
        (&["--frobnicate"], "Failed to load unknown flag 'frobnicate'"),
        (
            &["--no-swich_user"],
            "Failed to load unknown flag 'swich_user' via 'no-swich_user'; did you mean '--no-switch_user'?",
        ),
        (&["--port=1", "--port=2"], "Flag 'port' is already loaded via name 'port'"),
        (
            &["--timeout=1secs", "--slave_timeout=1secs"],
            "Flag 'slave_timeout' is already loaded via name 'timeout'",
        ),
        (&["--no-port"], "Failed to load non-boolean flag 'port' via 'no-port'"),
        (&["--no-quiet=x"], "Failed to load boolean flag 'quiet' via 'no-quiet' with value 'x'"),
        (&["--port"], "Failed to load non-boolean flag 'port': Missing value"),
        (&["--port", "--quiet"], "Failed to load non-boolean flag 'port': Missing value"),
        (
            &["--port=many"],
            "Failed to load flag 'port': Failed to convert 'many' to number: invalid digit found in string",
        ),
        (
            &["--quiet=maybe"],
            "Failed to load flag 'quiet': Expecting a boolean (e.g., true or false)",
        ),
        (&["--cache=1.5GB"], "Failed to load flag 'cache': Fractional bytes '1.5GB'"),
        (
            &["--acls=file:///no/such"],
            "Failed to load flag 'acls': Error reading file '/no/such': No such file or directory (os error 2)",
        ),
        (&["--ip=localhost"], "Failed to load flag 'ip': Failed to parse IP 'localhost'"),
        (&["work_dir=/w"], "Unexpected argument 'work_dir=/w': flags are written '--name=value'"),
        (&[], "Flag 'work_dir' is required, but it was not provided"),
    ] {
        assert_eq!(message(arguments), expected, "{arguments:?}");
    }
    assert!(parse(&["--help"], &[]).expect("no work_dir needed").bool("help"));
}

#[test]
fn values_come_from_files_but_paths_stay() {
    let file = std::env::temp_dir().join(format!("bulkhead-flags-{}", std::process::id()));
    std::fs::write(&file, "{\"b\": [1], \"a\": {}}\n").expect("temp file");
    let url = format!("file://{}", file.display());
    for value in [url.clone(), file.display().to_string()] {
        let acls = format!("--acls={value}");
        let flags = parse(&["--work_dir=file:///w", &acls], &[]).expect("valid");
        assert_eq!(flags.text("work_dir"), Some("file:///w"));
        let shown = flags.shown().find(|(name, _)| *name == "acls");
        assert_eq!(shown, Some(("acls", "{\"a\":{},\"b\":[1]}".to_owned())));
        assert_eq!(flags.warnings(), ["Flag 'acls' is not supported yet and has no effect"]);
    }
    std::fs::remove_file(&file).expect("ours");
}

#[test]
fn unsupported_flags_warn_only_when_they_would_change_something() {
    let warnings = |argument| parse(&["--work_dir=/w", argument], &[]).expect("valid").warnings;
    assert!(warnings("--no-quiet").is_empty());
    assert_eq!(warnings("--quiet").len(), 1);
}

#[test]
fn a_protection_that_is_not_there_is_refused_not_ignored() {
    let told = message(&["--work_dir=/w", "--authenticate"]);
    assert!(told.starts_with("Flag 'authenticate' is not supported yet, and "), "{told}");
    assert!(parse(&["--work_dir=/w", "--no-authenticate"], &[]).is_ok());
    for (table, flag) in [
        (agent::FLAGS, "--authenticate_http_readwrite"),
        (agent::FLAGS, "--acls={}"),
        (master::FLAGS, "--authenticate_agents"),
        (master::FLAGS, "--zk=zk://127.0.0.1:2181/mesos"),
    ] {
        let arguments = ["--work_dir=/w", "--master=127.0.0.1:5050", flag];
        let known = arguments.iter().filter(|a| table.iter().any(|f| a[2..].starts_with(f.name)));
        let error = Flags::parse(table, known.map(|a| (*a).to_owned()), []).expect_err("refused");
        assert!(matches!(error, FlagError::Guard(_)), "{flag}: {error}");
    }
}

#[test]
fn found_out_values_do_not_override_given_ones() {
    let mut flags = parse(&["--work_dir=/w", "--port=1"], &[]).expect("valid");
    flags.fill_in("port", "2").expect("fits");
    flags.fill_in("ip", "192.0.2.1").expect("fits");
    assert_eq!(flags.number("port"), Some(1));
    assert_eq!(flags.ip("ip"), Some(IpAddr::from([192, 0, 2, 1])));
    assert!(flags.fill_in("ip", "nonsense").is_err());
}

#[test]
fn tables_are_sorted_and_defaults_fit() {
    for table in [agent::FLAGS, master::FLAGS] {
        let names: Vec<&str> = table.iter().map(|f| f.name).collect();
        assert!(names.is_sorted() && names.windows(2).all(|w| w[0] != w[1]));
        let all = ["--help".to_owned()];
        let flags = Flags::parse(table, all, []).expect("defaults fit their kinds");
        for (name, _) in flags.shown() {
            let flag = table.iter().find(|f| f.name == name).expect("from the table");
            assert!(flag.help.ends_with('.'), "{name}");
        }
        assert!(usage("bulkhead", table).lines().all(|l| l.len() <= 120));
    }
}
