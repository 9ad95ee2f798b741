//! Decodes libprocess messages for the agent: name and bytes to [`Inbound`].
//!
//! Required fields are checked here, so that the core sees whole messages only.

use mesos::schema;

use super::core::event::Inbound;

/// `None`: a message the agent has no use for (ignored, as libprocess does).
pub fn decode(name: &str, body: &[u8]) -> Result<Option<Inbound>, schema::WireError> {
    let Some(name) = name.strip_prefix("mesos.internal.") else { return Ok(None) };
    Ok(Some(match name {
        "SlaveRegisteredMessage" => Inbound::SlaveRegistered(schema::decode(body)?),
        "SlaveReregisteredMessage" => Inbound::SlaveReregistered(schema::decode(body)?),
        "PingSlaveMessage" => Inbound::Ping(schema::decode(body)?),
        "DrainSlaveMessage" => Inbound::Drain(schema::decode(body)?),
        "ShutdownMessage" => Inbound::Shutdown(schema::decode(body)?),
        "RunTaskMessage" => Inbound::RunTask(Box::new(schema::decode(body)?)),
        "RunTaskGroupMessage" => Inbound::RunTaskGroup(Box::new(schema::decode(body)?)),
        "KillTaskMessage" => Inbound::KillTask(schema::decode(body)?),
        "ShutdownExecutorMessage" => Inbound::ShutdownExecutor(schema::decode(body)?),
        "ShutdownFrameworkMessage" => Inbound::ShutdownFramework(schema::decode(body)?),
        "UpdateFrameworkMessage" => Inbound::UpdateFramework(Box::new(schema::decode(body)?)),
        "FrameworkToExecutorMessage" => Inbound::FrameworkToExecutor(schema::decode(body)?),
        "StatusUpdateAcknowledgementMessage" => Inbound::Acknowledgement(schema::decode(body)?),
        "ApplyOperationMessage" => Inbound::ApplyOperation(Box::new(schema::decode(body)?)),
        "AcknowledgeOperationStatusMessage" => Inbound::AcknowledgeOperation(schema::decode(body)?),
        "ReconcileOperationsMessage" => Inbound::ReconcileOperations(schema::decode(body)?),
        "CheckpointResourcesMessage" => Inbound::CheckpointResources(schema::decode(body)?),
        "RegisterExecutorMessage" => Inbound::RegisterExecutor(schema::decode(body)?),
        "ReregisterExecutorMessage" => Inbound::ReregisterExecutor(Box::new(schema::decode(body)?)),
        "StatusUpdateMessage" => Inbound::StatusUpdate(Box::new(schema::decode(body)?)),
        "ExecutorToFrameworkMessage" => Inbound::ExecutorToFramework(schema::decode(body)?),
        _ => return Ok(None),
    }))
}
