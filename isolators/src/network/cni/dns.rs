//! Name servers: of plugins, and `--default_container_dns`. Pure.

use serde_json::Value;

/// What goes into a `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Dns {
    pub nameservers: Vec<String>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Dns {
    /// Reads the object that plugins and flags use alike; what it does not say is empty.
    #[must_use]
    pub fn of_json(value: Option<&Value>) -> Dns {
        let list = |key| {
            let list = value.and_then(|value| value.get(key)).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let domain = value.and_then(|value| value.get("domain")).and_then(Value::as_str);
        Dns {
            nameservers: list("nameservers"),
            domain: domain.filter(|domain| !domain.is_empty()).map(str::to_owned),
            search: list("search"),
            options: list("options"),
        }
    }

    /// Nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }

    /// As a `resolv.conf`.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        let mut text = String::new();
        let mut line = |word: &str, rest: &str| text.push_str(&format!("{word} {rest}\n"));
        if let Some(domain) = &self.domain {
            line("domain", domain);
        }
        if !self.search.is_empty() {
            line("search", &self.search.join(" "));
        }
        if !self.options.is_empty() {
            line("options", &self.options.join(" "));
        }
        for server in &self.nameservers {
            line("nameserver", server);
        }
        text
    }
}

/// The part of `--default_container_dns` for networks of this isolator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultDns {
    by_network: Vec<(String, Dns)>,
    for_all: Option<Dns>,
}

impl DefaultDns {
    /// Reads the flag.
    ///
    /// # Errors
    /// What was expected.
    pub fn of_flag(value: &Value) -> Result<DefaultDns, String> {
        let mut all = DefaultDns::default();
        let entries = match value.get("mesos") {
            None => return Ok(all),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err("'mesos' to be a list".into()),
        };
        for entry in entries {
            let mode = entry.get("network_mode").and_then(Value::as_str);
            // compat: Mesos knows UNKNOWN too, and leaves it out.
            match mode.unwrap_or("CNI") {
                "CNI" => {}
                "UNKNOWN" => continue,
                other => return Err(format!("the network mode CNI in 'mesos', not '{other}'")),
            }
            let Some(dns) = entry.get("dns").filter(|dns| dns.is_object()) else {
                return Err("'dns' in each entry of 'mesos'".into());
            };
            let dns = Dns::of_json(Some(dns));
            match entry.get("network_name").and_then(Value::as_str) {
                Some(name) if all.by_network.iter().any(|(known, _)| known == name) => {
                    return Err(format!("one entry for the network '{name}', not two"));
                }
                Some(name) => all.by_network.push((name.to_owned(), dns)),
                None if all.for_all.is_some() => {
                    return Err("one entry without 'network_name', not two".into());
                }
                None => all.for_all = Some(dns),
            }
        }
        Ok(all)
    }

    /// What containers on `network` get if its plugins say nothing.
    #[must_use]
    pub fn of(&self, network: &str) -> Option<&Dns> {
        let named = self.by_network.iter().find(|(name, _)| name == network);
        named.map(|(_, dns)| dns).or(self.for_all.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resolv_conf() {
        let value = json!({ "nameservers": ["10.0.0.1", "::1"], "domain": "d", "search": ["a", "b"],
                            "options": ["ndots:1"] });
        let dns = Dns::of_json(Some(&value));
        let wanted = "domain d\nsearch a b\noptions ndots:1\nnameserver 10.0.0.1\nnameserver ::1\n";
        assert_eq!(dns.resolv_conf(), wanted);
        assert!(Dns::of_json(None).is_empty() && Dns::of_json(Some(&json!({}))).is_empty());
    }

    #[test]
    fn the_flag() {
        let flag = json!({
            "docker": [{ "network_mode": "BRIDGE", "dns": {} }],
            "mesos": [
                { "network_mode": "CNI", "network_name": "a", "dns": { "nameservers": ["1.1.1.1"] } },
                { "network_mode": "CNI", "dns": { "nameservers": ["2.2.2.2"] } },
            ]
        });
        let all = DefaultDns::of_flag(&flag).unwrap();
        assert_eq!(all.of("a").unwrap().nameservers, ["1.1.1.1"]);
        assert_eq!(all.of("b").unwrap().nameservers, ["2.2.2.2"]);
        assert_eq!(DefaultDns::of_flag(&json!({})).unwrap().of("a"), None);
        for bad in [
            json!({ "mesos": 3 }),
            json!({ "mesos": [{ "network_mode": "HOST", "dns": {} }] }),
            json!({ "mesos": [{ "network_mode": "CNI" }] }),
            json!({ "mesos": [{ "dns": {} }, { "dns": {} }] }),
        ] {
            assert!(DefaultDns::of_flag(&bad).is_err(), "{bad}");
        }
    }
}
