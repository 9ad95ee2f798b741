//! The shape of calls: type and sub-message present.

use mesos::master;
use mesos::scheduler::{Call, call::Type};

use super::{Check, expect};

/// A scheduler call, v0 or v1.
///
/// # Errors
/// What is missing, without the words in front (`Failed to validate ...`).
pub fn shape(call: &Call) -> Check {
    if call.r#type.is_none() {
        return Err("Expecting 'type' to be present".into());
    }
    if call.r#type() == Type::Subscribe {
        let Some(subscribe) = &call.subscribe else {
            return expect(false, "subscribe");
        };
        let value = |id: &Option<mesos::FrameworkId>| id.clone().unwrap_or_default().value;
        if value(&subscribe.framework_info.id) != value(&call.framework_id) {
            return Err("'framework_id' differs from 'subscribe.framework_info.id'".into());
        }
        return Ok(());
    }
    expect(call.framework_id.is_some(), "framework_id")?;
    match call.r#type() {
        Type::Accept => expect(call.accept.is_some(), "accept"),
        Type::Decline => expect(call.decline.is_some(), "decline"),
        Type::AcceptInverseOffers => {
            expect(call.accept_inverse_offers.is_some(), "accept_inverse_offers")
        }
        Type::DeclineInverseOffers => {
            expect(call.decline_inverse_offers.is_some(), "decline_inverse_offers")
        }
        Type::Kill => expect(call.kill.is_some(), "kill"),
        Type::Shutdown => expect(call.shutdown.is_some(), "shutdown"),
        Type::Acknowledge => match &call.acknowledge {
            None => expect(false, "acknowledge"),
            Some(acknowledge) => uuid(&acknowledge.uuid),
        },
        Type::AcknowledgeOperationStatus => match &call.acknowledge_operation_status {
            None => expect(false, "acknowledge_operation_status"),
            Some(acknowledge) => {
                uuid(&acknowledge.uuid)?;
                expect(acknowledge.slave_id.is_some(), "agent_id")
            }
        },
        Type::Reconcile => expect(call.reconcile.is_some(), "reconcile"),
        Type::ReconcileOperations => {
            expect(call.reconcile_operations.is_some(), "reconcile_operations")
        }
        Type::Message => expect(call.message.is_some(), "message"),
        Type::Request => expect(call.request.is_some(), "request"),
        Type::UpdateFramework => match &call.update_framework {
            None => expect(false, "update_framework"),
            Some(update) if update.framework_info.id != call.framework_id => {
                Err("'framework_id' differs from 'update_framework.framework_info.id'".into())
            }
            Some(_) => Ok(()),
        },
        Type::Unknown | Type::Subscribe | Type::Teardown | Type::Revive | Type::Suppress => Ok(()),
    }
}

fn uuid(bytes: &[u8]) -> Check {
    if bytes.len() == 16 { Ok(()) } else { Err("Not a valid UUID".into()) }
}

/// An operator call.
///
/// # Errors
/// What is missing.
#[allow(deprecated)]
pub fn operator(call: &master::Call) -> Check {
    use master::call::Type as T;
    if call.r#type.is_none() {
        return Err("Expecting 'type' to be present".into());
    }
    match call.r#type() {
        T::GetMetrics => expect(call.get_metrics.is_some(), "get_metrics"),
        T::SetLoggingLevel => expect(call.set_logging_level.is_some(), "set_logging_level"),
        T::ListFiles => expect(call.list_files.is_some(), "list_files"),
        T::ReadFile => expect(call.read_file.is_some(), "read_file"),
        T::UpdateWeights => expect(call.update_weights.is_some(), "update_weights"),
        T::ReserveResources => expect(call.reserve_resources.is_some(), "reserve_resources"),
        T::UnreserveResources => expect(call.unreserve_resources.is_some(), "unreserve_resources"),
        T::CreateVolumes => expect(call.create_volumes.is_some(), "create_volumes"),
        T::DestroyVolumes => expect(call.destroy_volumes.is_some(), "destroy_volumes"),
        T::GrowVolume => expect(call.grow_volume.is_some(), "grow_volume"),
        T::ShrinkVolume => expect(call.shrink_volume.is_some(), "shrink_volume"),
        T::UpdateMaintenanceSchedule => {
            expect(call.update_maintenance_schedule.is_some(), "update_maintenance_schedule")
        }
        T::StartMaintenance => expect(call.start_maintenance.is_some(), "start_maintenance"),
        T::StopMaintenance => expect(call.stop_maintenance.is_some(), "stop_maintenance"),
        T::DrainAgent => expect(call.drain_agent.is_some(), "drain_agent"),
        T::DeactivateAgent => expect(call.deactivate_agent.is_some(), "deactivate_agent"),
        T::ReactivateAgent => expect(call.reactivate_agent.is_some(), "reactivate_agent"),
        T::UpdateQuota => expect(call.update_quota.is_some(), "update_quota"),
        T::SetQuota => expect(call.set_quota.is_some(), "set_quota"),
        T::RemoveQuota => expect(call.remove_quota.is_some(), "remove_quota"),
        T::Teardown => expect(call.teardown.is_some(), "teardown"),
        T::MarkAgentGone => expect(call.mark_agent_gone.is_some(), "mark_agent_gone"),
        _ => Ok(()),
    }
}
