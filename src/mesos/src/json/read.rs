//! JSON to wire bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use crate::schema::{self, FieldSchema, Kind, Label, MessageSchema, WireError};

/// Why a text is not the JSON form of a message. `Display` is in Mesos' words
/// and meant to stand after a prefix such as `Failed to parse body into JSON: `.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON.
    #[error("syntax error at line {line} near: {near}")]
    Syntax {
        /// Line of the offending character, from 1.
        line: usize,
        /// The rest of that line, cut at 200 characters.
        near: String,
    },
    /// JSON, but not this message.
    #[error("{0}")]
    Convert(String),
}

/// Reads JSON into the wire form of `schema`, required fields checked.
///
/// # Errors
/// [`JsonError`]: not JSON, not an object, a value of the wrong type or out of
/// range, or a missing required field, named by path.
pub fn parse(schema: &'static MessageSchema, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    let value: Value = serde_json::from_slice(text).map_err(|e| syntax(text, &e))?;
    from_value(schema, &value)
}

fn syntax(text: &[u8], error: &serde_json::Error) -> JsonError {
    let line = error.line().max(1);
    let near = text.split(|b| *b == b'\n').nth(line - 1).unwrap_or_default();
    // At the end of input serde_json points at the last character read.
    let skip = if error.is_eof() { near.len() } else { error.column().saturating_sub(1) };
    let near = String::from_utf8_lossy(near.get(skip..).unwrap_or_default());
    JsonError::Syntax { line, near: near.chars().take(200).collect() }
}

fn from_value(schema: &'static MessageSchema, value: &Value) -> Result<Vec<u8>, JsonError> {
    let Value::Object(object) = value else {
        return Err(JsonError::Convert("Expecting a JSON object".into()));
    };
    let mut out = Vec::new();
    encode_object(schema, object, &mut out)?;
    match schema::check(schema, &out) {
        Ok(()) => Ok(out),
        Err(WireError::Missing(names)) => {
            Err(JsonError::Convert(format!("Missing required fields: {names}")))
        }
        Err(e) => Err(JsonError::Convert(e.to_string())),
    }
}

fn encode_object(
    schema: &'static MessageSchema,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    // In field order, so that the bytes are those a generated struct writes.
    let mut fields: Vec<(&FieldSchema, &Value)> = object
        .iter()
        .filter_map(|(name, value)| Some((schema.field_named(name)?, value)))
        .collect();
    fields.sort_by_key(|(field, _)| field.number);
    for (field, value) in fields {
        match (field.kind, value) {
            (_, Value::Null) => {}
            (Kind::Map(entry), Value::Object(map)) => encode_map(field, entry, map, out)?,
            (_, Value::Array(values)) if field.label == Label::Repeated => {
                encode_repeated(field, values, out)?;
            }
            (_, Value::Array(_)) => return Err(not_expecting("array", field)),
            _ => encode_value(field, value, out)?,
        }
    }
    Ok(())
}

fn encode_repeated(
    field: &FieldSchema,
    values: &[Value],
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    for value in values {
        match value {
            Value::Null => {}
            Value::Array(_) => return Err(not_expecting("array", field)),
            value => encode_value(field, value, out)?,
        }
    }
    Ok(())
}

fn encode_map(
    field: &FieldSchema,
    entry: &'static MessageSchema,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    for (key, value) in map {
        let mut body = Vec::new();
        encode_value(&entry.fields[0], &Value::String(key.clone()), &mut body)?;
        encode_value(&entry.fields[1], value, &mut body)?;
        length_delimited(field.number, &body, out);
    }
    Ok(())
}

