//! Calls of the operator and executor APIs, read from whatever they were sent as and
//! checked. The error is the text of a 400, in Mesos' words, which differ between the
//! two. Pure.

use mesos::json::JsonError;
use mesos::{agent, executor, schema, v1};
use prost::{Message, Name};

use super::validate;
use crate::wire::http::media::Media;

/// A call of the operator API.
pub(super) fn operator(content: Media, body: &[u8]) -> Result<agent::Call, String> {
    let call = decode(content, body, "mesos.v1.agent.Call", "a protobuf object", "")?;
    validate::agent_call(&call).map_err(|e| format!("Failed to validate agent::Call: {e}"))?;
    Ok(call)
}

/// A call of the executor API.
pub(super) fn executor(content: Media, body: &[u8]) -> Result<executor::Call, String> {
    let unlike = "Failed to convert JSON into Call protobuf: ";
    let call = decode(content, body, "mesos.v1.executor.Call", "Call protobuf", unlike)?;
    validate::executor_call(&call)
        .map_err(|e| format!("Failed to validate Executor::Call: {e}"))?;
    Ok(call)
}

/// `name`: of the message in JSON. `wanted`: what it is called where it is protobuf.
/// `unlike`: how the complaint about JSON of another shape begins.
fn decode<M: Message + Name + Default>(
    content: Media,
    body: &[u8],
    name: &str,
    wanted: &str,
    unlike: &str,
) -> Result<M, String> {
    let bytes = match content {
        Media::Protobuf => {
            let wrong = |_| format!("Failed to parse body into {wanted}");
            return schema::decode(body).map_err(wrong);
        }
        Media::Json => v1::from_json(name, body),
    };
    let bytes = bytes.map_err(|e| match e {
        JsonError::Syntax { .. } => format!("Failed to parse body into JSON: {e}"),
        JsonError::Convert(_) => format!("{unlike}{e}"),
    })?;
    M::decode(bytes.as_slice()).map_err(|e| format!("{unlike}{e}"))
}
