//! Wire bytes to JSON, straight into a byte buffer.

use std::collections::HashSet;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::schema::{
    Default as Explicit, FieldSchema, Kind, Label, MAX_DEPTH, MessageSchema, WireError, WireReader,
    WireValue,
};

/// Appends the JSON form of the message `bytes`, read by `schema`, to `out`.
///
/// # Errors
/// [`WireError::Malformed`] when the bytes do not fit the schema.
pub fn write(
    schema: &'static MessageSchema,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    write_message(schema, bytes, out, Mode { depth: 0, sorted: false, own: None })
}

/// As [`write`], with the members of every object in the order of their names:
/// Mesos' older endpoints build their JSON as sorted maps.
///
/// # Errors
/// As [`write`].
pub fn write_sorted(
    schema: &'static MessageSchema,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    write_message(schema, bytes, out, Mode { depth: 0, sorted: true, own: None })
}

/// A member that the message has no field for: its name, and JSON.
type Own<'a> = (&'a str, &'a [u8]);

/// How to write, and how deep inside the document.
#[derive(Clone, Copy)]
struct Mode<'a> {
    depth: usize,
    sorted: bool,
    /// Among the members of the outermost object, if they are sorted.
    own: Option<Own<'a>>,
}

impl Mode<'_> {
    fn deeper(self) -> Self {
        Mode { depth: self.depth + 1, own: None, ..self }
    }
}

