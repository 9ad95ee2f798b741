//! Operations on the agent's resources: reservations and persistent volumes.
//!
//! An operation is applied at once, so that tasks which come behind it find what it
//! made, and told of once it and the volumes are on the disk:
//!
//! ```text
//! ApplyOperation -> apply -> store state and volumes -> append the update -> send it
//!                                                   (10 s, 20 s, ... 10 min) <-+
//! Acknowledge -> append the acknowledgement -> store without it -> forget its log
//! ```
//!
//! One that cannot be done ends as OPERATION_FAILED or OPERATION_ERROR. The master
//! has applied it in its own books already, so the agent registers again: what it
//! says then counts. compat: Mesos' agent ends itself instead.

mod judge;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesos::internal::slave::ResourceState;
use mesos::internal::{
    AcknowledgeOperationStatusMessage, ApplyOperationMessage, CheckpointResourcesMessage,
    ReconcileOperationsMessage, UpdateOperationStatusMessage, UpdateOperationStatusRecord,
    update_operation_status_record,
};
use mesos::resources::{Resources, upgrade_all};
use mesos::{FrameworkId, Operation, OperationId, OperationState, OperationStatus, TaskInfo, Uuid};

use self::judge::{Refused, judge};
use super::event::{Effect, Timer, WireMessage};
use super::state::Executor;
use super::{AgentState, Core, Then};
use crate::agent::updates::{RETRY_MAX, RETRY_MIN};
use crate::checkpoint::{Record, RecoveredOperation};

/// What was made of the agent's resources, and who is yet to hear of it.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// All that the agent has.
    pub total: Arc<Resources>,
    /// The part of it that is checkpointed.
    pub checkpointed: Resources,
    /// What the master was told last that `checkpointed` is.
    told: Resources,
    /// By uuid; not acknowledged yet.
    pub known: BTreeMap<Vec<u8>, Arc<Operation>>,
    streams: BTreeMap<Vec<u8>, Stream>,
}

/// The one update of an operation on its way.
#[derive(Debug, Default)]
struct Stream {
    /// It may be sent.
    stored: bool,
    /// A timer of an older one is stale.
    generation: u64,
}

impl Operations {
    /// Those of an agent without any.
    pub(super) fn new(resources: &[mesos::Resource]) -> Operations {
        let total = Arc::new(Resources::from_valid(resources));
        Operations { total, ..Operations::default() }
    }

    /// What a registration tells the master.
    pub(super) fn tell(&mut self) -> Vec<mesos::Resource> {
        self.told = self.checkpointed.clone();
        self.checkpointed.to_protos()
    }

    /// Whether something changed behind a registration that was on its way.
    pub(super) fn outran(&self) -> bool {
        self.told != self.checkpointed
    }

    /// Whether one of these was made by an operation that is not known here.
    pub(super) fn missing(&self, resources: &[mesos::Resource]) -> bool {
        resources.iter().any(|resource| {
            let one = Resources::from_valid(std::slice::from_ref(resource)).unallocated();
            !self.checkpointed.contains(&one.to_checkpoint())
        })
    }

    fn state(&self) -> Record {
        Record::Resources(Box::new(ResourceState {
            resources: self.checkpointed.to_protos(),
            operations: self.known.values().map(|operation| (**operation).clone()).collect(),
        }))
    }

    fn set(&mut self, total: Resources) {
        self.checkpointed = total.to_checkpoint();
        self.total = Arc::new(total);
    }
}

/// Whether a task needs a directory that an operation makes.
pub(super) fn has_volumes(resources: &[mesos::Resource]) -> bool {
    resources.iter().any(|r| r.disk.as_ref().is_some_and(|disk| disk.persistence.is_some()))
}

impl Core {
    pub(super) fn apply_operation(&mut self, message: ApplyOperationMessage) {
        if !matches!(self.state, AgentState::Running | AgentState::Disconnected) {
            tracing::warn!(state = ?self.state, "ignoring an operation: the agent is not ready");
            return;
        }
        let ApplyOperationMessage { framework_id, operation_info: info, operation_uuid, .. } =
            message;
        if self.operations.known.contains_key(&operation_uuid.value) {
            tracing::debug!(operation = text(&operation_uuid), "known already");
            return;
        }
        self.operate(framework_id, info, operation_uuid);
    }

