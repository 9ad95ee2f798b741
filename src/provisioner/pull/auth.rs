//! Who we are for a registry: what it asks for (`WWW-Authenticate`), and what Docker's
//! `config.json` and the programs that it names know. Pure but for those programs.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::provisioner::reference::{HUB, is_hub};
use crate::wire::blocking::basic;

/// Longest time for a program that knows credentials.
const PROGRAM: Duration = Duration::from_secs(30);
/// Longest answer of one in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;
/// What Docker calls its own registry in files of credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Why credentials cannot be had. Never tells them.
#[derive(Debug, Error)]
pub(super) enum AuthError {
    #[error("failed to run '{program}', which has the credentials for {host}")]
    Start { program: String, host: String, source: io::Error },
    #[error("'{program}', which has the credentials for {host}, {how}")]
    Program { program: String, host: String, how: String },
    #[error("the credentials for {host} are not base64 of 'user:password'")]
    Encoding { host: String },
}

/// One way in that a registry names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub scheme: String,
    /// Names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// Reads the value of a `WWW-Authenticate`: several ways may be in one.
pub(super) fn challenges(value: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = value.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = match (after.trim_start().strip_prefix('='), found.last_mut()) {
            (Some(after), Some(challenge)) => {
                let (value, after) = parameter(after.trim_start());
                challenge.parameters.insert(word.to_ascii_lowercase(), value);
                after
            }
            _ => {
                let scheme = word.to_ascii_lowercase();
                found.push(Challenge { scheme, parameters: BTreeMap::new() });
                after.strip_prefix('=').unwrap_or(after)
            }
        };
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
}

/// A word or a quoted text, and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// What somebody is known by.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// For the registry's service of tokens only (`docker login` without a password).
    Identity(String),
    /// A token of the registry itself.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// What goes into `Authorization` without asking anybody.
    pub fn header(&self) -> Option<String> {
        match self {
            Credentials::Password { user, password } => Some(basic(&format!("{user}:{password}"))),
            Credentials::Token(token) => Some(format!("Bearer {token}")),
            Credentials::Identity(_) => None,
        }
    }
}

/// What the first of several files says about `host`; `None`: nothing is known.
///
/// # Errors
/// [`AuthError`]
pub(super) fn lookup(
    files: &[Value],
    host: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Credentials>, AuthError> {
    for file in files {
        match said(file, host)? {
            Some(Said::Here(credentials)) => return Ok(Some(credentials)),
            Some(Said::Program(suffix)) => {
                if let Some(credentials) = ask(&suffix, host, environment)? {
                    return Ok(Some(credentials));
                }
            }
            None => {}
        }
    }
    Ok(None)
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Here(Credentials),
    /// `docker-credential-<suffix>` knows.
    Program(String),
}

/// What one file says: a program for this registry, an entry, a program for all.
fn said(file: &Value, host: &str) -> Result<Option<Said>, AuthError> {
    let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let under = |map: &Value| -> Option<Value> {
        let map = map.as_object()?;
        map.iter().find(|(key, _)| same_host(key, host)).map(|(_, value)| value.clone())
    };
    if let Some(program) = under(&file["credHelpers"]).as_ref().and_then(text) {
        return Ok(Some(Said::Program(program)));
    }
    // `.dockercfg` was the map itself.
    let map = if file["auths"].is_object() { &file["auths"] } else { file };
    let entry = under(map).unwrap_or_default();
    if let Some(token) = text(&entry["registrytoken"]) {
        return Ok(Some(Said::Here(Credentials::Token(token))));
    }
    if let Some(token) = text(&entry["identitytoken"]) {
        return Ok(Some(Said::Here(Credentials::Identity(token))));
    }
    if let (Some(user), Some(password)) = (text(&entry["username"]), text(&entry["password"])) {
        return Ok(Some(Said::Here(Credentials::Password { user, password })));
    }
    if let Some(auth) = text(&entry["auth"]) {
        let wrong = || AuthError::Encoding { host: host.to_owned() };
        let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim());
        let pair = String::from_utf8(bytes.map_err(|_| wrong())?).map_err(|_| wrong())?;
        let (user, password) = pair.split_once(':').ok_or_else(wrong)?;
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Some(Said::Here(Credentials::Password { user: user.to_owned(), password })));
    }
    Ok(text(&file["credsStore"]).map(Said::Program))
}

