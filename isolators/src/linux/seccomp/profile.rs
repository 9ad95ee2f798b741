//! Docker's seccomp profiles: JSON to rules, for one container. Pure.
//!
//! Unknown members are errors: a misspelt one would silently weaken the filter.
//! Unknown system calls are not: profiles name those of all architectures.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::assemble::{Action, Arch, Code, Compare, Condition, LONGEST, Rule, assemble};
use super::table::Architecture;
use crate::capability::Set;

/// From here on numbers belong to the x32 ABI.
const X32: u32 = 0x4000_0000;
const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// A profile that has been read; what it means depends on the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Profile {
    default_action: Name,
    default_errno_ret: Option<u16>,
    arch_map: Option<Vec<ArchMap>>,
    architectures: Option<Vec<String>>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Syscall>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Syscall {
    /// The old way to name one.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: Name,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    Masked,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Name {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

impl Name {
    fn action(self, errno: Option<u16>) -> Action {
        match self {
            Name::KillThread => Action::KILL_THREAD,
            Name::KillProcess => Action::KILL_PROCESS,
            Name::Trap => Action::TRAP,
            Name::Errno => Action::errno(errno.unwrap_or(EPERM)),
            Name::Trace => Action::trace(errno.unwrap_or(EPERM)),
            Name::Allow => Action::ALLOW,
            Name::Log => Action::LOG,
        }
    }
}

/// What a profile's conditions are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    pub arch: Architecture,
    /// Version and major revision.
    pub kernel: (u32, u32),
}

impl Profile {
    /// Reads a profile and checks all of it.
    ///
    /// # Errors
    /// It is not JSON, not a profile, or asks for what does not exist; for people.
    pub(crate) fn parse(text: &str, host: Host) -> Result<Profile, String> {
        let profile: Profile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        // Whatever can be wrong is wrong for every container alike.
        profile.compile(host, Set::ALL)?;
        profile.compile(host, Set::default())?;
        Ok(profile)
    }

    /// The filter for a container with these capabilities, and its flags.
    ///
    /// # Errors
    /// As [`Profile::parse`].
    pub(crate) fn compile(&self, host: Host, capabilities: Set) -> Result<(Code, u32), String> {
        let default = self.default_action.action(self.default_errno_ret);
        let mut archs = Vec::new();
        for arch in self.architectures(host)? {
            archs.push(self.arch(arch, host, capabilities, default)?);
        }
        let code = assemble(&archs, default);
        if code.len() > LONGEST {
            return Err(format!(
                "its program has {} instructions, the kernel takes {LONGEST}",
                code.len()
            ));
        }
        Ok((code, self.flags()?))
    }

    fn architectures(&self, host: Host) -> Result<Vec<Architecture>, String> {
        let listed: Option<Vec<&str>> = match (&self.arch_map, &self.architectures) {
            (Some(_), Some(_)) => {
                return Err("'archMap' and 'architectures' exclude each other".into());
            }
            (None, None) => None,
            (None, Some(list)) => Some(list.iter().map(String::as_str).collect()),
            (Some(map), None) => {
                let own = map.iter().find(|row| row.architecture == host.arch.profile_name());
                Some(own.map_or(Vec::new(), |row| {
                    let more = row.sub_architectures.iter().flatten().map(String::as_str);
                    std::iter::once(row.architecture.as_str()).chain(more).collect()
                }))
            }
        };
        let mut archs = vec![host.arch];
        if let Some(listed) = listed {
            if !listed.contains(&host.arch.profile_name()) {
                return Err(format!("it has nothing for {}", host.arch.profile_name()));
            }
            let compat = host.arch == Architecture::X86_64;
            if compat && listed.contains(&Architecture::X86.profile_name()) {
                archs.push(Architecture::X86);
            }
        }
        Ok(archs)
    }

    fn flags(&self) -> Result<u32, String> {
        let mut flags = 0;
        for flag in &self.flags {
            flags |= match flag.as_str() {
                // One thread: nothing to synchronise.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => 2,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
                other => return Err(format!("unknown flag '{other}'")),
            };
        }
        Ok(flags)
    }

