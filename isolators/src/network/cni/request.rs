//! What plugins are told: a network's configuration, and what a task asks of it. Pure.
//!
//! Mesos passes `NetworkInfo` as it is, in `args`. The conventions of CNI want the same
//! things as capabilities, for those plugins that say that they have them.

use std::net::IpAddr;

use mesos::{NetworkInfo, network_info};
use serde_json::{Map, Value, json};

use super::conf::Network;
use super::dns::Dns;
use super::version::Version;

/// Mesos' key in `args`.
const MESOS: &str = "org.apache.mesos";

/// Labels of a network that stand for capabilities.
const MAC: &str = "cni.mac";
const ALIASES: &str = "cni.aliases";
const RATES: [(&str, &str); 4] = [
    ("cni.ingress_rate", "ingressRate"),
    ("cni.ingress_burst", "ingressBurst"),
    ("cni.egress_rate", "egressRate"),
    ("cni.egress_burst", "egressBurst"),
];

/// What a task asks of one network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wants {
    /// For every plugin.
    pub args: Map<String, Value>,
    /// By capability, for plugins that have it.
    pub capabilities: Map<String, Value>,
    /// Addresses that it must get.
    pub addresses: Vec<IpAddr>,
}

impl Wants {
    /// Reads a task's request. `json` is the same as Mesos writes it.
    ///
    /// # Errors
    /// Names what cannot be and what was expected.
    pub fn of(info: &NetworkInfo, json: Value, dns: Option<&Dns>) -> Result<Wants, String> {
        let mut wants = Wants::default();
        wants.args.insert(MESOS.into(), json!({ "network_info": json }));
        let mut conventional = Map::new();
        let labels: Vec<(&str, &str)> =
            info.labels.iter().flat_map(|labels| &labels.labels).map(pair).collect();
        if !labels.is_empty() {
            let labels = labels.iter().map(|(key, value)| json!({ "key": key, "value": value }));
            conventional.insert("labels".into(), labels.collect());
        }
        wants.addresses = addresses(&info.ip_addresses)?;
        if !wants.addresses.is_empty() {
            let texts: Value = wants.addresses.iter().map(ToString::to_string).collect();
            conventional.insert("ips".into(), texts.clone());
            wants.capabilities.insert("ips".into(), texts);
        }
        if !conventional.is_empty() {
            wants.args.insert("cni".into(), Value::Object(conventional));
        }
        if !info.port_mappings.is_empty() {
            let mappings = info.port_mappings.iter().map(port).collect::<Result<Value, _>>()?;
            wants.capabilities.insert("portMappings".into(), mappings);
        }
        if let Some(dns) = dns.filter(|dns| !dns.is_empty()) {
            let value = json!({
                "servers": dns.nameservers, "searches": dns.search, "options": dns.options,
            });
            wants.capabilities.insert("dns".into(), value);
        }
        wants.read_labels(&labels)?;
        Ok(wants)
    }

    fn read_labels(&mut self, labels: &[(&str, &str)]) -> Result<(), String> {
        let mut bandwidth = Map::new();
        for (key, value) in labels {
            if *key == MAC {
                self.capabilities.insert("mac".into(), mac(value)?.into());
            } else if *key == ALIASES {
                let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.capabilities.insert("aliases".into(), names.collect());
            } else if let Some((_, name)) = RATES.iter().find(|(label, _)| label == key) {
                let number: u64 = value.parse().map_err(|_| {
                    format!("label '{key}' is '{value}', expected a whole number of bits")
                })?;
                bandwidth.insert((*name).into(), number.into());
            }
        }
        if !bandwidth.is_empty() {
            self.capabilities.insert("bandwidth".into(), Value::Object(bandwidth));
        }
        Ok(())
    }

