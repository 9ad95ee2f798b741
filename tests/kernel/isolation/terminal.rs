//! A guest with a terminal of its own: lines, window size, and keys that are signals.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::containerizer::{Class, Containerizer, Output};
use kernel::pty::{self, Size};
use mesos::ContainerId;

use crate::{ALL, PATIENCE, Place, end, require, top};

/// Reads what is printed until it contains `wanted`.
async fn printed(master: &mut File, wanted: &str) -> String {
    let (start, mut text) = (Instant::now(), String::new());
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        assert!(start.elapsed() < PATIENCE, "{wanted:?} was never printed: {text:?}");
        match master.read(&mut buffer) {
            Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error} after {text:?}"),
        }
    }
    text
}

#[tokio::test]
async fn a_guest_has_a_terminal_of_its_own() {
    require!(root, cgroup);
    let place = Place::new("terminal", ALL);
    let native = place.start();
    native.launch(place.shell("p", "sleep 1000")).await.expect("launch");
    let script = "stty size; read line; echo got $line; : < /dev/tty && echo mine; \
        echo waiting; sleep 1000; echo over";
    let mut guest = place.shell("g", script);
    guest.id = ContainerId { value: "g".into(), parent: Some(Box::new(top("p"))) };
    let terminal = pty::open().expect("a terminal");
    pty::resize(&terminal.slave, Size { rows: 12, columns: 34 }).expect("a size");
    guest.class = Class::Debug(Output::Terminal(Arc::new(terminal.slave)));
    let id = guest.id.clone();
    native.launch(guest).await.expect("launch");
    let mut master = File::from(terminal.master);
    printed(&mut master, "12 34").await;
    master.write_all(b"a word\n").expect("typed");
    let text = printed(&mut master, "waiting").await;
    assert!(text.contains("got a word") && text.contains("mine"), "{text}");
    // ^C, which is for the whole of the foreground.
    master.write_all(b"\x03").expect("typed");
    let status = native.wait(&id).await.expect("known").status.expect("it ran");
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGINT, "{status}");
    native.forget(&id).await;

    // The other end is gone: the session hangs up.
    let terminal = pty::open().expect("a terminal");
    let mut guest = place.shell("h", "echo ready; sleep 1000");
    guest.id = ContainerId { value: "h".into(), parent: Some(Box::new(top("p"))) };
    guest.class = Class::Debug(Output::Terminal(Arc::new(terminal.slave)));
    let id = guest.id.clone();
    native.launch(guest).await.expect("launch");
    let mut master = File::from(terminal.master);
    printed(&mut master, "ready").await;
    drop(master);
    let status = native.wait(&id).await.expect("known").status.expect("it ran");
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGHUP, "{status}");
    native.forget(&id).await;
    native.destroy(&top("p"), None).await.expect("known");
    end(&native, "p").await;
}