fn write_message(
    schema: &'static MessageSchema,
    bytes: &[u8],
    out: &mut Vec<u8>,
    mode: Mode<'_>,
) -> Result<(), WireError> {
    let malformed = |what| WireError::Malformed { message: schema.name, offset: 0, what };
    if mode.depth > MAX_DEPTH {
        return Err(malformed("at most 100 nested messages"));
    }
    let mut entries = Vec::new();
    let mut reader = WireReader::new(schema.name, bytes);
    while let Some(entry) = reader.next_field()? {
        entries.push(entry);
    }
    // prost and C++ write fields by number, so this is a scan, not a sort.
    if !entries.is_sorted_by_key(|(number, _)| *number) {
        entries.sort_by_key(|(number, _)| *number);
    }

    out.push(b'{');
    let mut first = true;
    if mode.sorted {
        let mut own = mode.own;
        for field in schema.by_name {
            let field = &schema.fields[usize::from(*field)];
            write_own(own.take_if(|(name, _)| *name < field.name), &mut first, out);
            write_field(field, &entries, &mut first, out, mode)?;
        }
        write_own(own, &mut first, out);
    } else {
        for field in schema.fields {
            write_field(field, &entries, &mut first, out, mode)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// One field with its name, if it is there or has an explicit default;
/// `entries` is sorted by number.
fn write_field(
    field: &FieldSchema,
    entries: &[(u32, WireValue<'_>)],
    first: &mut bool,
    out: &mut Vec<u8>,
    mode: Mode<'_>,
) -> Result<(), WireError> {
    let from = entries.partition_point(|(n, _)| *n < field.number);
    let to = entries.partition_point(|(n, _)| *n <= field.number);
    let values = &entries[from..to];
    let known = |v: &&(u32, WireValue<'_>)| is_known(field.kind, v.1);
    if field.label == Label::Repeated {
        if values.is_empty() {
            return Ok(());
        }
        key(field.name, first, out);
        if let Kind::Map(entry) = field.kind {
            return write_map(entry, values, out, mode);
        }
        out.push(b'[');
        let mut comma = false;
        for (_, value) in values.iter().filter(known) {
            write_element(field, *value, &mut comma, out, mode)?;
        }
        out.push(b']');
    } else if let Some((_, value)) = values.iter().rfind(known) {
        key(field.name, first, out);
        write_value(field.kind, *value, out, mode)?;
    } else if let (Some(default), false) = (field.default, field.deprecated) {
        key(field.name, first, out);
        match default {
            Explicit::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
            Explicit::Int(i) => write_number(i, out),
            Explicit::Double(d) => write_double(d, out),
            Explicit::Text(t) => write_string(t, out),
        }
    }
    Ok(())
}

fn write_own(own: Option<Own<'_>>, first: &mut bool, out: &mut Vec<u8>) {
    if let Some((name, json)) = own {
        key(name, first, out);
        out.extend_from_slice(json);
    }
}

/// Values of enumerations that have no name count as not there.
fn is_known(kind: Kind, value: WireValue<'_>) -> bool {
    match (kind, value) {
        (Kind::Enum(e), WireValue::Varint(n)) => e.name_of(n as i32).is_some(),
        _ => true,
    }
}

fn key(name: &str, first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// One occurrence of a repeated field: a value, or a packed run of them.
fn write_element(
    field: &FieldSchema,
    value: WireValue<'_>,
    comma: &mut bool,
    out: &mut Vec<u8>,
    mode: Mode<'_>,
) -> Result<(), WireError> {
    let mut one = |value| {
        if std::mem::replace(comma, true) {
            out.push(b',');
        }
        write_value(field.kind, value, out, mode)
    };
    let scalar =
        !matches!(field.kind, Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Map(_));
    match value {
        WireValue::Bytes(packed) if scalar => {
            let mut reader = WireReader::new(field.name, packed);
            while reader.position() < packed.len() {
                let value = reader.packed_value(field.kind)?;
                if is_known(field.kind, value) {
                    one(value)?;
                }
            }
            Ok(())
        }
        value => one(value),
    }
}

fn write_map(
    entry: &'static MessageSchema,
    values: &[(u32, WireValue<'_>)],
    out: &mut Vec<u8>,
    mode: Mode<'_>,
) -> Result<(), WireError> {
    let malformed = |what| WireError::Malformed { message: entry.name, offset: 0, what };
    let (key_kind, value_kind) = (entry.fields[0].kind, entry.fields[1].kind);
    let mut entries = Vec::with_capacity(values.len());
    for (_, value) in values {
        let WireValue::Bytes(bytes) = value else {
            return Err(malformed("a map entry"));
        };
        let (mut k, mut v) = (WireValue::Bytes(b""), None);
        let mut reader = WireReader::new(entry.name, bytes);
        while let Some((number, value)) = reader.next_field()? {
            match number {
                1 => k = value,
                2 => v = Some(value),
                _ => {}
            }
        }
        entries.push((k, v));
    }
    // Of entries with the same key the last one counts.
    let mut keys = HashSet::with_capacity(entries.len());
    let mut counts: Vec<bool> = entries.iter().rev().map(|(k, _)| keys.insert(raw(*k))).collect();
    counts.reverse();
    out.push(b'{');
    let mut comma = false;
    for ((k, v), _) in entries.into_iter().zip(counts).filter(|(_, counts)| *counts) {
        if std::mem::replace(&mut comma, true) {
            out.push(b',');
        }
        match (key_kind, k) {
            (Kind::String, _) => write_value(key_kind, k, out, mode)?,
            _ => {
                out.push(b'"');
                write_value(key_kind, k, out, mode)?;
                out.push(b'"');
            }
        }
        out.push(b':');
        let v = v.unwrap_or(match value_kind {
            Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Map(_) => WireValue::Bytes(b""),
            Kind::Double => WireValue::Fixed64(0),
            Kind::Float => WireValue::Fixed32(0),
            _ => WireValue::Varint(0),
        });
        write_value(value_kind, v, out, mode)?;
    }
    out.push(b'}');
    Ok(())
}

/// What tells keys of one kind apart.
fn raw(key: WireValue<'_>) -> (&[u8], u64) {
    match key {
        WireValue::Bytes(bytes) => (bytes, 0),
        WireValue::Varint(n) | WireValue::Fixed64(n) => (b"", n),
        WireValue::Fixed32(n) => (b"", u64::from(n)),
    }
}

fn write_value(
    kind: Kind,
    value: WireValue<'_>,
    out: &mut Vec<u8>,
    mode: Mode<'_>,
) -> Result<(), WireError> {
    let malformed = |what| Err(WireError::Malformed { message: "a field", offset: 0, what });
    match (kind, value) {
        (Kind::Double, WireValue::Fixed64(bits)) => write_double(f64::from_bits(bits), out),
        (Kind::Float, WireValue::Fixed32(bits)) => {
            write_double(f64::from(f32::from_bits(bits)), out);
        }
        (Kind::Int64, WireValue::Varint(v)) => write_number(v as i64, out),
        (Kind::Int32, WireValue::Varint(v)) => write_number(v as i32, out),
        (Kind::Uint64, WireValue::Varint(v)) => write_number(v, out),
        (Kind::Uint32, WireValue::Varint(v)) => write_number(v as u32, out),
        (Kind::Bool, WireValue::Varint(v)) => {
            out.extend_from_slice(if v != 0 { b"true" } else { b"false" });
        }
        (Kind::String, WireValue::Bytes(b)) => write_string(&String::from_utf8_lossy(b), out),
        (Kind::Bytes, WireValue::Bytes(b)) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(b).as_bytes());
            out.push(b'"');
        }
        (Kind::Enum(e), WireValue::Varint(v)) => match e.name_of(v as i32) {
            Some(name) => write_string(name, out),
            None => return malformed("a known enum value"),
        },
        (Kind::Message(schema), WireValue::Bytes(b)) => {
            write_message(schema, b, out, mode.deeper())?;
        }
        _ => return malformed("the wire type of its definition"),
    }
    Ok(())
}

/// Appends a JSON string with the escapes that Mesos' writer uses.
pub fn write_string(s: &str, out: &mut Vec<u8>) {
    write_text(s.as_bytes(), out);
}

/// As [`write_string`] for bytes that need not be UTF-8; those that are not go
/// out as they are, as Mesos does with the content of files.
pub fn write_text(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'"');
    let mut rest = bytes;
    let special = |b: &u8| matches!(*b, b'"' | b'\\' | 0..=0x1f);
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(b >> 4)]);
                out.push(HEX[usize::from(b & 15)]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn write_number(n: impl std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{n}").expect("a vector takes every write");
}

/// Appends a double as the shortest text that reads back the same, always with
/// a fraction or an exponent (`4.0`, `0.001`, `1e22`); infinities as strings.
pub fn write_double(d: f64, out: &mut Vec<u8>) {
    if !d.is_finite() {
        let text: &[u8] = if d.is_nan() {
            b"\"NaN\""
        } else if d > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        out.extend_from_slice(text);
        return;
    }
    // Shortest digits and exponent, laid out as rapidjson lays them out. At most
    // 17 digits, so that 32 bytes hold sign, point and exponent as well.
    let mut text = [0; 32];
    let mut rest = &mut text[..];
    write!(rest, "{:e}", d.abs()).expect("a double has at most 17 digits");
    let used = 32 - rest.len();
    let at = text[..used].iter().position(|b| *b == b'e').expect("{:e} prints an exponent");
    let exponent: i32 = std::str::from_utf8(&text[at + 1..used])
        .ok()
        .and_then(|e| e.parse().ok())
        .expect("{:e} prints a decimal exponent");
    // "1.25" becomes "125".
    let len = if at > 1 { at - 1 } else { 1 };
    text.copy_within(2.., 1);
    let digits = &text[..len];
    // The decimal point stands `point` digits into `digits`.
    let point = exponent + 1;
    if d.is_sign_negative() {
        out.push(b'-');
    }
    if (1..=21).contains(&point) {
        let point = point as usize;
        out.extend_from_slice(&digits[..len.min(point)]);
        out.resize(out.len() + point.saturating_sub(len), b'0');
        out.push(b'.');
        out.extend_from_slice(if len > point { &digits[point..] } else { b"0" });
    } else if -6 < point && point <= 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + point.unsigned_abs() as usize, b'0');
        out.extend_from_slice(digits);
    } else {
        out.push(digits[0]);
        if len > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'e');
        write_number(exponent, out);
    }
}

/// Writes hand-made JSON (the v0 endpoints) into one buffer, commas included.
///
/// ```
/// let mut w = mesos::json::Writer::new();
/// w.object(|w| {
///     w.key("id").string("a");
///     w.key("cpus").double(4.0);
///     w.key("tasks").array(|w| w.uint(1));
/// });
/// assert_eq!(w.into_bytes(), br#"{"id":"a","cpus":4.0,"tasks":[1]}"#);
/// ```
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    /// A value was written and the next one needs a comma.
    comma: bool,
}

impl Writer {
    /// An empty document.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished document.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    fn value(&mut self) -> &mut Vec<u8> {
        if std::mem::replace(&mut self.comma, true) {
            self.out.push(b',');
        }
        &mut self.out
    }

    /// Writes a key; the next value written belongs to it.
    pub fn key(&mut self, name: &str) -> &mut Self {
        write_string(name, self.value());
        self.out.push(b':');
        self.comma = false;
        self
    }

    /// Writes an object whose members `body` writes.
    pub fn object(&mut self, body: impl FnOnce(&mut Self)) {
        self.nested(b'{', b'}', body);
    }

    /// Writes an array whose elements `body` writes.
    pub fn array(&mut self, body: impl FnOnce(&mut Self)) {
        self.nested(b'[', b']', body);
    }

    fn nested(&mut self, open: u8, close: u8, body: impl FnOnce(&mut Self)) {
        self.value().push(open);
        self.comma = false;
        body(self);
        self.out.push(close);
        self.comma = true;
    }

    /// Writes a string.
    pub fn string(&mut self, s: &str) {
        write_string(s, self.value());
    }

    /// A string of bytes that need not be UTF-8; see [`write_text`].
    pub fn text(&mut self, bytes: &[u8]) {
        write_text(bytes, self.value());
    }

    /// Writes a double in the dialect's form.
    pub fn double(&mut self, d: f64) {
        write_double(d, self.value());
    }

    /// Writes an unsigned integer.
    pub fn uint(&mut self, n: u64) {
        write_number(n, self.value());
    }

    /// Writes a signed integer.
    pub fn int(&mut self, n: i64) {
        write_number(n, self.value());
    }

    /// Writes a boolean.
    pub fn bool(&mut self, b: bool) {
        self.value().extend_from_slice(if b { b"true" } else { b"false" });
    }

    /// Writes bytes that already are one JSON value.
    pub fn raw(&mut self, json: &[u8]) {
        self.value().extend_from_slice(json);
    }

    /// Writes a generated struct with its v0 names.
    pub fn message<T: prost::Message + prost::Name>(&mut self, message: &T) {
        let bytes = message.encode_to_vec();
        write(crate::schema::of::<T>(), &bytes, self.value())
            .expect("a generated struct encodes to its own schema");
    }

    /// As [`Writer::message`], with members in the order of their names.
    pub fn sorted_message<T: prost::Message + prost::Name>(&mut self, message: &T) {
        let bytes = message.encode_to_vec();
        write_sorted(crate::schema::of::<T>(), &bytes, self.value())
            .expect("a generated struct encodes to its own schema");
    }

    /// As [`Writer::sorted_message`], with a member that the message has no field for.
    pub fn sorted_message_with<T: prost::Message + prost::Name>(
        &mut self,
        message: &T,
        name: &str,
        json: &[u8],
    ) {
        let bytes = message.encode_to_vec();
        let mode = Mode { depth: 0, sorted: true, own: Some((name, json)) };
        write_message(crate::schema::of::<T>(), &bytes, self.value(), mode)
            .expect("a generated struct encodes to its own schema");
    }
}
