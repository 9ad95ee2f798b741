//! `--isolation`: the one visible list of isolators, and what a flag value means.
//!
//! [`TABLE`] is in the order in which isolators prepare a container (cleanup is
//! the reverse), Mesos' order. [`parse`] is pure; [`create`] makes the values.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use crate::api::{Isolator, IsolatorError};
use crate::cgroups::{Cgroups, Controller};
use crate::config::{Config, Launcher};
use crate::traced::{Ledger, PATIENCE, Traced};
use crate::{cdi, disk, filesystem, gpu, linux, namespaces, network, posix, runtime, volume};

/// `--isolation`'s default, Mesos' own.
pub const DEFAULT: &str = "posix/cpu,posix/mem";

/// Every name `--isolation` may hold, in order, and whether this version has it.
pub const TABLE: [(&str, bool); 43] = [
    ("filesystem/posix", true),
    ("filesystem/linux", true),
    ("filesystem/shared", false),
    ("posix/cpu", true),
    ("posix/mem", true),
    ("posix/rlimits", true),
    ("cgroups/all", true),
    ("cgroups/blkio", true),
    ("cgroups/cpu", true),
    ("cgroups/cpuset", true),
    ("cgroups/devices", true),
    ("cgroups/hugetlb", true),
    ("cgroups/mem", true),
    ("cgroups/net_cls", true),
    ("cgroups/net_prio", true),
    ("cgroups/perf_event", true),
    ("cgroups/pids", true),
    ("appc/runtime", false),
    ("docker/runtime", true),
    ("linux/devices", true),
    ("linux/capabilities", true),
    ("linux/nnp", true),
    ("linux/sysctl", true),
    ("namespaces/ipc", true),
    ("namespaces/pid", true),
    ("namespaces/cgroup", true),
    ("namespaces/uts", true),
    ("namespaces/time", true),
    ("namespaces/user", true),
    ("volume/sandbox_path", true),
    ("docker/volume", false),
    ("volume/host_path", true),
    ("volume/image", true),
    ("volume/secret", true),
    ("volume/csi", false),
    ("disk/du", true),
    ("disk/xfs", true),
    ("linux/seccomp", true),
    ("devices/cdi", true),
    ("gpu/nvidia", true),
    ("network/cni", true),
    ("network/port_mapping", true),
    ("network/ports", true),
];

/// Old names and what they stand for.
const ALIASES: [(&str, &[&str]); 3] = [
    ("process", &["posix/cpu", "posix/mem"]),
    ("cgroups", &["cgroups/cpu", "cgroups/mem"]),
    ("posix/disk", &["disk/du"]),
];

/// What is wrong with a value of `--isolation`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ParseError {
    #[error("unknown isolator '{name}' in --isolation; did you mean '{nearest}'?{plugins}")]
    Unknown { name: String, nearest: &'static str, plugins: String },
    #[error("isolator '{0}' is twice in --isolation")]
    Duplicate(String),
    #[error("isolator '{0}' in --isolation is not supported yet")]
    NotYet(&'static str),
    #[error("--isolation names '{0}' and '{1}': use exactly one filesystem isolator")]
    TwoFilesystems(&'static str, &'static str),
    #[error("--isolation names '{0}' and '{1}': a container is on one kind of network")]
    TwoNetworks(&'static str, &'static str),
    #[error("an empty name in --isolation '{0}'")]
    Empty(String),
}

/// Isolators could not be made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The flag's value is wrong.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An isolator refused to start.
    #[error("failed to create an isolator")]
    Start(#[source] IsolatorError),
}

/// A parsed `--isolation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Enabled isolators, in table order, implied ones included.
    pub names: Vec<&'static str>,
    /// Old names that were used: worth a warning.
    pub deprecated: Vec<&'static str>,
}

impl Isolation {
    /// What other flags bring along.
    fn imply_by(&mut self, config: &Config) {
        if config.userns_remap.is_some() {
            self.imply("namespaces/user");
        }
        // As in Mesos, where it is always there.
        if config.cni.is_configured() && !self.names.contains(&"network/port_mapping") {
            self.imply("network/cni");
        }
    }

    /// Another flag brings an isolator of the table along.
    fn imply(&mut self, name: &'static str) {
        if !self.names.contains(&name) {
            // Plugins stay last.
            let place = |name: &str| index(name, &[]).unwrap_or(usize::MAX);
            let at = self.names.partition_point(|known| place(known) < place(name));
            self.names.insert(at, name);
        }
    }
}

/// Parses a flag value, without plugins.
///
/// # Errors
/// As [`parse_with`].
pub fn parse(flag: &str) -> Result<Isolation, ParseError> {
    parse_with(flag, &[])
}

