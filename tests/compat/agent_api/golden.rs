//! A recorded agent is rebuilt as a snapshot; what is rendered from it must be
//! what the real agent showed at the same moment.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bulkhead::agent::api::{About, containers, metrics, reads, state};
use bulkhead::agent::core::state::{Executor, ExecutorState, Framework, FrameworkState};
use bulkhead::agent::snapshot::{AgentState, Counters, Snapshot};
use bulkhead::checkpoint::RunKey;
use mesos::agent::{Call, Response, call};
use mesos::resources::Resources;
use mesos::slave_info::capability::Type as Capability;
use mesos::{ContainerId, ExecutorInfo, FrameworkInfo, MasterInfo, Resource, Task};
use prost::Message as _;
use serde_json::Value;

use super::shape;
use crate::{require, support};

/// One recorded state of the agent.
struct Recorded {
    state: Value,
    lists: Response,
    agent: Response,
    name: &'static str,
}

impl Recorded {
    fn load(name: &'static str) -> Self {
        let pb = |call: &str| {
            let bytes = bytes(&format!("v1/agent/{name}/{call}.pb"));
            Response::decode(bytes.as_slice()).expect("a recorded response")
        };
        let state = json(&format!("http/agent/state.{name}.json"));
        Recorded { state, lists: pb("GET_STATE"), agent: pb("GET_AGENT"), name }
    }

    fn v1(&self, call: &str) -> Value {
        json(&format!("v1/agent/{}/{call}.json", self.name))
    }

    fn about(&self) -> About {
        let text = |name: &str| self.state[name].as_str().unwrap_or_default().to_owned();
        let flags = self.state["flags"].as_object().expect("flags");
        About {
            version: mesos::VersionInfo {
                version: text("version"),
                build_date: Some(text("build_date")),
                build_time: self.state["build_time"].as_f64(),
                build_user: Some(text("build_user")),
                ..Default::default()
            },
            start_time: self.state["start_time"].as_f64().expect("a time"),
            pid: text("pid"),
            capabilities: vec![
                Capability::MultiRole,
                Capability::HierarchicalRole,
                Capability::ReservationRefinement,
                Capability::ResourceProvider,
                Capability::ResizeVolume,
                Capability::AgentOperationFeedback,
                Capability::AgentDraining,
                Capability::TaskResourceLimits,
            ],
            flags: flags
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
        }
    }

    /// The snapshot behind the recording; ids of containers and directories, which
    /// the lists do not have, come from `/state`.
    fn snapshot(&self) -> Snapshot {
        let lists = self.lists.get_state.clone().expect("GET_STATE");
        let frameworks = lists.get_frameworks.expect("frameworks");
        let build = |list: &str, all: Vec<FrameworkInfo>| -> Vec<Arc<Framework>> {
            let shown = self.state[list].as_array().expect("a list");
            all.into_iter()
                .map(|info| {
                    let id = &info.id.as_ref().expect("an id").value;
                    let shown = shown.iter().find(|f| f["id"] == **id).expect("both list it");
                    Arc::new(self.framework(info.clone(), shown))
                })
                .collect()
        };
        let active = frameworks.frameworks.into_iter().map(|f| f.framework_info).collect();
        let ended = frameworks.completed_frameworks.into_iter().map(|f| f.framework_info).collect();
        let info = self.agent.get_agent.clone().expect("GET_AGENT").slave_info.expect("an agent");
        // GET_AGENT shows what the flags said, /state what operations made of it.
        let full = self.state["reserved_resources_full"].as_object().expect("by role");
        let reserved = full.values().flat_map(|v| v.as_array().expect("a list"));
        let unreserved = self.state["unreserved_resources_full"].as_array().expect("a list");
        let resources: Vec<Resource> = reserved.chain(unreserved).map(resource).collect();
        Snapshot {
            generation: 1,
            state: AgentState::Running,
            resources: Arc::new(Resources::from_valid(&resources)),
            operations: Vec::new(),
            info: Arc::new(info),
            master: Some(Arc::new(MasterInfo {
                hostname: Some("localhost".into()),
                ..Default::default()
            })),
            frameworks: build("frameworks", active)
                .into_iter()
                .map(|f| (f.id().to_owned(), f))
                .collect(),
            completed_frameworks: build("completed_frameworks", ended).into(),
            counters: Counters::default(),
            recovery_secs: Some(0.01),
            max_sandbox_age_secs: 544_320.0,
            drain: None,
        }
    }

