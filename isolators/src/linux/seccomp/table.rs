//! System call numbers by name, for the architectures that filters are made for.

use std::collections::HashMap;
use std::sync::LazyLock;

/// An architecture whose system calls are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    /// 32-bit programs on x86_64.
    X86,
    Aarch64,
}

impl Architecture {
    /// The architecture this program is made for, if filters can be.
    pub(super) const NATIVE: Option<Architecture> = if cfg!(target_arch = "x86_64") {
        Some(Architecture::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Architecture::Aarch64)
    } else {
        None
    };

    /// `AUDIT_ARCH_*`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Aarch64 => 0xc000_00b7,
        }
    }

    /// The name in a profile's `archMap`.
    pub(super) fn profile_name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "SCMP_ARCH_X86_64",
            Architecture::X86 => "SCMP_ARCH_X86",
            Architecture::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// The name in a rule's `arches`.
    pub(super) fn short_name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "amd64",
            Architecture::X86 => "x86",
            Architecture::Aarch64 => "arm64",
        }
    }

    /// The number of a system call; `None` if this architecture has none of that name.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        NUMBERS.get(name)?[self as usize]
    }
}

static NUMBERS: LazyLock<HashMap<&'static str, [Option<u32>; 3]>> = LazyLock::new(|| {
    let row = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next()?;
        let mut number = || words.next().and_then(|word| word.parse().ok());
        Some((name, [number(), number(), number()]))
    };
    let text = include_str!("syscalls.txt");
    text.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let rows = [
            ("read", [Some(0), Some(3), Some(63)]),
            ("mount", [Some(165), Some(21), Some(40)]),
            ("open", [Some(2), Some(5), None]),
            ("clone3", [Some(435), Some(435), Some(435)]),
            ("socketcall", [None, Some(102), None]),
        ];
        for (name, numbers) in rows {
            let all = [Architecture::X86_64, Architecture::X86, Architecture::Aarch64];
            assert_eq!(all.map(|arch| arch.number(name)), numbers, "{name}");
        }
        assert_eq!(Architecture::X86_64.number("opne"), None);
        assert!(NUMBERS.len() > 400);
    }
}
