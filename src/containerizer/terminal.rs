//! Terminals of containers: who asks for one, and the agent's end of it.
//!
//! What a container writes to its terminal goes to the standard output of its sandbox
//! ([`copy`]) and to whoever listens; a session has its terminal for itself. Input comes
//! from one client at a time, which is the API's business.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kernel::terminal::{self, Window};
use mesos::TtyInfo;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::{Class, LaunchRequest, Output};

/// Pieces that may wait for a listener; one that is further behind is cut off.
const BEHIND: usize = 1024;
/// The largest piece of output, in bytes.
const PIECE: usize = 16 << 10;

/// The size of a terminal that is asked for; 0 by 0 if nobody says.
///
/// # Errors
/// It is larger than any; for people.
pub fn window(info: &TtyInfo) -> Result<Window, String> {
    let Some(size) = &info.window_size else { return Ok(Window::default()) };
    let number = |name: &str, value: u32| {
        u16::try_from(value)
            .map_err(|_| format!("{name} must be at most {}, not {value}", u16::MAX))
    };
    Ok(Window { rows: number("rows", size.rows)?, columns: number("columns", size.columns)? })
}

/// The terminal that a request asks for, if it asks for one.
pub(super) fn wanted(request: &LaunchRequest) -> Result<Option<Window>, String> {
    match &request.class {
        Class::Debug(Output::Terminal(lent)) => Ok(Some(lent.window)),
        Class::Debug(_) => Ok(None),
        Class::Default => {
            let info = request.container.as_ref().and_then(|info| info.tty_info.as_ref());
            info.map(window).transpose()
        }
    }
}

/// A terminal that is handed to who starts a session.
#[derive(Debug, Clone)]
pub struct Lent {
    /// Its first size.
    pub(super) window: Window,
    slot: Arc<Mutex<Option<Arc<Terminal>>>>,
}

impl Lent {
    /// Asks for one.
    #[must_use]
    pub fn new(window: Window) -> Lent {
        Lent { window, slot: Arc::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Terminal>>> {
        // Replaced in one step.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, terminal: Terminal) {
        *self.slot() = Some(Arc::new(terminal));
    }

    /// Takes it, once the container is launched.
    #[must_use]
    pub fn take(&self) -> Option<Arc<Terminal>> {
        self.slot().take()
    }
}

/// The agent's end of a container's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// A master end reads and writes as a pipe does; that for input is a copy of the
    /// other.
    reader: Receiver,
    writer: Sender,
    size: Size,
    /// `None` once nothing more will come.
    listeners: Mutex<Option<Vec<mpsc::Sender<Bytes>>>>,
}

/// Where a terminal leads that another engine has.
#[derive(Debug)]
pub(super) struct FarEnd {
    /// What is typed.
    pub(super) typed: Receiver,
    /// Takes what it shows.
    pub(super) shown: OwnedFd,
    /// Its sizes, the first one included.
    pub(super) sizes: watch::Receiver<Window>,
}

/// Who changes the size.
#[derive(Debug)]
enum Size {
    /// The kernel, through the master end.
    Master,
    /// Another engine.
    Told(watch::Sender<Window>),
}

impl Terminal {
    /// One that another engine has, which is to be connected to the far end.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn elsewhere(window: Window) -> io::Result<(Terminal, FarEnd)> {
        let ((typed, to_type), (to_show, shown)) = (io::pipe()?, io::pipe()?);
        let (told, sizes) = watch::channel(window);
        let terminal = Terminal {
            reader: Receiver::from_owned_fd(to_show.into())?,
            writer: Sender::from_owned_fd(to_type.into())?,
            size: Size::Told(told),
            listeners: Mutex::new(Some(Vec::new())),
        };
        let typed = Receiver::from_owned_fd(typed.into())?;
        Ok((terminal, FarEnd { typed, shown: shown.into(), sizes }))
    }

    /// Takes the master end over, which must not block. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn new(master: OwnedFd) -> io::Result<Terminal> {
        let writer = Sender::from_owned_fd_unchecked(master.try_clone()?)?;
        let reader = Receiver::from_owned_fd_unchecked(master)?;
        Ok(Terminal { reader, writer, size: Size::Master, listeners: Mutex::new(Some(Vec::new())) })
    }

    /// Reads what the container has written; 0 once nobody can write any more.
    ///
    /// # Errors
    /// The system's.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.reader.readable().await?;
            match self.reader.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // So the master end is told that there is no slave end.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                read => return read,
            }
        }
    }

    /// Writes all of it, as if it were typed; waits as long as nobody reads.
    ///
    /// # Errors
    /// The system's.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writer.writable().await?;
            match self.writer.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Changes its size.
    ///
    /// # Errors
    /// The system's.
    pub fn resize(&self, window: Window) -> io::Result<()> {
        match &self.size {
            Size::Master => terminal::set_window(self.reader.as_fd(), window),
            Size::Told(sizes) => sizes.send(window).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Option<Vec<mpsc::Sender<Bytes>>>> {
        // A listener is in it or not.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, piece: &Bytes) {
        if let Some(listeners) = &mut *self.listeners() {
            listeners.retain(|listener| listener.try_send(piece.clone()).is_ok());
        }
    }

    /// Everything that the container writes from now on, to its end.
    #[must_use]
    pub fn listen(&self) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        if let Some(listeners) = &mut *self.listeners() {
            listeners.push(sender);
        }
        receiver
    }
}

