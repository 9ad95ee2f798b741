//! `bulkhead-groups`: a CNI plugin that keeps containers of different groups apart.
//!
//! Follows the plugin that makes the interface. Groups are those of the task's network
//! (`NetworkInfo.groups`, as Mesos means them), or the values of one of its labels. Two
//! containers that are in groups reach each other if they share one; a container without
//! groups is as the host and the outside: everybody's.

mod rules;

use std::net::IpAddr;
use std::process::ExitCode;

use mesos::NetworkInfo;
use serde_json::Value;

use super::cni::outcome::addresses_of;
use super::nft::{self, Element};
use super::plugin::{self, BAD_ARGUMENTS, Call, Outcome, RULES_FAILED, fail};

/// Serves one call.
#[must_use]
pub fn main() -> ExitCode {
    plugin::main(serve)
}

fn serve(call: &Call) -> Outcome<Option<Value>> {
    let previous = call.conf.get("prevResult").filter(|value| value.is_object());
    match (call.command.as_str(), previous) {
        ("ADD" | "CHECK", None) => {
            fail(BAD_ARGUMENTS, "there is no 'prevResult': it must follow another plugin")
        }
        ("ADD", Some(previous)) => add(call, previous).map(|()| Some(previous.clone())),
        ("CHECK", Some(previous)) => check(call, previous).map(|()| None),
        ("DEL", _) => remove(|element| element.tag == call.tag()).map(|()| None),
        ("GC", _) => remove(|element| call.is_stale(&element.tag)).map(|()| None),
        _ => list(rules::FAMILIES[0]).map(|_| None),
    }
}

fn wanted(call: &Call, previous: &Value) -> Outcome<Vec<Element>> {
    let groups = groups(&call.conf).or_else(|text| fail(BAD_ARGUMENTS, text))?;
    let addresses: Vec<IpAddr> =
        addresses_of(previous, &call.interface).or_else(|text| fail(BAD_ARGUMENTS, text))?;
    Ok(rules::elements(&groups, &addresses, &call.tag()))
}

/// What a container belongs to. Pure.
fn groups(conf: &Value) -> Result<Vec<String>, String> {
    let info = &conf["args"]["org.apache.mesos"]["network_info"];
    if info.is_null() {
        return Ok(Vec::new());
    }
    let info: NetworkInfo = mesos::json::from_json(info.to_string().as_bytes())
        .map_err(|error| format!("'network_info': {error}"))?;
    match &conf["label"] {
        Value::Null => Ok(info.groups),
        Value::String(key) => {
            let labels = info.labels.iter().flat_map(|labels| &labels.labels);
            let values = labels.filter(|label| label.key == *key).filter_map(|l| l.value.clone());
            Ok(values.collect())
        }
        other => Err(format!("'label' is {other}, expected the key of a label")),
    }
}

fn add(call: &Call, previous: &Value) -> Outcome<()> {
    let new = wanted(call, previous)?;
    if new.is_empty() {
        return Ok(());
    }
    let _lock = lock()?;
    let mut text = String::new();
    for family in rules::FAMILIES {
        text.push_str(&rules::join(family, &list(family)?, &new));
    }
    nft::apply(&text).or_else(|text| fail(RULES_FAILED, text))
}

fn check(call: &Call, previous: &Value) -> Outcome<()> {
    let wanted = wanted(call, previous)?;
    for family in rules::FAMILIES {
        let known = list(family)?;
        if let Some(lost) = wanted.iter().find(|element| !known.contains(element)) {
            let table = rules::TABLE;
            return fail(
                RULES_FAILED,
                format!("'{}' is not in '{}' of table {family} {table}", lost.key, lost.map),
            );
        }
    }
    Ok(())
}

fn remove(whose: impl Fn(&Element) -> bool) -> Outcome<()> {
    let _lock = lock()?;
    let mut text = String::new();
    for family in rules::FAMILIES {
        let (gone, stays): (Vec<Element>, Vec<Element>) =
            list(family)?.into_iter().partition(&whose);
        if !gone.is_empty() {
            text.push_str(&rules::leave(family, &stays, &gone));
        }
    }
    match text.is_empty() {
        true => Ok(()),
        false => nft::apply(&text).or_else(|text| fail(RULES_FAILED, text)),
    }
}

fn lock() -> Outcome<std::fs::File> {
    nft::lock().or_else(|text| fail(RULES_FAILED, text))
}

fn list(family: &str) -> Outcome<Vec<Element>> {
    nft::list(family, rules::TABLE).or_else(|text| fail(RULES_FAILED, text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_of_a_task() {
        let info = json!({ "groups": ["a", "b"], "labels": { "labels": [
            { "key": "team", "value": "x" }, { "key": "team", "value": "y" }] } });
        let conf = |label: Value| json!({ "label": label, "args": { "org.apache.mesos": { "network_info": info } } });
        assert_eq!(groups(&conf(Value::Null)).unwrap(), ["a", "b"]);
        assert_eq!(groups(&conf("team".into())).unwrap(), ["x", "y"]);
        assert!(groups(&conf("none".into())).unwrap().is_empty());
        assert!(groups(&conf(3.into())).unwrap_err().contains("key of a label"));
        assert!(groups(&json!({})).unwrap().is_empty());
    }
}