    fn operate(
        &mut self,
        framework_id: Option<FrameworkId>,
        info: mesos::offer::Operation,
        uuid: Uuid,
    ) {
        let kind = info.r#type().as_str_name();
        let verdict =
            judge(&info, &self.operations.total, &self.resources_in_use(), &self.config.work_dir);
        let (state, message) = match verdict {
            Ok(total) => {
                tracing::info!(operation = text(&uuid), "applied {kind}");
                self.operations.set(total);
                (OperationState::OperationFinished, None)
            }
            Err(Refused { state, message }) => {
                tracing::warn!(operation = text(&uuid), "refused {kind}: {message}");
                self.out.push(Effect::Detect);
                (state, Some(message))
            }
        };
        let status = OperationStatus {
            operation_id: info.id.clone(),
            state: state as i32,
            message,
            uuid: Some(Uuid { value: self.random.uuid() }),
            slave_id: self.info.id.clone(),
            ..OperationStatus::default()
        };
        let operation = Operation {
            framework_id,
            slave_id: self.info.id.clone(),
            info,
            latest_status: status.clone(),
            statuses: vec![status],
            uuid: uuid.clone(),
        };
        self.operations.known.insert(uuid.value.clone(), Arc::new(operation));
        self.persist(self.operations.state());
        self.store_update(&uuid);
    }

    /// What executors and their tasks hold.
    fn resources_in_use(&self) -> Resources {
        let mut used = Resources::new();
        for executor in self.frameworks.values().flat_map(|f| f.executors.values()) {
            for resources in resources_of(executor) {
                used += &Resources::from_valid(resources);
            }
        }
        used.unallocated()
    }

    /// The master says what there is, as it does to agents without operations.
    pub(super) fn checkpoint_resources(&mut self, message: CheckpointResourcesMessage) {
        let mut resources = message.resources;
        upgrade_all(&mut resources);
        if let Err(why) = self.take_over_resources(&resources) {
            tracing::error!("ignoring the resources that the master wants checkpointed: {why}");
            return;
        }
        self.persist(self.operations.state());
    }

    fn take_over_resources(&mut self, resources: &[mesos::Resource]) -> Result<(), String> {
        let kept = Resources::from_protos(resources).map_err(|e| e.to_string())?.unallocated();
        if let Some(item) = kept.iter().find(|item| item.provider_id().is_some()) {
            return Err(format!("{item} belongs to a resource provider"));
        }
        judge::volumes(&kept, &self.config.work_dir)?;
        let own = Resources::from_valid(&self.info.resources);
        let total = own.with_checkpointed(&kept).ok_or_else(|| {
            format!("checkpointed resources {kept} are incompatible with agent resources {own}")
        })?;
        self.operations.set(total);
        Ok(())
    }

    // Updates.

    /// Appends the newest status of an operation to its log; then it is sent.
    fn store_update(&mut self, uuid: &Uuid) {
        let Some(update) = self.operations.known.get(&uuid.value).map(|o| update_of(o)) else {
            return;
        };
        self.operations.streams.entry(uuid.value.clone()).or_default();
        let record = UpdateOperationStatusRecord {
            r#type: update_operation_status_record::Type::Update as i32,
            update: Some(update),
            uuid: None,
        };
        let record = self.log_record(uuid, record);
        self.persist_then(record, Then::OperationStored(uuid.value.clone()));
    }

    fn log_record(&self, uuid: &Uuid, record: UpdateOperationStatusRecord) -> Record {
        Record::OperationUpdate {
            agent: self.agent_id().to_owned(),
            operation: text(uuid),
            record: Box::new(record),
        }
    }

    pub(super) fn operation_stored(&mut self, uuid: &[u8]) {
        if let Some(stream) = self.operations.streams.get_mut(uuid) {
            stream.stored = true;
        }
        self.send_operation(uuid, RETRY_MIN);
    }

    pub(super) fn retry_operation(
        &mut self,
        uuid: &[u8],
        generation: u64,
        after: std::time::Duration,
    ) {
        if self.operations.streams.get(uuid).is_some_and(|s| s.generation == generation) {
            self.send_operation(uuid, (after * 2).min(RETRY_MAX));
        }
    }

    /// Registered (again): everything that is not acknowledged goes out.
    pub(super) fn resume_operations(&mut self) {
        let all: Vec<Vec<u8>> = self.operations.streams.keys().cloned().collect();
        for uuid in all {
            self.send_operation(&uuid, RETRY_MIN);
        }
    }