/// Copies what the container writes into `output` and to all who listen, until nobody
/// can write any more. It is not an error of the container if `output` takes no more.
pub(super) async fn copy(terminal: Arc<Terminal>, output: OwnedFd) {
    let output = Arc::new(File::from(output));
    let over = Over(terminal);
    let mut buffer = vec![0; PIECE];
    let mut complained = false;
    loop {
        let piece = match over.0.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => Bytes::copy_from_slice(&buffer[..length]),
            Err(error) => {
                warn!(%error, "a terminal cannot be read any more");
                break;
            }
        };
        over.0.tell(&piece);
        let output = Arc::clone(&output);
        // A disk or a logger may take its time.
        let written = tokio::task::spawn_blocking(move || (&*output).write_all(&piece)).await;
        if let Ok(Err(error)) = written
            && !std::mem::replace(&mut complained, true)
        {
            warn!(%error, "what is written to a terminal is missing in its sandbox");
        }
    }
}

/// Whatever ends the copying, listeners hear of it.
struct Over(Arc<Terminal>);

impl Drop for Over {
    fn drop(&mut self) {
        *self.0.listeners() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use mesos::tty_info::WindowSize;
    use mesos::{CommandInfo, ContainerInfo};
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::pty::openpty;
    use tokio::time::timeout;

    use super::*;
    use crate::containerizer::request::tests::request;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn size(rows: u32, columns: u32) -> TtyInfo {
        TtyInfo { window_size: Some(WindowSize { rows, columns }) }
    }

    #[test]
    fn who_asks_for_a_terminal() {
        let mut asked = request("a", CommandInfo::default());
        assert_eq!(wanted(&asked), Ok(None));
        let tty = |tty_info| Some(ContainerInfo { tty_info, ..ContainerInfo::default() });
        asked.container = tty(Some(TtyInfo::default()));
        assert_eq!(wanted(&asked), Ok(Some(Window::default())));
        asked.container = tty(Some(size(24, 80)));
        assert_eq!(wanted(&asked), Ok(Some(Window { rows: 24, columns: 80 })));
        asked.container = tty(Some(size(24, 65_536)));
        assert_eq!(wanted(&asked), Err("columns must be at most 65535, not 65536".into()));
        // A guest's is its own, not its parent's.
        asked.class = Class::Debug(Output::ParentsStderr);
        assert_eq!(wanted(&asked), Ok(None));
        asked.class = Class::Debug(Output::Terminal(Lent::new(Window { rows: 1, columns: 2 })));
        assert_eq!(wanted(&asked), Ok(Some(Window { rows: 1, columns: 2 })));
    }

    fn pair() -> (Arc<Terminal>, File) {
        let pair = openpty(None, None).expect("a pair");
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
        (Arc::new(Terminal::new(pair.master).expect("a terminal")), pair.slave.into())
    }

    #[tokio::test]
    async fn output_goes_to_the_file_and_to_listeners_to_the_last_byte() {
        let (terminal, mut slave) = pair();
        let mut listener = terminal.listen();
        let mut slow = terminal.listen();
        let (mut file, output) = io::pipe().expect("a pipe");
        let copying = tokio::spawn(copy(Arc::clone(&terminal), output.into()));
        let writing = tokio::task::spawn_blocking(move || {
            for _ in 0..1000 {
                slave.write_all(b"line\n").expect("write");
            }
        });
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = String::new();
            file.read_to_string(&mut all).map(|_| all)
        });
        let mut heard = Vec::new();
        while let Some(piece) = timeout(PATIENCE, listener.recv()).await.expect("in time") {
            heard.extend_from_slice(&piece);
        }
        writing.await.expect("no panic");
        copying.await.expect("no panic");
        let expected = "line\r\n".repeat(1000);
        assert_eq!(String::from_utf8(heard).expect("text"), expected);
        assert_eq!(reading.await.expect("no panic").expect("read"), expected);
        // One that does not read holds nobody up, and one that comes late waits not.
        assert!(slow.recv().await.is_some());
        assert!(terminal.listen().recv().await.is_none());
    }

    #[tokio::test]
    async fn what_is_typed_is_read_and_the_size_is_seen() {
        let (terminal, mut slave) = pair();
        terminal.resize(Window { rows: 5, columns: 6 }).expect("resize");
        assert_eq!(terminal::window(slave.as_fd()).expect("size").columns, 6);
        terminal.write_all(b"typed\n").await.expect("write");
        let mut line = [0; 6];
        slave.read_exact(&mut line).expect("a line");
        assert_eq!(&line, b"typed\n");
        drop(slave);
        let mut echo = [0; 64];
        let read = timeout(PATIENCE, terminal.read(&mut echo)).await.expect("in time");
        assert_eq!(read.expect("the echo"), 7);
        let read = timeout(PATIENCE, terminal.read(&mut echo)).await.expect("in time");
        assert_eq!(read.expect("the end"), 0);
    }
}
