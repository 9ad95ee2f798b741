//! `bulkhead-bridge`: what CNI's `bridge` and `host-local` do, without a process.
//!
//! Takes their configuration, keeps their files and gives their result, through netlink;
//! `network/cni` calls it as a function, and the helper program has it for others. What
//! it does not do it refuses.
//!
//! ```text
//! ADD: bridge there? -> addresses taken -> interface pair, the one end inside at once
//!      -> the other on the bridge -> inside: addresses, up, routes
//! DEL: pair removed -> addresses given back
//! ```

mod conf;
mod leases;
mod range;

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel::netlink::address::{self, Address};
use kernel::netlink::link::{self, Change, End, Link};
use kernel::netlink::route::{self, Route};
use kernel::netlink::{Family, Socket};
use kernel::{chain, failpoint};
use serde_json::{Value, json};

use self::conf::Conf;
use self::leases::Leases;
use self::range::Range;
use super::cni::outcome::addresses_of;
use super::plugin::{self, Outcome, RULES_FAILED, fail, hash};

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// `ADD`, `DEL`, `CHECK`, `GC` or `STATUS`.
    pub command: String,
    /// The container.
    pub container: String,
    /// The interface in it.
    pub interface: String,
    /// What keeps its network namespace.
    pub netns: Option<PathBuf>,
}

/// Serves one call as a program.
#[must_use]
pub fn main() -> ExitCode {
    fn run(call: &plugin::Call) -> Outcome<Option<Value>> {
        let netns = std::env::var_os("CNI_NETNS").filter(|path| !path.is_empty());
        let own = Call {
            command: call.command.clone(),
            container: call.container.clone(),
            interface: call.interface.clone(),
            netns: netns.map(PathBuf::from),
        };
        serve(&own, &call.conf).or_else(|text| fail(RULES_FAILED, text))
    }
    plugin::main(run)
}