    fn framework(&self, info: FrameworkInfo, shown: &Value) -> Framework {
        let list = |name: &str| shown[name].as_array().expect("a list").clone();
        let mut executors = BTreeMap::new();
        for shown in list("executors") {
            let executor = self.executor(&info, &shown);
            executors.insert(executor.id().to_owned(), Arc::new(executor));
        }
        let completed: VecDeque<_> =
            list("completed_executors").iter().map(|e| Arc::new(self.executor(&info, e))).collect();
        Framework { info, pid: None, state: FrameworkState::Running, executors, completed }
    }

    fn executor(&self, framework: &FrameworkInfo, shown: &Value) -> Executor {
        let lists = self.lists.get_state.clone().expect("GET_STATE");
        let framework_id = framework.id.clone().expect("an id");
        let executors = lists.get_executors.expect("executors");
        let info: ExecutorInfo = executors
            .executors
            .into_iter()
            .map(|e| e.executor_info)
            .chain(executors.completed_executors.into_iter().map(|e| e.executor_info))
            .find(|e| {
                e.executor_id.value == shown["id"] && e.framework_id.as_ref() == Some(&framework_id)
            })
            .expect("both list it");
        let tasks = lists.get_tasks.expect("tasks");
        let mine = |all: Vec<Task>, list: &str| -> Vec<Task> {
            let shown = shown[list].as_array().expect("a list");
            let is =
                |t: &Task, s: &Value| t.task_id.value == s["id"] && t.framework_id == framework_id;
            shown.iter().filter_map(|s| all.iter().find(|t| is(t, s)).cloned()).collect()
        };
        let container = shown["container"].as_str().expect("a container").to_owned();
        Executor {
            run: RunKey {
                agent: "S0".into(),
                framework: framework_id.value.clone(),
                executor: info.executor_id.value.clone(),
                container: container.clone(),
            },
            framework_id: framework_id.clone(),
            container_id: ContainerId { value: container, parent: None },
            directory: shown["directory"].as_str().expect("a directory").to_owned(),
            user: None,
            checkpoint: true,
            state: ExecutorState::Running,
            sink: None,
            played: None,
            details: None,
            generated: false,
            pid: None,
            container_status: None,
            queued: BTreeMap::new(),
            groups: Vec::new(),
            launched: mine(tasks.launched_tasks, "tasks")
                .into_iter()
                .map(|t| (t.task_id.value.clone(), t))
                .collect(),
            terminated: mine(tasks.terminated_tasks, "completed_tasks")
                .into_iter()
                .map(|t| (t.task_id.value.clone(), t))
                .collect(),
            completed: mine(tasks.completed_tasks, "completed_tasks")
                .into_iter()
                .map(Arc::new)
                .collect(),
            pending_termination: None,
            info,
        }
    }
}

fn resource(shown: &Value) -> Resource {
    mesos::json::from_json(shown.to_string().as_bytes()).expect("a resource")
}

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(support::golden().expect("required").join(file)).expect(file)
}

fn json(file: &str) -> Value {
    serde_json::from_slice(&bytes(file)).expect(file)
}

