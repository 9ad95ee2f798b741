//! `linux/seccomp`: which system calls the processes of a container may make.
//!
//! Profiles are read once (a changed file is read again) and assembled once for
//! every set of capabilities that containers come with; a launch only picks the
//! finished program up.

mod assemble;
mod profile;
mod table;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use self::profile::{Host, Profile};
use self::table::Architecture;
use super::capabilities;
use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::capability::Set;
use crate::config::Config;
use crate::plan::SystemCallFilter;
use crate::simple::Preparing;

const NAME: &str = "linux/seccomp";

/// The name of the profile that is built in, unless the directory has one of
/// that name.
const DEFAULT: &str = "default";
const DEFAULT_PROFILE: &str = include_str!("default.json");

struct Shared {
    config: Arc<Config>,
    host: Host,
    /// `linux/capabilities` is enabled too.
    capabilities: bool,
    /// Assembled, by profile and capabilities.
    ready: Mutex<HashMap<(String, Set), Ready>>,
}

/// An assembled profile, and the file it was when it was read.
struct Ready {
    file: Option<Stamp>,
    filter: Arc<SystemCallFilter>,
}

type Stamp = (SystemTime, u64);

/// The isolator. `enabled`: names of all enabled isolators.
///
/// # Errors
/// The flags contradict each other, or the default profile cannot be used.
pub fn isolator(
    config: Arc<Config>,
    enabled: &BTreeSet<&'static str>,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    config.require_linux(NAME)?;
    let refuse = |object: &str| Err(IsolatorError::plain(NAME, "start", object));
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        return refuse("on this kernel: it has no seccomp filters");
    }
    let Some(arch) = Architecture::NATIVE else {
        return refuse("on this machine: its system calls are not known");
    };
    let release = "/proc/sys/kernel/osrelease";
    let text = fs::read_to_string(release)
        .map_err(|error| IsolatorError::new(NAME, "read", release, error))?;
    let kernel =
        profile::version(text.trim()).map_err(|text| IsolatorError::plain(NAME, "read", text))?;
    let shared = Arc::new(Shared {
        config,
        host: Host { arch, kernel },
        capabilities: enabled.contains("linux/capabilities"),
        ready: Mutex::default(),
    });
    if let Some(name) = &shared.config.seccomp_profile_name {
        shared.filter(name, Set::ALL)?;
    }
    Ok(Preparing::everywhere(NAME, shared, prepare))
}

fn host() -> Result<Host, String> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let arch =
        Architecture::NATIVE.ok_or("here: the system calls of this machine are not known")?;
    let text = fs::read_to_string(RELEASE).map_err(|error| format!("{RELEASE}: {error}"))?;
    Ok(Host { arch, kernel: profile::version(text.trim())? })
}

/// The filter of a profile that somebody else provides, for example a plugin: for
/// a container with every capability.
///
/// # Errors
/// The text is no profile; for people.
pub fn filter(text: &str) -> Result<Arc<SystemCallFilter>, String> {
    assembled("of a plugin", text.to_owned(), host()?, Set::ALL)
}

fn assembled(
    name: &str,
    source: String,
    host: Host,
    capabilities: Set,
) -> Result<Arc<SystemCallFilter>, String> {
    let (program, flags) = Profile::parse(&source, host)?.compile(host, capabilities)?;
    Ok(Arc::new(SystemCallFilter { profile: name.to_owned(), source, program, flags }))
}

fn prepare(
    shared: &Arc<Shared>,
    context: &ContainerContext,
) -> Result<Contribution, IsolatorError> {
    let refuse = |text: &str| Err(IsolatorError::plain(NAME, "use", text));
    let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
    let asked = linux.and_then(|linux| linux.seccomp.as_ref());
    let name = match asked.map(|s| (s.profile_name.as_deref(), s.unconfined.unwrap_or(false))) {
        None => shared.config.seccomp_profile_name.as_deref(),
        Some((None, true)) => None,
        Some((Some(name), false)) => Some(name),
        Some((Some(_), true)) => {
            return refuse("both a profile name and 'unconfined' of the container");
        }
        Some((None, false)) => {
            return refuse("neither a profile name nor 'unconfined' of the container");
        }
    };
    let Some(name) = name else { return Ok(Contribution::default()) };
    // A user that is not root cannot use a capability that it does not hold, but a
    // program with file capabilities can: so the bounding set counts, as in Mesos.
    let grant = match shared.capabilities {
        true => capabilities::grant(&shared.config, context)
            .map_err(|text| IsolatorError::plain(NAME, "use", text))?,
        false => None,
    };
    let filter = shared.filter(name, grant.map_or(Set::ALL, |grant| grant.bounding))?;
    Ok(Contribution { seccomp: Some(filter), ..Contribution::default() })
}