/// Parses a flag value that may name `plugins` as well: they follow the table's
/// isolators in the order of the flag.
///
/// # Errors
/// A name is unknown, twice, or of a later version; two filesystem isolators.
pub fn parse_with(flag: &str, plugins: &[&'static str]) -> Result<Isolation, ParseError> {
    let (mut wanted, mut deprecated) = (BTreeSet::new(), Vec::new());
    let mut outside: Vec<&'static str> = Vec::new();
    let tokens = flag.split(',').map(str::trim);
    for token in tokens.filter(|token| !(token.is_empty() && flag.trim().is_empty())) {
        if token.is_empty() {
            return Err(ParseError::Empty(flag.to_owned()));
        }
        if let Some(plugin) = plugins.iter().find(|plugin| **plugin == token) {
            if outside.contains(plugin) {
                return Err(ParseError::Duplicate(token.to_owned()));
            }
            outside.push(plugin);
            continue;
        }
        let index = |name: &str| index(name, plugins);
        let names = match ALIASES.iter().find(|(alias, _)| *alias == token) {
            Some((alias, names)) => {
                deprecated.push(*alias);
                names.iter().map(|name| index(name)).collect::<Result<Vec<_>, _>>()?
            }
            None => vec![index(token)?],
        };
        for index in names {
            if !wanted.insert(index) {
                return Err(ParseError::Duplicate(TABLE[index].0.to_owned()));
            }
        }
    }
    let mut names: Vec<&'static str> = wanted.into_iter().map(|index| TABLE[index].0).collect();
    const NETWORKS: [&str; 2] = ["network/cni", "network/port_mapping"];
    if NETWORKS.iter().all(|network| names.contains(network)) {
        return Err(ParseError::TwoNetworks(NETWORKS[0], NETWORKS[1]));
    }
    if let Some(later) = TABLE.iter().find(|(name, has)| !has && names.contains(name)) {
        return Err(ParseError::NotYet(later.0));
    }
    let filesystems: Vec<_> = names.iter().filter(|n| n.starts_with("filesystem/")).collect();
    match filesystems[..] {
        [] => names.insert(0, "filesystem/posix"),
        [_] => {}
        [first, second, ..] => return Err(ParseError::TwoFilesystems(first, second)),
    }
    if names.contains(&"filesystem/linux") {
        for implied in ["volume/sandbox_path", "volume/host_path", "volume/image"] {
            if !names.contains(&implied) {
                names.push(implied);
            }
        }
        names.sort_by_key(|name| index(name, &[]).unwrap_or(usize::MAX));
    }
    names.extend(outside);
    Ok(Isolation { names, deprecated })
}

fn index(name: &str, plugins: &[&'static str]) -> Result<usize, ParseError> {
    let plugins = || match plugins {
        [] => String::new(),
        known => format!(" The plugins of --isolator_plugins are: {}.", known.join(", ")),
    };
    TABLE.iter().position(|(known, _)| *known == name).ok_or_else(|| ParseError::Unknown {
        name: name.to_owned(),
        nearest: nearest(name),
        plugins: plugins(),
    })
}

fn nearest(name: &str) -> &'static str {
    let known = TABLE.iter().map(|(known, _)| *known);
    let tail = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let mine = tail(name);
    known
        .min_by_key(|known| distance(name, known).min(distance(&mine, &tail(known)) + 2))
        .unwrap_or(TABLE[0].0)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The isolators of an agent, in the order in which they prepare.
pub struct Isolators {
    /// All of them.
    pub all: Vec<Arc<dyn Isolator>>,
    /// Where cgroups are; `None` with the posix launcher and no `cgroups/*`.
    pub layout: Option<crate::cgroups::Layout>,
    /// What `--isolation` meant.
    pub isolation: Isolation,
    /// Every call to the isolators of the table.
    pub ledger: Arc<Ledger>,
    /// How busy the GPUs are, with `gpu/nvidia`.
    pub gpus: Option<gpu::Figures>,
    /// What listens in containers, with `network/ports`.
    pub listeners: Option<network::ports::Listeners>,
}

impl std::fmt::Debug for Isolators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isolators").field("isolation", &self.isolation).finish_non_exhaustive()
    }
}

/// Makes the isolators that `flag` names.
///
/// # Errors
/// The flag is wrong, or an isolator cannot work here; says what to do.
pub fn create(flag: &str, config: Arc<Config>) -> Result<Isolators, CreateError> {
    create_with(flag, config, &[])
}