/// Whether a key of such a file, a host or a URL, means `host`.
fn same_host(key: &str, host: &str) -> bool {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.split('/').next().unwrap_or("");
    key == host || (is_hub(key) && is_hub(host))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<suffix>`; `None`: it does not know the registry.
fn ask(
    suffix: &str,
    host: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Credentials>, AuthError> {
    let program = format!("docker-credential-{suffix}");
    let wrong = |how: String| {
        let (program, host) = (program.clone(), host.to_owned());
        AuthError::Program { program, host, how }
    };
    if suffix.contains(['/', '\0']) {
        return Err(wrong("is no name of a program in PATH".into()));
    }
    let start = |source| AuthError::Start { program: program.clone(), host: host.into(), source };
    // The program is looked for where the agent would find it.
    let mut child = Command::new(&program)
        .arg("get")
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(start)?;
    let key = if host == HUB { HUB_KEY } else { host };
    if let Some(mut input) = child.stdin.take() {
        // It may have ended already; its status tells.
        let _ = input.write_all(key.as_bytes());
    }
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let output = output.map(|output| output.take(LONGEST_ANSWER));
        output.map(|mut output| output.read_to_string(&mut text)).transpose().map(|_| text)
    });
    let deadline = Instant::now() + PROGRAM;
    let status = loop {
        match child.try_wait().map_err(start)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(wrong(format!("did not answer within {} s", PROGRAM.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    // Something that it started may hold its output for ever.
    while !reader.is_finished() {
        if Instant::now() > deadline {
            return Err(wrong("left its output open".into()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    if !status.success() {
        // The protocol of these programs has one text for this.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(wrong(format!("ended with {status}")));
    }
    let answer: Answer =
        serde_json::from_str(&text).map_err(|_| wrong("did not answer in its protocol".into()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(value: &str) -> Vec<(String, Vec<(String, String)>)> {
        challenges(value)
            .into_iter()
            .map(|challenge| (challenge.scheme, challenge.parameters.into_iter().collect()))
            .collect()
    }

    #[test]
    fn ways_in() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let bearer =
            r#"Bearer realm="https://auth/token",service="a, b",scope="repository:x:pull""#;
        let parameters = vec![
            pair("realm", "https://auth/token"),
            pair("scope", "repository:x:pull"),
            pair("service", "a, b"),
        ];
        assert_eq!(parsed(bearer), [("bearer".to_owned(), parameters.clone())]);
        let both = format!("Basic Realm=\"a \\\"b\\\"\", {bearer}");
        let basic = ("basic".to_owned(), vec![pair("realm", "a \"b\"")]);
        assert_eq!(parsed(&both), [basic, ("bearer".to_owned(), parameters)]);
        assert_eq!(parsed("Negotiate"), [("negotiate".to_owned(), vec![])]);
        assert_eq!(parsed("basic realm=x ,"), [("basic".to_owned(), vec![pair("realm", "x")])]);
        for odd in
            ["", " , ", "=", "=x", "Bearer realm=\"", "a=\"b", "Bearer ===,\"\",", "\u{e9} =\u{e9}"]
        {
            let _ = challenges(odd);
        }
    }

    #[test]
    fn files_of_credentials() {
        let password = |user: &str, password: &str| {
            let (user, password) = (user.to_owned(), password.to_owned());
            Some(Said::Here(Credentials::Password { user, password }))
        };
        let program = |name: &str| Some(Said::Program(name.to_owned()));
        let file = json!({
            "auths": {
                "https://index.docker.io/v1/": { "auth": "dTpw" },
                "h:5000": { "auth": "bWU6YTpi" },
                "https://token.org/v2/": { "identitytoken": "i" },
                "plain.org": { "username": "x", "password": "y" },
                "stored.org": {},
            },
            "credHelpers": { "ecr.org": "ecr-login" },
            "credsStore": "pass",
        });
        let ask = |host: &str| said(&file, host).expect(host);
        assert_eq!(ask(HUB), password("u", "p"));
        assert_eq!(ask("h:5000"), password("me", "a:b"));
        assert_eq!(ask("token.org"), Some(Said::Here(Credentials::Identity("i".into()))));
        assert_eq!(ask("plain.org"), password("x", "y"));
        assert_eq!(ask("ecr.org"), program("ecr-login"));
        assert_eq!((ask("stored.org"), ask("h")), (program("pass"), program("pass")));
        let old = json!({ "https://h:5000": { "auth": "dTpw", "email": "x" } });
        assert_eq!(said(&old, "h:5000").expect("old"), password("u", "p"));
        assert_eq!(said(&old, "other").expect("old"), None);
        for wrong in ["!", "dQ==", "/w=="] {
            let error =
                said(&json!({ "auths": { "h": { "auth": wrong } } }), "h").expect_err(wrong);
            assert!(!error.to_string().contains(wrong), "{error}");
        }
        assert_eq!(said(&json!([]), "h").expect("none"), None);
    }

    #[test]
    fn programs_are_asked_and_not_waited_for_for_ever() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("pull-auth-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        let program = |name: &str, script: &str| {
            let path = dir.join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
        };
        program("good", "read host; echo '{\"Username\":\"'$1-$host'\",\"Secret\":\"s\"}'");
        program("none", "echo credentials not found in native keychain; exit 1");
        program("bad", "echo secret words; exit 3");
        program("odd", "echo no json");
        let path = format!("{}:/usr/bin:/bin", dir.display());
        let environment = BTreeMap::from([("PATH".to_owned(), path)]);
        let found = ask("good", "h:1", &environment).expect("asked");
        let expected = Credentials::Password { user: "get-h:1".into(), password: "s".into() };
        assert_eq!(found, Some(expected));
        assert_eq!(ask("none", "h", &environment).expect("asked"), None);
        for (name, expected) in [
            ("bad", "ended with exit status: 3"),
            ("odd", "did not answer in its protocol"),
            ("missing", "failed to run 'docker-credential-missing'"),
            ("../x", "is no name of a program"),
        ] {
            let error = ask(name, "h", &environment).expect_err(name).to_string();
            assert!(error.contains(expected) && !error.contains("secret words"), "{error}");
        }
        std::fs::remove_dir_all(&dir).expect("remove");
    }
}
