//! Kinds of namespaces.

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Namespace {
    Mount,
    Uts,
    Ipc,
    Pid,
    Network,
    Cgroup,
    User,
    Time,
}

impl Namespace {
    /// Every kind.
    pub const ALL: [Namespace; 8] = [
        Namespace::Mount,
        Namespace::Uts,
        Namespace::Ipc,
        Namespace::Pid,
        Namespace::Network,
        Namespace::Cgroup,
        Namespace::User,
        Namespace::Time,
    ];

    /// The `CLONE_NEW*` flag.
    #[must_use]
    pub const fn flag(self) -> u32 {
        (match self {
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Network => libc::CLONE_NEWNET,
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
            Namespace::User => libc::CLONE_NEWUSER,
            Namespace::Time => 0x80,
        }) as u32
    }

    /// The file's name below `/proc/<pid>/ns`.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Namespace::Mount => "mnt",
            Namespace::Uts => "uts",
            Namespace::Ipc => "ipc",
            Namespace::Pid => "pid",
            Namespace::Network => "net",
            Namespace::Cgroup => "cgroup",
            Namespace::User => "user",
            Namespace::Time => "time",
        }
    }

    /// Whether this kernel has the kind.
    #[must_use]
    pub fn supported(self) -> bool {
        std::path::Path::new("/proc/self/ns").join(self.file()).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_distinct_bits() {
        let all = Namespace::ALL.iter().fold(0, |sum, kind| {
            assert_eq!(sum & kind.flag(), 0, "{kind:?}");
            sum | kind.flag()
        });
        assert_eq!(all.count_ones(), 8);
        assert!(Namespace::Mount.supported());
    }
}