    fn send_operation(&mut self, uuid: &[u8], after: std::time::Duration) {
        if self.state != AgentState::Running {
            return;
        }
        let Some(stream) = self.operations.streams.get_mut(uuid).filter(|s| s.stored) else {
            return;
        };
        let Some(operation) = self.operations.known.get(uuid) else { return };
        stream.generation += 1;
        let generation = stream.generation;
        let update = WireMessage::of(&update_of(operation));
        self.send_to_master(update);
        let timer = Timer::OperationRetry { operation: uuid.to_vec(), generation, after };
        self.out.push(Effect::Schedule { after, timer });
    }

    pub(super) fn operation_acknowledged(&mut self, message: &AcknowledgeOperationStatusMessage) {
        let uuid = &message.operation_uuid;
        let stored = self.operations.streams.get(&uuid.value).is_some_and(|s| s.stored);
        let expected = self.operations.known.get(&uuid.value).is_some_and(|operation| {
            operation.latest_status.uuid.as_ref() == Some(&message.status_uuid)
        });
        if !stored || !expected {
            tracing::debug!(operation = text(uuid), "unexpected acknowledgement");
            return;
        }
        let record = UpdateOperationStatusRecord {
            r#type: update_operation_status_record::Type::Ack as i32,
            update: None,
            uuid: Some(message.status_uuid.clone()),
        };
        self.persist(self.log_record(uuid, record));
        self.forget_operation(uuid);
        self.drain_progress();
    }

    fn forget_operation(&mut self, uuid: &Uuid) {
        self.operations.streams.remove(&uuid.value);
        self.operations.known.remove(&uuid.value);
        self.persist(self.operations.state());
        let agent = self.agent_id().to_owned();
        self.persist(Record::ForgetOperation { agent, operation: text(uuid) });
    }

    /// Somebody asks what became of operations.
    pub(super) fn reconcile_operations(&mut self, message: &ReconcileOperationsMessage) {
        for asked in &message.operations {
            let known = self.find_operation(
                message.framework_id.as_ref(),
                asked.operation_uuid.as_ref(),
                asked.operation_id.as_ref(),
            );
            let (status, uuid) = match (known, &message.framework_id) {
                (Some(operation), Some(_)) => {
                    // Sent once, so nobody is to acknowledge it.
                    let status = OperationStatus { uuid: None, ..operation.latest_status.clone() };
                    (status, Some(operation.uuid.clone()))
                }
                // The master and we agree.
                (Some(_), None) => continue,
                (None, by_framework) => {
                    let (state, message) = match by_framework {
                        Some(_) => (
                            OperationState::OperationUnknown,
                            "Reconciliation: Operation is unknown to the agent",
                        ),
                        None => (
                            OperationState::OperationDropped,
                            "Reconciliation: Operation never reached the agent",
                        ),
                    };
                    let status = OperationStatus {
                        operation_id: asked.operation_id.clone(),
                        state: state as i32,
                        message: Some(message.to_owned()),
                        slave_id: self.info.id.clone(),
                        resource_provider_id: asked.resource_provider_id.clone(),
                        ..OperationStatus::default()
                    };
                    (status, asked.operation_uuid.clone())
                }
            };
            let update = UpdateOperationStatusMessage {
                framework_id: message.framework_id.clone(),
                slave_id: self.info.id.clone(),
                status,
                latest_status: None,
                operation_uuid: uuid,
            };
            self.send_to_master(WireMessage::of(&update));
        }
    }

    fn find_operation(
        &self,
        framework: Option<&FrameworkId>,
        uuid: Option<&Uuid>,
        id: Option<&OperationId>,
    ) -> Option<&Operation> {
        let known = &self.operations.known;
        match (uuid, id) {
            (Some(uuid), _) => known.get(&uuid.value).map(|operation| &**operation),
            (None, Some(_)) => known
                .values()
                .map(|operation| &**operation)
                .find(|o| o.info.id.as_ref() == id && o.framework_id.as_ref() == framework),
            (None, None) => None,
        }
    }

    // Recovery.

    /// Takes over what is reserved and created here, whatever becomes of the agent's
    /// id.
    pub(super) fn recover_resources(
        &mut self,
        resources: &[mesos::Resource],
    ) -> Result<(), String> {
        self.take_over_resources(resources)
    }

    /// Forgets what an agent of another id had yet to tell: the master knows it gone.
    pub(super) fn drop_operations(&mut self, operations: &[Operation]) {
        if !operations.is_empty() {
            self.persist(self.operations.state());
        }
    }