    /// Writes what every plugin is told into a network's configuration, beside what its
    /// author put there.
    pub fn apply(&self, network: &mut Network) {
        for plugin in &mut network.plugins {
            let args = plugin.conf.entry("args").or_insert_with(|| json!({}));
            if let Value::Object(args) = args {
                args.extend(self.args.clone());
            }
            let wanted = plugin.conf.get("capabilities").and_then(Value::as_object);
            let has = |name: &String| {
                wanted.is_some_and(|all| all.get(name).and_then(Value::as_bool) == Some(true))
            };
            let granted: Map<String, Value> = self
                .capabilities
                .iter()
                .filter(|(name, _)| has(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            if !granted.is_empty() {
                plugin.conf.insert("runtimeConfig".into(), Value::Object(granted));
            }
        }
    }
}

fn pair(label: &mesos::Label) -> (&str, &str) {
    (label.key.as_str(), label.value.as_deref().unwrap_or_default())
}

fn addresses(all: &[network_info::IpAddress]) -> Result<Vec<IpAddr>, String> {
    let texts = all.iter().filter_map(|address| address.ip_address.as_deref());
    texts.map(|text| text.parse().map_err(|_| format!("'{text}' is not an IP address"))).collect()
}

fn port(mapping: &network_info::PortMapping) -> Result<Value, String> {
    let protocol = mapping.protocol.as_deref().unwrap_or("tcp").to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("protocol '{protocol}' of a port mapping: expected tcp, udp or sctp"));
    }
    for (what, port) in [("host", mapping.host_port), ("container", mapping.container_port)] {
        if !(1..=65535).contains(&port) {
            return Err(format!("{what} port {port} of a port mapping is not 1 to 65535"));
        }
    }
    Ok(json!({
        "hostPort": mapping.host_port, "containerPort": mapping.container_port,
        "protocol": protocol,
    }))
}

fn mac(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let byte = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    match parts.len() == 6 && parts.iter().all(byte) {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err(format!("label '{MAC}' is '{text}', expected an address such as c2:11:22:33:44:55"))
        }
    }
}

/// The configuration that the plugin at `index` gets on its standard input.
/// `previous` is what came out before.
#[must_use]
pub fn derive(
    network: &Network,
    index: usize,
    version: Version,
    previous: Option<&Value>,
) -> Value {
    let mut conf = network.plugins[index].conf.clone();
    conf.remove("capabilities");
    conf.remove("cniVersions");
    conf.remove("prevResult");
    conf.insert("cniVersion".into(), version.to_string().into());
    conf.insert("name".into(), network.name.clone().into());
    if let Some(previous) = previous {
        conf.insert("prevResult".into(), previous.clone());
    }
    Value::Object(conf)
}

