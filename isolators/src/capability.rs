//! Sets of capabilities, root's powers one by one: from flags, from messages, for plans.
//! Pure; `linux/capabilities` acts on them, and `linux/seccomp`, whose profiles have
//! rules that depend on them.

use std::collections::HashSet;
use std::fmt;

use mesos::CapabilityInfo;
use oci_spec::runtime::Capability;

/// Every capability at its number (`linux/capability.h`).
pub const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Mesos numbers capabilities from here; 0 is its "unknown".
const MESOS_BASE: i32 = 1000;

/// A set of capabilities: bit `n` is capability number `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Set(u64);

impl Set {
    /// The capabilities that this version knows.
    pub const ALL: Set = Set((1 << BY_NUMBER.len()) - 1);

    /// The capability called `name`, with or without `CAP_`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Set> {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        let number = BY_NUMBER.iter().position(|known| known.to_string() == name)?;
        Some(Set(1 << number))
    }

    /// What `CapabilityInfo` says.
    ///
    /// # Errors
    /// A capability that is unknown; names it.
    pub fn of_info(info: &CapabilityInfo) -> Result<Set, String> {
        let mut set = Set::default();
        for value in &info.capabilities {
            let number = value.checked_sub(MESOS_BASE).and_then(|n| u32::try_from(n).ok());
            let number = number.filter(|n| (*n as usize) < BY_NUMBER.len());
            let number = number.ok_or_else(|| format!("unknown capability {value}"))?;
            set.0 |= 1 << number;
        }
        Ok(set)
    }

    /// A flag's value: `{"capabilities": ["NET_RAW", "SYS_ADMIN"]}`.
    ///
    /// # Errors
    /// Anything else, for people: what is wrong.
    pub fn of_flag(json: &serde_json::Value) -> Result<Set, String> {
        const SHAPE: &str = "expected {\"capabilities\": [\"NET_RAW\", ...]}";
        let object = json.as_object().ok_or(SHAPE)?;
        if let Some(other) = object.keys().find(|key| *key != "capabilities") {
            return Err(format!("unknown member '{other}', {SHAPE}"));
        }
        let mut set = Set::default();
        let Some(names) = object.get("capabilities") else { return Ok(set) };
        for name in names.as_array().ok_or(SHAPE)? {
            let name = name.as_str().ok_or(SHAPE)?;
            let one = Set::of_name(name).ok_or_else(|| format!("unknown capability '{name}'"))?;
            set.0 |= one.0;
        }
        Ok(set)
    }

    /// The set of these bits; bits that this version does not know are dropped.
    #[must_use]
    pub fn of_bits(bits: u64) -> Set {
        Set(bits & Set::ALL.0)
    }

    /// Bit `n` is capability number `n`.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// What is in one or both.
    #[must_use]
    pub fn or(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// Whether everything of `other` is in it.
    #[must_use]
    pub fn contains(self, other: Set) -> bool {
        other.0 & !self.0 == 0
    }

    /// As in a plan.
    pub(crate) fn oci(self) -> Option<HashSet<Capability>> {
        Some(self.members().collect())
    }

    fn members(self) -> impl Iterator<Item = Capability> {
        let has = move |(number, _): &(usize, &Capability)| self.0 & 1 << number != 0;
        BY_NUMBER.iter().enumerate().filter(has).map(|(_, capability)| *capability)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.members().map(|one| one.to_string()).collect();
        write!(f, "{{ {} }}", names.join(", "))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use mesos::capability_info::Capability as Number;
    use serde_json::json;

    use super::*;

    pub(crate) fn set(names: &[&str]) -> Set {
        names.iter().fold(Set::default(), |all, name| all.or(Set::of_name(name).unwrap()))
    }

    pub(crate) fn info(all: &[Number]) -> Option<CapabilityInfo> {
        Some(CapabilityInfo { capabilities: all.iter().map(|one| *one as i32).collect() })
    }

    #[test]
    fn names_and_numbers_are_the_kernels() {
        for (name, number) in [
            ("CHOWN", 0),
            ("CAP_KILL", 5),
            ("NET_ADMIN", 12),
            ("SYS_ADMIN", 21),
            ("MKNOD", 27),
            ("SETFCAP", 31),
            ("AUDIT_READ", 37),
            ("CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(Set::of_name(name).unwrap().bits(), 1 << number, "{name}");
        }
        assert_eq!(Set::of_name("chown"), None);
        assert_eq!(Set::of_info(&info(&[Number::SysAdmin]).unwrap()).unwrap(), set(&["SYS_ADMIN"]));
        assert!(Set::of_info(&CapabilityInfo { capabilities: vec![0] }).is_err());
        assert!(Set::of_info(&CapabilityInfo { capabilities: vec![1041] }).is_err());
        assert_eq!(set(&["NET_RAW", "CHOWN"]).to_string(), "{ CHOWN, NET_RAW }");
    }

    #[test]
    fn flags_say_what_is_wrong_with_them() {
        assert_eq!(
            Set::of_flag(&json!({"capabilities": ["NET_RAW", "CAP_CHOWN"]})).unwrap().bits(),
            1 << 13 | 1
        );
        assert_eq!(Set::of_flag(&json!({})), Ok(Set::default()));
        for (json, wanted) in [
            (json!({"capabilities": ["FLY"]}), "unknown capability 'FLY'"),
            (json!({"caps": []}), "unknown member 'caps'"),
            (json!(["CHOWN"]), "expected {"),
            (json!({"capabilities": [1]}), "expected {"),
        ] {
            let error = Set::of_flag(&json).unwrap_err();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