fn length_delimited(number: u32, body: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

fn not_expecting(what: &str, field: &FieldSchema) -> JsonError {
    JsonError::Convert(format!("Not expecting a JSON {what} for field '{}'", field.name))
}

fn encode_value(field: &FieldSchema, value: &Value, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match value {
        Value::Null => Ok(()),
        Value::Object(object) => {
            let Kind::Message(schema) = field.kind else {
                return Err(not_expecting("object", field));
            };
            let mut body = Vec::new();
            encode_object(schema, object, &mut body)?;
            length_delimited(field.number, &body, out);
            Ok(())
        }
        Value::String(s) => encode_string(field, s, out),
        Value::Number(n) => encode_number(field, n, out),
        Value::Bool(b) => match field.kind {
            Kind::Bool => {
                encode_key(field.number, WireType::Varint, out);
                encode_varint(u64::from(*b), out);
                Ok(())
            }
            _ => Err(not_expecting("boolean", field)),
        },
        Value::Array(_) => Err(not_expecting("array", field)),
    }
}

fn encode_string(field: &FieldSchema, s: &str, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match field.kind {
        Kind::String => length_delimited(field.number, s.as_bytes(), out),
        Kind::Bytes => {
            let bytes = STANDARD.decode(s).map_err(|e| {
                JsonError::Convert(format!(
                    "Failed to base64 decode bytes field '{}': {e}",
                    field.name
                ))
            })?;
            length_delimited(field.number, &bytes, out);
        }
        Kind::Enum(e) => match e.number_of(s) {
            Some(number) => {
                encode_key(field.number, WireType::Varint, out);
                // Negative enum values are sign-extended to ten bytes.
                encode_varint(i64::from(number) as u64, out);
            }
            None if field.label == Label::Required => {
                return Err(JsonError::Convert(format!("Failed to find enum for '{s}'")));
            }
            None => {}
        },
        Kind::Double | Kind::Float if s == "Infinity" => encode_double(field, f64::INFINITY, out),
        Kind::Double | Kind::Float if s == "-Infinity" => {
            encode_double(field, f64::NEG_INFINITY, out);
        }
        Kind::Bool => {
            let b: bool = s.parse().map_err(|_| bad_text("boolean", field, s))?;
            encode_key(field.number, WireType::Varint, out);
            encode_varint(u64::from(b), out);
        }
        Kind::Double | Kind::Float | Kind::Int64 | Kind::Uint64 | Kind::Int32 | Kind::Uint32 => {
            let number: Number =
                serde_json::from_str(s).map_err(|_| bad_text("number", field, s))?;
            encode_number(field, &number, out)?;
        }
        Kind::Message(_) | Kind::Map(_) => return Err(not_expecting("string", field)),
    }
    Ok(())
}

fn bad_text(what: &str, field: &FieldSchema, text: &str) -> JsonError {
    JsonError::Convert(format!(
        "Failed to parse '{text}' as a JSON {what} for field '{}': \
         syntax error at line 1 near: {text}",
        field.name
    ))
}

fn encode_double(field: &FieldSchema, d: f64, out: &mut Vec<u8>) {
    if matches!(field.kind, Kind::Float) {
        encode_key(field.number, WireType::ThirtyTwoBit, out);
        out.extend_from_slice(&(d as f32).to_le_bytes());
    } else {
        encode_key(field.number, WireType::SixtyFourBit, out);
        out.extend_from_slice(&d.to_le_bytes());
    }
}

fn encode_number(field: &FieldSchema, n: &Number, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let varint = |value: Option<u64>, range: &str, out: &mut Vec<u8>| {
        let value = value.ok_or_else(|| {
            JsonError::Convert(format!("Number {n} for field '{}' is not {range}", field.name))
        })?;
        encode_key(field.number, WireType::Varint, out);
        encode_varint(value, out);
        Ok(())
    };
    // Mesos casts, so `1.0` and `1.5` are both accepted for an integer field.
    let integer: Option<i128> = n
        .as_i64()
        .map(i128::from)
        .or_else(|| n.as_u64().map(i128::from))
        .or_else(|| n.as_f64().filter(|f| f.abs() < 1e19).map(|f| f as i128));
    match field.kind {
        Kind::Double | Kind::Float => {
            encode_double(field, n.as_f64().unwrap_or_default(), out);
            Ok(())
        }
        Kind::Int64 => {
            let v = integer.and_then(|i| i64::try_from(i).ok());
            varint(v.map(|v| v as u64), "a signed 64-bit integer", out)
        }
        Kind::Int32 => {
            let v = integer.and_then(|i| i32::try_from(i).ok());
            varint(v.map(|v| i64::from(v) as u64), "a signed 32-bit integer", out)
        }
        Kind::Uint64 => {
            let v = integer.and_then(|i| u64::try_from(i).ok());
            varint(v, "an unsigned 64-bit integer", out)
        }
        Kind::Uint32 => {
            let v = integer.and_then(|i| u32::try_from(i).ok());
            varint(v.map(u64::from), "an unsigned 32-bit integer", out)
        }
        _ => Err(not_expecting("number", field)),
    }
}
