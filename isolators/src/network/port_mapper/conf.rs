//! What the port mapper is asked: its configuration, and which ports. Pure.

use core::net::IpAddr;

use mesos::NetworkInfo;
use serde_json::{Map, Value};

/// A port of the host that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// Of the host.
    pub host: u16,
    /// Of the container.
    pub container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
}

/// A configuration that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Conf {
    /// What our rules are called.
    pub chain: String,
    /// Interfaces whose packets are left alone.
    pub excluded: Vec<String>,
    /// What is to be published.
    pub mappings: Vec<Mapping>,
    /// The plugin that makes the interface, as it is to be told; `None`: one earlier in
    /// the chain has.
    pub delegate: Option<(String, Value)>,
    /// What came out before.
    pub previous: Option<Value>,
}

/// The chain of configurations that name none.
const CHAIN: &str = "BULKHEAD";
/// Longest name of a chain, so that those of its maps fit.
const LONGEST_CHAIN: usize = 24;

impl Conf {
    /// Reads what came on standard input.
    ///
    /// # Errors
    /// Names the field, and what was expected.
    pub fn parse(text: &[u8]) -> Result<Conf, String> {
        let conf: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| format!("the configuration is no JSON object: {error}"))?;
        let chain = match conf.get("chain") {
            None => CHAIN.to_owned(),
            Some(Value::String(chain)) => chain.clone(),
            Some(_) => return Err("'chain' is not text".into()),
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let starts = chain.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts || !chain.chars().all(letter) || chain.len() > LONGEST_CHAIN {
            return Err(format!(
                "'chain' is '{chain}', expected at most {LONGEST_CHAIN} letters, digits, '-' and \
                 '_', a letter first"
            ));
        }
        let excluded = match conf.get("excludeDevices") {
            None => Vec::new(),
            Some(Value::Array(list)) => list.iter().map(device).collect::<Result<_, _>>()?,
            Some(_) => return Err("'excludeDevices' is not a list".into()),
        };
        let mappings = mappings(&conf)?;
        let previous = conf.get("prevResult").filter(|value| value.is_object()).cloned();
        let delegate = delegate(&conf)?;
        Ok(Conf { chain, excluded, mappings, delegate, previous })
    }
}

fn device(value: &Value) -> Result<String, String> {
    let name = value.as_str().unwrap_or_default();
    let odd = |c: char| c.is_whitespace() || matches!(c, '"' | '\\' | '/') || c.is_control();
    match name.is_empty() || name.len() > 15 || name.contains(odd) {
        true => Err(format!("'excludeDevices' has {value}, expected names of interfaces")),
        false => Ok(name.to_owned()),
    }
}

