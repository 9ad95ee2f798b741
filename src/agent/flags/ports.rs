//! The flags of `network/ports` and `network/port_mapping`. Called by `flags`.

use isolators::network::port_mapping::settings::{
    PerCpu, Sampling, Settings as Mapping, Shape, parse_parent,
};
use isolators::network::ports::settings::{Bind, Settings, parse_ports};

use super::values::{StartError, invalid, parsed};
use crate::agent::resources;
use crate::daemon::flags::Flags;
use crate::daemon::units::parse_bytes;

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
/// A number that is none of ports, a rate that is none, or bad `--resources`.
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
    let flows = parsed(flags, "egress_flow_classifier_parent", parse_parent)?;
    let flows = flows.unwrap_or(kernel::netlink::traffic::ROOT);
    Ok(Mapping {
        public: name("eth0_name"),
        loopback: name("lo_name").unwrap_or(default.loopback),
        ports: ranges("ports")?,
        ephemeral: ranges("ephemeral_ports")?,
        per_container: per_container.transpose()?.unwrap_or(default.per_container),
        egress: Shape {
            fixed: flags.bytes("egress_rate_limit_per_container"),
            per_cpu: parsed(flags, "egress_rate_per_cpu", per_cpu)?,
            minimum: flags.bytes("minimum_egress_rate_limit"),
            maximum: flags.bytes("maximum_egress_rate_limit"),
            ceiling: flags.bytes("egress_ceil_limit"),
            burst: flags.bytes("egress_burst"),
        },
        ingress: Shape {
            fixed: flags.bytes("ingress_rate_limit_per_container"),
            per_cpu: parsed(flags, "ingress_rate_per_cpu", per_cpu)?,
            minimum: flags.bytes("minimum_ingress_rate_limit"),
            maximum: flags.bytes("maximum_ingress_rate_limit"),
            ceiling: flags.bytes("ingress_ceil_limit"),
            burst: flags.bytes("ingress_burst"),
        },
        ingress_existing: flags.bool_or("ingress_isolate_existing_containers", true),
        link_speed: flags.bytes("network_link_speed"),
        cpus: resources::cpus(flags.text("resources"), role)?,
        flows: flags.bool("egress_unique_flow_per_container").then_some(flows),
        rates: sampling(flags)?,
        summary: flags.bool("network_enable_socket_statistics_summary"),
        details: flags.bool("network_enable_socket_statistics_details"),
        snmp: flags.bool("network_enable_snmp_statistics"),
    })
}

/// `--egress_rate_per_cpu`: `auto`, or bytes.
fn per_cpu(text: &str) -> Result<PerCpu, String> {
    match text {
        "auto" => Ok(PerCpu::Share),
        _ => parse_bytes(text)
            .map(PerCpu::Bytes)
            .map_err(|_| "'auto', or bytes per second such as 10MB".to_owned()),
    }
}

/// How rates are measured, if they are.
fn sampling(flags: &Flags) -> Result<Option<Sampling>, StartError> {
    const ON: &str = "network_enable_rate_statistics";
    if !flags.bool(ON) {
        return Ok(None);
    }
    let needed = |name: &str| {
        let missing = || invalid(ON, "true", format!("--{name} with it"));
        flags.duration(name).ok_or_else(missing)
    };
    let window = needed("network_rate_statistics_window")?;
    Ok(Some(Sampling { window, interval: needed("network_rate_statistics_interval")? }))
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
            "--egress_ceil_limit=4MB",
            "--egress_burst=64KB",
            "--eth0_name=eth1",
        ];
        let told = told(&given[2..]).expect("valid");
        assert_eq!(told.ports, Ranges::new([(31000, 31999)]));
        assert_eq!(told.ephemeral, Ranges::new([(32768, 34815)]));
        let egress = Shape {
            fixed: Some(1 << 20),
            ceiling: Some(4 << 20),
            burst: Some(64 << 10),
            ..Shape::default()
        };
        assert_eq!((told.per_container, told.egress), (512, egress));
        assert_eq!((told.ingress, told.flows, told.rates), (Shape::default(), None, None));
        assert!(told.ingress_existing && told.cpus > 0.0);
        assert_eq!((told.public.as_deref(), told.loopback.as_str()), (Some("eth1"), "lo"));
    }

    fn told(given: &[&str]) -> Result<Mapping, String> {
        let needed = ["--work_dir=/tmp/none", "--master=127.0.0.1:5050"];
        let arguments = needed.iter().chain(given).map(|flag| (*flag).to_owned());
        let flags = Flags::parse(FLAGS, arguments, []).expect("known flags");
        mapping(&flags).map_err(|error| error.to_string())
    }

    #[test]
    fn port_mapping_is_told_rates_per_cpu_flows_and_windows() {
        let told_all = told(&[
            "--resources=cpus:3;ephemeral_ports:[32768-34815]",
            "--egress_rate_per_cpu=auto",
            "--ingress_rate_per_cpu=2MB",
            "--minimum_egress_rate_limit=1MB",
            "--maximum_ingress_rate_limit=9MB",
            "--network_link_speed=1GB",
            "--no-ingress_isolate_existing_containers",
            "--egress_unique_flow_per_container",
            "--egress_flow_classifier_parent=1:a",
            "--network_enable_rate_statistics",
            "--network_rate_statistics_window=1mins",
            "--network_rate_statistics_interval=1secs",
        ]);
        let all = told_all.expect("valid");
        let mega = 1 << 20;
        assert_eq!((all.egress.per_cpu, all.egress.minimum), (Some(PerCpu::Share), Some(mega)));
        assert_eq!(all.ingress.per_cpu, Some(PerCpu::Bytes(2 * mega)));
        assert_eq!((all.ingress.maximum, all.link_speed), (Some(9 * mega), Some(1 << 30)));
        assert_eq!((all.ingress_existing, all.flows), (false, Some(0x1_000a)));
        assert!((all.cpus - 3.0).abs() < 1e-9);
        let (window, interval) = (Duration::from_secs(60), Duration::from_secs(1));
        assert_eq!(all.rates, Some(Sampling { window, interval }));
        for (flag, words) in [
            ("--egress_rate_per_cpu=fast", "--egress_rate_per_cpu: 'auto', or bytes"),
            ("--egress_flow_classifier_parent=top", "'root', or a class"),
            ("--network_enable_rate_statistics", "--network_rate_statistics_window with it"),
        ] {
            let error = told(&[flag]).expect_err("refused");
            assert!(error.contains(words), "{flag}: {error}");
        }
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