/// The same where `flag` may name `plugins`, which come after all others.
///
/// # Errors
/// As [`create`].
pub fn create_with(
    flag: &str,
    config: Arc<Config>,
    plugins: &[Arc<dyn Isolator>],
) -> Result<Isolators, CreateError> {
    let known: Vec<&'static str> = plugins.iter().map(|plugin| plugin.name()).collect();
    let mut isolation = parse_with(flag, &known)?;
    isolation.imply_by(&config);
    let enabled: BTreeSet<&'static str> = isolation.names.iter().copied().collect();
    let linux_fs = enabled.contains("filesystem/linux");
    let binds = linux_fs && config.launcher == Launcher::Linux;
    let named = |c: &Controller| enabled.contains(c.name());
    let (mut config, controllers) = match enabled.contains("cgroups/all") {
        true => Cgroups::available(&config),
        false => (config, Controller::ALL.into_iter().filter(named).collect()),
    };

    let mut all: Vec<Arc<dyn Isolator>> = Vec::new();
    // Sockets know the v2 cgroup that they were made in, also beside v1.
    if !enabled.contains("network/ports") {
        Arc::make_mut(&mut config).ports.unified = false;
    }
    let mut cgroups = Some(Cgroups::new(Arc::clone(&config), controllers));
    let (mut layout, mut grants, mut gpus, mut listeners) = (None, None, None, None);
    let book = volume::persistent::Book::default();
    for (name, _) in TABLE {
        // All cgroups/* are one isolator; with the linux launcher it always is.
        if name.starts_with("cgroups/")
            && let Some(made) = cgroups.take()
            && let Some(made) = made.map_err(CreateError::Start)?
        {
            layout = Some(made.layout().clone());
            grants = made.grants();
            all.push(Arc::new(made));
        }
        if !enabled.contains(name) {
            continue;
        }
        let config = Arc::clone(&config);
        let made: Result<Arc<dyn Isolator>, IsolatorError> = match name {
            "filesystem/posix" => Ok(filesystem::posix(config, enabled.clone(), book.clone())),
            "filesystem/linux" => filesystem::linux(config, enabled.clone(), book.clone()),
            "posix/cpu" => Ok(Arc::new(posix::PosixCpu)),
            "posix/mem" => Ok(Arc::new(posix::PosixMem)),
            "posix/rlimits" => Ok(posix::rlimits()),
            "docker/runtime" => runtime::docker(&config),
            "linux/devices" => linux::devices(&config.cgroups.allowed_devices),
            "linux/capabilities" => linux::capabilities(config),
            "linux/nnp" => linux::nnp(&config),
            "linux/sysctl" => linux::sysctl(config),
            "linux/seccomp" => linux::seccomp(config, &enabled),
            "namespaces/ipc" => namespaces::ipc(config, linux_fs),
            "namespaces/cgroup" => namespaces::cgroup(&config, linux_fs),
            "namespaces/uts" => namespaces::uts(&config, linux_fs),
            "namespaces/time" => namespaces::time(&config, linux_fs),
            "namespaces/user" => namespaces::user(config, linux_fs),
            "namespaces/pid" => namespaces::pid(config, linux_fs),
            "volume/sandbox_path" => Ok(volume::sandbox_path(config, binds, book.clone())),
            "volume/host_path" => volume::host_path(config, linux_fs),
            "volume/image" => volume::image(config, linux_fs),
            "volume/secret" => volume::secret(config, linux_fs),
            "disk/du" => disk::du(&config.disk),
            "disk/xfs" => disk::xfs(&config.disk, config.root),
            "gpu/nvidia" => gpu::nvidia(&config.gpu, grants.clone(), linux_fs).map(|made| {
                gpus = Some(made.figures());
                Arc::new(made) as _
            }),
            "devices/cdi" => cdi::devices(&config.cdi, grants.clone(), linux_fs),
            "network/cni" => network::cni::cni(&config, enabled.contains("namespaces/uts")),
            "network/port_mapping" => network::port_mapping::port_mapping(&config),
            "network/ports" => {
                let named = enabled.contains("network/cni");
                let made = network::ports::ports(&config, layout.clone(), named);
                listeners = made.as_ref().ok().map(|made| made.listeners());
                made.map(|made| made as _)
            }
            // The cgroups are made above; the rest `parse` has refused.
            _ => continue,
        };
        all.push(made.map_err(CreateError::Start)?);
    }
    let ledger = Arc::new(Ledger::default());
    let patience = PATIENCE.max(2 * config.cgroups_destroy_timeout);
    let trace = |isolator| Arc::new(Traced::new(isolator, Arc::clone(&ledger), patience)) as _;
    let mut all: Vec<Arc<dyn Isolator>> = all.into_iter().map(trace).collect();
    for name in &isolation.names {
        all.extend(plugins.iter().find(|plugin| plugin.name() == *name).cloned());
    }
    Ok(Isolators { all, layout, isolation, ledger, gpus, listeners })
}

