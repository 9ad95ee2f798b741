//! Subnets, and ranges of addresses in them, as `host-local` means them. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The network's own address.
    pub ip: IpAddr,
    /// In bits.
    pub prefix: u8,
}

/// Addresses that may be given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// They are in it.
    pub subnet: Subnet,
    /// The first of them.
    pub first: IpAddr,
    /// The last of them.
    pub last: IpAddr,
    /// Never given away.
    pub gateway: IpAddr,
}

/// An address as a number, and how many bits it has.
fn number(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

/// The address that is `number`, of the kind of `like`.
fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl Subnet {
    /// Reads `10.1.0.0/16`; bits beyond the prefix are dropped.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Subnet, String> {
        let wrong = || format!("'{text}' is not a network such as 10.1.0.0/16");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let (value, bits) = number(ip);
        if prefix > bits {
            return Err(wrong());
        }
        let rest = host_bits(bits - prefix);
        Ok(Subnet { ip: address(value & !rest, ip), prefix })
    }

    /// The network of all addresses of the kind of `like`.
    #[must_use]
    pub fn everything(like: IpAddr) -> Subnet {
        Subnet { ip: address(0, like), prefix: 0 }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn holds(&self, ip: IpAddr) -> bool {
        let ((own, bits), (other, others)) = (number(self.ip), number(ip));
        bits == others && other & !host_bits(bits - self.prefix) == own
    }
}

/// That many ones at the end.
fn host_bits(count: u8) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

impl Range {
    /// Reads an object with `subnet` and perhaps `rangeStart`, `rangeEnd`, `gateway`.
    ///
    /// # Errors
    /// Names what is wrong and what was expected.
    pub fn parse(value: &Value) -> Result<Range, String> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let subnet = Subnet::parse(text("subnet").unwrap_or_default())?;
        let (start, bits) = number(subnet.ip);
        let end = start | host_bits(bits - subnet.prefix);
        if end - start < 2 {
            return Err(format!("the network {subnet} has no room for a gateway and a container"));
        }
        let inside = |key: &str, default: u128| -> Result<IpAddr, String> {
            let Some(text) = text(key) else { return Ok(address(default, subnet.ip)) };
            let ip = text.parse().ok().filter(|ip| subnet.holds(*ip));
            ip.ok_or_else(|| format!("'{key}' is '{text}', expected an address in {subnet}"))
        };
        // The last one of IPv4 is for everybody.
        let last = if bits == 32 { end - 1 } else { end };
        let range = Range {
            subnet,
            first: inside("rangeStart", start + 1)?,
            last: inside("rangeEnd", last)?,
            gateway: inside("gateway", start + 1)?,
        };
        match number(range.first) <= number(range.last) {
            true => Ok(range),
            false => {
                Err(format!("'rangeStart' {} is after 'rangeEnd' {}", range.first, range.last))
            }
        }
    }

    /// Whether an address may be given away.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        let ((first, bits), (last, _), (value, others)) =
            (number(self.first), number(self.last), number(ip));
        bits == others && (first..=last).contains(&value) && ip != self.gateway
    }

    /// All of them, once around, beginning after `last`.
    pub fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, (end, _)) = (number(self.first).0, number(self.last));
        let last = last.filter(|ip| self.has(*ip)).map(|ip| number(ip).0);
        let begin = last.map_or(first, |last| if last == end { first } else { last + 1 });
        let (like, gateway) = (self.first, self.gateway);
        let all = (begin..=end).chain(first..begin);
        all.map(move |number| address(number, like)).filter(move |ip| *ip != gateway)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(range: &Range, last: Option<&str>) -> Vec<String> {
        let last = last.map(|text| text.parse().unwrap());
        range.after(last).take(8).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn addresses_go_round() {
        let range = Range::parse(&json!({ "subnet": "10.1.2.3/29" })).unwrap();
        assert_eq!(range.subnet.to_string(), "10.1.2.0/29");
        assert_eq!(range.gateway.to_string(), "10.1.2.1");
        let all = ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"];
        assert_eq!(texts(&range, None), all);
        let from = ["10.1.2.6", "10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5"];
        assert_eq!(texts(&range, Some("10.1.2.5")), from);
        assert_eq!(texts(&range, Some("10.1.2.6")), all);
        assert_eq!(texts(&range, Some("10.9.9.9")), all);
        let six =
            Range::parse(&json!({ "subnet": "fd00::/64", "rangeStart": "fd00::10" })).unwrap();
        assert_eq!(texts(&six, None)[..2], ["fd00::10", "fd00::11"]);
        assert!(six.has("fd00::11".parse().unwrap()) && !six.has("fd00::1".parse().unwrap()));
        assert!(!range.has(range.gateway));
    }

    #[test]
    fn what_is_no_range() {
        let rows = [
            (json!({ "subnet": "10.1.2.0/31" }), "has no room"),
            (json!({ "subnet": "10.1.2.0/33" }), "is not a network"),
            (json!({ "subnet": "10.1.2.0/24", "gateway": "10.2.2.1" }), "'gateway' is '10.2.2.1'"),
            (
                json!({ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8" }),
                "is after",
            ),
        ];
        for (value, wanted) in rows {
            let error = Range::parse(&value).unwrap_err();
            assert!(error.contains(wanted), "{value}: {error}");
        }
        let all = Subnet::everything("::1".parse().unwrap());
        assert!(all.holds("fd00::1".parse().unwrap()) && !all.holds("10.0.0.1".parse().unwrap()));
    }
}