impl Shared {
    /// The filter of a profile for a container with these capabilities.
    fn filter(
        &self,
        name: &str,
        capabilities: Set,
    ) -> Result<Arc<SystemCallFilter>, IsolatorError> {
        let path = self.find(name)?;
        let stamp = path.as_deref().map(stamp).transpose()?;
        let key = (name.to_owned(), capabilities);
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ready.get(&key).filter(|known| known.file == stamp) {
            return Ok(Arc::clone(&known.filter));
        }
        let (text, shown) = match &path {
            None => (DEFAULT_PROFILE.to_owned(), format!("the built-in profile '{name}'")),
            Some(path) => {
                let shown = format!("the profile '{}'", path.display());
                let text = fs::read_to_string(path)
                    .map_err(|error| IsolatorError::new(NAME, "read", &shown, error))?;
                (text, shown)
            }
        };
        let filter = assembled(name, text, self.host, capabilities)
            .map_err(|why| IsolatorError::plain(NAME, "parse", format!("{shown}: {why}")))?;
        ready.insert(key, Ready { file: stamp, filter: Arc::clone(&filter) });
        Ok(filter)
    }

    /// The profile's file; `None` is the built-in one.
    fn find(&self, name: &str) -> Result<Option<PathBuf>, IsolatorError> {
        let refuse =
            |why: &str| Err(IsolatorError::plain(NAME, "find", format!("profile '{name}': {why}")));
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return refuse("it must be the name of a file, not a path");
        }
        match &self.config.seccomp_config_dir {
            Some(dir) if name != DEFAULT || dir.join(name).exists() => Ok(Some(dir.join(name))),
            _ if name == DEFAULT => Ok(None),
            _ => refuse("--seccomp_config_dir is not set"),
        }
    }
}

fn stamp(path: &Path) -> Result<Stamp, IsolatorError> {
    let shown = || format!("the profile '{}'", path.display());
    let meta = fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len())));
    meta.map_err(|error| IsolatorError::new(NAME, "find", shown(), error))
}

#[cfg(test)]
mod tests {
    use mesos::{ContainerInfo, LinuxInfo, SeccompInfo};

    use super::*;
    use crate::suite::context;

    struct Fixture {
        dir: PathBuf,
        shared: Arc<Shared>,
    }

    impl Fixture {
        fn new(name: &str, default: Option<&str>) -> Fixture {
            let dir = std::env::temp_dir().join(format!("seccomp-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let config = Config {
                seccomp_config_dir: Some(dir.clone()),
                seccomp_profile_name: default.map(str::to_owned),
                ..Config::default()
            };
            let host = Host { arch: Architecture::X86_64, kernel: (6, 1) };
            let (config, ready) = (Arc::new(config), Mutex::default());
            let shared = Arc::new(Shared { config, host, capabilities: false, ready });
            Fixture { dir, shared }
        }

        fn ask(&self, info: Option<SeccompInfo>) -> Result<Option<Arc<SystemCallFilter>>, String> {
            let mut context = context("a");
            let linux = LinuxInfo { seccomp: info, ..LinuxInfo::default() };
            let info = ContainerInfo { linux_info: Some(linux), ..ContainerInfo::default() };
            context.info = Some(info);
            prepare(&self.shared, &context).map(|part| part.seccomp).map_err(|e| e.chain())
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    fn named(name: &str) -> Option<SeccompInfo> {
        Some(SeccompInfo { profile_name: Some(name.into()), unconfined: None })
    }

    #[test]
    fn containers_choose_among_the_operators_profiles() {
        let fixture = Fixture::new("choose", Some("default"));
        let own = fixture.ask(None).unwrap().unwrap();
        assert_eq!(own.profile, "default");
        assert!(Arc::ptr_eq(&own, &fixture.ask(named("default")).unwrap().unwrap()), "kept");
        let unconfined = SeccompInfo { profile_name: None, unconfined: Some(true) };
        assert_eq!(fixture.ask(Some(unconfined)).unwrap(), None);
        let file = fixture.dir.join("mine");
        fs::write(&file, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
        let mine = fixture.ask(named("mine")).unwrap().unwrap();
        fs::write(&file, r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
        assert_ne!(fixture.ask(named("mine")).unwrap().unwrap(), mine, "read again");
    }

    #[test]
    fn bad_requests_say_why() {
        let fixture = Fixture::new("bad", None);
        assert_eq!(fixture.ask(None).unwrap(), None);
        fs::write(fixture.dir.join("broken"), "{").unwrap();
        let both = SeccompInfo { profile_name: Some("a".into()), unconfined: Some(true) };
        for (info, wanted) in [
            (named("../default"), "must be the name of a file"),
            (named("/etc/passwd"), "must be the name of a file"),
            (named("missing"), "No such file"),
            (named("broken"), "broken': EOF"),
            (Some(both), "both a profile name"),
            (Some(SeccompInfo::default()), "neither a profile name"),
        ] {
            let error = fixture.ask(info).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