#[cfg(test)]
mod tests {
    use kernel::cgroup::Hierarchies;

    use super::*;

    fn names(flag: &str) -> Vec<&'static str> {
        parse(flag).unwrap().names
    }

    #[test]
    fn order_defaults_and_implied() {
        assert_eq!(names(DEFAULT), ["filesystem/posix", "posix/cpu", "posix/mem"]);
        assert_eq!(names(""), ["filesystem/posix"]);
        assert_eq!(
            names("namespaces/pid, cgroups/mem,cgroups/cpu,filesystem/linux"),
            [
                "filesystem/linux",
                "cgroups/cpu",
                "cgroups/mem",
                "namespaces/pid",
                "volume/sandbox_path",
                "volume/host_path",
                "volume/image"
            ]
        );
    }

    #[test]
    fn aliases_are_rewritten() {
        let parsed = parse("cgroups,posix/rlimits").unwrap();
        assert_eq!(parsed.names[1..], ["posix/rlimits", "cgroups/cpu", "cgroups/mem"]);
        assert_eq!(parsed.deprecated, ["cgroups"]);
        assert_eq!(names("process"), names(DEFAULT));
    }

    #[test]
    fn errors() {
        let rows = [
            (
                "cgroups/cpus",
                "unknown isolator 'cgroups/cpus' in --isolation; did you mean 'cgroups/cpu'?",
            ),
            ("pids", "unknown isolator 'pids' in --isolation; did you mean 'cgroups/pids'?"),
            ("posix/cpu,posix/cpu", "isolator 'posix/cpu' is twice in --isolation"),
            ("process,posix/mem", "isolator 'posix/mem' is twice in --isolation"),
            ("docker/volume", "isolator 'docker/volume' in --isolation is not supported yet"),
            (
                "filesystem/posix,filesystem/linux",
                "--isolation names 'filesystem/posix' and 'filesystem/linux': use exactly one \
                 filesystem isolator",
            ),
            (
                "network/port_mapping,network/cni",
                "--isolation names 'network/cni' and 'network/port_mapping': a container is on one \
                 kind of network",
            ),
            ("posix/cpu,,posix/mem", "an empty name in --isolation 'posix/cpu,,posix/mem'"),
        ];
        for (flag, wanted) in rows {
            assert_eq!(parse(flag).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn plugins_come_last_in_the_order_of_the_flag() {
        let plugins = ["acme/b", "acme/a"];
        let parsed = parse_with("acme/a,posix/mem,acme/b", &plugins).unwrap();
        assert_eq!(parsed.names, ["filesystem/posix", "posix/mem", "acme/a", "acme/b"]);
        let error = |flag| parse_with(flag, &plugins).unwrap_err().to_string();
        assert_eq!(error("acme/a,acme/a"), "isolator 'acme/a' is twice in --isolation");
        assert!(
            error("acme/c").ends_with("The plugins of --isolator_plugins are: acme/b, acme/a.")
        );
    }

    #[test]
    fn another_flag_may_bring_an_isolator_along() {
        let mut parsed = parse_with("acme/a,linux/seccomp,namespaces/pid", &["acme/a"]).unwrap();
        for _ in 0..2 {
            parsed.imply("namespaces/user");
            let wanted = [
                "filesystem/posix",
                "namespaces/pid",
                "namespaces/user",
                "linux/seccomp",
                "acme/a",
            ];
            assert_eq!(parsed.names, wanted);
        }
    }

    #[test]
    fn contradictions_are_clear_errors() {
        let config = Arc::new(Config::new(Launcher::Posix, Hierarchies::default()));
        for flag in ["filesystem/linux", "namespaces/pid", "namespaces/ipc"] {
            let error = create(flag, Arc::clone(&config)).unwrap_err();
            let CreateError::Start(error) = error else { panic!("{error}") };
            assert!(error.to_string().contains("launcher"), "{error}");
        }
        let made = create(DEFAULT, config).unwrap();
        let all: Vec<_> = made.all.iter().map(|i| i.name()).collect();
        assert_eq!(all, ["filesystem/posix", "posix/cpu", "posix/mem"]);
        assert!(made.layout.is_none());
    }

    #[test]
    fn distances() {
        for (a, b, wanted) in [("", "abc", 3), ("abc", "abc", 0), ("cpu", "gpu", 1), ("a", "", 1)] {
            assert_eq!(distance(a, b), wanted);
        }
    }
}
