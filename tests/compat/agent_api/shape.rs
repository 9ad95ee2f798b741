//! Comparing JSON documents by structure: members, their order, types of values.

use serde_json::Value;

/// Every difference in structure, by path. Arrays are compared element by
/// element, and their lengths must agree.
pub fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("$", ours, theirs, false, &mut found);
    found
}

/// As [`differences`], and values must be equal too.
pub fn differences_of_values(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("$", ours, theirs, true, &mut found);
    found
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

fn walk(path: &str, ours: &Value, theirs: &Value, values: bool, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let (ours, theirs): (Vec<_>, Vec<_>) = (a.keys().collect(), b.keys().collect());
            if ours != theirs {
                found.push(format!("{path}: members {ours:?}, recorded {theirs:?}"));
            }
            for (name, value) in a {
                if let Some(other) = b.get(name) {
                    walk(&format!("{path}.{name}"), value, other, values, found);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                found.push(format!("{path}: {} elements, recorded {}", a.len(), b.len()));
            }
            for (i, (value, other)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{i}]"), value, other, values, found);
            }
        }
        _ if kind(ours) != kind(theirs) => {
            found.push(format!(
                "{path}: {} {ours}, recorded {} {theirs}",
                kind(ours),
                kind(theirs)
            ));
        }
        _ if values && ours != theirs => found.push(format!("{path}: {ours}, recorded {theirs}")),
        _ => {}
    }
}
