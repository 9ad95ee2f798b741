//! Shims that are started ahead, for roots that are ready ([`Park`]).
//!
//! ```text
//! park():    spawn -> shim: /proc in the ready root, back to the host's mounts, wait
//! launch():           descriptors of the container --socket--> shim: as any other
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use isolators::plan::{Fixtures, Park};
use kernel::namespaces::Namespace;
use kernel::parked::Parked;
use kernel::{memfd, sched};

use super::error::LaunchError;
use super::program::SAYS_PARKED;
use super::record::{self, state};
use super::{Launcher, compile};

/// How long a shim may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

impl Park for Launcher {
    fn park(&self, namespace: BorrowedFd<'_>, fixtures: &Fixtures) -> io::Result<Parked> {
        self.try_park(namespace, fixtures).map_err(io::Error::other)
    }
}

impl Launcher {
    fn try_park(
        &self,
        namespace: BorrowedFd<'_>,
        fixtures: &Fixtures,
    ) -> Result<Parked, LaunchError> {
        let failed =
            |source| LaunchError::Prepare { verb: "park", object: "a shim".to_owned(), source };
        let (bytes, steps) = compile::parking(fixtures)?;
        let content = record::fresh(self.boot, true);
        let file = File::from(memfd::writable(c"bulkhead-record", &content)?);
        let null: OwnedFd = File::open("/dev/null").map_err(failed)?.into();
        let own = Namespace::Pid.flag().into();
        let stdio = [null.as_fd(); 3];
        let (child, ours) = self.begin((&bytes, own), stdio, &file, Some(namespace))?;
        // The thread that starts it may be one that stands back.
        sched::like_this_process(child.pid);
        let parked = Parked::new(child, ours);
        parked.socket().set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut word = [0];
        let told = parked.socket().read_exact(&mut word);
        if told.is_ok() && word[0] == SAYS_PARKED {
            return Ok(parked);
        }
        match record::read(&file).map_err(failed)? {
            record if record.state == state::FAILED => Err(steps.error(record.failed)),
            _ => Err(told.err().map_or(LaunchError::Lost(None), failed)),
        }
    }
}
