//! Who the agent is: its addresses, host name and description for the master.
//!
//! Called once at start, before anything listens. May wait for a name server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::process::Command;

use mesos::{Attribute, DomainInfo, SlaveInfo};
use thiserror::Error;

/// Why the agent cannot say who it is.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum InfoError {
    #[error("--ip_discovery_command printed '{0}', which is not an IP address")]
    Address(String),
    #[error("--ip and --ip_discovery_command cannot be given together")]
    TwoAddresses,
    #[error("failed to run --ip_discovery_command '{command}': {message}")]
    Discovery { command: String, message: String },
    #[error(
        "failed to find the host name of {ip}: {message}; give --hostname or --no-hostname_lookup"
    )]
    Lookup { ip: IpAddr, message: String },
    #[error("failed to find an address of this host ({name}): {message}; give --ip")]
    OwnAddress { name: String, message: String },
    #[error("failed to parse --attributes: {0}")]
    Attributes(#[from] mesos::attributes::AttributeError),
    #[error("failed to parse --domain: {0}")]
    Domain(String),
}

/// The flags that say where the agent is.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // named as the flags are
pub struct Whereabouts {
    pub ip: Option<IpAddr>,
    pub ip_discovery_command: Option<String>,
    pub port: u16,
    pub advertise_ip: Option<IpAddr>,
    pub advertise_port: Option<u16>,
    pub hostname: Option<String>,
    pub hostname_lookup: bool,
}

impl Whereabouts {
    /// Where to listen: `--ip`, what `--ip_discovery_command` prints, or every
    /// address.
    ///
    /// # Errors
    /// [`InfoError`] naming the flag.
    pub fn listen(&self) -> Result<SocketAddr, InfoError> {
        let ip = match (&self.ip, &self.ip_discovery_command) {
            (Some(_), Some(_)) => return Err(InfoError::TwoAddresses),
            (Some(ip), None) => *ip,
            (None, Some(command)) => printed_address(&discover(command)?)?,
            (None, None) => Ipv4Addr::UNSPECIFIED.into(),
        };
        Ok(SocketAddr::new(ip, self.port))
    }

    /// What others are told, given where the agent really listens.
    ///
    /// # Errors
    /// [`InfoError`] naming the flag, or if this host has no address.
    pub fn advertised(&self, listening: SocketAddr) -> Result<SocketAddr, InfoError> {
        let ip = match self.advertise_ip {
            Some(ip) => ip,
            None if listening.ip().is_unspecified() => own_address()?,
            None => listening.ip(),
        };
        Ok(SocketAddr::new(ip, self.advertise_port.unwrap_or(listening.port())))
    }

    /// `--hostname`, or the name of `ip`, or with `--no-hostname_lookup` the
    /// address itself.
    ///
    /// # Errors
    /// [`InfoError::Lookup`].
    pub fn hostname(&self, ip: IpAddr) -> Result<String, InfoError> {
        match &self.hostname {
            Some(name) => Ok(name.clone()),
            None if !self.hostname_lookup => Ok(ip.to_string()),
            None => kernel::lookup::hostname_of(ip)
                .map_err(|e| InfoError::Lookup { ip, message: e.to_string() }),
        }
    }
}

fn printed_address(text: &str) -> Result<IpAddr, InfoError> {
    let text = text.trim();
    text.parse().map_err(|_| InfoError::Address(text.to_owned()))
}

fn discover(command: &str) -> Result<String, InfoError> {
    let failed = |message: String| InfoError::Discovery { command: command.to_owned(), message };
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{} {}", output.status, words.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The address of this host's own name; one that others can reach if there is one.
fn own_address() -> Result<IpAddr, InfoError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_owned();
    let found = (name.as_str(), 0).to_socket_addrs();
    let all: Vec<IpAddr> = match found {
        Ok(addresses) => addresses.map(|a| a.ip()).filter(IpAddr::is_ipv4).collect(),
        Err(e) => return Err(InfoError::OwnAddress { name, message: e.to_string() }),
    };
    let best = all.iter().find(|ip| !ip.is_loopback()).or(all.first());
    best.copied()
        .ok_or_else(|| InfoError::OwnAddress { name, message: "it has no IPv4 address".into() })
}

/// The agent's description, without an id: the master gives that.
#[must_use]
pub fn slave_info(
    hostname: String,
    port: u16,
    resources: Vec<mesos::Resource>,
    attributes: Vec<Attribute>,
    domain: Option<DomainInfo>,
) -> SlaveInfo {
    SlaveInfo {
        hostname,
        port: Some(i32::from(port)),
        resources,
        attributes,
        id: None,
        domain,
        checkpoint: Some(true),
    }
}

/// Reads `--domain`.
///
/// # Errors
/// [`InfoError::Domain`] in the words of the JSON reader.
pub fn domain(flag: Option<&str>) -> Result<Option<DomainInfo>, InfoError> {
    flag.map(|text| {
        mesos::json::from_json(text.as_bytes()).map_err(|e| InfoError::Domain(e.to_string()))
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str) -> Whereabouts {
        Whereabouts { ip: Some(ip.parse().expect(ip)), port: 5051, ..Default::default() }
    }

    #[test]
    fn addresses_come_from_flags_in_order() {
        let listen = at("127.0.0.1").listen().expect("an address");
        assert_eq!(listen.to_string(), "127.0.0.1:5051");
        let mut flags = at("10.0.0.1");
        flags.advertise_ip = Some([192, 0, 2, 7].into());
        flags.advertise_port = Some(15051);
        let advertised = flags.advertised(listen).expect("given");
        assert_eq!(advertised.to_string(), "192.0.2.7:15051");
        let found = Whereabouts {
            ip_discovery_command: Some("echo 127.0.0.9".into()),
            ..Default::default()
        };
        assert_eq!(found.listen().expect("printed").to_string(), "127.0.0.9:0");
    }

    #[test]
    fn wrong_addresses_are_named() {
        let printed = Whereabouts {
            ip_discovery_command: Some("echo localhost".into()),
            ..Default::default()
        };
        assert!(matches!(printed.listen(), Err(InfoError::Address(text)) if text == "localhost"));
        let mut both = at("127.0.0.1");
        both.ip_discovery_command = Some("echo".into());
        assert!(matches!(both.listen(), Err(InfoError::TwoAddresses)));
        let fails =
            Whereabouts { ip_discovery_command: Some("exit 3".into()), ..Default::default() };
        assert!(matches!(fails.listen(), Err(InfoError::Discovery { .. })));
    }

    #[test]
    fn host_names_are_given_looked_up_or_digits() {
        let mut flags = at("127.0.0.1");
        let ip = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(flags.hostname(ip).expect("digits"), "127.0.0.1");
        flags.hostname_lookup = true;
        assert_eq!(flags.hostname(ip).expect("in /etc/hosts"), "localhost");
        flags.hostname = Some("agent1.example".into());
        assert_eq!(flags.hostname(ip).expect("given"), "agent1.example");
    }
}
