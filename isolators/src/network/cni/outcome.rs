//! What plugins answer, in any version of the specification. Pure.

use std::net::IpAddr;

use serde_json::Value;

use super::dns::Dns;
use super::version::Version;

/// What came of adding a container to a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The container's addresses on this network, in order.
    pub addresses: Vec<IpAddr>,
    /// Of its interface there, if it was said.
    pub mac: Option<String>,
    /// Name servers of the network.
    pub dns: Dns,
}

/// The container's addresses in a result.
///
/// # Errors
/// It is not one.
pub fn addresses_of(result: &Value, interface: &str) -> Result<Vec<IpAddr>, String> {
    outcome(result, interface).map(|outcome| outcome.addresses)
}

/// What a plugin says when it fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// 1 to 99 are the specification's.
    pub code: u64,
    /// For people.
    pub text: String,
}

/// Reads an answer to ADD, asked in `version` for the interface `name`.
///
/// # Errors
/// Says what is wrong with it.
pub fn read(answer: &[u8], version: Version, name: &str) -> Result<(Value, Outcome), String> {
    let excerpt = || {
        let text = String::from_utf8_lossy(answer);
        let mut text: String = text.trim().chars().take(120).collect();
        if text.is_empty() {
            text = "nothing".into();
        }
        text
    };
    let value: Value = serde_json::from_slice(answer)
        .map_err(|error| format!("it answered {}, which is no JSON: {error}", excerpt()))?;
    if !value.is_object() {
        return Err(format!("it answered {}, which is no result", excerpt()));
    }
    match value.get("cniVersion").and_then(Value::as_str) {
        // Plugins of before 0.3 do not say it.
        None | Some("") => {}
        Some(said) if said == version.to_string() => {}
        Some(said) => {
            return Err(format!("it answered in cniVersion {said}, asked in {version}"));
        }
    }
    let outcome = outcome(&value, name)?;
    Ok((value, outcome))
}

/// Reads a result that was read before and written down.
///
/// # Errors
/// It is not one.
pub fn outcome(value: &Value, name: &str) -> Result<Outcome, String> {
    let mut outcome = Outcome { dns: Dns::of_json(value.get("dns")), ..Outcome::default() };
    let empty = Vec::new();
    let list = |key| value.get(key).and_then(Value::as_array).unwrap_or(&empty);
    let interfaces = list("interfaces");
    let inside = |interface: &&Value| {
        interface.get("sandbox").and_then(Value::as_str).is_some_and(|text| !text.is_empty())
    };
    let named = |interface: &&Value| interface.get("name").and_then(Value::as_str) == Some(name);
    let own = interfaces.iter().filter(inside).find(named);
    let mac = own.and_then(|own| own.get("mac")).and_then(Value::as_str);
    outcome.mac = mac.filter(|mac| !mac.is_empty()).map(str::to_owned);
    for ip in list("ips") {
        // Plugins may tell of addresses on the host, too.
        let index = ip.get("interface").and_then(Value::as_u64);
        let place = index.and_then(|index| interfaces.get(usize::try_from(index).ok()?));
        if place.is_none_or(|place| inside(&place)) {
            outcome.addresses.push(address(ip.get("address"))?);
        }
    }
    // Before 0.3.
    for key in ["ip4", "ip6"] {
        if let Some(ip) = value.get(key).filter(|ip| !ip.is_null()) {
            outcome.addresses.push(address(ip.get("ip"))?);
        }
    }
    Ok(outcome)
}

fn address(value: Option<&Value>) -> Result<IpAddr, String> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    let (ip, prefix) = text.split_once('/').unwrap_or((text, "0"));
    let wrong = || format!("it answered with the address '{text}', expected such as 10.0.0.2/24");
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let prefix: u32 = prefix.parse().map_err(|_| wrong())?;
    if prefix > longest { Err(wrong()) } else { Ok(ip) }
}

