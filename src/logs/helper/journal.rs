//! Lines to systemd's journal: its native protocol over a datagram socket.
//!
//! A line stays in the task's pipe until the journal has taken it. A journal that is
//! away is waited for, and the task with it once its pipe is full; after
//! [`PATIENCE`] lines are dropped and counted, so that a task does not hang for ever
//! on a service it knows nothing of.

use std::io;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{Instant, sleep, timeout};

use crate::logs::order;

/// The longest line in one entry, in bytes; longer ones become several. Far below
/// what a full pipe holds, however small the writes that filled it.
const LINE: usize = 16 << 10;
/// How long a journal that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to take one entry.
const STUCK: Duration = Duration::from_secs(10);
/// Time between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(200);

/// One stream's way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// Connected, or to be made (again).
    socket: Option<UnixDatagram>,
    order: order::Journal,
    /// The fields that every entry has, encoded.
    head: Vec<u8>,
    /// Since when it is away, and lines that were dropped since.
    away: Option<Instant>,
    dropped: u64,
}

impl Journal {
    pub(super) fn new(order: order::Journal, stream: &str) -> Journal {
        let mut head = Vec::new();
        for (name, value) in &order.fields {
            if let Some(name) = field_name(name) {
                field(&mut head, &name, value.as_bytes());
            }
        }
        field(&mut head, "STREAM", stream.to_ascii_uppercase().as_bytes());
        // As systemd has it for services: info, or an error.
        field(&mut head, "PRIORITY", if stream == "stderr" { b"3" } else { b"6" });
        Journal { socket: None, order, head, away: None, dropped: 0 }
    }

    /// Sends lines, each as one entry.
    pub(super) async fn send(&mut self, lines: &[&[u8]]) {
        for line in lines {
            self.entry(line).await;
        }
    }

    async fn entry(&mut self, line: &[u8]) {
        loop {
            if self.dropped > 0 {
                let text = format!("{} lines are lost: the journal was away", self.dropped);
                if self.attempt(text.as_bytes()).await.is_ok() {
                    self.dropped = 0;
                }
            }
            match self.attempt(line).await {
                Ok(()) => {
                    self.away = None;
                    return;
                }
                // No other attempt will do better.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return,
                Err(_) => {
                    let since = *self.away.get_or_insert_with(Instant::now);
                    if since.elapsed() >= PATIENCE {
                        self.dropped += 1;
                        return;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn attempt(&mut self, line: &[u8]) -> io::Result<()> {
        let mut entry = self.head.clone();
        field(&mut entry, "MESSAGE", line);
        // Only a connected socket is woken when a full queue has room again.
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.order.socket)?;
                socket
            }
        };
        timeout(STUCK, socket.send(&entry)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.socket = Some(socket);
        Ok(())
    }
}

/// Appends a field: on one line, or with its length before it.
fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// A name that the journal takes: capitals, digits and `_`, at most 64, no `_` or
/// digit first.
fn field_name(name: &str) -> Option<String> {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(fits).collect();
    let name = name.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit());
    let own = matches!(name, "MESSAGE" | "PRIORITY" | "STREAM");
    (!name.is_empty() && !own).then(|| name.chars().take(64).collect())
}

/// The whole lines at the beginning of `bytes`, without their ends, and how many
/// bytes they took. What follows the last line end counts only if it is too long to
/// wait for, or if `last`: nothing more will come.
pub(super) fn lines(bytes: &[u8], last: bool) -> (Vec<&[u8]>, usize) {
    let (mut found, mut taken) = (Vec::new(), 0);
    loop {
        let rest = &bytes[taken..];
        let window = &rest[..rest.len().min(LINE)];
        match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                found.push(&window[..end]);
                taken += end + 1;
            }
            None if window.len() == LINE || (last && !window.is_empty()) => {
                found.push(window);
                taken += window.len();
            }
            None => return (found, taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_only_until_the_end() {
        assert_eq!(lines(b"a\n\nbc", false), (vec![&b"a"[..], b""], 3));
        assert_eq!(lines(b"bc", false), (vec![], 0));
        assert_eq!(lines(b"bc", true), (vec![&b"bc"[..]], 2));
        assert_eq!(lines(b"", true), (vec![], 0));
        let long = vec![b'x'; LINE + 5];
        let (found, taken) = lines(&long, false);
        assert_eq!((found.len(), taken), (1, LINE));
        let (found, taken) = lines(&long, true);
        assert_eq!((found.len(), taken), (2, LINE + 5));
    }

    #[test]
    fn fields_are_the_journals() {
        let mut entry = Vec::new();
        field(&mut entry, "A", b"b c");
        field(&mut entry, "M", b"x\ny");
        assert_eq!(entry, b"A=b c\nM\n\x03\0\0\0\0\0\0\0x\ny\n");
        for (given, expected) in [
            ("team", Some("TEAM")),
            ("_HOSTNAME", Some("HOSTNAME")),
            ("9lives.of-cat", Some("LIVES_OF_CAT")),
            ("__", None),
            ("message", None),
        ] {
            assert_eq!(field_name(given).as_deref(), expected, "{given}");
        }
        assert_eq!(field_name(&"x".repeat(100)).map(|n| n.len()), Some(64));
    }
}