/// Maps whose order means nothing in the original are put in order of ids.
fn by_id(mut document: Value) -> Value {
    fn sort(value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.iter_mut().for_each(sort);
                let key = |v: &Value| {
                    ["id", "task_id", "executor_info", "framework_info"]
                        .iter()
                        .find_map(|k| v.get(k))
                        .map(|id| {
                            id["executor_id"]
                                .as_object()
                                .map_or(id.to_string(), |e| format!("{e:?}"))
                        })
                        .unwrap_or_default()
                };
                items.sort_by_key(key);
            }
            Value::Object(members) => {
                if let Some(Value::Object(limits)) = members.get_mut("limits") {
                    limits.sort_keys();
                }
                members.values_mut().for_each(sort);
            }
            _ => {}
        }
    }
    sort(&mut document);
    document
}

fn check(what: &str, ours: &[u8], theirs: Value) {
    let ours: Value = serde_json::from_slice(ours).expect(what);
    let found = shape::differences_of_values(&by_id(ours), &by_id(theirs));
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn state_shows_what_the_real_agent_shows() {
    require!(golden);
    for name in ["idle", "busy", "completed"] {
        let recorded = Recorded::load(name);
        let body = state::render(&recorded.snapshot(), &recorded.about());
        check(&format!("state.{name}"), &body, recorded.state.clone());
    }
}

#[test]
fn state_of_an_idle_agent_is_equal_byte_by_byte() {
    require!(golden);
    let recorded = Recorded::load("idle");
    let body = state::render(&recorded.snapshot(), &recorded.about());
    let recorded = bytes("http/agent/state.idle.json");
    assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(&recorded));
}

#[test]
fn the_lists_of_the_operator_api_equal_the_recorded_ones() {
    require!(golden);
    for name in ["idle", "busy", "completed"] {
        let recorded = Recorded::load(name);
        let (snapshot, about) = (recorded.snapshot(), recorded.about());
        for kind in [
            call::Type::GetState,
            call::Type::GetTasks,
            call::Type::GetExecutors,
            call::Type::GetFrameworks,
        ] {
            let call = Call { r#type: Some(kind as i32), ..Default::default() };
            let answer = reads::answer(&about, &snapshot, &call).expect("answered at once");
            let what = kind.as_str_name();
            check(&format!("{what} {name}"), &reads::to_json(&answer), recorded.v1(what));
        }
        for kind in [
            call::Type::GetHealth,
            call::Type::GetFlags,
            call::Type::GetVersion,
            call::Type::GetOperations,
            call::Type::GetResourceProviders,
        ] {
            let call = Call { r#type: Some(kind as i32), ..Default::default() };
            let answer = reads::answer(&about, &snapshot, &call).expect("answered at once");
            let what = kind.as_str_name();
            let body = mesos::v1::to_json("mesos.v1.agent.Response", &answer).expect("fits");
            check(&format!("{what} {name}"), &body, recorded.v1(what));
        }
    }
}

#[test]
fn metrics_have_the_recorded_names() {
    require!(golden);
    for name in ["idle", "busy"] {
        let recorded = Recorded::load(name);
        let ours = metrics::of(&recorded.snapshot(), &metrics::Surroundings::default());
        let mut ours: Vec<String> = ours.into_iter().map(|(name, _)| name).collect();
        ours.sort();
        let theirs =
            String::from_utf8(bytes(&format!("metrics/agent.{name}.keys.txt"))).expect("text");
        let theirs: Vec<&str> = theirs.lines().filter(|n| !n.starts_with("system/")).collect();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn containers_show_the_recorded_members_in_order() {
    require!(golden);
    let recorded = Recorded::load("busy");
    let snapshot = recorded.snapshot();
    let pb = bytes("v1/agent/busy/GET_CONTAINERS.pb");
    let listed = Response::decode(pb.as_slice()).expect("a response").get_containers;
    let body = containers::render(
        &listed.expect("containers").containers,
        &snapshot,
        &containers::Beside::default(),
    );
    let ours: Value = serde_json::from_slice(&body).expect("JSON");
    let theirs = json("http/agent/containers.busy.json");
    // Both ends list the same four executors; figures differ with the second.
    let found = shape::differences(&ours, &theirs);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