/// What a plugin that failed has to say, if it says it in the specified form.
#[must_use]
pub fn refusal(answer: &[u8]) -> Option<Refusal> {
    let value: Value = serde_json::from_slice(answer).ok()?;
    let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    let code = value.get("code")?.as_u64()?;
    let text = match (text("msg"), text("details")) {
        (message, "") => message.to_owned(),
        (message, details) => format!("{message} ({details})"),
    };
    Some(Refusal { code, text })
}

/// Reads an answer to VERSION.
///
/// # Errors
/// Says what is wrong with it.
pub fn versions(answer: &[u8]) -> Result<Vec<Version>, String> {
    let value: Value = serde_json::from_slice(answer)
        .map_err(|error| format!("its answer to VERSION is no JSON: {error}"))?;
    let list = value.get("supportedVersions").and_then(Value::as_array);
    let list = list.ok_or("its answer to VERSION has no 'supportedVersions'")?;
    // What we do not know we cannot speak.
    Ok(list.iter().filter_map(Value::as_str).filter_map(|text| text.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::version::SPOKEN;
    use super::*;

    fn addresses(text: &str) -> Result<Vec<String>, String> {
        let (_, outcome) = read(text.as_bytes(), SPOKEN[5], "eth0")?;
        Ok(outcome.addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_in_every_form() {
        let now = r#"{"cniVersion":"1.0.0",
            "interfaces":[{"name":"br0","mac":"aa:aa:aa:aa:aa:aa"},
                          {"name":"eth0","mac":"bb:bb:bb:bb:bb:bb","sandbox":"/run/ns"}],
            "ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","interface":1},
                   {"address":"10.9.0.1/16","interface":0},
                   {"address":"2001:db8::5/64"}],
            "dns":{"nameservers":["10.1.0.1"],"domain":"x"}}"#;
        assert_eq!(addresses(now).unwrap(), ["10.1.0.5", "2001:db8::5"]);
        let (_, outcome) = read(now.as_bytes(), SPOKEN[5], "eth0").unwrap();
        assert_eq!(outcome.mac.as_deref(), Some("bb:bb:bb:bb:bb:bb"));
        assert_eq!(outcome.dns.nameservers, ["10.1.0.1"]);
        let old = r#"{"ip4":{"ip":"10.1.0.5/16"},"ip6":{"ip":"2001:db8::5/64"},"dns":{}}"#;
        assert_eq!(addresses(old).unwrap(), ["10.1.0.5", "2001:db8::5"]);
        assert!(addresses("{}").unwrap().is_empty());
    }

    #[test]
    fn answers_that_are_none() {
        let rows = [
            ("", "it answered nothing, which is no JSON"),
            ("hello\n", "it answered hello, which is no JSON"),
            ("3", "it answered 3, which is no result"),
            (r#"{"cniVersion":"0.3.1"}"#, "it answered in cniVersion 0.3.1, asked in 1.0.0"),
            (r#"{"ips":[{"address":"10.1"}]}"#, "it answered with the address '10.1'"),
            (r#"{"ips":[{"address":"10.1.1.1/33"}]}"#, "it answered with the address"),
            (r#"{"ips":[{}]}"#, "it answered with the address ''"),
        ];
        for (answer, wanted) in rows {
            let error = addresses(answer).unwrap_err();
            assert!(error.starts_with(wanted), "{answer}: {error}");
        }
    }

    #[test]
    fn refusals_and_versions() {
        let told = refusal(br#"{"code":11,"msg":"try again","details":"later"}"#).unwrap();
        assert_eq!((told.code, told.text.as_str()), (11, "try again (later)"));
        assert_eq!(refusal(b"Segmentation fault"), None);
        assert_eq!(refusal(b"{}"), None);
        let all = versions(br#"{"supportedVersions":["0.4.0","1.0.0","7.x"]}"#).unwrap();
        assert_eq!(all, SPOKEN[4..6]);
        assert!(versions(b"{}").is_err() && versions(b"x").is_err());
    }
}
