//! Master and agent as the command line sees them: JSON in, JSON out.
//!
//! A thin layer over `wire::client` that turns transport failures and refusals
//! into [`CliError`] and follows one redirect to the leading master.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use super::error::CliError;
use super::follow::Piece;
use crate::daemon::files::FILE_IDENTITY;
use crate::wire::client::{Call, Client, Events, Reply};

/// One daemon.
#[derive(Debug, Clone)]
pub struct Api {
    what: &'static str,
    address: String,
    client: Arc<Client>,
}

/// Events of a scheduler stream may carry thousands of offers.
const MAX_EVENT: usize = 64 << 20;

impl Api {
    /// The daemon `what` at `address` (host:port). Nothing is dialled yet.
    pub fn new(what: &'static str, address: &str) -> Api {
        let client = Client::new(address).timeout(Duration::from_secs(15));
        Api { what, address: address.to_owned(), client: Arc::new(client) }
    }

    /// The agent whose libprocess id is `pid`, e.g. `slave(1)@10.0.0.1:5051`.
    pub fn agent(pid: &str) -> Api {
        Api::new("agent", pid.split_once('@').map_or(pid, |(_, address)| address))
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// GET of a JSON document.
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        let mut reply = self.reply(&self.client, Call::get(path)).await?;
        if reply.status.as_u16() == 307
            && let Some(leader) = reply.header("location").and_then(host_of)
        {
            let leader = Client::new(leader);
            reply = self.reply(&leader, Call::get(path)).await?;
        }
        self.parse(path, &reply)
    }

    /// A piece of a file, as bytes if the agent can, else from JSON; `None` if there is
    /// no such file.
    pub async fn read(&self, path: &str) -> Result<Option<Piece>, CliError> {
        let raw = format!("{path}&raw=true");
        let reply = self.reply(&self.client, Call::get(&raw)).await?;
        if reply.status.as_u16() == 404 {
            return Ok(None);
        }
        if let Some(identity) = reply.header(FILE_IDENTITY).filter(|_| reply.status.is_success()) {
            return Ok(Some(Piece { identity: identity.to_owned(), data: reply.body.to_vec() }));
        }
        let answer = self.parse(path, &reply)?;
        let data = answer["data"].as_str().ok_or_else(|| self.unexpected(path, "no `data`"))?;
        Ok(Some(Piece { identity: String::new(), data: data.into() }))
    }

    /// POST of a JSON document; an empty answer is `null`.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        stream: Option<&str>,
    ) -> Result<Value, CliError> {
        let mut call = Call::post(path, "application/json", body.to_string())
            .header("accept", "application/json");
        if let Some(id) = stream {
            call = call.header("mesos-stream-id", id);
        }
        let reply = self.reply(&self.client, call).await?;
        self.parse(path, &reply)
    }

    /// POST that opens an event stream: its id and its events.
    pub async fn subscribe(&self, path: &str, body: &Value) -> Result<(String, Events), CliError> {
        let call = Call::post(path, "application/json", body.to_string())
            .header("accept", "application/json");
        let streaming = self.client.stream(call).await.map_err(|e| self.unreachable(e))?;
        let status = streaming.status.as_u16();
        if status != 200 {
            let body = streaming.rest().await.unwrap_or_default();
            return Err(self.refused(path, status, &String::from_utf8_lossy(&body)));
        }
        let id = streaming.header("mesos-stream-id").unwrap_or("").to_owned();
        Ok((id, streaming.events(MAX_EVENT)))
    }

    /// POST of RecordIO of JSON that comes piece by piece; the answer may come before
    /// its end.
    pub async fn upload(
        &self,
        path: &str,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Reply, CliError> {
        let call = Call::post(path, "application/recordio", Bytes::new())
            .header("message-content-type", "application/json")
            .header("accept", "application/json");
        self.client.upload(call, pieces).await.map_err(|e| self.unreachable(e))
    }

    async fn reply(&self, client: &Client, call: Call<'_>) -> Result<Reply, CliError> {
        client.call(call).await.map_err(|e| self.unreachable(e))
    }

    fn parse(&self, path: &str, reply: &Reply) -> Result<Value, CliError> {
        if !reply.status.is_success() {
            return Err(self.refused(path, reply.status.as_u16(), &reply.text()));
        }
        if reply.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&reply.body).map_err(|e| self.unexpected(path, &e.to_string()))
    }

    /// No answer, or not all of it.
    pub fn unreachable(&self, source: crate::wire::client::ClientError) -> CliError {
        CliError::Unreachable { what: self.what, address: self.address.clone(), source }
    }

    fn refused(&self, path: &str, status: u16, body: &str) -> CliError {
        let (address, path) = (self.address.clone(), path.to_owned());
        CliError::Refused { what: self.what, address, path, status, body: body.trim().to_owned() }
    }

    /// An answer that lacks what it must have.
    pub fn unexpected(&self, path: &str, message: &str) -> CliError {
        let (address, path) = (self.address.clone(), path.to_owned());
        CliError::Unexpected { what: self.what, address, path, message: message.to_owned() }
    }
}

/// `host:port` of a `Location` header (`//host:port/path`, with or without scheme).
fn host_of(location: &str) -> Option<String> {
    let (_, rest) = location.split_once("//")?;
    rest.split('/').next().filter(|host| !host.is_empty()).map(str::to_owned)
}

/// Escapes a query value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        assert_eq!(escape("/a b/ü&x=%"), "/a%20b/%C3%BC%26x%3D%25");
    }

    #[test]
    fn leader_is_in_the_location() {
        assert_eq!(host_of("//10.0.0.1:5050/master/state"), Some("10.0.0.1:5050".to_owned()));
        assert_eq!(host_of("http://m:5050"), Some("m:5050".to_owned()));
        assert_eq!(host_of("/relative"), None);
    }
}
