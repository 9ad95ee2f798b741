//! A netlink socket: one request at a time, answered to the end.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::message::{Message, Messages, Request, flag, number, text};
use crate::Error;
use crate::namespaces;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Attribute of an error: the kernel's own words.
const ERROR_TEXT: u16 = 1;
/// Flags of an error: the request is cut off; attributes follow.
const CAPPED: u16 = 0x100;
const HAS_ATTRIBUTES: u16 = 0x200;
/// The kernel sends no more at a time, in lists.
const BUFFER: usize = 1 << 16;
/// The kernel answers at once; a driver that hangs must not hang us for ever.
const PATIENCE: TimeVal = TimeVal::new(30, 0);
/// Lists that changed under our eyes are read again, this often.
const TRIES: usize = 8;

/// What is talked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Interfaces, addresses, routes, traffic control.
    Route,
    /// Sockets.
    SockDiag,
    /// Netfilter.
    Netfilter,
}

/// The kernel refused: its number, and its words if it has any.
#[derive(Debug)]
pub struct Refusal {
    /// The error number.
    pub error: io::Error,
    /// What was wrong, as the kernel puts it; often empty.
    pub text: String,
}

impl Refusal {
    /// As the crate's error; the kernel's words follow the object.
    #[must_use]
    pub fn doing(self, verb: &'static str, object: impl fmt::Display) -> Error {
        let object = match self.text.as_str() {
            "" => object.to_string(),
            text => format!("{object} (kernel: {text})"),
        };
        Error::new(verb, object, self.error)
    }

    /// Whether the kernel's number is this one.
    #[must_use]
    pub fn is(&self, errno: i32) -> bool {
        self.error.raw_os_error() == Some(errno)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal { error, text: String::new() }
    }
}

/// A socket of the network that it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one in the network of the calling thread.
    ///
    /// # Errors
    /// The kernel has no such family, or no descriptor is left.
    pub fn open(family: Family) -> Result<Socket, Error> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::SockDiag => SockProtocol::NetlinkSockDiag,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fail =
            |e: nix::Error| Error::new("open", format!("a netlink socket ({family:?})"), e.into());
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(fail)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &PATIENCE).map_err(fail)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: an open descriptor, and an integer that lives through the call.
            // Refused by old kernels only: then errors have no words.
            unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    std::ptr::from_ref(&on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
        Ok(Socket { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Opens one in the network of the process `pid`; it stays a socket of that
    /// network whatever becomes of the process.
    ///
    /// # Errors
    /// The process is gone, or as [`Socket::open`].
    pub fn open_in(pid: u32, family: Family) -> Result<Socket, Error> {
        namespaces::in_network_of(pid, || Socket::open(family))
            .map_err(|e| Error::new("enter", format!("the network of process {pid}"), e))?
    }

    /// Sends a request and hands over what the kernel answers, up to its
    /// acknowledgement.
    ///
    /// # Errors
    /// The kernel refuses, or says nothing.
    pub fn ask(
        &mut self,
        request: Request,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), Refusal> {
        self.exchange(request, flag::ACK, &mut each).map(drop)
    }

    /// Sends a request that nothing is asked of but success.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tell(&mut self, request: Request) -> Result<(), Refusal> {
        self.ask(request, |_| {})
    }

    /// A whole list, each entry as `read` makes it; those it makes nothing of are
    /// left out. Read again if it changed meanwhile.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn list<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let mut all = Vec::new();
        for _ in 0..TRIES {
            all.clear();
            let mut each = |message: Message<'_>| all.extend(read(message));
            if !self.exchange(request.clone(), flag::DUMP, &mut each)? {
                break;
            }
        }
        // Of a list that never rests the last reading is as good as any.
        Ok(all)
    }

    /// Whether the list changed while it was read.
    fn exchange(
        &mut self,
        request: Request,
        flags: u16,
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<bool, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence, flags);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(io::Error::from)?;
        let mut changed = false;
        loop {
            let length = self.receive()?;
            for message in Messages(&self.buffer[..length]) {
                // The rest of an exchange that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                changed |= message.flags & flag::INTERRUPTED != 0;
                match message.kind {
                    ERROR | DONE => return outcome(message).map(|()| changed),
                    _ => each(message),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // With MSG_TRUNC the kernel tells the whole length.
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                Ok(length) => return Ok(length),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the last message of an exchange says.
fn outcome(message: Message<'_>) -> Result<(), Refusal> {
    let code = number(message.body, 0).unwrap_or(0).cast_signed();
    if code >= 0 {
        return Ok(());
    }
    // Behind the code is the header of the request, or all of it.
    let request = number(message.body, 4).unwrap_or(16) as usize;
    let skipped = 4 + if message.flags & CAPPED == 0 { request } else { 16 };
    let words = match message.kind {
        ERROR if message.flags & HAS_ATTRIBUTES != 0 => message.attributes(skipped).get(ERROR_TEXT),
        _ => None,
    };
    let error = io::Error::from_raw_os_error(-code);
    Err(Refusal { error, text: words.map(text).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_number_and_words() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend([20u32.to_ne_bytes().as_slice(), &[0; 12]].concat());
        let attribute = Request::new(0, 0).text(ERROR_TEXT, "no such thing").finish(0, 0);
        body.extend(&attribute[16..]);
        let flags = CAPPED | HAS_ATTRIBUTES;
        let message = Message { kind: ERROR, flags, sequence: 1, body: &body };
        let refusal = outcome(message).unwrap_err();
        assert!(refusal.is(libc::EINVAL));
        let error = refusal.doing("create", "the interface 'x'");
        assert_eq!(error.errno(), Some(libc::EINVAL));
        let wanted = "failed to create the interface 'x' (kernel: no such thing)";
        assert_eq!(error.to_string(), wanted);
        let plain = Message { kind: ERROR, flags: 0, sequence: 1, body: &body[..20] };
        assert_eq!(outcome(plain).unwrap_err().text, "");
        assert!(outcome(Message { kind: DONE, flags: 0, sequence: 1, body: &[0; 4] }).is_ok());
    }

    #[test]
    fn the_kernel_answers_and_refuses() {
        let mut socket = Socket::open(Family::Route).unwrap();
        // No interface has this number: RTM_GETLINK of it is refused.
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&0x7fff_fff0u32.to_ne_bytes());
        let refusal = socket.tell(Request::new(18, 0).fixed(&header)).unwrap_err();
        assert!(refusal.is(libc::ENODEV), "{refusal:?}");
        let links = socket.list(&Request::new(18, 0).fixed(&[0; 16]), |m| Some(m.kind)).unwrap();
        assert!(links.contains(&16), "the loopback interface is there: {links:?}");
    }
}
