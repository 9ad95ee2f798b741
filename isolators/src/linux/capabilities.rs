//! `linux/capabilities`: which of root's powers a container may have.

use std::sync::Arc;

use mesos::CapabilityInfo;
use oci_spec::runtime::LinuxCapabilities;

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::capability::Set;
use crate::config::Config;
use crate::simple::Preparing;

const NAME: &str = "linux/capabilities";

/// What a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Held by the command itself; `None`: what its user has within `bounding`.
    pub effective: Option<Set>,
    /// Never exceeded by any process of the container.
    pub bounding: Set,
}

#[derive(Debug, Clone)]
struct Settings {
    config: Arc<Config>,
    /// What this kernel knows.
    kernel: Set,
}

/// The isolator.
///
/// # Errors
/// The flags contradict each other, or name what this kernel does not have.
pub fn isolator(config: Arc<Config>) -> Result<Arc<dyn Isolator>, IsolatorError> {
    config.require_linux(NAME)?;
    let refuse = |object: String| Err(IsolatorError::plain(NAME, "start", object));
    let kernel = known_to_the_kernel()?;
    if let (Some(effective), Some(bounding)) =
        (config.effective_capabilities, config.bounding_capabilities)
        && !bounding.contains(effective)
    {
        return refuse(format!(
            "with --effective_capabilities={effective}: not a subset of \
             --bounding_capabilities={bounding}"
        ));
    }
    for set in [config.effective_capabilities, config.bounding_capabilities].into_iter().flatten() {
        if !kernel.contains(set) {
            return refuse(format!("with {set}: this kernel has only {kernel}"));
        }
    }
    Ok(Preparing::everywhere(NAME, Settings { config, kernel }, prepare))
}

fn known_to_the_kernel() -> Result<Set, IsolatorError> {
    const FILE: &str = "/proc/sys/kernel/cap_last_cap";
    let text = std::fs::read_to_string(FILE)
        .map_err(|error| IsolatorError::new(NAME, "read", FILE, error))?;
    let last: u32 = text.trim().parse().map_err(|e| IsolatorError::new(NAME, "read", FILE, e))?;
    Ok(Set::of_bits(u64::MAX >> 63_u32.saturating_sub(last)))
}

/// What the container gets, `None` to leave everything as it is. Mesos' rules.
///
/// # Errors
/// A request that is contradictory or beyond what the operator allows.
pub(crate) fn grant(config: &Config, context: &ContainerContext) -> Result<Option<Grant>, String> {
    let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
    let of = |info: Option<&CapabilityInfo>| info.map(Set::of_info).transpose();
    let old = of(linux.and_then(|l| l.capability_info.as_ref()))?;
    let wanted = of(linux.and_then(|l| l.effective_capabilities.as_ref()))?;
    if old.is_some() && wanted.is_some() {
        return Err(
            "Only one of 'capability_info' or 'effective_capabilities' is allowed".to_owned()
        );
    }
    let bounding = of(linux.and_then(|l| l.bounding_capabilities.as_ref()))?;
    if let (Some(asked), Some(allowed)) = (bounding, config.bounding_capabilities)
        && !allowed.contains(asked)
    {
        return Err(format!("Bounding capabilities '{asked}', but only '{allowed}' are allowed"));
    }
    let effective = wanted.or(old).or(config.effective_capabilities);
    let Some(bounding) = bounding.or(config.bounding_capabilities).or(effective) else {
        return Ok(None);
    };
    match effective {
        Some(asked) if !bounding.contains(asked) => {
            Err(format!("Requested capabilities '{asked}', but only '{bounding}' are allowed"))
        }
        effective => Ok(Some(Grant { effective, bounding })),
    }
}

fn prepare(settings: &Settings, context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    let refuse = |text: String| IsolatorError::plain(NAME, "grant", text);
    let Some(grant) = grant(&settings.config, context).map_err(refuse)? else {
        return Ok(Contribution::default());
    };
    let all = grant.bounding.or(grant.effective.unwrap_or_default());
    if !settings.kernel.contains(all) {
        return Err(refuse(format!("'{all}': this kernel has only '{}'", settings.kernel)));
    }
    let root = context.ids.is_none_or(|(uid, _)| uid == 0);
    Ok(Contribution { capabilities: Some(sets(grant, root)), ..Contribution::default() })
}

