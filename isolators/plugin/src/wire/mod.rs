//! One call, one response: encodings, and HTTP/1.1 over a unix socket.
//!
//! Used by both ends. Knows messages, not what they mean. The only place of this
//! crate with HTTP in it.

mod client;
mod server;

pub use client::{CallError, Client, Events};
pub use server::{Answer, Service, listen};

use mesos::bulkhead::plugin::{Call, call};
use prost::{Message, Name};

/// The one path.
pub const PATH: &str = "/api/v1";

/// The version of the protocol that this crate speaks.
pub const PROTOCOL: u32 = 1;

/// Longest call, response or record in bytes: more is an attack or a mistake.
pub const LONGEST: usize = 16 << 20;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Mesos' JSON dialect.
    #[default]
    Json,
    /// Protobuf's wire form.
    Protobuf,
}

impl Encoding {
    /// The media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/x-protobuf",
        }
    }

    /// By media type; JSON if it is anything but protobuf, as `curl -d` claims a form.
    #[must_use]
    pub fn of(media_type: Option<&str>) -> Encoding {
        match media_type {
            Some(name) if name.starts_with("application/x-protobuf") => Encoding::Protobuf,
            _ => Encoding::Json,
        }
    }

    /// A message's bytes.
    #[must_use]
    pub fn encode<T: Message + Name>(self, message: &T) -> Vec<u8> {
        match self {
            Encoding::Json => mesos::json::to_json(message),
            Encoding::Protobuf => message.encode_to_vec(),
        }
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// What is wrong or missing, for people.
    pub fn decode<T: Message + Name + Default>(self, bytes: &[u8]) -> Result<T, String> {
        match self {
            Encoding::Json => {
                let message: T = mesos::json::from_json(bytes).map_err(|e| e.to_string())?;
                Ok(message)
            }
            Encoding::Protobuf => mesos::schema::decode(bytes).map_err(|e| e.to_string()),
        }
    }
}

/// The name of a call's type, as in the messages.
#[must_use]
pub fn name_of(call: &Call) -> &'static str {
    call.r#type().as_str_name()
}

/// A call without content.
#[must_use]
pub fn bare(kind: call::Type) -> Call {
    Call { r#type: Some(kind as i32), ..Call::default() }
}