/// What tasks ask, in Mesos' or in CNI's form.
fn mappings(conf: &Map<String, Value>) -> Result<Vec<Mapping>, String> {
    let mut all = Vec::new();
    let asked = conf.get("runtimeConfig").and_then(|config| config.get("portMappings"));
    for entry in asked.and_then(Value::as_array).into_iter().flatten() {
        let number = |key| entry.get(key).and_then(Value::as_u64).unwrap_or_default();
        let protocol = entry.get("protocol").and_then(Value::as_str).unwrap_or("tcp");
        all.push(mapping(number("hostPort"), number("containerPort"), protocol)?);
    }
    let mesos = conf.get("args").and_then(|args| args.get("org.apache.mesos"));
    if let Some(info) = mesos.and_then(|mesos| mesos.get("network_info")) {
        let info: NetworkInfo = mesos::json::from_json(info.to_string().as_bytes())
            .map_err(|error| format!("'network_info': {error}"))?;
        for entry in &info.port_mappings {
            let protocol = entry.protocol.as_deref().unwrap_or("tcp");
            let (host, container) = (entry.host_port.into(), entry.container_port.into());
            all.push(mapping(host, container, protocol)?);
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn mapping(host: u64, container: u64, protocol: &str) -> Result<Mapping, String> {
    let port = |number: u64| u16::try_from(number).ok().filter(|port| *port > 0);
    let known =
        ["tcp", "udp", "sctp"].into_iter().find(|known| protocol.eq_ignore_ascii_case(known));
    match (port(host), port(container), known) {
        (Some(host), Some(container), Some(protocol)) => Ok(Mapping { host, container, protocol }),
        (_, _, None) => {
            Err(format!("protocol '{protocol}' of a port mapping: expected tcp, udp or sctp"))
        }
        _ => Err(format!("ports {host} and {container} of a port mapping: expected 1 to 65535")),
    }
}

/// The configuration of the plugin that does the rest.
fn delegate(conf: &Map<String, Value>) -> Result<Option<(String, Value)>, String> {
    let mut inner = match conf.get("delegate") {
        None => return Ok(None),
        Some(Value::Object(inner)) => inner.clone(),
        Some(_) => return Err("'delegate' is not an object".into()),
    };
    let kind = inner.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
        return Err(format!("'type' of 'delegate' is '{kind}', expected the name of a program"));
    }
    for key in ["name", "args", "prevResult", "cniVersion", "cni.dev/valid-attachments"] {
        match conf.get(key) {
            Some(value) => inner.insert(key.into(), value.clone()),
            None => continue,
        };
    }
    // Whatever it is capable of that we were given.
    let given = conf.get("runtimeConfig").and_then(Value::as_object);
    if let (Some(Value::Object(able)), Some(given)) = (inner.remove("capabilities"), given) {
        let able = |name: &&String| able.get(*name).and_then(Value::as_bool) == Some(true);
        let config: Map<String, Value> = given
            .iter()
            .filter(|(name, _)| able(name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        inner.insert("runtimeConfig".into(), Value::Object(config));
    }
    Ok(Some((kind, Value::Object(inner))))
}

/// Where a container's ports lead: its first address of each kind.
#[must_use]
pub fn targets(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |wanted: fn(&&IpAddr) -> bool| addresses.iter().find(wanted).copied();
    [first(|ip| ip.is_ipv4()), first(|ip| ip.is_ipv6())].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Conf, String> {
        Conf::parse(value.to_string().as_bytes())
    }

    #[test]
    fn as_mesos_configures_it() {
        let conf = parse(&json!({
            "cniVersion": "0.3.1", "name": "n", "type": "mesos-cni-port-mapper", "chain": "MESOS-X",
            "excludeDevices": ["br0"],
            "args": { "org.apache.mesos": { "network_info": { "name": "n",
                "port_mappings": [{ "host_port": 8080, "container_port": 80 },
                                  { "host_port": 53, "container_port": 53, "protocol": "UDP" }] } } },
            "runtimeConfig": { "ips": ["10.0.0.3"], "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] },
            "delegate": { "type": "bridge", "capabilities": { "ips": true } },
        })).unwrap();
        let wanted = [(53, 53, "udp"), (8080, 80, "tcp")];
        assert_eq!(
            conf.mappings.iter().map(|m| (m.host, m.container, m.protocol)).collect::<Vec<_>>(),
            wanted
        );
        let (kind, told) = conf.delegate.unwrap();
        assert_eq!(
            (kind.as_str(), &told["name"], &told["cniVersion"]),
            ("bridge", &json!("n"), &json!("0.3.1"))
        );
        assert_eq!(told["args"]["org.apache.mesos"]["network_info"]["name"], "n");
        assert_eq!(told["runtimeConfig"], json!({ "ips": ["10.0.0.3"] }));
        assert_eq!(
            (conf.chain.as_str(), conf.excluded.as_slice()),
            ("MESOS-X", &["br0".to_owned()][..])
        );
    }

    #[test]
    fn what_makes_no_sense() {
        let rows = [
            (json!({ "chain": "a b" }), "'chain' is 'a b'"),
            (json!({ "chain": "x".repeat(25) }), "'chain'"),
            (json!({ "excludeDevices": "br0" }), "not a list"),
            (json!({ "excludeDevices": ["a\"b"] }), "names of interfaces"),
            (json!({ "delegate": {} }), "'type' of 'delegate'"),
            (json!({ "delegate": { "type": "../x" } }), "'../x'"),
            (
                json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 70000, "containerPort": 1 }] } }),
                "ports 70000",
            ),
            (
                json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 7, "containerPort": 1, "protocol": "x" }] } }),
                "'x'",
            ),
        ];
        for (conf, wanted) in rows {
            let error = parse(&conf).unwrap_err();
            assert!(error.contains(wanted), "{conf}: {error}");
        }
        assert!(Conf::parse(b"[]").is_err());
    }

    #[test]
    fn one_address_of_each_kind() {
        let all: Vec<IpAddr> =
            ["fd00::2", "10.0.0.2", "10.0.0.3"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(targets(&all), [all[1], all[0]]);
    }
}
