//! Static tables of every Mesos message, generated from the `.proto` files.
//!
//! The tables drive everything that needs field names or presence rules: the
//! JSON dialect ([`crate::json`]) and the check for missing required fields,
//! which prost does not make. They cover v0, v1 and internal packages.

use thiserror::Error;

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

/// A message type: its full name and its fields in declaration order, which is
/// the order in which Mesos prints them as JSON.
#[derive(Debug)]
pub struct MessageSchema {
    /// Full name without leading dot, for example `mesos.v1.Offer`.
    pub name: &'static str,
    /// Fields in declaration order.
    pub fields: &'static [FieldSchema],
    /// Indexes into `fields` in the order of the fields' names.
    pub by_name: &'static [u16],
}

/// An enum type and its values in declaration order.
#[derive(Debug)]
pub struct EnumSchema {
    /// Full name without leading dot.
    pub name: &'static str,
    /// `(name, number)`; the first one is proto2's default.
    pub values: &'static [(&'static str, i32)],
}

/// One field of a message.
#[derive(Debug)]
pub struct FieldSchema {
    /// Name as in the `.proto` file, which is also the JSON key.
    pub name: &'static str,
    /// Tag number on the wire.
    pub number: u32,
    /// Required, optional or repeated.
    pub label: Label,
    /// Type of the value.
    pub kind: Kind,
    /// The explicit default, if the definition gives one.
    pub default: Option<Default>,
    /// Deprecated fields do not print their default.
    pub deprecated: bool,
    /// Whether a repeated scalar is written packed.
    pub packed: bool,
}

/// Presence rule of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Label {
    Required,
    Optional,
    Repeated,
}

/// Type of a field's value.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Uint32,
    Bool,
    String,
    Bytes,
    Enum(&'static EnumSchema),
    Message(&'static MessageSchema),
    /// A map; the schema is that of its entry (`key` = 1, `value` = 2).
    Map(&'static MessageSchema),
}

/// An explicit default value.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Default {
    Bool(bool),
    Int(i64),
    Double(f64),
    /// A string, or the name of an enum value.
    Text(&'static str),
}

impl EnumSchema {
    /// The number of the value called `name`.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    /// The name of the value numbered `number`.
    #[must_use]
    pub fn name_of(&self, number: i32) -> Option<&'static str> {
        self.values.iter().find(|(_, v)| *v == number).map(|(n, _)| *n)
    }
}

impl MessageSchema {
    /// The field with this tag number.
    #[must_use]
    pub fn field(&self, number: u32) -> Option<&'static FieldSchema> {
        self.fields.iter().find(|f| f.number == number)
    }

    /// The field with this name.
    #[must_use]
    pub fn field_named(&self, name: &str) -> Option<&'static FieldSchema> {
        self.fields.iter().find(|f| f.name == name)
    }
}

/// The schema with this full name (`mesos.v1.scheduler.Call`).
#[must_use]
pub fn find(name: &str) -> Option<&'static MessageSchema> {
    MESSAGES.binary_search_by(|m| m.name.cmp(name)).ok().map(|i| MESSAGES[i])
}

/// The schema of a generated struct.
#[must_use]
pub fn of<T: prost::Name>() -> &'static MessageSchema {
    find(&T::full_name()).expect("every generated struct has a schema: both come from one set")
}

/// Why bytes are not a complete message of a schema.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The bytes are not protobuf, or not of this message's shape.
    #[error("malformed protobuf at byte {offset} of {message}: {what}")]
    Malformed {
        /// Full name of the message being read.
        message: &'static str,
        /// Offset within that message.
        offset: usize,
        /// What was expected.
        what: &'static str,
    },
    /// Required fields are absent; paths from the root, comma separated.
    #[error("missing required fields: {0}")]
    Missing(String),
}

