//! The v1 names. v1 messages have the wire form of their v0 twins (a `SlaveID`
//! is an `AgentID`), so the product works on the v0 structs and meets v1 only
//! at its edges: JSON by the v1 schema, and `scheduler.Call.Subscribe`, whose
//! fields have other numbers.
//!
//! ```
//! let offer = mesos::OfferId { value: "O1".into() };
//! let json = mesos::v1::to_json("mesos.v1.OfferID", &offer).unwrap();
//! assert_eq!(json, br#"{"value":"O1"}"#);
//! ```

use prost::Message;

use crate::json::{self, JsonError};
use crate::schema::{self, MessageSchema, WireError};

fn schema(name: &str) -> &'static MessageSchema {
    schema::find(name).unwrap_or_else(|| panic!("{name} is not a message of the definitions"))
}

/// Prints `message` as JSON with the field and enum names of the v1 message
/// called `name`.
///
/// # Errors
/// [`WireError`] when the message does not have the shape of `name`.
///
/// # Panics
/// When `name` is not a defined message: a mistake of the program, not of input.
pub fn to_json(name: &str, message: &impl Message) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    json::write(schema(name), &message.encode_to_vec(), &mut out)?;
    Ok(out)
}

/// Reads JSON written with the names of the v1 message `name` into wire bytes,
/// ready for `decode` into the v0 twin.
///
/// # Errors
/// [`JsonError`], worded as Mesos words it.
///
/// # Panics
/// When `name` is not a defined message.
pub fn from_json(name: &str, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    json::parse(schema(name), text)
}

/// The v0 `scheduler.Call` of v1 wire bytes: `Subscribe` counts its fields
/// differently in v1 (`suppressed_roles` 2, `offer_constraints` 3) and v0
/// (`force` 2, `suppressed_roles` 3, `offer_constraints` 4).
///
/// # Errors
/// [`WireError`] when the bytes are no complete v1 call.
pub fn scheduler_call(bytes: &[u8]) -> Result<crate::scheduler::Call, WireError> {
    /// The v1 numbering of `Subscribe`.
    #[derive(Clone, PartialEq, Message)]
    struct Subscribe {
        #[prost(message, optional, tag = "1")]
        framework_info: Option<crate::FrameworkInfo>,
        #[prost(string, repeated, tag = "2")]
        suppressed_roles: Vec<String>,
        #[prost(message, optional, tag = "3")]
        offer_constraints: Option<crate::scheduler::OfferConstraints>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct OnlySubscribe {
        #[prost(message, optional, tag = "3")]
        subscribe: Option<Subscribe>,
    }

    let schema = schema("mesos.v1.scheduler.Call");
    schema::check(schema, bytes)?;
    let malformed = |_| WireError::Malformed {
        message: schema.name,
        offset: 0,
        what: "fields of the defined types",
    };
    let subscribe = OnlySubscribe::decode(bytes).map_err(malformed)?.subscribe;
    // Drop the v1 `subscribe` before the v0 struct sees its numbers.
    let mut rest = Vec::with_capacity(bytes.len());
    let mut reader = schema::WireReader::new(schema.name, bytes);
    let mut start = 0;
    while let Some((number, _)) = reader.next_field()? {
        let end = reader.position();
        if number != 3 {
            rest.extend_from_slice(&bytes[start..end]);
        }
        start = end;
    }
    let mut call = crate::scheduler::Call::decode(rest.as_slice()).map_err(malformed)?;
    call.subscribe = subscribe.map(|s| crate::scheduler::call::Subscribe {
        framework_info: s.framework_info.unwrap_or_default(),
        force: None,
        suppressed_roles: s.suppressed_roles,
        offer_constraints: s.offer_constraints,
    });
    Ok(call)
}
