//! After a restart of the agent: finds what runs, what ended, and what is nobody's.
//!
//! Truth comes from three places: the agent's checkpoints say which containers it
//! wants, the runtime directory which there are, the shims' records what became of
//! them. A container the agent knows is adopted, running or ended; one it does not
//! know is destroyed; nested ones follow their top-level container.

use std::collections::BTreeMap;
use std::sync::Arc;

use isolators::api::{ContainerContext, Known, Parent};
use kernel::failpoint;
use mesos::ContainerId;
use tokio::sync::watch;
use tracing::{info, warn};

use super::container::{Cause, Door, Handle, Start, View};
use super::image::{self, Home};
use super::{Birth, Shared, chain, debug, request};
use crate::containerizer::request::{ids_of, key};
use crate::containerizer::{
    ContainerizerError, KnownContainer, LaunchRequest, Termination, runtime,
};
use crate::launch::{self, End, Recovered, Running};

/// A container found, and what becomes of it.
struct Found {
    request: LaunchRequest,
    context: Arc<ContainerContext>,
    state: State,
    host_pid_namespace: bool,
    /// Nobody wants it.
    orphan: bool,
    /// If its root is an image's.
    home: Option<Home>,
}

/// What the record says.
enum State {
    Running(Running),
    /// It ended, and this is how; all is cleaned up.
    Over(Termination),
    /// It ended; not cleaned up yet.
    Gone(Option<End>),
    /// Its command was never executed; not cleaned up yet.
    NeverRan,
    /// No shim any more, but its process lives: to be killed.
    Stray(u32),
}

impl State {
    fn pid(&self) -> Option<u32> {
        match self {
            State::Running(running) => Some(running.pid()),
            State::Over(_) | State::Gone(_) | State::NeverRan | State::Stray(_) => None,
        }
    }
}

pub(super) async fn recover(
    shared: &Arc<Shared>,
    known: Vec<KnownContainer>,
) -> Result<Vec<ContainerId>, ContainerizerError> {
    let mut wanted: BTreeMap<String, KnownContainer> =
        known.into_iter().map(|known| (key(&known.request.id), known)).collect();
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for id in shared.runtime.scan() {
        let root = key(id.root());
        let orphan = !wanted.contains_key(&root) && all.get(&root).is_none_or(|found| found.orphan);
        let request = wanted.get(&key(&id)).map(|known| known.request.clone());
        let started = wanted.get(&key(&id)).is_some_and(|known| known.pid.is_some());
        if let Some(mut found) = look(shared, &id, request, orphan, &all).await {
            if started && matches!(found.state, State::NeverRan) {
                found.state = State::Gone(None);
            }
            all.insert(key(&id), found);
        }
    }
    wanted.retain(|key, _| !all.contains_key(key));
    // Known to the agent, but without a trace: it never came to the launch, or the
    // machine was restarted.
    for (key, known) in wanted {
        let state = if known.pid.is_some() { State::Gone(None) } else { State::NeverRan };
        let found = assemble(shared, known.request, state, false, &all);
        all.insert(key, found);
    }
    info!(containers = all.len(), "recovered containers");
    failpoint!("recover.looked");
    recover_roots(shared, &all).await;
    failpoint!("recover.roots");
    let handles = handles(shared, &all).await?;
    failpoint!("recover.isolators");
    let mut fresh = Vec::new();
    for (found, handles) in all.into_values().zip(handles) {
        fresh.extend(adopt(shared, found, handles).await);
        failpoint!("recover.adopted_one");
    }
    let fresh = cleaned_up(shared, fresh).await;
    failpoint!("recover.done");
    Ok(fresh)
}

/// Keeps the images of containers that have them, and removes what was made for others.
async fn recover_roots(shared: &Shared, all: &BTreeMap<String, Found>) {
    let Some(provisioner) = &shared.config.provisioner else { return };
    let open = all.values().filter(|found| !matches!(found.state, State::Over(_)));
    let open: Vec<ContainerId> = open.map(|found| found.request.id.clone()).collect();
    for error in provisioner.recover(&open).await {
        warn!(error = %chain(&error), "root file systems stay");
    }
}