/// A field as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WireValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Iterates over the fields of one encoded message.
pub(crate) struct WireReader<'a> {
    message: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> WireReader<'a> {
    pub(crate) fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        WireReader { message, bytes, at: 0 }
    }

    fn malformed(&self, what: &'static str) -> WireError {
        WireError::Malformed { message: self.message, offset: self.at, what }
    }

    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in 0..10 {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.malformed("a whole varint"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a varint of at most ten bytes"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(len).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or_else(|| self.malformed("as many bytes as the length says"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        Ok(self.take(N)?.try_into().expect("take(N) returns N bytes"))
    }

    /// Offset of the next unread byte.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next value of a packed run of scalars of `kind`.
    pub(crate) fn packed_value(&mut self, kind: Kind) -> Result<WireValue<'a>, WireError> {
        Ok(match kind {
            Kind::Double => WireValue::Fixed64(u64::from_le_bytes(self.array()?)),
            Kind::Float => WireValue::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => WireValue::Varint(self.varint()?),
        })
    }

    /// The next `(number, value)`, or `None` at the end.
    pub(crate) fn next_field(&mut self) -> Result<Option<(u32, WireValue<'a>)>, WireError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| self.malformed("a tag number"))?;
        if number == 0 {
            return Err(self.malformed("a tag number above zero"));
        }
        let value = match tag & 7 {
            0 => WireValue::Varint(self.varint()?),
            1 => WireValue::Fixed64(u64::from_le_bytes(self.array()?)),
            5 => WireValue::Fixed32(u32::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?)
                    .map_err(|_| self.malformed("a length that fits memory"))?;
                WireValue::Bytes(self.take(len)?)
            }
            _ => return Err(self.malformed("a known wire type")),
        };
        Ok(Some((number, value)))
    }
}

/// How deep messages may nest, as in protobuf's own parsers.
pub(crate) const MAX_DEPTH: usize = 100;

/// Checks that `bytes` hold every required field of `schema`, recursively.
///
/// # Errors
/// [`WireError::Missing`] names all absent fields by path;
/// [`WireError::Malformed`] when the bytes are no protobuf at all.
pub fn check(schema: &'static MessageSchema, bytes: &[u8]) -> Result<(), WireError> {
    let mut missing = Vec::new();
    check_into(schema, bytes, &mut String::new(), &mut missing, 0)?;
    if missing.is_empty() { Ok(()) } else { Err(WireError::Missing(missing.join(", "))) }
}

fn check_into(
    schema: &'static MessageSchema,
    bytes: &[u8],
    path: &mut String,
    missing: &mut Vec<String>,
    depth: usize,
) -> Result<(), WireError> {
    let mut reader = WireReader::new(schema.name, bytes);
    if depth > MAX_DEPTH {
        return Err(reader.malformed("at most 100 nested messages"));
    }
    let mut seen = vec![0usize; schema.fields.len()];
    while let Some((number, value)) = reader.next_field()? {
        let Some(i) = schema.fields.iter().position(|f| f.number == number) else {
            continue;
        };
        let field = &schema.fields[i];
        if !fits(field, value) {
            return Err(reader.malformed("the wire type of its definition"));
        }
        if let Kind::Enum(e) = field.kind
            && let WireValue::Varint(v) = value
            && e.name_of(v as i32).is_none()
        {
            continue;
        }
        seen[i] += 1;
        if let Kind::Message(inner) | Kind::Map(inner) = field.kind {
            let WireValue::Bytes(inner_bytes) = value else {
                return Err(reader.malformed("a length-delimited message"));
            };
            let len = path.len();
            path.push_str(field.name);
            if field.label == Label::Repeated {
                path.push_str(&format!("[{}]", seen[i] - 1));
            }
            path.push('.');
            check_into(inner, inner_bytes, path, missing, depth + 1)?;
            if let Kind::Map(entry) = field.kind {
                check_absent_value(entry, inner_bytes, path, missing, depth + 1)?;
            }
            path.truncate(len);
        }
    }
    for (field, seen) in schema.fields.iter().zip(seen) {
        if field.label == Label::Required && seen == 0 {
            missing.push(format!("{path}{}", field.name));
        }
    }
    Ok(())
}

/// Whether a value has the wire type of its field; a packed run must be whole.
fn fits(field: &FieldSchema, value: WireValue<'_>) -> bool {
    match (field.kind, value) {
        (Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Map(_), WireValue::Bytes(_))
        | (Kind::Double, WireValue::Fixed64(_))
        | (Kind::Float, WireValue::Fixed32(_)) => true,
        (Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Map(_), _) => false,
        (kind, WireValue::Bytes(packed)) if field.label == Label::Repeated => {
            let mut reader = WireReader::new(field.name, packed);
            while reader.position() < packed.len() {
                if reader.packed_value(kind).is_err() {
                    return false;
                }
            }
            true
        }
        (Kind::Double | Kind::Float, _) => false,
        (_, value) => matches!(value, WireValue::Varint(_)),
    }
}

