//! One call of a plugin: a process with a deadline.
//!
//! It leads a process group of its own, which is killed as a whole if the call is too
//! slow or is given up. Its standard error is a file that is locked for as long as any
//! of its processes lives, so that the next agent can wait for a call of a dead one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::outcome::{self, Refusal};

/// Longest answer in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;
/// Longest excerpt of what a plugin says to people, in bytes.
const LONGEST_WORDS: u64 = 512;
/// Between two looks at the lock of a call.
const PAUSE: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// What it is called, if not after the file.
    pub name: Option<String>,
}

/// One call.
#[derive(Debug)]
pub struct Call<'a> {
    /// The plugin.
    pub program: &'a Program,
    /// `ADD`, `DEL`, ...
    pub command: &'static str,
    /// Variables besides `CNI_COMMAND` and `PATH`.
    pub environment: &'a [(&'static str, String)],
    /// On standard input.
    pub input: &'a [u8],
    /// Then it is killed.
    pub deadline: Duration,
    /// Where its words for people go; nowhere if there is no file.
    pub log: Option<&'a Path>,
}

/// Why a call failed.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum CallError {
    #[error("failed to run the CNI plugin '{}'", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("failed to talk to the CNI plugin '{}'", path.display())]
    Talk { path: PathBuf, source: io::Error },
    #[error("the CNI plugin '{}' did not finish {command} within {deadline:?} and was killed", path.display())]
    TooSlow { path: PathBuf, command: &'static str, deadline: Duration },
    #[error("the CNI plugin '{}' answered {command} with more than {LONGEST_ANSWER} bytes", path.display())]
    TooLong { path: PathBuf, command: &'static str },
    #[error("the CNI plugin '{}' failed {command}: {} (code {})", path.display(), refusal.text, refusal.code)]
    Refused { path: PathBuf, command: &'static str, refusal: Refusal },
    #[error("the CNI plugin '{}' failed {command} with {status} and said {words}", path.display())]
    Failed { path: PathBuf, command: &'static str, status: ExitStatus, words: String },
}

impl CallError {
    /// Whether the plugin itself failed, with this text in what it said.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        match self {
            CallError::Refused { refusal, .. } => refusal.text.contains(text),
            CallError::Failed { words, .. } => words.contains(text),
            _ => false,
        }
    }
}

/// A call under way. Dropping it kills the plugin and all that it started.
struct Running {
    child: Child,
    group: Option<u32>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            kernel::proctree::kill_group(group);
        }
    }
}

impl Call<'_> {
    /// Runs it; what it printed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn run(&self) -> Result<Vec<u8>, CallError> {
        let path = || self.program.path.clone();
        let log = self.log.map(open_log).transpose();
        let log = log.map_err(|source| CallError::Start { path: path(), source })?;
        let said_before = log.as_ref().map_or(0, |log| log.metadata().map_or(0, |m| m.len()));
        let mut running = self.start(log.as_ref())?;
        let talk = |source| CallError::Talk { path: path(), source };
        let done = tokio::time::timeout(self.deadline, self.converse(&mut running)).await;
        let (answer, status) = match done {
            Ok(Ok(done)) => done,
            Ok(Err(source)) => return Err(talk(source)),
            Err(_) => {
                let (command, deadline) = (self.command, self.deadline);
                return Err(CallError::TooSlow { path: path(), command, deadline });
            }
        };
        let command = self.command;
        if answer.len() as u64 > LONGEST_ANSWER {
            return Err(CallError::TooLong { path: path(), command });
        }
        if status.success() {
            // What it left behind on purpose lives on.
            running.group = None;
            return Ok(answer);
        }
        if let Some(refusal) = outcome::refusal(&answer) {
            return Err(CallError::Refused { path: path(), command, refusal });
        }
        let words = log.map(|log| words(log, said_before)).unwrap_or_default();
        let words = [words, String::from_utf8_lossy(&answer).into_owned()];
        let words = words.iter().map(|text| text.trim()).find(|text| !text.is_empty());
        let words = words.unwrap_or("nothing").replace('\n', " ");
        Err(CallError::Failed { path: path(), command, status, words })
    }

    fn start(&self, log: Option<&File>) -> Result<Running, CallError> {
        let failed = |source| CallError::Start { path: self.program.path.clone(), source };
        let stderr = match log {
            Some(log) => Stdio::from(log.try_clone().map_err(failed)?),
            None => Stdio::null(),
        };
        let mut command = Command::new(&self.program.path);
        if let Some(name) = &self.program.name {
            command.arg0(name);
        }
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
            .env("CNI_COMMAND", self.command)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(failed)?;
        let group = child.id();
        Ok(Running { child, group })
    }

    /// Tells it its configuration and hears its answer.
    async fn converse(&self, running: &mut Running) -> io::Result<(Vec<u8>, ExitStatus)> {
        let stdin = running.child.stdin.take();
        let stdout = running.child.stdout.take();
        let tell = async {
            let Some(mut stdin) = stdin else { return Ok(()) };
            match stdin.write_all(self.input).await {
                // It ended without listening: its status says more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                told => told,
            }
        };
        let hear = async {
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(LONGEST_ANSWER + 1).read_to_end(&mut answer).await?;
            }
            Ok(answer)
        };
        let (told, heard) = tokio::join!(tell, hear);
        told?;
        let answer: io::Result<Vec<u8>> = heard;
        Ok((answer?, running.child.wait().await?))
    }
}

