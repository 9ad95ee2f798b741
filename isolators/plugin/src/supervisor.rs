//! Keeps one plugin alive: starts it, shakes hands, listens, and begins again.
//!
//! ```text
//! (start the command) -> HELLO -> CONFIGURE -> RECOVER -> WATCH -> ready
//!          ^                                                        |
//!          +------ back-off, 100 ms doubling to 30 s <---- it exits, hangs, lies
//! ```
//!
//! One task per plugin, spawned by [`crate::RemoteIsolator::start`]. It never
//! touches a container; what is lost while a plugin is away is told at RECOVER.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesos::bulkhead::plugin::{Call, Container, call};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, Command};
use tracing::{info, warn};

use crate::serve::{OWNED, SOCKET};
use crate::shared::{About, Entry, Inner, START, State, lock};
use crate::wire::{CallError, Events, PROTOCOL, bare};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A plugin that was well for so long begins with the first pause again.
const WELL: Duration = Duration::from_secs(10);

/// Time between two looks at a plugin that nobody calls.
const PULSE: Duration = Duration::from_secs(10);

/// Statistics are not asked for more often.
const SIPS: Duration = Duration::from_millis(200);

/// A plugin that was started here. Its standard input ends with the agent.
struct Process {
    child: Child,
    /// Apart, because waiting for a child closes it.
    _stdin: Option<ChildStdin>,
}

/// Looks after a plugin; ends with the task.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    let mut generation = 0;
    loop {
        generation += 1;
        let start = Instant::now();
        let mut process = None;
        let reason = session(&inner, &mut process, generation).await;
        warn!(plugin = inner.name, %reason, policy = ?inner.manifest.policy, again_in = ?pause,
              "the plugin is down");
        inner.state.send_replace(State::Down(reason));
        inner.client.forget();
        if let Some(mut process) = process {
            let _ = process.child.kill().await;
        }
        *lock(&inner.pid) = None;
        if start.elapsed() > WELL {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        inner.ledger.restart();
    }
}

/// From nothing to ready to the end; why it ended.
async fn session(inner: &Arc<Inner>, process: &mut Option<Process>, generation: u64) -> String {
    if let Err(reason) = reach(inner, process).await {
        return reason;
    }
    *lock(&inner.pid) = process.as_ref().and_then(|process| process.child.id());
    match handshake(inner, generation).await {
        Ok((about, events)) => {
            info!(plugin = inner.name, version = about.version, "the plugin is ready");
            inner.state.send_replace(State::Ready(Arc::new(about)));
            tokio::select! {
                reason = attend(inner, process, events) => reason,
                () = drink(inner) => unreachable!("it has no end"),
            }
        }
        Err(error) => format!("handshake: {}", error.chain()),
    }
}

