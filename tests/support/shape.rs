//! Comparing JSON documents by structure: members, their order, types of values,
//! and where wanted the values. Every difference is named by its path.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::BTreeSet;

use serde_json::Value;

/// What counts as a difference.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules<'a> {
    /// Values must be equal, not only their types.
    pub values: bool,
    /// Ends of paths (without indexes) where values may differ, not types.
    pub loose: &'a [&'a str],
    /// Ends of paths where and below which anything may differ, with reasons.
    pub allowed: &'a [(&'a str, &'a str)],
    /// Elements of arrays are paired by their ids; recorded ones that are not
    /// ours are left out.
    pub by_id: bool,
}

/// Every difference in structure, by path. Arrays are compared element by
/// element, and their lengths must agree.
pub fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    compare(ours, theirs, &Rules::default())
}

/// As [`differences`], and values must be equal too.
pub fn differences_of_values(ours: &Value, theirs: &Value) -> Vec<String> {
    compare(ours, theirs, &Rules { values: true, ..Rules::default() })
}

/// Every difference by these rules.
pub fn compare(ours: &Value, theirs: &Value, rules: &Rules<'_>) -> Vec<String> {
    let mut walk = Walk { rules, found: Vec::new() };
    walk.value("$", ours, theirs);
    walk.found
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "double",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What tells one element of an array from the others.
fn id_of(value: &Value) -> Option<String> {
    ["id", "task_id", "executor_id", "agent_id", "framework_id", "framework_info", "task_info"]
        .iter()
        .chain(&["executor_info", "agent_info", "name", "value"])
        .find_map(|name| match value.get(name)? {
            Value::String(id) => Some(id.clone()),
            inner @ Value::Object(_) => id_of(inner),
            _ => None,
        })
}

struct Walk<'a> {
    rules: &'a Rules<'a>,
    found: Vec<String>,
}

/// `$.tasks[3].id` is `$.tasks.id`.
fn plain(path: &str) -> String {
    let parts = path.split('[').enumerate();
    parts.map(|(n, p)| if n == 0 { p } else { p.split_once(']').map_or("", |(_, p)| p) }).collect()
}

impl Walk<'_> {
    fn note(&mut self, path: &str, what: impl std::fmt::Display) {
        let plain = plain(path);
        let within = |end: &str| plain.ends_with(end) || plain.contains(&format!("{end}."));
        if !self.rules.allowed.iter().any(|(end, _)| within(end)) {
            self.found.push(format!("{path}: {what}"));
        }
    }

    fn value(&mut self, path: &str, ours: &Value, theirs: &Value) {
        match (ours, theirs) {
            (Value::Object(a), Value::Object(b)) => self.members(path, a, b),
            (Value::Array(a), Value::Array(b)) => self.elements(path, a, b),
            _ if kind(ours) != kind(theirs) => {
                let (a, b) = (kind(ours), kind(theirs));
                self.note(path, format_args!("{a} {ours}, recorded {b} {theirs}"));
            }
            _ if self.rules.values && ours != theirs => {
                let plain = plain(path);
                if !self.rules.loose.iter().any(|end| plain.ends_with(end)) {
                    self.note(path, format_args!("{ours}, recorded {theirs}"));
                }
            }
            _ => {}
        }
    }

    fn members(
        &mut self,
        path: &str,
        ours: &serde_json::Map<String, Value>,
        theirs: &serde_json::Map<String, Value>,
    ) {
        for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
            self.note(&format!("{path}.{name}"), format_args!("missing: {}", theirs[name]));
        }
        for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
            self.note(&format!("{path}.{name}"), format_args!("not recorded: {}", ours[name]));
        }
        let a: Vec<_> = ours.keys().filter(|name| theirs.contains_key(*name)).collect();
        let b: Vec<_> = theirs.keys().filter(|name| ours.contains_key(*name)).collect();
        if a != b {
            self.note(path, format_args!("order {a:?}, recorded {b:?}"));
        }
        for name in a {
            self.value(&format!("{path}.{name}"), &ours[name], &theirs[name]);
        }
    }

    fn elements(&mut self, path: &str, ours: &[Value], theirs: &[Value]) {
        let ids: Vec<_> = ours.iter().filter_map(id_of).collect();
        let distinct = ids.iter().collect::<BTreeSet<_>>().len() == ours.len();
        if self.rules.by_id && distinct {
            for (i, value) in ours.iter().enumerate() {
                let path = format!("{path}[{i}]");
                match theirs.iter().find(|other| id_of(other) == id_of(value)) {
                    Some(other) => self.value(&path, value, other),
                    None => self.note(&path, format_args!("not recorded: {value}")),
                }
            }
            return;
        }
        if ours.len() != theirs.len() {
            self.note(path, format_args!("{} elements, recorded {}", ours.len(), theirs.len()));
        }
        for (i, (value, other)) in ours.iter().zip(theirs).enumerate() {
            self.value(&format!("{path}[{i}]"), value, other);
        }
    }
}
