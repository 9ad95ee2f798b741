//! The configuration of `bulkhead-bridge`: that of CNI's `bridge` with `host-local`. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::range::{Range, Subnet};

/// What CNI's plugins do when nothing is said.
const BRIDGE: &str = "cni0";
const LEASES: &str = "/var/lib/cni/networks";

/// A configuration that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Conf {
    /// Of the network.
    pub network: String,
    /// To answer in.
    pub version: String,
    /// The bridge's name.
    pub bridge: String,
    /// The bridge has the gateways' addresses.
    pub is_gateway: bool,
    /// A container may reach itself by way of the bridge.
    pub hairpin: bool,
    /// Of all interfaces, in bytes.
    pub mtu: Option<u32>,
    /// Where `host-local` keeps its leases of all networks.
    pub leases: PathBuf,
    /// An address from each of these lists of ranges.
    pub ranges: Vec<Vec<Range>>,
    /// Of the container: where to, and by way of whom if it is said.
    pub routes: Vec<(Subnet, Option<IpAddr>)>,
    /// For the result, as it was said.
    pub dns: Value,
    /// Addresses that are asked for.
    pub wanted: Vec<IpAddr>,
    /// What came out of ADD.
    pub previous: Option<Value>,
}

/// Fields of `bridge` that would change what it does, and that are not done here.
const NOT_OURS: [&str; 7] =
    ["ipMasq", "forceAddress", "promiscMode", "vlan", "vlanTrunk", "macspoofchk", "enabledad"];

impl Conf {
    /// Reads what a plugin is told.
    ///
    /// # Errors
    /// Names the field, and what was expected.
    pub fn parse(conf: &Value) -> Result<Conf, String> {
        let conf = conf.as_object().ok_or("the configuration is no JSON object")?;
        for key in NOT_OURS {
            let off = |value: &Value| value.is_null() || *value == false || *value == 0;
            if conf.get(key).is_some_and(|value| !off(value)) {
                return Err(format!("'{key}' is not for bulkhead-bridge: use the plugin 'bridge'"));
            }
        }
        let text = |key: &str| conf.get(key).and_then(Value::as_str);
        let bridge = text("bridge").unwrap_or(BRIDGE).to_owned();
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ', ':']) {
            return Err(format!("'bridge' is '{bridge}', expected the name of an interface"));
        }
        let flag = |key: &str| conf.get(key).and_then(Value::as_bool).unwrap_or(false);
        let none = Map::new();
        let ipam = conf.get("ipam").and_then(Value::as_object).unwrap_or(&none);
        match ipam.get("type").and_then(Value::as_str) {
            Some("host-local") => {}
            other => {
                let other = other.unwrap_or("nothing");
                return Err(format!("'type' of 'ipam' is {other}, expected host-local"));
            }
        }
        let mut routes = routes(ipam)?;
        let ranges = ranges(ipam)?;
        if flag("isDefaultGateway") {
            for range in ranges.iter().filter_map(|list| list.first()) {
                let everything = Subnet::everything(range.subnet.ip);
                routes.push((everything, None));
            }
        }
        let leases = ipam.get("dataDir").and_then(Value::as_str).unwrap_or(LEASES);
        let previous = conf.get("prevResult").filter(|value| value.is_object()).cloned();
        Ok(Conf {
            network: text("name").unwrap_or_default().to_owned(),
            version: text("cniVersion").unwrap_or("0.2.0").to_owned(),
            bridge,
            is_gateway: flag("isGateway") || flag("isDefaultGateway"),
            hairpin: flag("hairpinMode"),
            mtu: conf.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok()),
            leases: leases.into(),
            ranges,
            routes,
            dns: conf.get("dns").cloned().unwrap_or_default(),
            wanted: wanted(conf)?,
            previous,
        })
    }
}