/// Serves one call. Blocks on the kernel, and on others that use the same network.
///
/// # Errors
/// For people.
pub fn serve(call: &Call, told: &Value) -> Result<Option<Value>, String> {
    let conf = Conf::parse(told)?;
    match call.command.as_str() {
        "ADD" => add(call, &conf).map(Some),
        "DEL" => delete(call, &conf).map(|()| None),
        "CHECK" => check(call, &conf).map(|()| None),
        "GC" => {
            let valid = told["cni.dev/valid-attachments"].as_array().cloned().unwrap_or_default();
            let leases = Leases::open(&conf.leases, &conf.network)?;
            leases.give_back(None, |container, interface| {
                let same = |entry: &Value| {
                    entry["containerID"] == container && entry["ifname"] == interface
                };
                valid.iter().any(same)
            })?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn words(error: kernel::Error) -> String {
    chain(&error)
}

/// The host's end of a container's pair: the same whenever it is asked.
fn veth(container: &str, interface: &str) -> String {
    format!("veth{:08x}", hash(&[container, interface]) as u32)
}

/// There already is fine.
fn unless_there(result: Result<(), kernel::Error>) -> Result<(), String> {
    match result {
        Err(error) if error.source.kind() != std::io::ErrorKind::AlreadyExists => Err(words(error)),
        _ => Ok(()),
    }
}

/// An address of the container.
struct Given {
    ip: IpAddr,
    range: Range,
}

fn add(call: &Call, conf: &Conf) -> Result<Value, String> {
    let netns = call.netns.as_deref().ok_or("CNI_NETNS must be set")?;
    let mut socket = Socket::open(Family::Route).map_err(words)?;
    let bridge = bridge(&mut socket, conf)?;
    let given = take(call, conf)?;
    failpoint!("cni.bridge_leased");
    if conf.is_gateway {
        for Given { range, .. } in &given {
            gateway(&mut socket, bridge.index, range)?;
        }
    }
    let host = pair(&mut socket, call, conf, netns, bridge.index)?;
    failpoint!("cni.bridge_paired");
    let inner = inside(netns, call, conf, &given)?;
    Ok(result(conf, [&bridge, &host, &inner], netns, &given))
}

/// The bridge, made if it is not there.
fn bridge(socket: &mut Socket, conf: &Conf) -> Result<Link, String> {
    let find = |socket: &mut Socket| link::find(socket, &conf.bridge).map_err(words);
    let found = match find(socket)? {
        Some(found) => found,
        None => {
            // Somebody else may be quicker.
            unless_there(link::add(socket, &conf.bridge, "bridge"))?;
            let made = find(socket)?.ok_or("the bridge that was just made is gone")?;
            // Said once, it stays; else it is the lowest of the ports', and containers that
            // know their gateway by it lose it when others come and go.
            if let Ok(own) = <[u8; 6]>::try_from(made.address.as_slice()) {
                link::change(socket, made.index, Change::Address(own)).map_err(words)?;
            }
            made
        }
    };
    if found.kind.as_deref() != Some("bridge") {
        return Err(format!("'{}' is an interface, but not a bridge", conf.bridge));
    }
    if let Some(mtu) = conf.mtu.filter(|mtu| *mtu != found.mtu) {
        link::change(socket, found.index, Change::Mtu(mtu)).map_err(words)?;
    }
    if !found.up {
        link::change(socket, found.index, Change::Up(true)).map_err(words)?;
    }
    Ok(found)
}

fn take(call: &Call, conf: &Conf) -> Result<Vec<Given>, String> {
    let owner = (call.container.as_str(), call.interface.as_str());
    let leases = Leases::open(&conf.leases, &conf.network)?;
    let mut given = Vec::with_capacity(conf.ranges.len());
    for (number, ranges) in conf.ranges.iter().enumerate() {
        let (ip, range) = leases.take((number, ranges), &conf.wanted, owner)?;
        given.push(Given { ip, range });
    }
    Ok(given)
}

/// The bridge is the way out.
fn gateway(socket: &mut Socket, bridge: u32, range: &Range) -> Result<(), String> {
    let (ip, prefix) = (range.gateway, range.subnet.prefix);
    unless_there(address::add(socket, &Address { index: bridge, ip, prefix, scope: 0 }))?;
    let file = match ip {
        IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
        IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    if std::fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"1")) {
        return Ok(());
    }
    std::fs::write(file, "1").map_err(|error| format!("failed to write {file}: {error}"))
}

/// The pair of interfaces; the host's end.
fn pair(
    socket: &mut Socket,
    call: &Call,
    conf: &Conf,
    netns: &Path,
    bridge: u32,
) -> Result<Link, String> {
    let file = File::open(netns)
        .map_err(|error| format!("failed to open {}: {error}", netns.display()))?;
    let name = veth(&call.container, &call.interface);
    let end = End { name: &name, mtu: conf.mtu, up: true, master: Some(bridge), ..End::default() };
    let peer =
        End { name: &call.interface, mtu: conf.mtu, network: Some(file.as_fd()), ..End::default() };
    link::add_veth(socket, &end, &peer).map_err(words)?;
    let host = link::find(socket, &name).map_err(words)?;
    let host = host.ok_or("the interface that was just made is gone")?;
    if conf.hairpin {
        link::hairpin(socket, host.index, true).map_err(words)?;
    }
    Ok(host)
}

/// The container's end: addresses, up, routes.
fn inside(netns: &Path, call: &Call, conf: &Conf, given: &[Given]) -> Result<Link, String> {
    kernel::netns::inside(netns, || {
        let mut socket = Socket::open(Family::Route)?;
        let gone = || {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            kernel::Error::new("find", format!("the interface '{}'", call.interface), source)
        };
        let own = link::find(&mut socket, &call.interface)?.ok_or_else(gone)?;
        for Given { ip, range } in given {
            let prefix = range.subnet.prefix;
            address::add(&mut socket, &Address { index: own.index, ip: *ip, prefix, scope: 0 })?;
        }
        link::change(&mut socket, own.index, Change::Up(true))?;
        for (destination, gateway) in &conf.routes {
            let kind = destination.ip.is_ipv4();
            let of_kind = given.iter().find(|given| given.ip.is_ipv4() == kind);
            let Some(of_kind) = of_kind else { continue };
            let gateway = Some(gateway.unwrap_or(of_kind.range.gateway));
            let (destination, prefix) = (destination.ip, destination.prefix);
            let route = Route { destination, prefix, index: own.index, gateway, source: None };
            match route::add(&mut socket, &route) {
                // Another network was first, as with CNI's plugins.
                Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {}
                added => added?,
            }
        }
        Ok(own)
    })
    .map_err(words)
}

/// In the form of the version that was asked.
fn result(conf: &Conf, links: [&Link; 3], netns: &Path, given: &[Given]) -> Value {
    let routes: Vec<Value> = conf
        .routes
        .iter()
        .map(|(to, gateway)| match gateway {
            Some(gateway) => json!({ "dst": to.to_string(), "gw": gateway.to_string() }),
            None => json!({ "dst": to.to_string() }),
        })
        .collect();
    let address = |given: &Given| format!("{}/{}", given.ip, given.range.subnet.prefix);
    let old = conf.version.starts_with("0.1.") || conf.version.starts_with("0.2.");
    if old {
        let mut result = json!({ "cniVersion": conf.version, "dns": conf.dns });
        for one in given {
            let key = if one.ip.is_ipv4() { "ip4" } else { "ip6" };
            result[key] = json!({ "ip": address(one), "gateway": one.range.gateway.to_string(),
                                  "routes": routes });
        }
        return result;
    }
    let mac = |link: &Link| {
        let bytes: Vec<String> = link.address.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    };
    let sandboxes = [String::new(), String::new(), netns.display().to_string()];
    let interfaces: Vec<Value> = links
        .iter()
        .zip(sandboxes)
        .map(|(link, sandbox)| json!({ "name": link.name, "mac": mac(link), "sandbox": sandbox }))
        .collect();
    let ips: Vec<Value> = given
        .iter()
        .map(|one| {
            let mut ip = json!({ "address": address(one), "interface": 2,
                                 "gateway": one.range.gateway.to_string() });
            if conf.version.starts_with("0.") {
                ip["version"] = if one.ip.is_ipv4() { "4".into() } else { "6".into() };
            }
            ip
        })
        .collect();
    json!({ "cniVersion": conf.version, "interfaces": interfaces, "ips": ips, "routes": routes,
            "dns": conf.dns })
}

fn known(call: &Call, conf: &Conf) -> Option<Vec<IpAddr>> {
    let previous = conf.previous.as_ref()?;
    addresses_of(previous, &call.interface).ok()
}

fn delete(call: &Call, conf: &Conf) -> Result<(), String> {
    link::remove_soon(&veth(&call.container, &call.interface)).map_err(words)?;
    failpoint!("cni.bridge_removed");
    let leases = Leases::open(&conf.leases, &conf.network)?;
    let other = |container: &str, interface: &str| {
        container != call.container || interface != call.interface
    };
    leases.give_back(known(call, conf).as_deref(), other)
}

fn check(call: &Call, conf: &Conf) -> Result<(), String> {
    let mut socket = Socket::open(Family::Route).map_err(words)?;
    let name = veth(&call.container, &call.interface);
    let find = |socket: &mut Socket, name: &str| {
        let found = link::find(socket, name).map_err(words)?;
        found.ok_or_else(|| format!("there is no interface '{name}' on the host"))
    };
    let bridge = find(&mut socket, &conf.bridge)?;
    let host = find(&mut socket, &name)?;
    if host.master != Some(bridge.index) || !host.up {
        return Err(format!("the interface '{name}' is not up and on '{}'", conf.bridge));
    }
    let leases = Leases::open(&conf.leases, &conf.network)?;
    for ip in known(call, conf).unwrap_or_default() {
        if !leases.is_of(ip, (&call.container, &call.interface)) {
            return Err(format!("the address {ip} is not leased to the container"));
        }
    }
    Ok(())
}
