//! Taking the daemon's address.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

/// How long the address may be taken. A child that was being started when the last daemon
/// was killed has all its sockets until it executes its program, on a busy machine for a
/// while.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address`, waiting up to `patience` for whoever has it.
///
/// # Errors
/// The system's; it is still taken.
pub async fn listen(address: SocketAddr, patience: Duration) -> io::Result<TcpListener> {
    let by = Instant::now() + patience;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < by => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_another_one_leaves_is_waited_for_and_what_stays_taken_is_an_error() {
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = other.local_addr().expect("bound");
        let refused = listen(address, Duration::from_millis(100)).await;
        assert_eq!(refused.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
        let waiting = tokio::spawn(listen(address, Duration::from_secs(60)));
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert!(!waiting.is_finished());
        drop(other);
        waiting.await.expect("no panic").expect("free again");
    }
}