    fn arch(
        &self,
        arch: Architecture,
        host: Host,
        capabilities: Set,
        default: Action,
    ) -> Result<Arch, String> {
        let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        let mut newest = 0;
        for syscall in &self.syscalls {
            let rules = syscall.rules()?;
            let applies = syscall.applies(host, capabilities)?;
            for name in syscall.names.iter().chain(&syscall.name) {
                let Some(number) = arch.number(name) else { continue };
                newest = newest.max(number);
                if applies {
                    calls.entry(number).or_default().extend(rules.iter().cloned());
                }
            }
        }
        for rules in calls.values_mut() {
            // What holds always comes after what holds sometimes.
            rules.sort_by_key(|rule| rule.conditions.is_empty());
        }
        let x32 = arch == Architecture::X86_64;
        // A libc that finds a new call missing falls back to an old one; a libc that
        // finds it forbidden gives up.
        let refuses = self.default_action == Name::Errno && newest > 0;
        Ok(Arch {
            audit: arch.audit(),
            calls: calls.into_iter().collect(),
            newer: refuses.then_some((newest + 1, Action::errno(ENOSYS))),
            foreign: x32
                .then_some((X32, if refuses { Action::errno(ENOSYS) } else { default.or_kill() })),
        })
    }
}

impl Action {
    /// A default that lets things pass must not let a foreign ABI pass the rules.
    fn or_kill(self) -> Action {
        if self == Action::ALLOW || self == Action::LOG { Action::KILL_PROCESS } else { self }
    }
}

impl Syscall {
    /// Conditions on one argument twice are alternatives, as in Docker; else all
    /// must hold.
    fn rules(&self) -> Result<Vec<Rule>, String> {
        let show = || self.names.iter().chain(&self.name).next().map_or("", String::as_str);
        if self.names.is_empty() && self.name.is_none() {
            return Err("a rule without 'names'".into());
        }
        let action = self.action.action(self.errno_ret);
        let arguments = self.args.as_deref().unwrap_or_default();
        let mut conditions = Vec::new();
        for argument in arguments {
            if argument.index > 5 {
                return Err(format!(
                    "rule for '{}': argument {} of 0 to 5",
                    show(),
                    argument.index
                ));
            }
            conditions.push(argument.condition());
        }
        let twice = |i: usize| conditions[..i].iter().any(|c| c.argument == conditions[i].argument);
        if (0..conditions.len()).any(twice) {
            let one = |c| Rule { conditions: vec![c], action };
            return Ok(conditions.into_iter().map(one).collect());
        }
        Ok(vec![Rule { conditions, action }])
    }

    fn applies(&self, host: Host, capabilities: Set) -> Result<bool, String> {
        let none = Filter::default();
        let includes = self.includes.as_ref().unwrap_or(&none);
        let excludes = self.excludes.as_ref().unwrap_or(&none);
        let here = host.arch.short_name();
        let listed = |filter: &Filter| filter.arches.iter().any(|arch| arch == here);
        let recent = |filter: &Filter| match &filter.min_kernel {
            None => Ok(None),
            Some(text) => version(text).map(|wanted| Some(host.kernel >= wanted)),
        };
        let excluded = excludes.capabilities()?;
        Ok(capabilities.contains(includes.capabilities()?)
            && capabilities.and(excluded) == Set::default()
            && (includes.arches.is_empty() || listed(includes))
            && !listed(excludes)
            && recent(includes)?.unwrap_or(true)
            && !recent(excludes)?.unwrap_or(false))
    }
}

impl Filter {
    fn capabilities(&self) -> Result<Set, String> {
        self.caps.iter().try_fold(Set::default(), |all, name| {
            let known = name.strip_prefix("CAP_").and_then(Set::of_name);
            known.map(|one| all.or(one)).ok_or_else(|| format!("unknown capability '{name}'"))
        })
    }
}

impl Argument {
    fn condition(&self) -> Condition {
        let (compare, value) = match self.op {
            Operator::NotEqual => (Compare::NotEqual, self.value),
            Operator::Less => (Compare::Less, self.value),
            Operator::LessOrEqual => (Compare::LessOrEqual, self.value),
            Operator::Equal => (Compare::Equal, self.value),
            Operator::GreaterOrEqual => (Compare::GreaterOrEqual, self.value),
            Operator::Greater => (Compare::Greater, self.value),
            Operator::Masked => (Compare::Masked(self.value), self.value_two),
        };
        Condition { argument: self.index, compare, value }
    }
}