/// The five sets. Ambient capabilities are what lets a user that is not root keep
/// any across the execution of its command; root is given its bounding set by the
/// kernel. Nothing more is inheritable than what is ambient: a wider inheritable
/// set would hand out powers through file capabilities.
fn sets(grant: Grant, root: bool) -> LinuxCapabilities {
    let (own, ambient) = match grant.effective {
        Some(effective) => (effective, effective),
        None if root => (grant.bounding, Set::default()),
        None => (Set::default(), Set::default()),
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(grant.bounding.oci())
        .set_permitted(own.oci())
        .set_effective(own.oci())
        .set_inheritable(ambient.oci())
        .set_ambient(ambient.oci());
    sets
}

#[cfg(test)]
mod tests {
    use mesos::capability_info::Capability as Number;
    use mesos::{ContainerInfo, LinuxInfo};

    use super::*;
    use crate::capability::tests::{info, set};
    use crate::config::Launcher;
    use crate::suite::context;

    fn config(effective: Option<Set>, bounding: Option<Set>) -> Config {
        Config {
            effective_capabilities: effective,
            bounding_capabilities: bounding,
            ..Config::default()
        }
    }

    fn asking(linux: LinuxInfo) -> ContainerContext {
        let mut context = context("a");
        context.info = Some(ContainerInfo { linux_info: Some(linux), ..ContainerInfo::default() });
        context
    }

    #[test]
    fn requests_stay_within_the_operators_bounds() {
        let (raw, chown) = (set(&["NET_RAW"]), set(&["CHOWN"]));
        let grant = |config: &Config, linux| grant(config, &asking(linux));
        let none = LinuxInfo::default;
        let asks = |all| LinuxInfo { effective_capabilities: info(all), ..none() };
        assert_eq!(grant(&config(None, None), none()), Ok(None));
        let both = Grant { effective: Some(raw), bounding: raw };
        assert_eq!(grant(&config(Some(raw), None), none()), Ok(Some(both)));
        let only_bounded = Grant { effective: None, bounding: raw };
        assert_eq!(grant(&config(None, Some(raw)), none()), Ok(Some(only_bounded)));
        let wide = Grant { effective: Some(chown), bounding: raw.or(chown) };
        let bounded = config(None, Some(raw.or(chown)));
        assert_eq!(grant(&bounded, asks(&[Number::Chown])), Ok(Some(wide)));
        let error = grant(&bounded, asks(&[Number::SysAdmin])).unwrap_err();
        assert_eq!(
            error,
            "Requested capabilities '{ SYS_ADMIN }', but only '{ CHOWN, NET_RAW }' are allowed"
        );
        let linux = LinuxInfo { bounding_capabilities: info(&[Number::SysAdmin]), ..none() };
        let error = grant(&bounded, linux).unwrap_err();
        assert!(error.starts_with("Bounding capabilities '{ SYS_ADMIN }'"), "{error}");
        let linux = LinuxInfo { capability_info: info(&[]), ..asks(&[]) };
        assert!(grant(&bounded, linux).unwrap_err().starts_with("Only one of"));
    }

    #[test]
    fn only_ambient_capabilities_are_inheritable() {
        let (raw, chown) = (set(&["NET_RAW"]), set(&["CHOWN"]));
        let grant = Grant { effective: Some(raw), bounding: raw.or(chown) };
        let sets_of = sets(grant, false);
        assert_eq!(sets_of.ambient(), &raw.oci());
        assert_eq!(sets_of.inheritable(), &raw.oci());
        assert_eq!(sets_of.bounding(), &raw.or(chown).oci());
        let bounded = Grant { effective: None, bounding: raw };
        assert_eq!(sets(bounded, true).effective(), &raw.oci());
        assert_eq!(sets(bounded, false).permitted(), &Set::default().oci());
    }

    #[test]
    fn contradicting_flags_are_refused() {
        let (raw, chown) = (set(&["NET_RAW"]), set(&["CHOWN"]));
        let error = isolator(Arc::new(config(Some(raw), Some(chown)))).err().unwrap().to_string();
        assert!(error.contains("not a subset"), "{error}");
        assert!(isolator(Arc::new(config(Some(raw), None))).is_ok());
        let posix = Config { launcher: Launcher::Posix, ..config(None, None) };
        assert!(isolator(Arc::new(posix)).is_err());
    }
}
