//! Protobuf to and from Mesos' JSON dialect.
//!
//! The dialect: field names as defined (snake_case), fields in declaration
//! order, 64-bit integers as numbers, doubles always with a fraction or an
//! exponent, infinities as the strings `"Infinity"` and `"-Infinity"`, bytes as
//! base64, enums by name, explicit defaults printed unless deprecated. Reading
//! ignores unknown fields, `null` and unknown values of optional enums, accepts
//! numbers and booleans as strings, and names what is wrong in Mesos' words.
//!
//! Both directions go through the wire form and the static [`crate::schema`]
//! tables, so one table serves v0, v1 and internal messages.

mod read;
mod write;

pub use read::{JsonError, parse};
pub use write::{Writer, write, write_double, write_sorted, write_string};

use crate::schema;

/// Prints a generated struct with its own (v0) names.
///
/// # Panics
/// Never for structs of this crate: their encoding always fits their schema.
#[must_use]
pub fn to_json<T: prost::Message + prost::Name>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write(schema::of::<T>(), &message.encode_to_vec(), &mut out)
        .expect("a generated struct encodes to its own schema");
    out
}

/// Reads a generated struct from JSON with its own (v0) names.
///
/// # Errors
/// [`JsonError`], worded as Mesos words it.
pub fn from_json<T: prost::Message + prost::Name + Default>(text: &[u8]) -> Result<T, JsonError> {
    let bytes = parse(schema::of::<T>(), text)?;
    T::decode(bytes.as_slice())
        .map_err(|e| JsonError::Convert(format!("Failed to decode {}: {e}", T::full_name())))
}

#[cfg(test)]
mod tests;
