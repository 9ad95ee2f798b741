//! A random walk: whatever happens, no agent gives out more than it has, the
//! allocator's books agree with the core's, and nothing panics.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Register(u8),
    Exited(u8),
    Unregister(u8),
    Subscribe(u8),
    Close(u8),
    Launch { framework: u8, task: u8 },
    Decline(u8),
    Report { task: u8, end: bool },
    Acknowledge(u8),
    Kill(u8),
    Teardown(u8),
    Suppress(u8),
    Revive(u8),
    Gone(u8),
    Wait(u16),
    Garbage(Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_u8).prop_map(Step::Register),
        1 => (0..3_u8).prop_map(Step::Exited),
        1 => (0..3_u8).prop_map(Step::Unregister),
        3 => (0..3_u8).prop_map(Step::Subscribe),
        1 => (0..3_u8).prop_map(Step::Close),
        8 => (0..3_u8, 0..8_u8).prop_map(|(framework, task)| Step::Launch { framework, task }),
        2 => (0..3_u8).prop_map(Step::Decline),
        6 => (0..20_u8, any::<bool>()).prop_map(|(task, end)| Step::Report { task, end }),
        6 => (0..20_u8).prop_map(Step::Acknowledge),
        1 => (0..20_u8).prop_map(Step::Kill),
        1 => (0..3_u8).prop_map(Step::Teardown),
        1 => (0..3_u8).prop_map(Step::Suppress),
        1 => (0..3_u8).prop_map(Step::Revive),
        1 => (0..3_u8).prop_map(Step::Gone),
        4 => (0..30_000_u16).prop_map(Step::Wait),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Garbage),
    ];
    prop::collection::vec(step, 1..120)
}

fn pid(n: u8) -> String {
    format!("slave(1)@10.0.0.{n}:5051")
}

struct Walk {
    world: World,
    /// Framework ids by slot, as subscribed last.
    frameworks: [String; 3],
    streams: u32,
}

impl Walk {
    fn stream(&self, slot: u8) -> Option<String> {
        let id = FrameworkId::from(self.frameworks[usize::from(slot)].as_str());
        self.world.core.frameworks.streams.get(&id).map(|s| s.as_str().to_owned())
    }

    fn call(&mut self, slot: u8, call: Call) {
        if let Some(stream) = self.stream(slot) {
            let id = self.frameworks[usize::from(slot)].clone();
            let _ = self.world.call(&stream, &id, call);
        }
    }

    fn open_offer(&self, slot: u8) -> Option<mesos::Offer> {
        let id = FrameworkId::from(self.frameworks[usize::from(slot)].as_str());
        let framework = self.world.core.framework(&id)?;
        let offer = framework.offers.keys().min()?;
        self.world.core.cluster().offers.get(offer).map(|o| (**o).clone())
    }

