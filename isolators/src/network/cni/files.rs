//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container on networks of its
//! own. Pure, but for the last function.

use std::net::IpAddr;
use std::path::Path;

use oci_spec::runtime::Mount;

use super::dns::Dns;
use super::outcome::Outcome;
use crate::mounts::bind;

/// Longest host name in bytes.
const LONGEST_NAME: usize = 63;

/// The name that a container without one gets from its id.
#[must_use]
pub fn name_of(id: &str) -> String {
    id.chars().take(LONGEST_NAME).collect()
}

/// `/etc/hosts`: the name is the first address of each kind, on the first network that
/// has one.
#[must_use]
pub fn hosts(name: &str, outcomes: &[Outcome]) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let all = || outcomes.iter().flat_map(|outcome| &outcome.addresses);
    let first = |wanted: fn(&&IpAddr) -> bool| all().find(wanted);
    let addresses = [first(|ip| ip.is_ipv4()), first(|ip| ip.is_ipv6())];
    for address in addresses.into_iter().flatten() {
        text.push_str(&format!("{address} {name}\n"));
    }
    text
}

/// `/etc/resolv.conf` of what networks say, each by its plugins or by default; `None`:
/// nobody says anything.
#[must_use]
pub fn resolv_conf<'a>(said: impl Iterator<Item = &'a Dns>) -> Option<String> {
    let mut all = Dns::default();
    for dns in said {
        all.domain = all.domain.or_else(|| dns.domain.clone());
        for (to, from) in [
            (&mut all.nameservers, &dns.nameservers),
            (&mut all.search, &dns.search),
            (&mut all.options, &dns.options),
        ] {
            for item in from {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        }
    }
    (!all.is_empty()).then(|| all.resolv_conf())
}

/// The mount of a host's file over `target`. Where the container has the host's root a
/// file that is missing there stays missing.
#[must_use]
pub fn over(source: &Path, target: &str, own_root: bool, read_only: bool) -> Option<Mount> {
    let target = Path::new(target);
    if !own_root && !target.exists() {
        return None;
    }
    let mut mount = bind(source, target, read_only);
    let mut options = mount.options().clone().unwrap_or_default();
    options.extend(["nosuid", "nodev", "noexec"].map(str::to_owned));
    mount.set_options(Some(options));
    Some(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        let outcome = |all: &[&str]| Outcome {
            addresses: all.iter().map(|text| text.parse().unwrap()).collect(),
            ..Outcome::default()
        };
        let outcomes = [outcome(&["10.0.0.2"]), outcome(&["10.1.0.2", "2001:db8::2"])];
        let text = hosts("web", &outcomes);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines, ["10.0.0.2 web", "2001:db8::2 web"]);
        assert_eq!(name_of(&"x".repeat(200)).len(), 63);
    }

    #[test]
    fn name_servers_of_several_networks() {
        let dns = |servers: &[&str], domain: Option<&str>| Dns {
            nameservers: servers.iter().map(|s| (*s).to_owned()).collect(),
            domain: domain.map(str::to_owned),
            ..Dns::default()
        };
        let all = [dns(&["1.1.1.1"], None), dns(&["1.1.1.1", "2.2.2.2"], Some("d"))];
        let text = resolv_conf(all.iter()).unwrap();
        assert_eq!(text, "domain d\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n");
        assert_eq!(resolv_conf([Dns::default()].iter()), None);
    }

    #[test]
    fn files_of_the_host_are_not_made() {
        let source = Path::new("/x");
        assert!(over(source, "/nonexistent/hosts", false, false).is_none());
        let mount = over(source, "/nonexistent/hosts", true, true).unwrap();
        let options = mount.options().clone().unwrap();
        assert_eq!(options, ["rbind", "ro", "nosuid", "nodev", "noexec"]);
    }
}