/// Reads what the runtime directory and the record say of a container.
async fn look(
    shared: &Shared,
    id: &ContainerId,
    request: Option<LaunchRequest>,
    orphan: bool,
    all: &BTreeMap<String, Found>,
) -> Option<Found> {
    let dir = shared.runtime.of(id);
    let request = match (request, dir.read_config()) {
        (Some(request), _) => request,
        (None, Ok(config)) => runtime::request_of(id.clone(), config),
        // The agent died before it was written: there are no processes, only files;
        // or it is not ours.
        (None, Err(error)) => {
            warn!(container = %key(id), error = %chain(&error), "it never was: left to the sweep");
            return None;
        }
    };
    let state = match dir.read_end() {
        Some(end) => State::Over(end),
        None => match launch::recover(&dir.record()).await {
            Ok(Recovered::Running(running)) => State::Running(running),
            Ok(Recovered::Exited(exited)) => State::Gone(Some(End::Exited(exited))),
            Ok(Recovered::Lost { pid: Some(pid) }) => State::Stray(pid),
            Ok(Recovered::Lost { pid: None }) => State::Gone(Some(End::Lost)),
            Ok(Recovered::Failed(error)) => {
                info!(container = %key(id), error = %chain(&error), "it had never started");
                State::NeverRan
            }
            // The record is there before the shim is.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                info!(container = %key(id), "it was about to be launched");
                State::NeverRan
            }
            Err(error) => {
                info!(container = %key(id), %error, "its exit record cannot be read");
                State::Gone(None)
            }
        },
    };
    Some(assemble(shared, request, state, orphan, all))
}

fn assemble(
    shared: &Shared,
    request: LaunchRequest,
    state: State,
    orphan: bool,
    all: &BTreeMap<String, Found>,
) -> Found {
    let parent = request.id.parent.as_deref().and_then(|id| all.get(&key(id)));
    let linux = request.container.as_ref().and_then(|info| info.linux_info.as_ref());
    let share = linux.and_then(|linux| linux.share_pid_namespace).unwrap_or(false);
    let isolated = shared.isolators.isolation.names.contains(&"namespaces/pid");
    let guest = debug::is_guest(&request);
    let host_pid_namespace =
        !isolated || ((share || guest) && parent.is_none_or(|found| found.host_pid_namespace));
    // Whoever waited for a guest is gone.
    let orphan = orphan || guest;
    let parent = parent.map(|found| Parent {
        pid: found.state.pid().unwrap_or(0),
        sandbox: found.request.sandbox.clone(),
        runtime: shared.runtime.of(&found.request.id).path,
        host_pid_namespace: found.host_pid_namespace,
    });
    // A user that is gone changes nothing for what runs already.
    let ids = ids_of(request.user.as_deref()).unwrap_or_default();
    let runtime = shared.runtime.of(&request.id).path;
    let mut context = request::context(&request, runtime, ids, parent);
    let provisioner = shared.config.provisioner.as_ref();
    let provisioner = provisioner.filter(|_| image::wanted(&request).is_some());
    let root = provisioner.and_then(|provisioner| provisioner.known(&request.id));
    // A user that the image does not know any more changes nothing for what runs.
    let home = root.and_then(|root| shared.home(&request, ids, root).ok());
    if let Some(home) = &home {
        context = image::at_home(&context, home);
    }
    let context = Arc::new(context);
    Found { request, context, state, host_pid_namespace, orphan, home }
}

/// Every isolator's handles for every container that is not over, by container.
async fn handles(
    shared: &Shared,
    all: &BTreeMap<String, Found>,
) -> Result<Vec<Vec<Handle>>, ContainerizerError> {
    let mut result: Vec<Vec<Handle>> = all.values().map(|_| Vec::new()).collect();
    for isolator in &shared.isolators.all {
        let mine: Vec<usize> = all
            .values()
            .enumerate()
            .filter(|(_, found)| !matches!(found.state, State::Over(_)))
            .filter(|(_, found)| found.request.id.parent.is_none() || isolator.about().nesting)
            .filter(|(_, found)| {
                !debug::is_guest(&found.request) || debug::concerns(isolator.as_ref())
            })
            .map(|(index, _)| index)
            .collect();
        let founds: Vec<&Found> = all.values().collect();
        let known: Vec<Known> = mine
            .iter()
            .map(|index| Known {
                context: Arc::clone(&founds[*index].context),
                pid: founds[*index].state.pid(),
            })
            .collect();
        let recovered = isolator
            .recover(&known)
            .await
            .map_err(|error| ContainerizerError::Recover(error.chain()))?;
        for leftover in &recovered.leftovers {
            warn!(isolator = isolator.name(), %leftover, "removing what no container claims");
        }
        for (index, isolation) in mine.into_iter().zip(recovered.handles) {
            result[index].push(Handle { isolator: isolator.name(), isolation });
        }
    }
    Ok(result)
}