/// Somebody listens on the socket: the one before, systemd's, or one started now.
async fn reach(inner: &Inner, process: &mut Option<Process>) -> Result<(), String> {
    let socket = &inner.manifest.socket;
    let answers = || async { UnixStream::connect(socket).await };
    let error = match answers().await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let Some((program, arguments)) = inner.manifest.command.split_first() else {
        return Err(format!("failed to connect to '{}': {error}", socket.display()));
    };
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("failed to make '{}': {error}", directory.display()))?;
    }
    let mut started = Command::new(program)
        .args(arguments)
        .env(SOCKET, socket)
        .env(OWNED, "1")
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("failed to start '{program}': {error}"))?;
    let until = Instant::now() + START.max(inner.manifest.deadline);
    loop {
        if let Ok(Some(status)) = started.try_wait() {
            return Err(format!("'{program}' ended before it listened: {status}"));
        }
        if answers().await.is_ok() {
            let stdin = started.stdin.take();
            *process = Some(Process { child: started, _stdin: stdin });
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("'{program}' does not listen on '{}'", socket.display()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn handshake(inner: &Inner, generation: u64) -> Result<(About, Option<Events>), CallError> {
    let about = hello(inner, generation).await?;
    let configure = call::Configure { config: inner.manifest.config.to_string() };
    let call = Call { configure: Some(configure), ..bare(call::Type::Configure) };
    inner.call(&call, None).await?;
    // Not before the agent knows which containers there are.
    let _ = inner.told.subscribe().wait_for(|told| *told).await;
    recover(inner, &about).await?;
    let watches = about.does(call::Type::Watch);
    let watch = bare(call::Type::Watch);
    let events = match watches {
        true => Some(inner.client.stream(&watch, inner.manifest.deadline).await?),
        false => None,
    };
    Ok((about, events))
}

async fn hello(inner: &Inner, generation: u64) -> Result<About, CallError> {
    let version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let hello = call::Hello { protocol: PROTOCOL, agent_version: version };
    let call = Call { hello: Some(hello), ..bare(call::Type::Hello) };
    let response = inner.call(&call, None).await?;
    let garbage = |message| CallError::Garbage { call: "HELLO", message };
    let hello = response.hello.ok_or_else(|| garbage("it lacks 'hello'".into()))?;
    if hello.name != inner.name {
        return Err(garbage(format!("it is plugin '{}', not '{}'", hello.name, inner.name)));
    }
    if hello.protocol != PROTOCOL {
        return Err(garbage(format!("it speaks protocol {}, not {PROTOCOL}", hello.protocol)));
    }
    let supports = hello.supports.unwrap_or_default();
    Ok(About {
        version: hello.version,
        nesting: supports.nesting(),
        calls: supports.calls.iter().copied().collect(),
        hooks: supports.hooks.iter().copied().collect(),
        generation,
    })
}

/// Tells the plugin what lives and what is gone.
pub(crate) async fn recover(inner: &Inner, about: &About) -> Result<(), CallError> {
    let (containers, orphans): (Vec<Container>, Vec<Container>) = {
        let mut table = lock(&inner.table);
        // Handles of nested containers that it never wanted.
        table.retain(|_, entry| about.nesting || entry.container.container_id.parent.is_none());
        let live = |entry: &&Entry| entry.prepared && !entry.owed;
        let lived = table.values().filter(live).map(|entry| entry.container.clone()).collect();
        let gone = table.values().filter(|entry| !live(entry));
        (lived, gone.map(|entry| entry.container.clone()).collect())
    };
    let told: Vec<String> = orphans.iter().map(|gone| gone.container_id.to_string()).collect();
    let call =
        Call { recover: Some(call::Recover { containers, orphans }), ..bare(call::Type::Recover) };
    let response = inner.call(&call, None).await?;
    lock(&inner.table).retain(|key, entry| !(entry.owed && told.contains(key)));
    for leftover in response.recover.unwrap_or_default().leftovers {
        warn!(plugin = inner.name, %leftover, "the plugin removed what no container claims");
    }
    Ok(())
}

/// Serves a ready plugin until it is not; why.
async fn attend(
    inner: &Arc<Inner>,
    process: &mut Option<Process>,
    mut events: Option<Events>,
) -> String {
    let mut pulse = tokio::time::interval(PULSE);
    pulse.reset();
    loop {
        tokio::select! {
            status = exit(process) => return match status {
                Ok(status) => format!("it ended: {status}"),
                Err(error) => format!("failed to wait for its process: {error}"),
            },
            event = next(&mut events) => match event {
                Ok(Some(event)) => {
                    inner.hear(event);
                    continue;
                }
                Ok(None) => return "it closed the WATCH stream".into(),
                Err(error) => return error.chain(),
            },
            () = inner.suspicion.notified() => {}
            _ = pulse.tick() => {}
        }
        if let Some(reason) = silent(inner).await {
            return reason;
        }
        repeat_cleanups(inner).await;
    }
}

/// A plugin that answers again is told at once of what it still owes: a cleanup
/// whose answer was lost must not wait for the next handshake.
async fn repeat_cleanups(inner: &Inner) {
    let owed: Vec<(String, mesos::ContainerId)> = lock(&inner.table)
        .iter()
        .filter(|(_, entry)| entry.owed)
        .map(|(key, entry)| (key.clone(), entry.container.container_id.clone()))
        .collect();
    for (key, container_id) in owed {
        let cleanup = call::Cleanup { container_id: container_id.clone() };
        let call = Call { cleanup: Some(cleanup), ..bare(call::Type::Cleanup) };
        if inner.call(&call, Some(&container_id)).await.is_err() {
            return;
        }
        lock(&inner.table).remove(&key);
    }
}

/// Asks for statistics when somebody reads them.
async fn drink(inner: &Inner) {
    loop {
        inner.thirst.notified().await;
        inner.drink().await;
        tokio::time::sleep(SIPS).await;
    }
}

async fn exit(process: &mut Option<Process>) -> std::io::Result<std::process::ExitStatus> {
    match process {
        Some(process) => process.child.wait().await,
        None => std::future::pending().await,
    }
}

async fn next(
    events: &mut Option<Events>,
) -> Result<Option<mesos::bulkhead::plugin::Event>, CallError> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Whether the plugin does not even answer a HELLO.
async fn silent(inner: &Inner) -> Option<String> {
    match hello(inner, 0).await {
        Ok(_) => None,
        Err(error) => Some(error.chain()),
    }
}
