//! Typed Linux: the machine, for those above. Knows nothing of Mesos.

pub mod cgroup;
pub mod lookup;
pub mod machine;
pub mod proctree;