/// A map entry without its value has an empty one, which may miss fields.
fn check_absent_value(
    entry: &'static MessageSchema,
    bytes: &[u8],
    path: &mut String,
    missing: &mut Vec<String>,
    depth: usize,
) -> Result<(), WireError> {
    let Kind::Message(value) = entry.fields[1].kind else { return Ok(()) };
    let mut reader = WireReader::new(entry.name, bytes);
    while let Some((number, _)) = reader.next_field()? {
        if number == entry.fields[1].number {
            return Ok(());
        }
    }
    let len = path.len();
    path.push_str("value.");
    check_into(value, b"", path, missing, depth + 1)?;
    path.truncate(len);
    Ok(())
}

/// Decodes a generated struct and checks its required fields.
///
/// # Errors
/// [`WireError`], naming what is wrong or missing.
pub fn decode<T: prost::Message + prost::Name + std::default::Default>(
    bytes: &[u8],
) -> Result<T, WireError> {
    let schema = of::<T>();
    check(schema, bytes)?;
    T::decode(bytes).map_err(|_| WireError::Malformed {
        message: schema.name,
        offset: 0,
        what: "fields of the defined types",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate as mesos;
    use prost::Message as _;

    #[test]
    fn every_struct_has_a_schema_and_tables_are_sorted() {
        assert!(MESSAGES.windows(2).all(|w| w[0].name < w[1].name));
        assert_eq!(of::<mesos::Offer>().name, "mesos.Offer");
        assert!(find("mesos.v1.scheduler.Call").is_some());
        assert!(find("mesos.NoSuch").is_none());
    }

    #[test]
    fn missing_required_fields_are_named_by_path() {
        let call = mesos::scheduler::Call::default().encode_to_vec();
        assert_eq!(check(of::<mesos::scheduler::Call>(), &call), Ok(()));
        // A `Call` whose `subscribe.framework_info` lacks `user` and `name`:
        // subscribe(3) { framework_info(1) {} }
        let bytes = [0x1a, 0x02, 0x0a, 0x00];
        assert_eq!(
            check(of::<mesos::scheduler::Call>(), &bytes),
            Err(WireError::Missing(
                "subscribe.framework_info.user, subscribe.framework_info.name".into()
            ))
        );
    }

    #[test]
    fn known_fields_have_the_wire_type_of_their_definition() {
        let wrong = |schema: &'static MessageSchema, bytes: &[u8]| {
            matches!(check(schema, bytes), Err(WireError::Malformed { .. }))
        };
        // Text(value: string = 1) as a varint, Scalar(value: double = 1) as a
        // string, and a number that is not repeated as a packed run.
        assert!(wrong(of::<mesos::value::Text>(), &[0x08, 0x01]));
        assert!(wrong(of::<mesos::value::Scalar>(), &[0x0a, 0x01, b'x']));
        assert!(wrong(of::<mesos::value::Range>(), &[0x0a, 0x01, 0x01, 0x10, 0x02]));
    }

    #[test]
    fn map_entries_without_value_miss_its_required_fields() {
        // A task's limits(18) { key(1): "cpus" }: the Scalar lacks `value`.
        let task = mesos::TaskInfo {
            limits: [("cpus".to_owned(), mesos::value::Scalar { value: 1.0 })].into(),
            ..mesos::TaskInfo::default()
        };
        let whole = task.encode_to_vec();
        assert_eq!(check(of::<mesos::TaskInfo>(), &whole), Ok(()));
        let mut without = task;
        without.limits.clear();
        let mut bytes = without.encode_to_vec();
        let limits = of::<mesos::TaskInfo>().field_named("limits").expect("a field").number;
        prost::encoding::encode_key(limits, prost::encoding::WireType::LengthDelimited, &mut bytes);
        bytes.extend_from_slice(&[6, 0x0a, 4, b'c', b'p', b'u', b's']);
        assert_eq!(
            check(of::<mesos::TaskInfo>(), &bytes),
            Err(WireError::Missing("limits[0].value.value".into()))
        );
    }

    #[test]
    fn garbage_is_malformed_not_a_panic() {
        for bytes in [&[0xff, 0xff, 0xff][..], &[0x0a, 0x7f, 0x01], &[0x00, 0x01], &[0x0b]] {
            assert!(matches!(check(of::<mesos::Offer>(), bytes), Err(WireError::Malformed { .. })));
        }
    }
}
