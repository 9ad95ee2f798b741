//! An [`Inspection`] for people: one thing per line, indented below what it belongs
//! to.

use super::{Agent, Executor, Framework, Inspection, Operation, Run, Task};

pub(super) fn render(found: &Inspection) -> Vec<String> {
    let mut out = Lines(Vec::new());
    out.add(0, format!("work directory {}", found.work_dir.display()));
    match &found.boot_id {
        None => out.add(1, "no agent has started here, or it could not say so".to_owned()),
        Some(_) if found.rebooted => {
            out.add(1, "the machine was started again since: nothing below runs".to_owned());
        }
        Some(_) => {}
    }
    match &found.agent {
        Some(agent) => out.agent(agent),
        None => out.add(1, "no agent id in use".to_owned()),
    }
    for id in &found.other_agents {
        out.add(1, format!("agent {id}, no longer used"));
    }
    let resources = &found.resources;
    for (what, list) in [
        ("checkpointed resource", &resources.checkpointed),
        ("resource being checkpointed", &resources.target),
    ] {
        list.iter().for_each(|one| out.add(1, format!("{what} {one}")));
    }
    resources.operations.iter().for_each(|operation| out.operation(operation));
    let bytes: u64 = found.garbage.iter().filter_map(|g| g.item.bytes).sum();
    out.add(
        1,
        format!(
            "{} directories wait for garbage collection ({bytes} bytes known), {} are being deleted",
            found.garbage.len(),
            found.trash
        ),
    );
    out.add(1, format!("{} files are reserved for a full disk", found.reserve_files));
    match found.problems.len() {
        0 => out.add(1, "nothing is damaged".to_owned()),
        count => out.add(1, format!("{count} damaged:")),
    }
    for problem in &found.problems {
        let at = problem.offset.map_or(String::new(), |at| format!(" at byte {at}"));
        out.add(2, format!("{}{at}: {}", problem.path.display(), problem.what));
        out.add(3, problem.outcome.words().to_owned());
    }
    out.0
}

struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, depth: usize, line: String) {
        self.0.push(format!("{:1$}{line}", "", depth * 2));
    }

    fn operation(&mut self, operation: &Operation) {
        let Operation { uuid, kind, state, .. } = operation;
        let name = operation.id.as_deref().map_or(String::new(), |id| format!(" \"{id}\""));
        let of = match &operation.framework {
            Some(framework) => format!(" of framework {framework}"),
            None => " of an operator".to_owned(),
        };
        let heard = match (operation.acknowledged, operation.logged) {
            (true, _) => "acknowledged, will be forgotten",
            (false, true) => "not acknowledged",
            (false, false) => "not in its log yet, will be told",
        };
        self.add(1, format!("operation {uuid}{name} {kind}{of}: {state}, {heard}"));
        if let Some(message) = &operation.message {
            self.add(2, message.clone());
        }
    }

    fn agent(&mut self, agent: &Agent) {
        let port = agent.port.map_or(String::new(), |port| format!(":{port}"));
        self.add(1, format!("agent {} on {}{port}", agent.id, agent.hostname));
        if !agent.resources.is_empty() {
            self.add(2, format!("offers {}", agent.resources.join("; ")));
        }
        agent.frameworks.iter().for_each(|framework| self.framework(framework));
    }

    fn framework(&mut self, framework: &Framework) {
        let name = framework.name.as_deref().unwrap_or("(cannot be read)");
        let speaks = match &framework.pid {
            Some(pid) => format!("V0 at {pid}"),
            None => "v1".to_owned(),
        };
        let user = framework.user.as_deref().unwrap_or("?");
        self.add(2, format!("framework {} \"{name}\", user {user}, {speaks}", framework.id));
        framework.executors.iter().for_each(|executor| self.executor(executor));
    }

    fn executor(&mut self, executor: &Executor) {
        let kind = if executor.generated { "command task" } else { "executor" };
        self.add(3, format!("{kind} {}", executor.id));
        executor.runs.iter().for_each(|run| self.run(run));
    }

    fn run(&mut self, run: &Run) {
        let mut facts = vec![if run.completed { "over" } else { "not over" }.to_owned()];
        if !run.latest {
            facts.push("not the latest".to_owned());
        }
        facts.extend(run.forked_pid.as_ref().map(|pid| format!("pid {pid}")));
        facts.extend(run.libprocess_pid.as_ref().map(|pid| format!("V0 executor at {pid}")));
        if run.http {
            facts.push("v1 executor".to_owned());
        }
        if run.sandbox.is_none() {
            facts.push("no sandbox".to_owned());
        }
        self.add(4, format!("container {}: {}", run.container, facts.join(", ")));
        run.tasks.iter().for_each(|task| self.task(task));
    }

    fn task(&mut self, task: &Task) {
        let state = task.state.unwrap_or("(cannot be read)");
        let killed = if task.killed { ", being killed" } else { "" };
        let open = task.updates.iter().filter(|update| !update.acknowledged).count();
        let open = match (task.updates.len(), open) {
            (0, _) => "no updates".to_owned(),
            (all, 0) => format!("{all} updates, all acknowledged"),
            (all, open) => format!("{all} updates, {open} not acknowledged"),
        };
        self.add(5, format!("task {} {state}{killed}, {open}", task.id));
        for update in &task.updates {
            let acknowledged = if update.acknowledged { "acknowledged" } else { "OPEN" };
            let reason = update.reason.map_or(String::new(), |reason| format!(" {reason}"));
            let message = update.message.as_ref().filter(|m| !m.is_empty());
            let message =
                message.and_then(|m| m.lines().next()).map_or(String::new(), |m| format!(": {m}"));
            let state = update.state;
            self.add(6, format!("{acknowledged} {} {state}{reason}{message}", update.uuid));
        }
    }
}
