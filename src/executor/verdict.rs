//! How a task ended: state, reason and words from what the agent says of its
//! container. Pure; called by [`super::core`].

use mesos::agent::response::WaitNestedContainer;
use mesos::task_status::Reason;
use mesos::{TaskResourceLimitation, TaskState};

/// What is known of the task when its container is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// A kill of the task, of its group or of the executor was under way.
    pub killed: bool,
    /// It was killed for running longer than `max_completion_time`.
    pub overtime: bool,
    /// Why its container was not started.
    pub launch_error: Option<String>,
}

/// The end of a task as reported to the framework.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Verdict {
    pub state: TaskState,
    pub reason: Option<Reason>,
    pub message: Option<String>,
    pub limitation: Option<TaskResourceLimitation>,
}

/// Judges an end. `answer` is the agent's word, `None` when it does not know the
/// container (any more). What the agent says wins over what is seen from here:
/// it knows of limits.
#[must_use]
pub fn of(circumstances: &Circumstances, answer: Option<&WaitNestedContainer>) -> Verdict {
    let Some(answer) = answer else { return without_answer(circumstances) };
    let mut verdict = match answer.exit_status {
        None => Verdict {
            state: TaskState::TaskFailed,
            reason: None,
            message: Some(
                circumstances
                    .launch_error
                    .clone()
                    .unwrap_or_else(|| "Command terminated with unknown status".into()),
            ),
            limitation: None,
        },
        Some(status) => with_status(circumstances, status),
    };
    if let Some(state) = answer.state.and_then(|s| TaskState::try_from(s).ok()) {
        verdict.state = state;
    }
    if let Some(reason) = answer.reason.and_then(|r| Reason::try_from(r).ok()) {
        verdict.reason = Some(reason);
    }
    if let Some(more) = &answer.message {
        verdict.message = Some(match verdict.message {
            Some(message) => format!("{message}: {more}"),
            None => more.clone(),
        });
    }
    verdict.limitation.clone_from(&answer.limitation);
    verdict
}

fn with_status(circumstances: &Circumstances, status: i32) -> Verdict {
    let (state, reason) = if circumstances.overtime {
        (TaskState::TaskFailed, Some(Reason::MaxCompletionTimeReached))
    } else if circumstances.killed {
        (TaskState::TaskKilled, None)
    } else if status == 0 {
        (TaskState::TaskFinished, None)
    } else {
        (TaskState::TaskFailed, None)
    };
    let message = Some(format!("Command {}", describe(status)));
    Verdict { state, reason, message, limitation: None }
}

fn without_answer(circumstances: &Circumstances) -> Verdict {
    let (state, message) = match (&circumstances.launch_error, circumstances.killed) {
        (Some(error), _) => (TaskState::TaskFailed, Some(error.clone())),
        (None, true) => (TaskState::TaskKilled, None),
        (None, false) => (
            TaskState::TaskFailed,
            Some("Unable to retrieve command's termination information".into()),
        ),
    };
    Verdict { state, reason: None, message, limitation: None }
}

/// A wait status in Mesos' words: `exited with status 3`,
/// `terminated with signal Killed`.
#[must_use]
pub fn describe(status: i32) -> String {
    match (status & 0x7f, status & 0x80 != 0) {
        (0, _) => format!("exited with status {}", (status >> 8) & 0xff),
        (signal, core) => {
            let core = if core { " (core dumped)" } else { "" };
            format!("terminated with signal {}{core}", signal_name(signal))
        }
    }
}

/// The C library's description of a signal.
fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 32] = [
        "Unknown signal 0",
        "Hangup",
        "Interrupt",
        "Quit",
        "Illegal instruction",
        "Trace/breakpoint trap",
        "Aborted",
        "Bus error",
        "Floating point exception",
        "Killed",
        "User defined signal 1",
        "Segmentation fault",
        "User defined signal 2",
        "Broken pipe",
        "Alarm clock",
        "Terminated",
        "Stack fault",
        "Child exited",
        "Continued",
        "Stopped (signal)",
        "Stopped",
        "Stopped (tty input)",
        "Stopped (tty output)",
        "Urgent I/O condition",
        "CPU time limit exceeded",
        "File size limit exceeded",
        "Virtual timer expired",
        "Profiling timer expired",
        "Window changed",
        "I/O possible",
        "Power failure",
        "Bad system call",
    ];
    match usize::try_from(signal).ok().and_then(|s| NAMES.get(s)) {
        Some(name) => (*name).to_owned(),
        // The first two real-time signals belong to the C library.
        None => format!("Real-time signal {}", signal - 34),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(status: i32) -> WaitNestedContainer {
        WaitNestedContainer { exit_status: Some(status), ..Default::default() }
    }

    #[test]
    fn wait_statuses_are_worded_as_mesos_words_them() {
        for (status, words) in [
            (0, "exited with status 0"),
            (3 << 8, "exited with status 3"),
            (255 << 8, "exited with status 255"),
            (9, "terminated with signal Killed"),
            (15, "terminated with signal Terminated"),
            (11 | 0x80, "terminated with signal Segmentation fault (core dumped)"),
            (36, "terminated with signal Real-time signal 2"),
        ] {
            assert_eq!(describe(status), words);
        }
    }

    #[test]
    fn states_follow_exit_kill_and_overtime() {
        let calm = Circumstances::default();
        let killed = Circumstances { killed: true, ..Default::default() };
        let late = Circumstances { killed: true, overtime: true, launch_error: None };
        for (circumstances, status, state) in [
            (&calm, 0, TaskState::TaskFinished),
            (&calm, 256, TaskState::TaskFailed),
            (&killed, 15, TaskState::TaskKilled),
            (&killed, 0, TaskState::TaskKilled),
            (&late, 9, TaskState::TaskFailed),
        ] {
            assert_eq!(of(circumstances, Some(&exited(status))).state, state);
        }
        assert_eq!(of(&late, Some(&exited(9))).reason, Some(Reason::MaxCompletionTimeReached));
    }

    #[test]
    fn the_agent_knows_of_limits() {
        let answer = WaitNestedContainer {
            exit_status: Some(9),
            state: Some(TaskState::TaskFailed as i32),
            reason: Some(Reason::ContainerLimitationMemory as i32),
            message: Some("Memory limit exceeded".into()),
            limitation: Some(TaskResourceLimitation::default()),
        };
        let verdict = of(&Circumstances::default(), Some(&answer));
        assert_eq!(verdict.reason, Some(Reason::ContainerLimitationMemory));
        assert_eq!(
            verdict.message.as_deref(),
            Some("Command terminated with signal Killed: Memory limit exceeded")
        );
        assert!(verdict.limitation.is_some());
    }

    #[test]
    fn an_unknown_container_was_killed_or_failed() {
        let killed = Circumstances { killed: true, ..Default::default() };
        assert_eq!(of(&killed, None).state, TaskState::TaskKilled);
        let failed = Circumstances { launch_error: Some("no".into()), ..Default::default() };
        assert_eq!(of(&failed, None).message.as_deref(), Some("no"));
        assert_eq!(of(&Circumstances::default(), None).state, TaskState::TaskFailed);
    }
}