fn ranges(ipam: &Map<String, Value>) -> Result<Vec<Vec<Range>>, String> {
    let mut all = Vec::new();
    if ipam.contains_key("subnet") {
        all.push(vec![Range::parse(&Value::Object(ipam.clone()))?]);
    }
    for list in ipam.get("ranges").and_then(Value::as_array).into_iter().flatten() {
        let list = list.as_array().ok_or("'ranges' of 'ipam' is not a list of lists")?;
        all.push(list.iter().map(Range::parse).collect::<Result<_, _>>()?);
    }
    all.retain(|list: &Vec<Range>| !list.is_empty());
    match all.is_empty() {
        true => Err("'ipam' has neither 'subnet' nor 'ranges'".into()),
        false => Ok(all),
    }
}

fn routes(ipam: &Map<String, Value>) -> Result<Vec<(Subnet, Option<IpAddr>)>, String> {
    let list = ipam.get("routes").and_then(Value::as_array);
    let route = |value: &Value| {
        let text = value.get("dst").and_then(Value::as_str).unwrap_or_default();
        let gateway = value.get("gw").and_then(Value::as_str);
        let gateway = gateway.map(|text| {
            text.parse().map_err(|_| format!("'gw' of a route is '{text}', expected an address"))
        });
        Ok((Subnet::parse(text)?, gateway.transpose()?))
    };
    list.into_iter().flatten().map(route).collect()
}

/// Addresses that a task asks for, in any of the places where they may be.
fn wanted(conf: &Map<String, Value>) -> Result<Vec<IpAddr>, String> {
    let given = conf.get("runtimeConfig").and_then(|config| config.get("ips"));
    let args = conf.get("args").and_then(|args| args.get("cni")).and_then(|cni| cni.get("ips"));
    let list = given.or(args).and_then(Value::as_array);
    let address = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        let ip = text.split('/').next().unwrap_or_default();
        ip.parse().map_err(|_| format!("{value} is asked for, expected an address"))
    };
    list.into_iter().flatten().map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_for_the_plugins_of_cni() {
        let conf = Conf::parse(&json!({
            "cniVersion": "1.0.0", "name": "n", "bridge": "br1", "isDefaultGateway": true,
            "mtu": 1400, "ipMasq": false, "hairpinMode": true,
            "ipam": { "type": "host-local", "subnet": "10.1.0.0/16",
                "ranges": [[{ "subnet": "fd00::/64" }]],
                "routes": [{ "dst": "10.2.0.0/16", "gw": "10.1.0.9" }] },
            "args": { "cni": { "ips": ["10.1.0.7"] } },
        }));
        let conf = conf.unwrap();
        assert_eq!((conf.ranges.len(), conf.routes.len(), conf.mtu), (2, 3, Some(1400)));
        assert!(conf.is_gateway && conf.hairpin);
        assert_eq!(conf.leases, std::path::Path::new(LEASES));
        assert_eq!(conf.wanted, ["10.1.0.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_makes_no_sense() {
        let ipam = json!({ "type": "host-local", "subnet": "10.1.0.0/16" });
        let rows = [
            (json!({ "ipam": ipam, "ipMasq": true }), "'ipMasq' is not for bulkhead-bridge"),
            (json!({ "ipam": ipam, "vlan": 5 }), "'vlan'"),
            (json!({ "ipam": ipam, "bridge": "a/b" }), "'bridge' is 'a/b'"),
            (json!({}), "'type' of 'ipam' is nothing"),
            (json!({ "ipam": { "type": "dhcp" } }), "is dhcp, expected host-local"),
            (json!({ "ipam": { "type": "host-local" } }), "neither 'subnet' nor 'ranges'"),
            (json!({ "ipam": { "type": "host-local", "subnet": "10.1" } }), "'10.1'"),
        ];
        for (conf, wanted) in rows {
            let error = Conf::parse(&conf).unwrap_err();
            assert!(error.contains(wanted), "{conf}: {error}");
        }
    }
}
