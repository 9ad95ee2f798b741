//! YAML as JSON values, for specs that are written in it. Pure.
//!
//! What JSON can say and no more: one document, names that are texts, no tags and
//! no aliases, which could make a large value of a small file. A whole number that
//! begins with 0 is octal, as the tools that write specs take it.

use serde_json::{Map, Number, Value};
use yaml_rust2::Event;
use yaml_rust2::parser::{EventReceiver, Parser};
use yaml_rust2::scanner::TScalarStyle;

/// Deepest nesting; specs have five levels.
const DEPTH: usize = 32;

/// Reads one document.
///
/// # Errors
/// It is no YAML, or says what JSON cannot; for people.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let mut builder = Builder::default();
    Parser::new_from_str(text).load(&mut builder, true).map_err(|error| error.to_string())?;
    match (builder.error, builder.document) {
        (Some(error), _) => Err(error),
        (None, Some(value)) => Ok(value),
        (None, None) => Err("it is empty".into()),
    }
}

/// A value that is not finished.
enum Open {
    List(Vec<Value>),
    /// Members, and the name that waits for its value.
    Object(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    document: Option<Value>,
    error: Option<String>,
}

impl Builder {
    fn begin(&mut self, open: Open) -> Result<(), String> {
        if self.open.len() == DEPTH {
            return Err(format!("it is nested deeper than {DEPTH} levels"));
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, value: Value) -> Result<(), String> {
        match self.open.last_mut() {
            None if self.document.is_some() => return Err("it has more than one document".into()),
            None => self.document = Some(value),
            Some(Open::List(list)) => list.push(value),
            Some(Open::Object(members, name)) => match (name.take(), value) {
                (None, Value::String(text)) => *name = Some(text),
                (None, other) => return Err(format!("the member name {other} is no text")),
                (Some(name), value) => {
                    if members.contains_key(&name) {
                        return Err(format!("the member '{name}' is there twice"));
                    }
                    members.insert(name, value);
                }
            },
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.open.pop() {
            Some(Open::List(list)) => self.add(Value::Array(list)),
            Some(Open::Object(members, None)) => self.add(Value::Object(members)),
            _ => Err("it ends too early".into()),
        }
    }

    fn event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Alias(_) => Err("aliases are not supported".into()),
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => Err("tags are not supported".into()),
            Event::Scalar(text, TScalarStyle::Plain, _, None) => self.add(plain(text)),
            Event::Scalar(text, _, _, None) => self.add(Value::String(text)),
            Event::SequenceStart(..) => self.begin(Open::List(Vec::new())),
            Event::MappingStart(..) => self.begin(Open::Object(Map::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            _ => Ok(()),
        }
    }
}

impl EventReceiver for Builder {
    fn on_event(&mut self, event: Event) {
        if self.error.is_none()
            && let Err(error) = self.event(event)
        {
            self.error = Some(error);
        }
    }
}

/// What a text without quotes stands for.
fn plain(text: String) -> Value {
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    let octal = octal.and_then(|digits| u64::from_str_radix(digits, 8).ok());
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if octal.is_some() => octal.into(),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => whole.into(),
            // Words that Rust takes for numbers (`inf`) are words.
            (_, Ok(number)) if text.contains(|c: char| c.is_ascii_digit()) => {
                Number::from_f64(number).map_or(Value::String(text), Value::Number)
            }
            _ => Value::String(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_can_say_is_read() {
        let text = "# by a tool\n---\ncdiVersion: \"0.5.0\"\nname: 1.2.3\nlist:\n- a\n- 'b c'\n- {x: 1, y: [true, ~]}\n\
                    mode: 0666\nzero: 0\nminus: -5\nhalf: 0.5\ninf: inf\ntext: |\n  one\n  two\n";
        let wanted = json!({
            "cdiVersion": "0.5.0", "name": "1.2.3", "list": ["a", "b c", {"x": 1, "y": [true, null]}],
            "mode": 0o666, "zero": 0, "minus": -5, "half": 0.5, "inf": "inf", "text": "one\ntwo\n",
        });
        assert_eq!(read(text).unwrap(), wanted);
    }

    #[test]
    fn the_rest_is_refused() {
        let deep = "[".repeat(40) + &"]".repeat(40);
        for (text, words) in [
            ("", "empty"),
            ("a: &x 1\nb: *x\n", "aliases"),
            ("a: !!str 1\n", "tags"),
            ("a: 1\na: 2\n", "'a' is there twice"),
            ("1: a\n", "member name 1"),
            ("a: 1\n---\nb: 2\n", "more than one document"),
            ("a: [1\n", ""),
            ("a: b: c\n", ""),
            (&deep, "nested deeper"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
