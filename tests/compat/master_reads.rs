//! The master's read endpoints against recordings of the real Mesos.
//!
//! A recorded master (its `GET_STATE`) is rebuilt as a snapshot;
//! what is rendered from it must be what the real master showed at that moment,
//! in all the forms that were recorded.

#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bulkhead::master::api::roles::RoleQuota;
use bulkhead::master::api::tasks::TasksQuery;
use bulkhead::master::api::{
    frameworks, lists, pieces::Pieces, roles, slaves, state, summary, tasks, views,
};
use bulkhead::master::core::cluster::{Agent, Cluster, Framework, FrameworkState, Standing};
use bulkhead::master::ids::{AgentId, ExecutorId, FrameworkId, OfferId, Pid, TaskId};
use bulkhead::master::shared::SharedMap;
use bulkhead::master::snapshot::{Identity, Snapshot};
use mesos::Task;
use mesos::master::response::{GetState, get_agents, get_frameworks};
use mesos::master::{Response, response};
use mesos::resources::{Quantities, Resources};
use prost::Message as _;
use serde_json::Value;

fn bytes(path: &str) -> Vec<u8> {
    let path = support::golden().expect("required").join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&bytes(path)).expect("JSON")
}

fn since_epoch(seconds: &Value) -> Option<Duration> {
    seconds.as_f64().filter(|s| *s > 0.0).map(Duration::from_secs_f64)
}

/// One recorded moment.
struct Recorded {
    name: &'static str,
    snapshot: Snapshot,
    version: mesos::VersionInfo,
    quotas: BTreeMap<String, RoleQuota>,
}