/// A container that never ran, while what was made for it is removed.
type Fresh = (ContainerId, watch::Receiver<View>);

/// Takes a container over, or begins to end it.
async fn adopt(shared: &Arc<Shared>, found: Found, handles: Vec<Handle>) -> Option<Fresh> {
    let Found { request, context, state, host_pid_namespace, orphan, home } = found;
    let id = request.id.clone();
    if orphan {
        info!(container = %key(&id), "destroying an orphan");
    }
    let pid = state.pid();
    // The last agent had begun to end it because of a limit.
    let ending = shared.runtime.of(&id).read_ending();
    let fresh = matches!(state, State::NeverRan) && !orphan && id.parent.is_none();
    let start = match state {
        State::Over(end) if orphan => {
            drop(end);
            shared.forget(&key(&id), &shared.runtime.of(&id));
            return None;
        }
        State::Over(end) => {
            remember(shared, &request, end, host_pid_namespace);
            return None;
        }
        State::Running(running) if orphan => Start::Bury(Some(running), Cause::Destroyed(None)),
        State::Running(running) => match ending {
            Some(said) => Start::Bury(Some(running), Cause::Destroyed(Some(said))),
            None => Start::Adopt(running),
        },
        State::Gone(end) => match ending {
            Some(mut said) => {
                said.status = end.as_ref().and_then(End::status);
                Start::Bury(None, Cause::Destroyed(Some(said)))
            }
            None => Start::Bury(None, Cause::Exited(end)),
        },
        State::NeverRan => Start::Bury(None, Cause::NeverRan),
        State::Stray(pid) => {
            kernel::proctree::signal(&[pid], libc::SIGKILL);
            Start::Bury(None, Cause::Exited(Some(End::Lost)))
        }
    };
    let birth = Birth { request, context, handles, host_pid_namespace, home, host: None };
    match shared.spawn(birth, start, pid) {
        Ok(view) if orphan => {
            // In the background, as the contract says.
            tokio::spawn(forget_when_over(Arc::clone(shared), id, view));
        }
        Ok(view) if fresh => return Some((id, view)),
        Ok(_) => {}
        Err(error) => warn!(container = %key(&id), %error, "not recovered"),
    }
    None
}

/// Waits until nothing is left of those that never ran, and forgets them. One that
/// takes long is told as ended instead.
async fn cleaned_up(shared: &Arc<Shared>, fresh: Vec<Fresh>) -> Vec<ContainerId> {
    let by = tokio::time::Instant::now() + shared.config.isolators.cgroups_destroy_timeout;
    let mut clean = Vec::new();
    for (id, mut view) in fresh {
        let over = view.wait_for(|view| view.end.is_some());
        if matches!(tokio::time::timeout_at(by, over).await, Ok(Ok(_))) {
            shared.forget(&key(&id), &shared.runtime.of(&id));
            clean.push(id);
        }
    }
    clean
}

async fn forget_when_over(shared: Arc<Shared>, id: ContainerId, mut view: watch::Receiver<View>) {
    if view.wait_for(|view| view.end.is_some()).await.is_ok() {
        shared.forget(&key(&id), &shared.runtime.of(&id));
    }
}

/// Keeps the end of a container for those who ask.
fn remember(shared: &Shared, request: &LaunchRequest, end: Termination, host_pid_namespace: bool) {
    let (commands, _) = tokio::sync::mpsc::channel(1);
    let over = View { end: Some(end), ..View::new(super::Phase::Destroying) };
    let (_, view) = watch::channel(over);
    let door = Door {
        id: request.id.clone(),
        commands,
        view,
        info: request.container.clone(),
        sandbox: request.sandbox.clone(),
        host_pid_namespace,
    };
    shared.table().insert(key(&request.id), door);
}