/// Version and major revision of `6.18.44-anything`.
pub(super) fn version(text: &str) -> Result<(u32, u32), String> {
    let mut numbers = text.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("'{text}' is not a kernel version")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::assemble::tests::run;
    use super::*;

    const HOST: Host = Host { arch: Architecture::X86_64, kernel: (6, 1) };

    fn answer(profile: &Profile, capabilities: Set, name: &str, arguments: [u64; 6]) -> Action {
        let (code, _) = profile.compile(HOST, capabilities).unwrap();
        let number = HOST.arch.number(name).unwrap();
        run(&code, HOST.arch.audit(), number, arguments)
    }

    fn parse(text: &str) -> Profile {
        Profile::parse(text, HOST).unwrap()
    }

    #[test]
    fn the_shipped_profile_keeps_what_escapes_need() {
        let profile = parse(super::super::DEFAULT_PROFILE);
        let plain = Set::default();
        let ask = |name| answer(&profile, plain, name, [0; 6]);
        for name in
            ["read", "openat", "execve", "futex", "clone", "epoll_wait", "capset", "setresuid"]
        {
            assert_eq!(ask(name), Action::ALLOW, "{name}");
        }
        let refused = Action::errno(EPERM);
        for name in [
            "mount",
            "ptrace",
            "kexec_load",
            "bpf",
            "unshare",
            "setns",
            "init_module",
            "reboot",
            "keyctl",
            "open_by_handle_at",
            "userfaultfd",
            "perf_event_open",
            "pivot_root",
            "swapon",
        ] {
            assert_eq!(ask(name), refused, "{name}");
        }
        assert_eq!(ask("clone3"), Action::errno(ENOSYS));
        let user_namespace = [0x1000_0000, 0, 0, 0, 0, 0];
        assert_eq!(answer(&profile, plain, "clone", user_namespace), refused);
        let admin = Set::of_name("SYS_ADMIN").unwrap();
        assert_eq!(answer(&profile, admin, "mount", [0; 6]), Action::ALLOW);
        assert_eq!(answer(&profile, admin, "clone", user_namespace), Action::ALLOW);
        assert_eq!(answer(&profile, plain, "personality", [8, 0, 0, 0, 0, 0]), Action::ALLOW);
        assert_eq!(answer(&profile, plain, "personality", [1, 0, 0, 0, 0, 0]), refused);
        let aarch64 = Host { arch: Architecture::Aarch64, kernel: (6, 1) };
        assert!(Profile::parse(super::super::DEFAULT_PROFILE, aarch64).is_ok());
    }

    #[test]
    fn conditions_of_a_rule() {
        let profile = parse(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["umount2"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "7.0"}},
                {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_BPF"]}},
                {"name": "socket", "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
                {"names": ["no_such_call"], "action": "SCMP_ACT_ALLOW"}]}"#,
        );
        let refused = Action::errno(13);
        let admin = Set::of_name("SYS_ADMIN").unwrap().or(Set::of_name("BPF").unwrap());
        for (capabilities, name, wanted) in [
            (Set::default(), "mount", refused),
            (admin, "mount", Action::ALLOW),
            (admin, "umount2", refused),
            (admin, "ptrace", Action::ALLOW),
            (admin, "reboot", refused),
            (admin, "bpf", refused),
            (Set::default(), "bpf", Action::ALLOW),
            (admin, "file_getattr", Action::errno(ENOSYS)),
        ] {
            assert_eq!(answer(&profile, capabilities, name, [0; 6]), wanted, "{name}");
        }
        for (family, wanted) in [(0, refused), (1, Action::ALLOW), (2, Action::ALLOW)] {
            let arguments = [family, 0, 0, 0, 0, 0];
            assert_eq!(answer(&profile, Set::default(), "socket", arguments), wanted);
        }
    }

    #[test]
    fn other_abis_do_not_pass() {
        let profile = parse(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        );
        let (code, _) = profile.compile(HOST, Set::ALL).unwrap();
        let audit = Architecture::X86_64.audit();
        assert_eq!(run(&code, audit, 0, [0; 6]), Action::ALLOW);
        assert_eq!(run(&code, audit, 165, [0; 6]), Action::KILL_PROCESS);
        assert_eq!(run(&code, audit, X32 + 165, [0; 6]), Action::KILL_PROCESS);
        assert_eq!(run(&code, Architecture::X86.audit(), 21, [0; 6]), Action::KILL_PROCESS);
    }

    #[test]
    fn bad_profiles_say_why() {
        for (text, wanted) in [
            ("", "EOF"),
            ("{}", "missing field `defaultAction`"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "unknown variant `SCMP_ACT_NOTIFY`"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscall": []}"#, "unknown field `syscall`"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#,
                "it has nothing for SCMP_ARCH_X86_64",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action":
                    "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_FLY"]}}]}"#,
                "unknown capability 'CAP_FLY'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action":
                    "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
                "rule for 'read': argument 6",
            ),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}"#, "unknown flag 'X'"),
        ] {
            let error = Profile::parse(text, HOST).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