impl Recorded {
    fn load(name: &'static str) -> Self {
        let shown = json(&format!("http/master/state.{name}.json"));
        let wire = bytes(&format!("v1/master/{name}/GET_STATE.pb"));
        let mut lists = Response::decode(&*wire).expect("a response").get_state.expect("lists");
        add_what_only_json_has(&mut lists, name);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let flags = shown["flags"].as_object().expect("flags");
        let leader: mesos::MasterInfo = mesos::MasterInfo {
            id: text(&shown["leader_info"]["id"]),
            pid: Some(text(&shown["leader_info"]["pid"])),
            port: 5050,
            hostname: Some(text(&shown["hostname"])),
            capabilities: [1, 2, 3]
                .map(|c| mesos::master_info::Capability { r#type: Some(c) })
                .to_vec(),
            ..Default::default()
        };
        let master = Identity {
            info: leader.clone(),
            start_time: shown["start_time"].as_f64().expect("a time"),
            elected_time: shown["elected_time"].as_f64(),
            leader: Some(leader),
            flags: flags.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        };
        let version = mesos::VersionInfo {
            version: text(&shown["version"]),
            build_date: Some(text(&shown["build_date"])),
            build_time: shown["build_time"].as_f64(),
            build_user: Some(text(&shown["build_user"])),
            ..Default::default()
        };
        let mut weights = BTreeMap::new();
        for weight in json(&format!("http/master/weights.{name}.json")).as_array().expect("a list")
        {
            weights.insert(text(&weight["role"]), weight["weight"].as_f64().expect("a number"));
        }
        let cluster = Cluster { weights: Arc::new(weights), ..cluster(&lists, &shown) };
        let quotas = quotas(&json(&format!("http/master/roles.{name}.json")));
        let snapshot = Snapshot { generation: 1, master: Arc::new(master), cluster };
        Recorded { name, snapshot, version, quotas }
    }

    fn http(&self, endpoint: &str) -> Value {
        json(&format!("http/master/{endpoint}.{}.json", self.name))
    }
}

/// The real master leaves tasks of completed frameworks out of protobuf.
fn add_what_only_json_has(lists: &mut GetState, name: &str) {
    let text = bytes(&format!("v1/master/{name}/GET_TASKS.json"));
    let wire = mesos::v1::from_json("mesos.v1.master.Response", &text).expect("a response");
    let more = Response::decode(&*wire).expect("a response").get_tasks.expect("lists");
    let tasks = &mut lists.get_tasks.get_or_insert_default().completed_tasks;
    let key = |t: &Task| (t.framework_id.clone(), t.task_id.clone());
    for task in more.completed_tasks {
        if !tasks.iter().any(|t| key(t) == key(&task)) {
            tasks.push(task);
        }
    }
}

fn quotas(roles: &Value) -> BTreeMap<String, RoleQuota> {
    let read = |amounts: &Value| {
        let mut sum = Quantities::new();
        for (name, amount) in amounts.as_object().expect("amounts") {
            let amount = mesos::resources::Scalar::new(amount.as_f64().expect("a number"));
            sum.add(name.as_str().into(), amount.expect("a small number"));
        }
        sum
    };
    roles["roles"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|r| r["quota"]["limit"].as_object().is_some_and(|l| !l.is_empty()))
        .map(|r| {
            let quota = RoleQuota {
                guarantee: read(&r["quota"]["guarantee"]),
                limit: read(&r["quota"]["limit"]),
            };
            (r["name"].as_str().expect("a name").to_owned(), quota)
        })
        .collect()
}

fn cluster(lists: &GetState, shown: &Value) -> Cluster {
    let tasks = lists.get_tasks.clone().unwrap_or_default();
    let executors = lists.get_executors.clone().unwrap_or_default();
    let frameworks = lists.get_frameworks.clone().unwrap_or_default();
    let agents = lists.get_agents.clone().unwrap_or_default();
    let times = |list: &str, id: &str| {
        let all = shown[list].as_array().expect("a list");
        all.iter().find(|f| f["id"] == id).expect("shown").clone()
    };
    let framework = |f: &get_frameworks::Framework, list: &str| {
        let id = f.framework_info.id.as_ref().expect("an id");
        let mut made = framework(f, &times(list, &id.value));
        let of = |all: &[Task]| -> Vec<Arc<Task>> {
            all.iter().filter(|t| t.framework_id == *id).cloned().map(Arc::new).collect()
        };
        made.tasks = of(&tasks.tasks).into_iter().map(|t| (TaskId::from(&t.task_id), t)).collect();
        made.completed_tasks = Arc::new(VecDeque::from(of(&tasks.completed_tasks)));
        for e in &executors.executors {
            if e.executor_info.framework_id.as_ref() == Some(id) {
                let key =
                    (AgentId::from(&e.slave_id), ExecutorId::from(&e.executor_info.executor_id));
                made.executors.insert(key, Arc::new(e.executor_info.clone()));
            }
        }
        Arc::new(made)
    };
    Cluster {
        agents: agents
            .agents
            .iter()
            .map(|a| agent(a, shown))
            .map(|a| (a.id.clone(), Arc::new(a)))
            .collect(),
        frameworks: frameworks
            .frameworks
            .iter()
            .map(|f| framework(f, "frameworks"))
            .map(|f| (f.id.clone(), f))
            .collect(),
        completed_frameworks: Arc::new(
            frameworks
                .completed_frameworks
                .iter()
                .map(|f| framework(f, "completed_frameworks"))
                .collect(),
        ),
        ..Default::default()
    }
}

fn agent(a: &get_agents::Agent, shown: &Value) -> Agent {
    let id = AgentId::from(a.agent_info.id.as_ref().expect("an id"));
    let all = shown["slaves"].as_array().expect("a list");
    let times = all.iter().find(|s| s["id"] == id.as_str()).expect("shown");
    // The recording has the sum over frameworks; which of them does not show.
    let used = Resources::from_valid(&a.allocated_resources);
    Agent {
        info: Arc::new(a.agent_info.clone()),
        pid: Pid::from(a.pid()),
        version: a.version.as_str().into(),
        capabilities: a.capabilities.iter().map(|c| c.r#type()).collect(),
        registered: since_epoch(&times["registered_time"]).expect("a time"),
        reregistered: since_epoch(&times["reregistered_time"]),
        connected: true,
        active: a.active,
        standing: Standing { deactivated: a.deactivated(), ..Standing::default() },
        total: Resources::from_valid(&a.total_resources),
        used: [(FrameworkId::from("all"), used)].into(),
        offered: Resources::from_valid(&a.offered_resources),
        tasks: SharedMap::new(),
        executors: Arc::default(),
        resource_version: None,
        checkpointed: Resources::default(),
        operations: Arc::default(),
        id,
    }
}

fn framework(f: &get_frameworks::Framework, times: &Value) -> Framework {
    let info = &f.framework_info;
    let offers: SharedMap<OfferId, ()> =
        f.offers.iter().map(|o| (OfferId::from(&o.id), ())).collect();
    Framework {
        id: FrameworkId::from(info.id.as_ref().expect("an id")),
        info: Arc::new(info.clone()),
        // What left has left its roles.
        roles: Arc::new(info.roles.iter().cloned().collect()),
        suppressed: Arc::default(),
        constraints: None,
        pid: times["pid"].as_str().map(Pid::from),
        state: match (f.recovered, f.active, f.connected) {
            (true, ..) => FrameworkState::Recovered,
            (_, true, _) => FrameworkState::Active,
            (_, _, true) => FrameworkState::Inactive,
            _ => FrameworkState::Disconnected,
        },
        registered: since_epoch(&times["registered_time"]).expect("a time"),
        reregistered: since_epoch(&times["reregistered_time"]),
        unregistered: since_epoch(&times["unregistered_time"]),
        tasks: SharedMap::new(),
        unreachable_tasks: Arc::default(),
        completed_tasks: Arc::default(),
        executors: SharedMap::new(),
        offers,
        used: SharedMap::new(),
        total_used: Resources::from_valid(&f.allocated_resources),
        total_offered: Resources::from_valid(&f.offered_resources),
        tally: Arc::default(),
    }
}

/// What differs by nature: sums (ours are exact), and the order of live tasks
/// and executors, which hash tables of the real master decide.
fn normal(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match (name.as_str(), &mut *member) {
                    ("tasks" | "executors" | "frameworks" | "agents", Value::Array(list)) => {
                        list.iter_mut().for_each(normal);
                        list.sort_by_key(Value::to_string);
                    }
                    ("limits", Value::Object(map)) => map.sort_keys(),
                    ("nanoseconds", time) => *time = Value::Null,
                    _ => normal(member),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(normal),
        Value::Number(n) if n.is_f64() => {
            let rounded = (n.as_f64().expect("a double") * 1e6).round() / 1e6;
            *value = Value::from(rounded);
        }
        _ => {}
    }
}

fn assert_same(ours: &[u8], mut theirs: Value, what: &str) {
    let mut ours: Value = serde_json::from_slice(ours).expect("we write JSON");
    normal(&mut ours);
    normal(&mut theirs);
    // `preserve_order` keeps members as they came, so text compares their order.
    let (ours, theirs) = (ours.to_string(), theirs.to_string());
    if ours != theirs {
        let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
        let part = |text: &str| {
            let bytes = text.as_bytes();
            let (from, to) = (at.saturating_sub(150), (at + 250).min(bytes.len()));
            String::from_utf8_lossy(&bytes[from.min(to)..to]).into_owned()
        };
        panic!("{what}: differs at {at}\n ours   ...{}\n theirs ...{}", part(&ours), part(&theirs));
    }
}

const STATES: [&str; 4] = ["empty", "one-agent", "busy", "completed"];

#[test]
fn v0_endpoints_show_what_was_recorded() {
    require!(golden);
    for name in STATES {
        let r = Recorded::load(name);
        let (snapshot, pieces) = (&r.snapshot, &Pieces::default());
        let what = |endpoint: &str| format!("{endpoint} {name}");
        assert_same(&state::state(snapshot, &r.version, pieces), r.http("state"), &what("state"));
        // Once more, from kept pieces.
        let mut next = snapshot.clone();
        next.generation += 1;
        assert_same(
            &state::state(&next, &r.version, pieces),
            r.http("state"),
            &what("state again"),
        );
        assert_same(&slaves::slaves(snapshot, pieces, None), r.http("slaves"), &what("slaves"));
        let body = frameworks::frameworks(snapshot, pieces, None);
        assert_same(&body, r.http("frameworks"), &what("frameworks"));
        let body = summary::summary(snapshot, pieces);
        assert_same(&body, r.http("state-summary"), &what("state-summary"));
        assert_same(&roles::roles(snapshot, &r.quotas), r.http("roles"), &what("roles"));
        let all = tasks::tasks(snapshot, &TasksQuery::new(|_| None));
        assert_same(&all, r.http("tasks"), &what("tasks"));
    }
}

#[test]
fn parameters_select_what_was_recorded() {
    require!(golden);
    let r = Recorded::load("busy");
    let pieces = Pieces::default();
    let mut seen = 0;
    for variant in json("http/variants.busy.json").as_array().expect("a list") {
        let request = variant["request"].as_str().expect("a request");
        let Some((path, query)) =
            request.strip_prefix("GET /master/").and_then(|r| r.split_once('?'))
        else {
            continue;
        };
        let query: BTreeMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let get = |name: &str| query.get(name).copied();
        let body = match path {
            "tasks" => tasks::tasks(&r.snapshot, &TasksQuery::new(get)),
            "frameworks" => frameworks::frameworks(&r.snapshot, &pieces, get("framework_id")),
            "slaves" => slaves::slaves(&r.snapshot, &pieces, get("slave_id")),
            _ => continue,
        };
        let theirs = serde_json::from_str(variant["body"].as_str().expect("a body"));
        // The order of pages counts, so tasks are compared as they come.
        assert_same(&body, theirs.expect("JSON"), request);
        if path == "tasks" {
            let ids = |body: &Value| {
                let tasks = body["tasks"].as_array().expect("tasks").clone();
                tasks.iter().map(|t| t["id"].to_string()).collect::<Vec<_>>()
            };
            let theirs: Value =
                serde_json::from_str(variant["body"].as_str().expect("a body")).expect("JSON");
            assert_eq!(
                ids(&serde_json::from_slice(&body).expect("JSON")),
                ids(&theirs),
                "{request}"
            );
        }
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} variants were recorded");
    assert_eq!(TasksQuery::new(|_| Some("x")).limit, 100);
}

#[test]
fn operator_lists_show_what_was_recorded() {
    require!(golden);
    for name in STATES {
        let r = Recorded::load(name);
        let snapshot = &r.snapshot;
        let type_of =
            |call: &str| Some(response::Type::from_str_name(call).expect("a call").into());
        for (call, response) in [
            (
                "GET_STATE",
                Response { get_state: Some(views::state(snapshot)), ..Default::default() },
            ),
            (
                "GET_AGENTS",
                Response { get_agents: Some(views::agents(snapshot)), ..Default::default() },
            ),
            (
                "GET_FRAMEWORKS",
                Response {
                    get_frameworks: Some(views::frameworks(snapshot)),
                    ..Default::default()
                },
            ),
            (
                "GET_TASKS",
                Response { get_tasks: Some(views::tasks(snapshot)), ..Default::default() },
            ),
            (
                "GET_EXECUTORS",
                Response { get_executors: Some(views::executors(snapshot)), ..Default::default() },
            ),
            (
                "GET_ROLES",
                Response {
                    get_roles: Some(lists::roles(snapshot, &r.quotas)),
                    ..Default::default()
                },
            ),
        ] {
            let response = Response { r#type: type_of(call), ..response };
            let theirs = json(&format!("v1/master/{name}/{call}.json"));
            assert_same(&lists::json(&response), theirs, &format!("{call} {name}"));
        }
    }
}
