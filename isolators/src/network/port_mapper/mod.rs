//! `bulkhead-port-mapper`, also called `mesos-cni-port-mapper`: a CNI plugin that leads
//! ports of the host to containers on a network that is not routed.
//!
//! It delegates to the plugin that makes the interface, as Mesos' does, or follows it in a
//! chain. All that it does to the host is in one nftables table of its own, changed in
//! transactions. Called by `bulkhead-helper`; one process per call, no threads.

mod conf;
mod rules;

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use self::conf::{Conf, targets};
use super::cni::outcome::addresses_of;
use super::nft::{self, Element};
use super::plugin::{self, BAD_ARGUMENTS, Call, DELEGATE_FAILED, Outcome, RULES_FAILED, fail};

/// Serves one call.
#[must_use]
pub fn main() -> ExitCode {
    plugin::main(serve)
}

fn serve(call: &Call) -> Outcome<Option<Value>> {
    let conf = Conf::parse(&call.input).or_else(|text| fail(BAD_ARGUMENTS, text))?;
    match call.command.as_str() {
        "ADD" => add(&conf, call).map(Some),
        "DEL" => {
            // First: the address may be somebody else's as soon as it is given back.
            remove(|element| element.tag == call.tag())?;
            delegate(&conf, call, "DEL").map(|_| None)
        }
        "CHECK" => check(&conf, call).map(|()| None),
        "GC" => {
            remove(|element| call.is_stale(&element.tag))?;
            delegate(&conf, call, "GC").map(|_| None)
        }
        _ => {
            list()?;
            delegate(&conf, call, "STATUS").map(|_| None)
        }
    }
}

fn add(conf: &Conf, call: &Call) -> Outcome<Value> {
    let result = match delegate(conf, call, "ADD")? {
        Some(answer) => serde_json::from_slice(&answer)
            .or_else(|e| fail(DELEGATE_FAILED, format!("the delegate's answer is no JSON: {e}")))?,
        None => match &conf.previous {
            Some(previous) => previous.clone(),
            None => return fail(BAD_ARGUMENTS, "there is neither 'delegate' nor 'prevResult'"),
        },
    };
    if let Err(error) = publish(conf, call, &result) {
        // What failed as a whole must leave nothing; DEL will come again in any case.
        let _ = delegate(conf, call, "DEL");
        return Err(error);
    }
    Ok(result)
}

/// The elements that an attachment with that result has.
fn wanted(conf: &Conf, call: &Call, result: &Value) -> Outcome<Vec<Element>> {
    let addresses =
        addresses_of(result, &call.interface).or_else(|text| fail(RULES_FAILED, text))?;
    let targets = targets(&addresses);
    if targets.is_empty() && !conf.mappings.is_empty() {
        return fail(RULES_FAILED, "there is no address that ports could lead to");
    }
    Ok(rules::elements(&conf.chain, &conf.mappings, &targets, &call.tag()))
}

fn publish(conf: &Conf, call: &Call, result: &Value) -> Outcome<()> {
    let wanted = wanted(conf, call, result)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let _lock = nft::lock().or_else(|text| fail(RULES_FAILED, text))?;
    let known = list()?;
    let mut text = rules::ground(conf);
    for element in &wanted {
        let taken = known.iter().find(|other| {
            element.target.is_some()
                && other.key == element.key
                && other.map.ends_with(&element.map[element.map.len() - 4..])
                && other.tag != element.tag
        });
        if let Some(other) = taken {
            let port = element.key.replace(" . ", " ");
            let owner = plugin::container_of(&other.tag);
            return fail(
                RULES_FAILED,
                format!("the host's port {port} leads to container {owner} already"),
            );
        }
        text.push_str(&nft::add("inet", rules::TABLE, element));
    }
    apply(&text)
}

fn check(conf: &Conf, call: &Call) -> Outcome<()> {
    let Some(previous) = &conf.previous else {
        return fail(BAD_ARGUMENTS, "CHECK without 'prevResult'");
    };
    let known = list()?;
    for element in wanted(conf, call, previous)? {
        if !known.contains(&element) {
            let text =
                format!("'{}' is not in '{}' of table {}", element.key, element.map, rules::TABLE);
            return fail(RULES_FAILED, text);
        }
    }
    delegate(conf, call, "CHECK").map(drop)
}

/// Removes elements, and the table when it has none left.
fn remove(whose: impl Fn(&Element) -> bool) -> Outcome<()> {
    let _lock = nft::lock().or_else(|text| fail(RULES_FAILED, text))?;
    let known = list()?;
    let (gone, stays): (Vec<Element>, Vec<Element>) = known.into_iter().partition(whose);
    match (gone.is_empty(), stays.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => apply(&nft::remove_table("inet", rules::TABLE)),
        (false, false) => {
            let lines = gone.iter().map(|element| nft::remove("inet", rules::TABLE, element));
            apply(&lines.collect::<String>())
        }
    }
}

/// What is in our table; nothing if there is none.
fn list() -> Outcome<Vec<Element>> {
    nft::list("inet", rules::TABLE).or_else(|text| fail(RULES_FAILED, text))
}

fn apply(text: &str) -> Outcome<()> {
    nft::apply(text).or_else(|text| fail(RULES_FAILED, text))
}

/// Lets the other plugin do its part; what it printed. `None`: there is no other.
fn delegate(conf: &Conf, call: &Call, command: &str) -> Outcome<Option<Vec<u8>>> {
    let Some((kind, told)) = &conf.delegate else { return Ok(None) };
    let program =
        std::env::split_paths(&call.path).map(|dir| dir.join(kind)).find(|path| path.is_file());
    let Some(program) = program else {
        let text = format!("failed to find the delegate plugin '{kind}' in '{}'", call.path);
        return fail(DELEGATE_FAILED, text);
    };
    let run = || -> io::Result<std::process::Output> {
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(told.to_string().as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    };
    match run() {
        Err(error) => {
            fail(DELEGATE_FAILED, format!("failed to run the delegate plugin '{kind}': {error}"))
        }
        Ok(output) if output.status.success() => Ok(Some(output.stdout)),
        Ok(output) => {
            let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let said =
                said["msg"].as_str().map_or_else(|| output.status.to_string(), str::to_owned);
            fail(DELEGATE_FAILED, format!("the delegate plugin '{kind}' failed {command}: {said}"))
        }
    }
}
