//! The flags of `network/ports` and `network/port_mapping`. Called by `flags`.

use isolators::network::port_mapping::settings::Settings as Mapping;
use isolators::network::ports::settings::{Bind, Settings, parse_ports};

use super::values::{StartError, invalid, parsed};
use crate::agent::resources;
use crate::daemon::flags::Flags;

const ONLY_AGENT: &str = "check_agent_port_range_only";
const ISOLATED: &str = "container_ports_isolated_range";

/// What `network/ports` is told.
///
/// # Errors
/// A value that means nothing, two scopes at a time, or bad `--resources`.
pub(super) fn settings(flags: &Flags) -> Result<Settings, StartError> {
    let default = Settings::default();
    let role = flags.text("default_role").unwrap_or("*");
    let offered = resources::ranges(flags.text("resources"), role, "ports")?;
    let isolated = parsed(flags, ISOLATED, parse_ports)?;
    let scope = match (flags.bool(ONLY_AGENT), isolated) {
        (true, Some(_)) => {
            let expected = format!("no value together with --{ISOLATED}: give one of them");
            return Err(invalid(ONLY_AGENT, "true", expected));
        }
        (true, None) => Some(offered.clone()),
        (false, isolated) => isolated,
    };
    let settings = Settings {
        enforce: flags.bool("enforce_container_ports"),
        watch_interval: flags
            .duration("container_ports_watch_interval")
            .unwrap_or(default.watch_interval),
        scope,
        bind: parsed(flags, "container_ports_bind", str::parse)?.unwrap_or_default(),
        offered,
        ..default
    };
    let isolation = flags.text("isolation").unwrap_or_default();
    let enabled = isolation.split(',').any(|name| name.trim() == "network/ports");
    if !enabled && (settings.enforce || settings.bind != Bind::Any) {
        tracing::warn!(
            "--enforce_container_ports and --container_ports_bind do nothing: network/ports is not \
             in --isolation"
        );
    }
    Ok(settings)
}

/// What `network/port_mapping` is told.
///
/// # Errors
/// A number that is none of ports, or bad `--resources`.
pub(super) fn mapping(flags: &Flags) -> Result<Mapping, StartError> {
    let default = Mapping::default();
    let role = flags.text("default_role").unwrap_or("*");
    let ranges = |name| resources::ranges(flags.text("resources"), role, name);
    let name = |flag| flags.text(flag).filter(|name| !name.is_empty()).map(str::to_owned);
    const BLOCK: &str = "ephemeral_ports_per_container";
    let per_container = flags.number(BLOCK).map(|n| {
        let expected = "a power of 2 from 16 to 32768";
        u32::try_from(n).map_err(|_| invalid(BLOCK, &n.to_string(), expected))
    });
    Ok(Mapping {
        public: name("eth0_name"),
        loopback: name("lo_name").unwrap_or(default.loopback),
        ports: ranges("ports")?,
        ephemeral: ranges("ephemeral_ports")?,
        per_container: per_container.transpose()?.unwrap_or(default.per_container),
        egress: flags.bytes("egress_rate_limit_per_container"),
        ingress: flags.bytes("ingress_rate_limit_per_container"),
        summary: flags.bool("network_enable_socket_statistics_summary"),
        details: flags.bool("network_enable_socket_statistics_details"),
        snmp: flags.bool("network_enable_snmp_statistics"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesos::resources::Ranges;

    use super::*;
    use crate::daemon::flags::agent::FLAGS;

    fn with(given: &[&str]) -> Result<Settings, String> {
        let needed = ["--work_dir=/tmp/none", "--master=127.0.0.1:5050"];
        let arguments = needed.iter().chain(given).map(|flag| (*flag).to_owned());
        let flags = Flags::parse(FLAGS, arguments, []).expect("known flags");
        settings(&flags).map_err(|error| error.to_string())
    }

    #[test]
    fn mesos_defaults_and_what_is_given() {
        let plain = with(&[]).expect("valid");
        let agents = Ranges::new([(31000, 32000)]);
        assert_eq!((plain.enforce, plain.bind, plain.scope), (false, Bind::Any, None));
        assert_eq!(
            (plain.watch_interval, plain.offered),
            (Duration::from_secs(30), agents.clone())
        );
        let scope = |flags: &[&str]| with(flags).expect("valid").scope;
        let only = "--check_agent_port_range_only";
        assert_eq!(scope(&[only]), Some(agents));
        let some = Ranges::new([(80, 90)]);
        assert_eq!(scope(&[only, "--resources=ports:[80-90]"]), Some(some.clone()));
        assert_eq!(scope(&[only, "--resources=ports:[]"]), Some(Ranges::default()));
        assert_eq!(scope(&["--container_ports_isolated_range=[80-90]"]), Some(some));
        let more = with(&[
            "--enforce_container_ports",
            "--container_ports_watch_interval=5secs",
            "--container_ports_bind=ephemeral",
        ]);
        let more = more.expect("valid");
        assert_eq!((more.enforce, more.bind), (true, Bind::Ephemeral));
        assert_eq!(more.watch_interval, Duration::from_secs(5));
    }

    #[test]
    fn port_mapping_is_told_its_ports_and_limits() {
        let given = [
            "--work_dir=/tmp/none",
            "--master=127.0.0.1:5050",
            "--resources=ports:[31000-31999];ephemeral_ports:[32768-34815]",
            "--ephemeral_ports_per_container=512",
            "--egress_rate_limit_per_container=1MB",
            "--eth0_name=eth1",
        ];
        let flags = Flags::parse(FLAGS, given.map(str::to_owned), []).expect("known flags");
        let told = mapping(&flags).expect("valid");
        assert_eq!(told.ports, Ranges::new([(31000, 31999)]));
        assert_eq!(told.ephemeral, Ranges::new([(32768, 34815)]));
        assert_eq!((told.per_container, told.egress, told.ingress), (512, Some(1 << 20), None));
        assert_eq!((told.public.as_deref(), told.loopback.as_str()), (Some("eth1"), "lo"));
    }

    #[test]
    fn errors_name_the_flag() {
        for (flags, words) in [
            (
                &["--container_ports_isolated_range=80"][..],
                "--container_ports_isolated_range: ranges",
            ),
            (&["--container_ports_bind=none"], "--container_ports_bind: 'any', 'ephemeral'"),
            (&["--resources=ports:[5-"], "ports"),
            (
                &["--check_agent_port_range_only", "--container_ports_isolated_range=[1-2]"],
                "together with --container_ports_isolated_range",
            ),
        ] {
            let error = with(flags).expect_err("refused");
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }
}