    fn run(&self, n: u8) -> Option<m::RunTaskMessage> {
        let runs = self.world.sent::<m::RunTaskMessage>("RunTaskMessage");
        runs.into_iter().nth(usize::from(n))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Register(n) => self.world.message(&pid(n), &registration("cpus:2;mem:512")),
            Step::Exited(n) => self.world.event(Event::Exited(pid(n).as_str().into())),
            Step::Unregister(n) => {
                let id = self.world.core.agents.by_pid.get(&Pid::from(pid(n).as_str())).cloned();
                if let Some(id) = id {
                    let message = m::UnregisterSlaveMessage { slave_id: id.message() };
                    self.world.message(&pid(n), &message);
                }
            }
            Step::Subscribe(slot) => {
                self.streams += 1;
                let stream = format!("s{}", self.streams);
                let mut wanted = info("walk", "web");
                let old = &self.frameworks[usize::from(slot)];
                if !old.is_empty() {
                    wanted.id = Some(mesos::FrameworkId { value: old.clone() });
                }
                let id = self.world.subscribe(&stream, wanted);
                self.frameworks[usize::from(slot)] = id;
            }
            Step::Close(slot) => {
                if let Some(stream) = self.stream(slot) {
                    self.world.event(Event::StreamClosed(stream.as_str().into()));
                }
            }
            Step::Launch { framework, task: n } => {
                if let Some(offer) = self.open_offer(framework) {
                    let tasks = vec![task(&format!("t{n}"), &offer)];
                    self.call(framework, accept(&offer, vec![launch(tasks)]));
                }
            }
            Step::Decline(slot) => {
                if let Some(offer) = self.open_offer(slot) {
                    let decline = call::Decline { offer_ids: vec![offer.id], filters: None };
                    let decline = Call { decline: Some(decline), ..bare(call::Type::Decline) };
                    self.call(slot, decline);
                }
            }
            Step::Report { task, end } => {
                if let Some(run) = self.run(task) {
                    let state = if end { TaskState::TaskFinished } else { TaskState::TaskRunning };
                    self.world.report(&run, state, u8::from(end) + 1);
                }
            }
            Step::Acknowledge(task) => self.acknowledge(task),
            Step::Kill(task) => {
                if let Some(run) = self.run(task) {
                    let kill = call::Kill { task_id: run.task.task_id, ..Default::default() };
                    self.call(0, Call { kill: Some(kill), ..bare(call::Type::Kill) });
                }
            }
            Step::Teardown(slot) => {
                self.call(slot, bare(call::Type::Teardown));
                self.frameworks[usize::from(slot)].clear();
            }
            Step::Suppress(slot) => self.call(slot, bare(call::Type::Suppress)),
            Step::Revive(slot) => self.call(slot, bare(call::Type::Revive)),
            Step::Gone(n) => {
                let id = self.world.core.agents.by_pid.get(&Pid::from(pid(n).as_str())).cloned();
                if let Some(id) = id {
                    let _ = self.world.command(Command::MarkAgentGone(id));
                }
            }
            Step::Wait(ms) => self.world.wait(Duration::from_millis(u64::from(ms))),
            Step::Garbage(bytes) => self.garbage(&bytes),
        }
    }

    fn acknowledge(&mut self, task: u8) {
        let Some(run) = self.run(task) else { return };
        let id = FrameworkId::from(&run.framework.id.clone().unwrap_or_default());
        let stream = self.world.core.frameworks.streams.get(&id).cloned();
        if let Some(stream) = stream {
            self.world.acknowledge(stream.as_str(), &run, 2);
        }
    }

    fn garbage(&mut self, bytes: &[u8]) {
        for name in [
            "RegisterSlaveMessage",
            "ReregisterSlaveMessage",
            "StatusUpdateMessage",
            "UpdateSlaveMessage",
            "LaunchTasksMessage",
            "RegisterFrameworkMessage",
            "NoSuchMessage",
        ] {
            self.world.event(Event::Message {
                from: "stranger@10.9.9.9:1".into(),
                to: "master".into(),
                name: format!("mesos.internal.{name}"),
                body: bytes.to_vec().into(),
            });
        }
    }

    /// The invariants.
    fn check(&self) {
        let core = &self.world.core;
        for agent in core.cluster().agents.values() {
            let mut held = agent.total_used();
            held += &agent.offered;
            assert_eq!(core.allocator.allocated(&agent.id), held, "the allocator's books");
            let plain = held.clone().unallocated();
            assert!(
                agent.total.contains(&plain),
                "{} gave out {held} of {}",
                agent.id,
                agent.total
            );
            for (framework, task) in agent.tasks.keys() {
                assert!(core.task(framework, task).is_some(), "task {task} has no framework");
            }
        }
        for framework in core.cluster().frameworks.values() {
            let mut used = Resources::new();
            framework.used.values().for_each(|u| used += u);
            assert_eq!(used, framework.total_used, "sums of {}", framework.id);
            for task in framework.tasks.values() {
                let agent = AgentId::from(&task.slave_id);
                assert!(core.agent(&agent).is_some(), "task on an agent that is gone");
            }
        }
        for (id, open) in &core.offers {
            assert!(core.cluster().offers.contains_key(id));
            assert!(core.agent(&open.agent).is_some_and(|a| a.active));
            assert!(core.framework(&open.framework).is_some_and(|f| f.active()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn resources_are_conserved(steps in steps()) {
        let frameworks = [String::new(), String::new(), String::new()];
        let mut walk = Walk { world: World::new(), frameworks, streams: 0 };
        for step in steps {
            walk.step(step);
            walk.check();
        }
    }
}
