//! Launching: everything that can fail is prepared, then the engine runs the plan.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isolators::api::Command;
use isolators::merge::{Base, Merged, merge};
use isolators::plan::{LaunchPlan, Stdio};
use isolators::runtime::users::Identity;
use kernel::failpoint;
use oci_spec::runtime::Process;

use super::container::{Container, Phase};
use super::image::Home;
use super::terminal::ask;
use super::{chain, debug, request};
use crate::containerizer::request::command_environment;
use crate::containerizer::streams::append;
use crate::containerizer::table::Failure;
use crate::containerizer::{Class, Output, runtime, terminal, uris};
use crate::logs::order;

fn failure(step: &'static str, message: impl Into<String>) -> Failure {
    Failure { step, message: message.into() }
}

impl Container {
    /// Launches; the first process' pid. After an error `finish` must follow.
    pub(super) async fn start(&mut self) -> Result<u32, Failure> {
        failpoint!("launch.begin");
        self.dir.create().map_err(|e| failure("checkpoint", chain(&e)))?;
        self.provision().await?;
        self.keep_config()?;
        failpoint!("launch.configured");
        let merged = self.prepare().await?;
        failpoint!("launch.prepared");
        self.enter(Phase::Fetching);
        uris::fetch(&self.shared.fetcher, &self.request, &|far| self.is_at(far)).await?;
        self.shared.plugins.hooks.fetched(&self.request).await?;
        failpoint!("launch.fetched");
        self.enter(Phase::Isolating);
        let plan = self.plan(merged)?;
        self.execute(&plan).await
    }

    /// Keeps what it is launched with, for an agent that finds it.
    pub(super) fn keep_config(&self) -> Result<(), Failure> {
        let mut config = runtime::config_of(&self.request);
        if let Some(Home { root, .. }) = &self.home {
            config.rootfs = Some(root.path.display().to_string());
            config.ephemeral_volumes =
                root.ephemeral.iter().map(|path| path.display().to_string()).collect();
        }
        self.dir.write_config(&config).map_err(|e| failure("checkpoint", chain(&e)))
    }

    /// All isolators in table order, and what they say in one plan.
    async fn prepare(&mut self) -> Result<Merged, Failure> {
        self.enter(Phase::Preparing);
        let mut contributions = Vec::with_capacity(self.handles.len());
        for handle in &mut self.handles {
            let part = handle.isolation.prepare().await;
            let part = part.map_err(|e| failure("prepare", e.chain()))?;
            contributions.push((handle.isolator, part));
        }
        if let Some(parent) = self.context.parent.as_ref().filter(|_| self.is_guest()) {
            let part = debug::namespaces(parent.pid);
            contributions.push(("debug", part.map_err(|text| failure("prepare", text))?));
        }
        let base = self.base().map_err(|text| failure("prepare", text))?;
        merge(base, contributions).map_err(|e| failure("prepare", e.to_string()))
    }

    fn base(&self) -> Result<Base, String> {
        let request = &self.request;
        let rootfs = self.context.rootfs.as_deref();
        let directory = &self.shared.config.isolators.sandbox_directory;
        let user = match (self.identity(), &request.user) {
            (Some(who), _) => (who.uid, who.gid, who.groups.clone()),
            (None, None) => kernel::proctree::own_ids(),
            (None, Some(name)) => {
                let user = kernel::users::by_name(name).map_err(|e| chain(&e))?;
                let user = user.ok_or_else(|| format!("user '{name}' does not exist"))?;
                (user.uid, user.gid, kernel::users::groups(&user).map_err(|e| chain(&e))?)
            }
        };
        let mut environment = request::base_environment(request, directory, rootfs);
        if let Some(home) = self.home.as_ref().and_then(|home| home.directory.clone()) {
            environment.insert("HOME".into(), home);
        }
        let mut working_directory = rootfs.map_or(&request.sandbox, |_| directory).clone();
        if let Some(parent) = self.context.parent.as_ref().filter(|_| self.is_guest()) {
            environment = debug::environment(parent.pid)?;
            if let Some(sandbox) = environment.get("MESOS_SANDBOX") {
                working_directory = sandbox.into();
            }
        }
        Ok(Base {
            command: self.command()?,
            environment,
            command_environment: command_environment(
                &request.command,
                &self.shared.config.isolators.secrets,
            )?,
            working_directory,
            user: Some(user),
            rootfs: self.context.rootfs.clone(),
        })
    }

    /// What is executed, unless an image says so.
    fn command(&self) -> Result<Command, String> {
        if self.home.is_some() && self.shared.heeds_images() {
            return Ok(Command::default());
        }
        let (executable, arguments) = request::command(&self.request.command)?;
        Ok(Command { executable, arguments })
    }

    /// Who it is in an image. A guest that asks for no user is whoever its host is.
    fn identity(&self) -> Option<&Identity> {
        let host = self.host.as_ref().filter(|_| self.request.command.user.is_none());
        self.home.as_ref().and_then(|home| home.identity.as_ref()).or(host)
    }

