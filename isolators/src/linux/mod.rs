//! `linux/*`: what the processes of a container may ask of the kernel.

pub mod capabilities;
mod devices;
mod nnp;
pub mod seccomp;
pub mod sysctl;

pub use self::capabilities::isolator as capabilities;
pub use self::devices::isolator as devices;
pub use self::nnp::nnp;
pub use self::seccomp::isolator as seccomp;
pub use self::sysctl::isolator as sysctl;