    /// Takes over what the last agent had yet to tell.
    pub(super) fn recover_operations(
        &mut self,
        operations: Vec<Operation>,
        logs: &[RecoveredOperation],
    ) {
        let mut over = Vec::new();
        for operation in operations {
            let uuid = operation.uuid.clone();
            let log = logs.iter().find(|log| log.uuid == text(&uuid));
            if !mesos::model::is_terminal_operation(operation.latest_status.state()) {
                // Another agent died before it was applied.
                self.operate(operation.framework_id, operation.info, uuid);
                continue;
            }
            let status = operation.latest_status.uuid.clone().unwrap_or_default();
            let logged = log.is_some_and(|log| !log.updates.is_empty());
            let ended = log.is_some_and(|log| log.acknowledged.contains(&status.value));
            self.operations.known.insert(uuid.value.clone(), Arc::new(operation));
            if ended {
                over.push(uuid);
            } else if logged {
                let stream = Stream { stored: true, generation: 0 };
                self.operations.streams.insert(uuid.value, stream);
            } else {
                self.store_update(&uuid);
            }
        }
        for uuid in &over {
            self.forget_operation(uuid);
        }
        let known: Vec<String> = self.operations.known.values().map(|o| text(&o.uuid)).collect();
        for log in logs.iter().filter(|log| !known.contains(&log.uuid)) {
            let agent = self.agent_id().to_owned();
            self.persist(Record::ForgetOperation { agent, operation: log.uuid.clone() });
        }
    }
}

fn resources_of(executor: &Executor) -> impl Iterator<Item = &[mesos::Resource]> {
    let queued = executor.queued.values().map(|task: &TaskInfo| &task.resources[..]);
    let launched = executor.launched.values().map(|task| &task.resources[..]);
    queued.chain(launched).chain([&executor.info.resources[..]])
}

fn update_of(operation: &Operation) -> UpdateOperationStatusMessage {
    UpdateOperationStatusMessage {
        framework_id: operation.framework_id.clone(),
        slave_id: operation.slave_id.clone(),
        status: operation.latest_status.clone(),
        latest_status: Some(operation.latest_status.clone()),
        operation_uuid: Some(operation.uuid.clone()),
    }
}

/// As Mesos names the directory of an operation.
fn text(uuid: &Uuid) -> String {
    match uuid::Uuid::from_slice(&uuid.value) {
        Ok(uuid) => uuid.to_string(),
        Err(_) => uuid.value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    //! Operations for tests.

    use mesos::Resource;
    use mesos::offer::Operation;
    use mesos::offer::operation::{Create, Destroy, Reserve, Type, Unreserve};
    use mesos::resource::disk_info::Persistence;
    use mesos::resource::reservation_info::Type as Reserved;
    use mesos::resource::{DiskInfo, ReservationInfo};

    pub(in crate::agent::core) fn reserved(name: &str, value: f64) -> Resource {
        Resource {
            name: name.into(),
            scalar: Some(mesos::value::Scalar { value }),
            reservations: vec![ReservationInfo {
                role: Some("web".into()),
                r#type: Some(Reserved::Dynamic as i32),
                ..ReservationInfo::default()
            }],
            ..Resource::default()
        }
    }

    pub(in crate::agent::core) fn volume(id: &str, size: f64) -> Resource {
        let disk = DiskInfo {
            persistence: Some(Persistence { id: id.into(), principal: None }),
            volume: Some(mesos::Volume { container_path: "data".into(), ..Default::default() }),
            source: None,
        };
        Resource { disk: Some(disk), ..reserved("disk", size) }
    }

    fn of(kind: Type) -> Operation {
        Operation { r#type: Some(kind as i32), ..Operation::default() }
    }

    pub(in crate::agent::core) fn reserve(what: &Resource) -> Operation {
        let reserve = Reserve { resources: vec![what.clone()], ..Reserve::default() };
        Operation { reserve: Some(reserve), ..of(Type::Reserve) }
    }

    pub(in crate::agent::core) fn unreserve(what: &Resource) -> Operation {
        let unreserve = Unreserve { resources: vec![what.clone()] };
        Operation { unreserve: Some(unreserve), ..of(Type::Unreserve) }
    }

    pub(in crate::agent::core) fn create(what: &Resource) -> Operation {
        let create = Create { volumes: vec![what.clone()] };
        Operation { create: Some(create), ..of(Type::Create) }
    }

    pub(in crate::agent::core) fn destroy(what: &Resource) -> Operation {
        let destroy = Destroy { volumes: vec![what.clone()] };
        Operation { destroy: Some(destroy), ..of(Type::Destroy) }
    }
}
