//! Capability sets as bit masks.

use std::collections::HashSet;

use isolators::capability::BY_NUMBER;
use oci_spec::runtime::{Capability, LinuxCapabilities};

/// The five sets as masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Masks {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl From<&LinuxCapabilities> for Masks {
    fn from(sets: &LinuxCapabilities) -> Masks {
        Masks {
            bounding: mask(sets.bounding().as_ref()),
            effective: mask(sets.effective().as_ref()),
            permitted: mask(sets.permitted().as_ref()),
            inheritable: mask(sets.inheritable().as_ref()),
            ambient: mask(sets.ambient().as_ref()),
        }
    }
}

fn mask(set: Option<&HashSet<Capability>>) -> u64 {
    let Some(set) = set else { return 0 };
    let bit = |(number, capability)| u64::from(set.contains(capability)) << number;
    BY_NUMBER.iter().enumerate().map(bit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let rows = [
            (Capability::Chown, 0),
            (Capability::Kill, 5),
            (Capability::NetAdmin, 12),
            (Capability::SysAdmin, 21),
            (Capability::Mknod, 27),
            (Capability::Setfcap, 31),
            (Capability::AuditRead, 37),
            (Capability::CheckpointRestore, 40),
        ];
        for (capability, number) in rows {
            assert_eq!(mask(Some(&HashSet::from([capability]))), 1 << number, "{capability:?}");
        }
        assert_eq!(mask(None), 0);
        assert_eq!(mask(Some(&BY_NUMBER.into_iter().collect())), (1 << 41) - 1);
    }
}
