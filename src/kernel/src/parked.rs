//! Processes that were started before there was anything to do for them.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::spawn::Child;

/// A child that waits at a socket for the descriptors it will work with. Dropping this
/// ends it.
#[derive(Debug)]
pub struct Parked(Option<(Child, UnixStream)>);

impl Parked {
    /// `socket` is ours; nobody else has it.
    #[must_use]
    pub fn new(child: Child, socket: UnixStream) -> Parked {
        Parked(Some((child, socket)))
    }

    fn both(&self) -> &(Child, UnixStream) {
        self.0.as_ref().expect("there until it is woken")
    }

    /// Its pid as we see it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.both().0.pid
    }

    /// Our end of the socket.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.both().1
    }

    /// Whether it can still be woken.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.both().0.pidfd.ended().is_ok_and(|ended| !ended)
    }

    /// Gives it its descriptors.
    ///
    /// # Errors
    /// It has ended.
    pub fn wake(mut self, fds: &[BorrowedFd<'_>]) -> io::Result<(Child, UnixStream)> {
        let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let socket = self.socket().as_raw_fd();
        let rights = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(socket, &[IoSlice::new(b"L")], &rights, flags, None)?;
        Ok(self.0.take().expect("there until now"))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let Some((child, socket)) = self.0.take() else { return };
        drop(socket);
        // Its end is soon; an error means that it is reaped already.
        let _ = child.pidfd.signal(libc::SIGKILL);
        let _ = child.pidfd.wait();
    }
}
