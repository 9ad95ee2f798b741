//! Words for logs and statuses.

use mesos::TaskInfo;

use super::event::Inbound;

/// The message's name in Mesos, for logs.
pub(super) fn inbound(message: &Inbound) -> &'static str {
    match message {
        Inbound::SlaveRegistered(_) => "SlaveRegisteredMessage",
        Inbound::SlaveReregistered(_) => "SlaveReregisteredMessage",
        Inbound::Drain(_) => "DrainSlaveMessage",
        Inbound::Ping(_) => "PingSlaveMessage",
        Inbound::Shutdown(_) => "ShutdownMessage",
        Inbound::RunTask(_) => "RunTaskMessage",
        Inbound::RunTaskGroup(_) => "RunTaskGroupMessage",
        Inbound::KillTask(_) => "KillTaskMessage",
        Inbound::ShutdownExecutor(_) => "ShutdownExecutorMessage",
        Inbound::ShutdownFramework(_) => "ShutdownFrameworkMessage",
        Inbound::UpdateFramework(_) => "UpdateFrameworkMessage",
        Inbound::FrameworkToExecutor(_) => "FrameworkToExecutorMessage",
        Inbound::Acknowledgement(_) => "StatusUpdateAcknowledgementMessage",
        Inbound::ApplyOperation(_) => "ApplyOperationMessage",
        Inbound::AcknowledgeOperation(_) => "AcknowledgeOperationStatusMessage",
        Inbound::ReconcileOperations(_) => "ReconcileOperationsMessage",
        Inbound::CheckpointResources(_) => "CheckpointResourcesMessage",
        Inbound::RegisterExecutor(_) => "RegisterExecutorMessage",
        Inbound::ReregisterExecutor(_) => "ReregisterExecutorMessage",
        Inbound::StatusUpdate(_) => "StatusUpdateMessage",
        Inbound::ExecutorToFramework(_) => "ExecutorToFrameworkMessage",
    }
}

/// The name of the executor made up for a command task, as Mesos words it:
/// commands longer than 15 characters are cut to 12.
pub(super) fn command_executor(task: &TaskInfo) -> String {
    let command = task.command.clone().unwrap_or_default();
    let shown = match (&command.value, command.shell()) {
        (None, true) => "NO COMMAND".to_owned(),
        (None, false) => "NO EXECUTABLE".to_owned(),
        (Some(value), true) => format!("sh -c '{}'", cut(value)),
        (Some(value), false) => {
            format!("[{}]", cut(&format!("{value}, {}", command.arguments.join(", "))))
        }
    };
    format!("Command Executor (Task: {}) (Command: {shown})", task.task_id.value)
}

fn cut(text: &str) -> String {
    if text.len() > 15 {
        let kept: String = text.chars().take(12).collect();
        format!("{kept}...")
    } else {
        text.to_owned()
    }
}

/// What `wait` says in words: "exited with status 3", "terminated with signal
/// Killed".
pub(in crate::agent) fn wait_status(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("exited with status {}", (status >> 8) & 0xff);
    }
    let core = if status & 0x80 != 0 { " (core dumped)" } else { "" };
    format!("terminated with signal {}{core}", signal_name(signal))
}

/// As `strsignal(3)` of glibc says.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "Hangup",
        2 => "Interrupt",
        3 => "Quit",
        4 => "Illegal instruction",
        5 => "Trace/breakpoint trap",
        6 => "Aborted",
        7 => "Bus error",
        8 => "Floating point exception",
        9 => "Killed",
        10 => "User defined signal 1",
        11 => "Segmentation fault",
        12 => "User defined signal 2",
        13 => "Broken pipe",
        14 => "Alarm clock",
        15 => "Terminated",
        16 => "Stack fault",
        24 => "CPU time limit exceeded",
        25 => "File size limit exceeded",
        31 => "Bad system call",
        other if other >= 34 => return format!("Real-time signal {}", other - 34),
        other => return format!("Unknown signal {other}"),
    };
    name.to_owned()
}

/// A time span in the words of Mesos' flags, e.g. `1mins`, `2secs`, `1500ms`.
pub(in crate::agent) fn duration(span: std::time::Duration) -> String {
    const UNITS: [(u128, &str); 8] = [
        (7 * 86_400_000_000_000, "weeks"),
        (86_400_000_000_000, "days"),
        (3_600_000_000_000, "hrs"),
        (60_000_000_000, "mins"),
        (1_000_000_000, "secs"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let nanos = span.as_nanos();
    let (size, unit) = UNITS
        .into_iter()
        .find(|(size, _)| nanos >= *size && nanos.is_multiple_of(*size))
        .unwrap_or((1, "ns"));
    format!("{}{unit}", nanos / size)
}

#[cfg(test)]
mod tests {
    use mesos::{CommandInfo, TaskId};

    use super::*;

    fn task(value: &str, arguments: &[&str]) -> TaskInfo {
        TaskInfo {
            task_id: TaskId { value: "t".into() },
            command: Some(CommandInfo {
                shell: Some(arguments.is_empty()),
                value: Some(value.into()),
                arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
                ..CommandInfo::default()
            }),
            ..TaskInfo::default()
        }
    }

    #[test]
    fn command_executors_are_named_as_recorded() {
        for (task, name) in [
            (task("true", &[]), "Command Executor (Task: t) (Command: sh -c 'true')"),
            (
                task("echo x > path", &[]),
                "Command Executor (Task: t) (Command: sh -c 'echo x > path')",
            ),
            (
                task("echo out; echo err", &[]),
                "Command Executor (Task: t) (Command: sh -c 'echo out; ec...')",
            ),
            (
                task("/bin/no-such-binary", &["a"]),
                "Command Executor (Task: t) (Command: [/bin/no-such...])",
            ),
        ] {
            assert_eq!(command_executor(&task), name);
        }
    }

    #[test]
    fn exits_are_worded_as_recorded() {
        for (status, words) in [
            (0, "exited with status 0"),
            (3 << 8, "exited with status 3"),
            (15, "terminated with signal Terminated"),
            (9, "terminated with signal Killed"),
            (11 | 0x80, "terminated with signal Segmentation fault (core dumped)"),
        ] {
            assert_eq!(wait_status(status), words);
        }
    }

    #[test]
    fn durations_use_the_largest_whole_unit() {
        use std::time::Duration;
        for (span, words) in [
            (Duration::from_secs(60), "1mins"),
            (Duration::from_secs(2), "2secs"),
            (Duration::from_millis(1500), "1500ms"),
        ] {
            assert_eq!(duration(span), words);
        }
    }
}