/// For plugins of an agent that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Opens a log and locks it for as long as the file, or a copy of it, is open.
///
/// # Errors
/// As `open`.
pub fn open_log(path: &Path) -> io::Result<File> {
    let log = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    // If something of an earlier call holds it, that one will be waited for.
    let _ = log.try_lock();
    Ok(log)
}

/// The end of what was said after the first `before` bytes.
fn words(mut log: File, before: u64) -> String {
    let end = log.metadata().map_or(0, |metadata| metadata.len());
    let from = before.max(end.saturating_sub(LONGEST_WORDS));
    let mut bytes = Vec::new();
    let read = log
        .seek(SeekFrom::Start(from))
        .and_then(|_| log.take(LONGEST_WORDS).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// Waits until no process of an earlier call lives that wrote to `log`; whether that
/// was so within `patience`.
pub async fn quiet(log: &Path, patience: Duration) -> bool {
    let Ok(file) = File::open(log) else { return true };
    let free = async {
        while file.try_lock().is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(patience, free).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    /// A plugin that is a script, in a directory that is removed with it.
    struct Script(PathBuf);

    impl Script {
        fn new(name: &str, body: &str) -> Script {
            let dir = std::env::temp_dir().join(format!("cni-exec-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            // Written by a child: nobody here may have it open for writing when it is run.
            let file = dir.join("plugin");
            std::fs::write(dir.join("text"), format!("#!/bin/sh\n{body}\n")).unwrap();
            let copied = std::process::Command::new("cp").arg(dir.join("text")).arg(&file).status();
            assert!(copied.unwrap().success());
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            Script(dir)
        }

        async fn run(&self, deadline: Duration) -> Result<String, String> {
            let program = Program { path: self.0.join("plugin"), name: None };
            let call = Call {
                program: &program,
                command: "ADD",
                environment: &[("CNI_IFNAME", "eth0".into())],
                input: b"{}",
                deadline,
                log: Some(&self.0.join("log")),
            };
            let answer = call.run().await.map_err(|error| kernel::chain(&error))?;
            Ok(String::from_utf8(answer).unwrap())
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_plugin_is_told_and_heard() {
        let script = Script::new("told", r#"echo "$CNI_COMMAND $CNI_IFNAME $(cat)""#);
        assert_eq!(script.run(LONG).await.unwrap(), "ADD eth0 {}\n");
        // One that does not listen is heard all the same.
        let deaf = Script::new("deaf", "exec <&-; echo yes");
        assert_eq!(deaf.run(LONG).await.unwrap(), "yes\n");
    }

    #[tokio::test]
    async fn failures_say_what_the_plugin_said() {
        let refused = Script::new("no", r#"echo '{"code":7,"msg":"no","details":"bad"}'; exit 1"#);
        let error = refused.run(LONG).await.unwrap_err();
        assert!(error.ends_with("failed ADD: no (bad) (code 7)"), "{error}");
        let loud = Script::new("loud", "echo one >&2; echo two >&2; exit 3");
        let error = loud.run(LONG).await.unwrap_err();
        assert!(error.ends_with("with exit status: 3 and said one two"), "{error}");
        let silent = Script::new("silent", "kill -9 $$");
        let error = silent.run(LONG).await.unwrap_err();
        assert!(error.contains("signal: 9") && error.ends_with("and said nothing"), "{error}");
        let program = Program { path: "/nonexistent".into(), name: None };
        let call = Call {
            program: &program,
            command: "ADD",
            environment: &[],
            input: b"",
            deadline: LONG,
            log: None,
        };
        let error = kernel::chain(&call.run().await.unwrap_err());
        assert!(error.starts_with("failed to run the CNI plugin '/nonexistent': "), "{error}");
        let endless = Script::new("endless", "exec yes");
        assert!(endless.run(LONG).await.unwrap_err().contains("more than"));
    }

    #[tokio::test]
    async fn who_hangs_is_killed_with_its_children_and_can_be_waited_for() {
        let script = Script::new("hang", "sleep 1000 & sleep 1000");
        let error = script.run(Duration::from_millis(300)).await.unwrap_err();
        assert!(error.contains("did not finish ADD within 300ms"), "{error}");
        // The lock is free when both are gone.
        assert!(quiet(&script.0.join("log"), LONG).await);
        let slow = Script::new("slow", "sleep 0.3 & echo");
        let start = Instant::now();
        // Its child holds the log beyond its end.
        slow.run(LONG).await.unwrap();
        assert!(quiet(&slow.0.join("log"), LONG).await);
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
}
