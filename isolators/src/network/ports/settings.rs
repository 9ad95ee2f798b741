//! What the flags say about ports. Pure.

use std::str::FromStr;
use std::time::Duration;

use mesos::resources::{Ranges, Resources};

/// Every port there is.
pub const EVERY: (u64, u64) = (1, 65535);

/// `--container_ports_bind`, ours: what `bind()` in a container may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bind {
    /// Any port; violations are found afterwards.
    #[default]
    Any,
    /// The container's ports, and those that the kernel gives to whoever asks for
    /// none.
    Ephemeral,
    /// The container's ports only.
    Allocated,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Bind, String> {
        match text {
            "any" => Ok(Bind::Any),
            "ephemeral" => Ok(Bind::Ephemeral),
            "allocated" => Ok(Bind::Allocated),
            _ => Err("'any', 'ephemeral' or 'allocated'".to_owned()),
        }
    }
}

/// Flags of `network/ports`, with Mesos' names and defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--enforce_container_ports`: end containers with ports that are not theirs.
    pub enforce: bool,
    /// `--container_ports_watch_interval`: from one look at all sockets to the next.
    pub watch_interval: Duration,
    /// `--container_ports_isolated_range` or, with `--check_agent_port_range_only`,
    /// the agent's own ports: no others matter. `None`: all do.
    pub scope: Option<Ranges>,
    /// `--container_ports_bind`.
    pub bind: Bind,
    /// The ports of `--resources`.
    pub offered: Ranges,
    /// Containers have a cgroup of v2 beside those of v1, where it is mounted.
    pub unified: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            enforce: false,
            watch_interval: Duration::from_secs(30),
            scope: None,
            bind: Bind::Any,
            offered: Ranges::default(),
            unified: false,
        }
    }
}

/// Parses ports as resources have them, `[8000-8999,31000-32000]`.
///
/// # Errors
/// What is expected instead.
pub fn parse_ports(text: &str) -> Result<Ranges, String> {
    let expected = "ranges of ports from 0 to 65535, for example [31000-32000]";
    let wrong = || expected.to_owned();
    // The grammar of --resources has more: other resources, roles.
    let plain = text.trim();
    if !plain.starts_with('[') || plain.contains([';', ':', '(']) {
        return Err(wrong());
    }
    let parsed = Resources::parse(&format!("ports:{plain}"), "*").map_err(|_| wrong())?;
    let ports = parsed.ports().unwrap_or_default();
    let fits = ports.iter().all(|(_, last)| last <= EVERY.1);
    if fits { Ok(ports) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_parsed_or_refused() {
        assert_eq!("ephemeral".parse(), Ok(Bind::Ephemeral));
        assert!("none".parse::<Bind>().unwrap_err().contains("'allocated'"));
        let wanted = Ranges::new([(80, 80), (31000, 32000)]);
        assert_eq!(parse_ports("[80-80, 31000-32000]"), Ok(wanted));
        assert_eq!(parse_ports("[]"), Ok(Ranges::default()));
        for text in ["", "80", "80-90", "[80]", "[90-x]", "[1-65536]", "[1-2];cpus:1", "{1,2}"] {
            assert!(parse_ports(text).unwrap_err().contains("[31000-32000]"), "{text}");
        }
    }
}
