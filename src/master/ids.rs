//! Cheap, typed names of the things the master keeps: a clone is one counter.
//!
//! Used all over the master; the wire's own id messages live in `mesos`.

use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $message:ty) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The message that carries this id on the wire.
            #[must_use]
            pub fn message(&self) -> $message {
                <$message>::from(self.clone())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.into())
            }
        }

        impl From<&$message> for $name {
            fn from(id: &$message) -> Self {
                $name(id.value.as_str().into())
            }
        }

        impl From<$name> for $message {
            fn from(id: $name) -> Self {
                Self { value: id.0.as_ref().to_owned() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// An agent, `<master id>-S<n>`; `SlaveID` on the v0 wire.
    AgentId,
    mesos::SlaveId
);
id!(
    /// A framework, `<master id>-<n>` or whatever it brought along.
    FrameworkId,
    mesos::FrameworkId
);
id!(
    /// An offer, `<master id>-O<n>`.
    OfferId,
    mesos::OfferId
);
id!(
    /// A task, chosen by its framework and unique within it.
    TaskId,
    mesos::TaskId
);
id!(
    /// An executor, unique within its framework and agent.
    ExecutorId,
    mesos::ExecutorId
);

/// The address of a libprocess process, `id@ip:port`, in its text form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(Arc<str>);

impl Pid {
    /// What Mesos writes where there is no process: frameworks over HTTP.
    pub const NONE: &'static str = "@0.0.0.0:0";

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the process, for example `slave(1)`.
    #[must_use]
    pub fn process(&self) -> &str {
        self.0.split_once('@').map_or("", |(id, _)| id)
    }

    /// `ip:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, address)| address)
    }

    /// The address without its port.
    #[must_use]
    pub fn ip(&self) -> &str {
        self.address().rsplit_once(':').map_or("", |(ip, _)| ip)
    }

    /// The port, 0 if there is none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }
}

impl From<&str> for Pid {
    fn from(text: &str) -> Self {
        Pid(text.into())
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_parts() {
        let pid = Pid::from("slave(1)@127.0.0.1:5051");
        assert_eq!((pid.process(), pid.ip(), pid.port()), ("slave(1)", "127.0.0.1", 5051));
        assert_eq!(pid.address(), "127.0.0.1:5051");
        assert_eq!(Pid::from("nonsense").port(), 0);
    }
}
