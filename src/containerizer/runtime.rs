//! The runtime directory: what is kept of every container while the machine is up.
//!
//! ```text
//! <runtime_dir>/containers/<id>/
//!     config        ContainerConfig: what was asked (Mesos' format)
//!     record        exit record of the shim (src/launch)
//!     pid           of the first process, in decimal (Mesos' format)
//!     ending        ContainerTermination: which limit was hit, until it has ended
//!     status        its wait status, in decimal (Mesos' format)
//!     termination   ContainerTermination: how it ended (Mesos' format)
//!     containers/<child>/...
//! ```
//!
//! Files are replaced whole. Their directory is the only place that the
//! containerizer keeps anything in; the kernel knows the rest.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use isolators::cgroups::is_container_name;
use mesos::secrets::Secretive;
use mesos::slave::{ContainerClass, ContainerConfig, ContainerTermination};
use mesos::{ContainerId, value};
use prost::Message;
use thiserror::Error;

use crate::containerizer::{Class, LaunchRequest, Output, Termination};

/// A file of the runtime directory could not be used.
#[derive(Debug, Error)]
#[error("failed to {verb} '{}'", path.display())]
pub(super) struct RuntimeError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_path_buf();
    move |source| RuntimeError { verb, path, source }
}

/// `<runtime_dir>/containers`.
#[derive(Debug, Clone)]
pub(super) struct RuntimeDir {
    root: PathBuf,
}

impl RuntimeDir {
    pub(super) fn new(runtime_dir: &Path) -> RuntimeDir {
        RuntimeDir { root: runtime_dir.join("containers") }
    }

    pub(super) fn create(&self) -> Result<(), RuntimeError> {
        fs::create_dir_all(&self.root).map_err(failed("create", &self.root))
    }

    /// The directory of a container.
    pub(super) fn of(&self, id: &ContainerId) -> ContainerDir {
        let path = match &id.parent {
            Some(parent) => self.of(parent).path.join("containers").join(&id.value),
            None => self.root.join(&id.value),
        };
        ContainerDir { path }
    }

    /// Where the containers' directories are.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// Every container that has a directory, parents before children.
    pub(super) fn scan(&self) -> Vec<ContainerId> {
        let mut found = Vec::new();
        scan(&self.root, None, &mut found);
        found
    }
}

fn scan(dir: &Path, parent: Option<&ContainerId>, found: &mut Vec<ContainerId>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let Ok(value) = entry.file_name().into_string() else { continue };
        let id = ContainerId { value, parent: parent.cloned().map(Box::new) };
        found.push(id.clone());
        scan(&entry.path().join("containers"), Some(&id), found);
    }
}

/// Whether the directory is a container's: what is written first is in it, or it died
/// before that.
pub(super) fn is_ours(path: &Path) -> bool {
    let named = path.file_name().and_then(|name| name.to_str()).is_some_and(is_container_name);
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    MARKS.iter().any(|name| path.join(name).exists()) || (named && empty())
}

/// Files that tell a container's directory.
const MARKS: [&str; 4] = ["config", ".config", "record", "termination"];

/// Removes a file or a directory; one that is gone is fine.
fn gone(path: PathBuf) -> Result<(), RuntimeError> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub(super) struct ContainerDir {
    pub(super) path: PathBuf,
}

impl ContainerDir {
    pub(super) fn create(&self) -> Result<(), RuntimeError> {
        fs::create_dir_all(&self.path).map_err(failed("create", &self.path))
    }

    /// Removes it and all in it; one that is gone is fine. What tells that it is a
    /// container's goes last: the agent may die in between.
    pub(super) fn remove(&self) -> Result<(), RuntimeError> {
        let marks = |name: &OsStr| MARKS.iter().any(|mark| name == *mark);
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if !marks(&entry.file_name()) {
                gone(entry.path())?;
                kernel::failpoint!("forget.half");
            }
        }
        gone(self.path.clone())
    }

    /// The shim's record.
    pub(super) fn record(&self) -> PathBuf {
        self.path.join("record")
    }

    pub(super) fn write_config(&self, config: &ContainerConfig) -> Result<(), RuntimeError> {
        self.write("config", &framed(config))
    }

    pub(super) fn read_config(&self) -> Result<ContainerConfig, RuntimeError> {
        self.read("config")
    }

    pub(super) fn write_pid(&self, pid: u32) -> Result<(), RuntimeError> {
        self.write("pid", pid.to_string().as_bytes())
    }

    pub(super) fn write_end(&self, termination: &Termination) -> Result<(), RuntimeError> {
        let status = termination.status.map(|status| status.to_string()).unwrap_or_default();
        self.write("status", status.as_bytes())?;
        kernel::failpoint!("destroy.status");
        self.write("termination", &framed(&to_proto(termination)))
    }

    /// Keeps why it is being destroyed: what tells it may be gone before the end is
    /// written.
    pub(super) fn write_ending(&self, said: &Termination) -> Result<(), RuntimeError> {
        self.write("ending", &framed(&to_proto(said)))
    }

    /// Why it was being destroyed when the agent died, if a limit was hit.
    pub(super) fn read_ending(&self) -> Option<Termination> {
        self.read::<ContainerTermination>("ending").ok().map(from_proto)
    }

    /// How it ended; `None` if it has not, or if the file does not say.
    pub(super) fn read_end(&self) -> Option<Termination> {
        self.read::<ContainerTermination>("termination").ok().map(from_proto)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RuntimeError> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!(".{name}")));
        fs::write(&temporary, bytes).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(failed("write", &path))
    }

    fn read<M: Message + Default>(&self, name: &str) -> Result<M, RuntimeError> {
        let path = self.path.join(name);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let bad =
            |text: &str| failed("read", &path)(io::Error::new(io::ErrorKind::InvalidData, text));
        let (size, body) =
            bytes.split_first_chunk::<4>().ok_or_else(|| bad("it is shorter than its header"))?;
        if u32::from_le_bytes(*size) as usize != body.len() {
            return Err(bad("it is truncated"));
        }
        M::decode(body).map_err(|error| bad(&error.to_string()))
    }
}