/// The same for GC: which attachments, by container and interface, are to stay.
#[must_use]
pub fn derive_collect(
    network: &Network,
    index: usize,
    version: Version,
    valid: &[(String, String)],
) -> Value {
    let mut conf = derive(network, index, version, None);
    let attachment =
        |(id, interface): &(String, String)| json!({ "containerID": id, "ifname": interface });
    conf["cni.dev/valid-attachments"] = valid.iter().map(attachment).collect();
    conf
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mesos::{Label, Labels};

    use super::*;
    use crate::network::cni::version::SPOKEN;

    fn labels(rows: &[(&str, &str)]) -> Option<Labels> {
        let label = |(key, value): &(&str, &str)| Label {
            key: (*key).into(),
            value: Some((*value).into()),
        };
        Some(Labels { labels: rows.iter().map(label).collect() })
    }

    fn mapping(host: u32, container: u32, protocol: Option<&str>) -> network_info::PortMapping {
        let protocol = protocol.map(str::to_owned);
        network_info::PortMapping { host_port: host, container_port: container, protocol }
    }

    #[test]
    fn capabilities_go_to_plugins_that_have_them() {
        let info = NetworkInfo {
            labels: labels(&[
                ("cni.mac", "C2:11:22:33:44:55"),
                ("cni.ingress_rate", "8000"),
                ("cni.aliases", "a, b"),
                ("x", "y"),
            ]),
            port_mappings: vec![mapping(8080, 80, None), mapping(53, 53, Some("UDP"))],
            ip_addresses: vec![network_info::IpAddress {
                ip_address: Some("10.0.0.7".into()),
                ..Default::default()
            }],
            ..NetworkInfo::default()
        };
        let dns = Dns { nameservers: vec!["9.9.9.9".into()], ..Dns::default() };
        let wants = Wants::of(&info, json!({"name": "n"}), Some(&dns)).unwrap();
        let text = r#"{"name":"n","plugins":[
            {"type":"a","args":{"mine":1},"capabilities":{"ips":true,"mac":true,"dns":true}},
            {"type":"b","capabilities":{"portMappings":true,"bandwidth":true,"aliases":false}},
            {"type":"c"}]}"#;
        let mut network = Network::parse(Path::new("f"), text).unwrap();
        wants.apply(&mut network);
        let asked = |index| derive(&network, index, SPOKEN[5], None);
        let (a, b, c) = (asked(0), asked(1), asked(2));
        assert_eq!(
            a["runtimeConfig"],
            json!({ "ips": ["10.0.0.7"], "mac": "c2:11:22:33:44:55",
            "dns": { "servers": ["9.9.9.9"], "searches": [], "options": [] } })
        );
        assert_eq!(a["args"]["mine"], 1);
        assert_eq!(a["args"]["org.apache.mesos"]["network_info"]["name"], "n");
        assert_eq!(a["args"]["cni"]["ips"], json!(["10.0.0.7"]));
        assert_eq!(
            b["runtimeConfig"]["portMappings"][1],
            json!({ "hostPort": 53, "containerPort": 53, "protocol": "udp" })
        );
        assert_eq!(b["runtimeConfig"]["bandwidth"], json!({ "ingressRate": 8000 }));
        assert_eq!(b["runtimeConfig"].get("aliases"), None);
        assert_eq!(
            (c.get("runtimeConfig"), &c["cniVersion"], &c["name"]),
            (None, &json!("1.0.0"), &json!("n"))
        );
        assert_eq!((a.get("capabilities"), a.get("prevResult")), (None, None));
        let previous = json!({ "ips": [] });
        assert_eq!(derive(&network, 1, SPOKEN[5], Some(&previous))["prevResult"], previous);
        let valid = [("c1".to_owned(), "eth0".to_owned())];
        let collect = derive_collect(&network, 0, SPOKEN[6], &valid);
        assert_eq!(
            collect["cni.dev/valid-attachments"],
            json!([{ "containerID": "c1", "ifname": "eth0" }])
        );
        // Written down and read again, it says the same.
        let again = network.to_json(SPOKEN[5]).to_string();
        let again = Network::parse(Path::new("f"), &again).unwrap();
        assert_eq!(derive(&again, 1, SPOKEN[5], None), b);
    }

    #[test]
    fn what_cannot_be() {
        let refuse = |info: NetworkInfo| Wants::of(&info, json!({}), None).unwrap_err();
        let with =
            |rows: &[(&str, &str)]| NetworkInfo { labels: labels(rows), ..Default::default() };
        assert!(refuse(with(&[("cni.mac", "x")])).contains("c2:11:22:33:44:55"));
        assert!(refuse(with(&[("cni.egress_rate", "1M")])).contains("'1M', expected a whole"));
        let ports = |mapping| NetworkInfo { port_mappings: vec![mapping], ..Default::default() };
        assert!(refuse(ports(mapping(0, 80, None))).contains("host port 0"));
        assert!(refuse(ports(mapping(80, 70000, None))).contains("container port 70000"));
        assert!(refuse(ports(mapping(80, 80, Some("icmp")))).contains("'icmp'"));
        let ip = network_info::IpAddress { ip_address: Some("a".into()), ..Default::default() };
        let info = NetworkInfo { ip_addresses: vec![ip], ..Default::default() };
        assert_eq!(refuse(info), "'a' is not an IP address");
    }
}