    fn plan(&mut self, mut merged: Merged) -> Result<LaunchPlan, Failure> {
        let terminal = terminal::wanted(&self.request).map_err(|text| failure("terminal", text))?;
        if let Some(window) = terminal {
            ask(&mut merged.spec, window);
        }
        let parent = self.context.parent.as_ref().map(|parent| parent.runtime.as_path());
        let opened = match &self.request.class {
            Class::Default => stdio(&self.request.sandbox, self.context.ids),
            Class::Debug(output) => guests_stdio(output, &self.request.sandbox, parent),
        };
        let mut stdio = opened.map_err(|(path, error)| {
            failure("open", format!("failed to open '{path}': {error}"))
        })?;
        let shared = Arc::clone(&self.shared);
        if let Some(logs) = shared.config.logs.as_ref().filter(|_| !self.is_guest()) {
            [stdio.stdout, stdio.stderr] = self.make_pipes(logs)?;
        }
        Ok(LaunchPlan {
            spec: merged.spec,
            executable: merged.executable,
            overlay: self.home.as_ref().and_then(|home| home.root.overlay.clone()),
            ready: self.home.as_mut().and_then(|home| home.root.ready.take()),
            cgroups: merged.cgroups,
            wild: self.wild(merged.wild),
            file_operations: merged.file_operations,
            system_calls: merged.system_calls,
            oom_score_adj: merged.oom_score_adj,
            stdio,
            wait_for: merged.wait_for,
        })
    }

    /// The sandboxes that this container's volumes have to do with, and `more`. A
    /// nested one is usually below its parent's.
    fn wild(&self, more: Vec<PathBuf>) -> Vec<PathBuf> {
        let parent = self.context.parent.as_ref().map(|parent| parent.sandbox.clone());
        parent.into_iter().chain([self.request.sandbox.clone()]).chain(more).collect()
    }

    pub(super) fn is_guest(&self) -> bool {
        debug::is_guest(&self.request)
    }

    async fn execute(&mut self, plan: &LaunchPlan) -> Result<u32, Failure> {
        self.watch_pipes().await?;
        // Watched before it runs, so that nothing is missed.
        self.watches.extend(self.handles.iter_mut().filter_map(|h| h.isolation.watch()));
        let launched = self.shared.launcher.launch(plan, &self.dir.record()).await;
        let launching = launched.map_err(|e| engine_failure(&e))?;
        failpoint!("launch.waiting");
        let pid = launching.pid();
        let process = plan.spec.process().as_ref();
        let has_terminal = process.and_then(Process::terminal) == Some(true);
        for handle in &mut self.handles {
            let isolated = handle.isolation.isolate(pid).await;
            isolated.map_err(|e| failure("isolate", e.chain()))?;
        }
        failpoint!("launch.isolated");
        if has_terminal {
            let taken = launching.terminal().and_then(|taken| self.take_terminal(taken));
            let text = |error| format!("failed to take the container's terminal: {error}");
            taken.map_err(|error| failure("terminal", text(error)))?;
        }
        let running = launching.release().await.map_err(|e| engine_failure(&e))?;
        self.running = Some(running);
        failpoint!("launch.released");
        self.dir.write_pid(pid).map_err(|e| failure("checkpoint", chain(&e)))?;
        failpoint!("launch.pid");
        self.observe(pid);
        Ok(pid)
    }
}

fn engine_failure(error: &crate::launch::LaunchError) -> Failure {
    let step = error.step().map_or("launch", crate::launch::Step::name);
    failure(step, chain(error))
}

/// The container's standard streams: nothing to read, and `stdout` and `stderr` of
/// the sandbox, which belong to the user.
fn stdio(sandbox: &Path, ids: Option<(u32, u32)>) -> Result<Stdio, (String, io::Error)> {
    let open = |name: &str| {
        let path = sandbox.join(name);
        append(&path, ids).map_err(|error| (path.display().to_string(), error))
    };
    let null = File::open("/dev/null").map_err(|error| ("/dev/null".to_owned(), error))?;
    Ok(Stdio { stdin: null.into(), stdout: open("stdout")?, stderr: open("stderr")? })
}

/// The streams of a guest; `parent` is its parent's runtime directory.
fn guests_stdio(
    output: &Output,
    sandbox: &Path,
    parent: Option<&Path>,
) -> Result<Stdio, (String, io::Error)> {
    match output {
        Output::ParentsStderr => {
            let null = File::open("/dev/null").map_err(|e| ("/dev/null".to_owned(), e))?;
            let pipe = parent.map(|runtime| order::pipe(runtime, "stderr"));
            let (path, opened) = match pipe.filter(|pipe| pipe.exists()) {
                Some(pipe) => (pipe.clone(), kernel::pipe::writer(&pipe)),
                None => (sandbox.join("stderr"), append(&sandbox.join("stderr"), None)),
            };
            let opened = opened.and_then(|file| Ok((file.try_clone()?, file)));
            let (stdout, stderr) = opened.map_err(|e| (path.display().to_string(), e))?;
            Ok(Stdio { stdin: null.into(), stdout, stderr })
        }
        Output::Terminal(_) => {
            let null = || File::options().read(true).write(true).open("/dev/null");
            let open = || null().map(OwnedFd::from).map_err(|e| ("/dev/null".to_owned(), e));
            Ok(Stdio { stdin: open()?, stdout: open()?, stderr: open()? })
        }
        Output::Pipes(pipes) => {
            let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| ("a pipe".to_owned(), e));
            let [stdin, stdout, stderr] = &**pipes;
            Ok(Stdio { stdin: copy(stdin)?, stdout: copy(stdout)?, stderr: copy(stderr)? })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_appended_and_never_through_a_link() {
        let dir = std::env::temp_dir().join(format!("stdio-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("stdout"), "before\n").unwrap();
        drop(stdio(&dir, None).unwrap());
        assert_eq!(std::fs::read(dir.join("stdout")).unwrap(), b"before\n");
        std::fs::remove_file(dir.join("stderr")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("stderr")).unwrap();
        let (path, _) = stdio(&dir, None).unwrap_err();
        assert!(path.ends_with("stderr"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