/// A message after its size, as Mesos checkpoints.
fn framed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let size = u32::try_from(length).expect("a checkpointed message is far below 4 GB");
    let mut bytes = Vec::with_capacity(length + 4);
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

fn to_proto(termination: &Termination) -> ContainerTermination {
    ContainerTermination {
        status: termination.status,
        state: termination.state.map(|state| state as i32),
        reason: termination.reasons.first().map(|reason| *reason as i32),
        message: termination.message.clone(),
        limited_resources: termination.limited_resources.clone(),
    }
}

fn from_proto(message: ContainerTermination) -> Termination {
    Termination {
        status: message.status,
        state: message.state.and_then(|state| state.try_into().ok()),
        reasons: message.reason.and_then(|reason| reason.try_into().ok()).into_iter().collect(),
        message: message.message,
        limited_resources: message.limited_resources,
    }
}

/// What is asked, for the checkpoint: without the values of secrets, which no file
/// may hold.
pub(super) fn config_of(request: &LaunchRequest) -> ContainerConfig {
    ContainerConfig {
        executor_info: request.executor.without_secrets(),
        task_info: request.task.without_secrets(),
        command_info: request.command.without_secrets(),
        container_info: request.container.without_secrets(),
        resources: request.requests.clone(),
        limits: request
            .limits
            .iter()
            .map(|(name, value)| (name.clone(), value::Scalar { value: *value }))
            .collect(),
        directory: request.sandbox.display().to_string(),
        user: request.user.clone(),
        container_class: match request.class {
            Class::Default => None,
            Class::Debug(_) => Some(ContainerClass::Debug as i32),
        },
        ..ContainerConfig::default()
    }
}

/// The request that a checkpoint tells of; the agent's environment is not in it,
/// nor is it needed any more.
pub(super) fn request_of(id: ContainerId, config: ContainerConfig) -> LaunchRequest {
    let class = match config.container_class() {
        ContainerClass::Default => Class::Default,
        ContainerClass::Debug => Class::Debug(Output::ParentsStderr),
    };
    LaunchRequest {
        id,
        command: config.command_info,
        container: config.container_info,
        requests: config.resources,
        limits: config.limits.into_iter().map(|(name, scalar)| (name, scalar.value)).collect(),
        sandbox: config.directory.into(),
        user: config.user,
        environment: std::collections::BTreeMap::new(),
        framework_id: config.executor_info.as_ref().and_then(|e| e.framework_id.clone()),
        executor: config.executor_info,
        task: config.task_info,
        class,
    }
}

#[cfg(test)]
mod tests {
    use mesos::TaskState;
    use mesos::task_status::Reason;

    use super::*;
    use crate::containerizer::request::tests::request;

    #[test]
    fn what_is_written_is_read_back() {
        let root = std::env::temp_dir().join(format!("runtime-{}", std::process::id()));
        let runtime = RuntimeDir::new(&root);
        runtime.create().unwrap();
        let parent = ContainerId { value: "a".into(), parent: None };
        let child = ContainerId { value: "b".into(), parent: Some(Box::new(parent.clone())) };
        let dir = runtime.of(&child);
        dir.create().unwrap();
        assert!(dir.path.ends_with("containers/a/containers/b"));
        assert_eq!(runtime.scan(), [parent, child.clone()]);

        let mut asked = request("b", mesos::CommandInfo::default());
        asked.id = child.clone();
        asked.limits.insert("mem".into(), f64::INFINITY);
        dir.write_config(&config_of(&asked)).unwrap();
        let back = request_of(child.clone(), dir.read_config().unwrap());
        assert_eq!(
            (&back.id, &back.limits, &back.sandbox),
            (&child, &asked.limits, &asked.sandbox)
        );

        assert_eq!((dir.read_end(), dir.read_ending()), (None, None));
        let end = Termination {
            status: Some(9),
            state: Some(TaskState::TaskFailed),
            reasons: vec![Reason::ContainerLimitationMemory],
            message: Some("too much".into()),
            limited_resources: vec![isolators::quantity::scalar("mem", 64.0)],
        };
        dir.write_ending(&end).unwrap();
        assert_eq!((dir.read_end(), dir.read_ending()), (None, Some(end.clone())));
        dir.write_end(&end).unwrap();
        assert_eq!(dir.read_end(), Some(end));
        fs::write(dir.path.join("config"), b"\x09\x00\x00\x00x").unwrap();
        assert!(dir.read_config().is_err());
        dir.remove().unwrap();
        dir.remove().unwrap();
        fs::remove_dir_all(&root).unwrap();
    }
}
