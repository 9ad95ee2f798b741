//! What an operation makes of the agent's resources, or why it cannot be done. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use mesos::offer::Operation;
use mesos::resources::{ApplyError, Resources, conversions};
use mesos::{OperationState, Resource};

use crate::checkpoint::WorkDir;

/// Longest persistence id: it is a directory's name.
const LONGEST_ID: usize = 255;

/// An operation that is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// A terminal state.
    pub state: OperationState,
    /// For whoever asked.
    pub message: String,
}

impl Refused {
    /// The operation makes no sense, here or elsewhere.
    fn error(message: impl Into<String>) -> Refused {
        Refused { state: OperationState::OperationError, message: message.into() }
    }

    /// It makes sense, but not with what is here now.
    fn failed(message: impl Into<String>) -> Refused {
        Refused { state: OperationState::OperationFailed, message: message.into() }
    }
}

/// What is left of `total` after `operation`. `used`: what executors and tasks hold.
pub(super) fn judge(
    operation: &Operation,
    total: &Resources,
    used: &Resources,
    work: &WorkDir,
) -> Result<Resources, Refused> {
    let mut operation = operation.clone();
    for resource in resources_of(&mut operation) {
        if let Some(provider) = &resource.provider_id {
            return Err(Refused {
                state: OperationState::OperationDropped,
                message: format!("Resource provider {} is not subscribed", provider.value),
            });
        }
        // What an agent has is allocated to nobody.
        resource.allocation_info = None;
    }
    let kind = operation.r#type().as_str_name();
    let steps = conversions(&operation).map_err(|e| Refused::error(format!("{kind}: {e}")))?;
    let mut left = total.clone();
    for step in &steps {
        left = left.convert(step).map_err(|e| match e {
            ApplyError::NotContained { .. } | ApplyError::SharedCopies(_) => {
                Refused::failed(format!("{kind} does not fit this agent's resources: {e}"))
            }
            other => Refused::error(format!("{kind}: {other}")),
        })?;
        let mut gone = step.consumed.persistent_volumes();
        gone -= &step.converted.persistent_volumes();
        if operation.destroy.is_some()
            && let Some(volume) = gone.iter().find(|volume| used.contains_item(volume))
        {
            let id = volume.persistence_id().unwrap_or_default();
            return Err(Refused::failed(format!("persistent volume '{id}' is in use")));
        }
    }
    volumes(&left, work).map_err(Refused::error)?;
    Ok(left)
}

/// Checks that each persistent volume has a directory of its own.
pub(super) fn volumes(resources: &Resources, work: &WorkDir) -> Result<(), String> {
    let mut places: BTreeSet<PathBuf> = BTreeSet::new();
    for item in resources.persistent_volumes().iter() {
        let id = item.persistence_id().unwrap_or_default();
        let odd = |c: char| c == '/' || c == '\\' || c.is_control();
        if id.is_empty() || id == "." || id == ".." || id.len() > LONGEST_ID || id.contains(odd) {
            return Err(format!("invalid persistence ID '{id}': it must be a file name"));
        }
        let Some(role) = item.reservation_role() else {
            return Err(format!("persistent volume '{id}' is not reserved"));
        };
        mesos::roles::validate(role).map_err(|e| format!("persistent volume '{id}': {e}"))?;
        let Some(place) = work.volume(&item.to_proto()) else {
            return Err(format!("persistent volume '{id}' is on a disk without a directory"));
        };
        if !places.insert(place) {
            return Err(format!("role '{role}' has a persistent volume '{id}' already"));
        }
    }
    Ok(())
}

/// Every resource that an operation names.
fn resources_of(operation: &mut Operation) -> Vec<&mut Resource> {
    let mut all: Vec<&mut Resource> = Vec::new();
    if let Some(reserve) = &mut operation.reserve {
        all.extend(reserve.source.iter_mut().chain(&mut reserve.resources));
    }
    if let Some(unreserve) = &mut operation.unreserve {
        all.extend(&mut unreserve.resources);
    }
    if let Some(create) = &mut operation.create {
        all.extend(&mut create.volumes);
    }
    if let Some(destroy) = &mut operation.destroy {
        all.extend(&mut destroy.volumes);
    }
    if let Some(grow) = &mut operation.grow_volume {
        all.extend([&mut grow.volume, &mut grow.addition]);
    }
    if let Some(shrink) = &mut operation.shrink_volume {
        all.push(&mut shrink.volume);
    }
    if let Some(create) = &mut operation.create_disk {
        all.push(&mut create.source);
    }
    if let Some(destroy) = &mut operation.destroy_disk {
        all.push(&mut destroy.source);
    }
    all
}

#[cfg(test)]
mod tests {
    use mesos::offer::operation::{GrowVolume, Type};

    use super::super::tests::{create, destroy, reserve, reserved, unreserve, volume};
    use super::*;

    fn check(operation: &Operation, total: &Resources, used: &[Resource]) -> String {
        let used = Resources::from_valid(used);
        match judge(operation, total, &used, &WorkDir::new("/w")) {
            Ok(left) => left.to_checkpoint().to_string(),
            Err(refused) => format!("{}: {}", refused.state.as_str_name(), refused.message),
        }
    }

    #[test]
    fn operations_apply_or_say_why_not() {
        let start = Resources::parse("cpus:4;disk:100", "*").unwrap();
        let with = |more: &[Resource]| {
            start.with_checkpointed(&Resources::from_valid(more)).expect("fits")
        };
        let (disk, v) = (reserved("disk", 64.0), volume("v", 64.0));
        let reserved = with(std::slice::from_ref(&disk));
        let created = with(std::slice::from_ref(&v));
        let mut allocated = disk.clone();
        allocated.allocation_info =
            Some(mesos::resource::AllocationInfo { role: Some("web".into()) });
        let mut foreign = disk.clone();
        foreign.provider_id = Some(mesos::ResourceProviderId { value: "p".into() });
        let more = super::super::tests::reserved("disk", 32.0);
        let with_more = with(&[v.clone(), more.clone()]);
        let grow = GrowVolume { volume: v.clone(), addition: more };
        let grow = Operation {
            r#type: Some(Type::GrowVolume as i32),
            grow_volume: Some(grow),
            ..Operation::default()
        };
        let nothing = Operation { r#type: Some(Type::Reserve as i32), ..Operation::default() };
        let all = Resources::from_valid(std::slice::from_ref(&v));
        let rows = [
            (reserve(&allocated), &start, vec![], reserved.to_checkpoint().to_string()),
            (unreserve(&disk), &reserved, vec![], "{}".into()),
            (create(&v), &reserved, vec![], all.to_string()),
            (destroy(&v), &created, vec![], reserved.to_checkpoint().to_string()),
            (grow, &with_more, vec![], Resources::from_valid(&[volume("v", 96.0)]).to_string()),
            (
                destroy(&v),
                &created,
                vec![v.clone()],
                "OPERATION_FAILED: persistent volume 'v' is in use".into(),
            ),
            (
                reserve(&foreign),
                &start,
                vec![],
                "OPERATION_DROPPED: Resource provider p is not subscribed".into(),
            ),
        ];
        for (operation, total, used, wanted) in rows {
            assert_eq!(check(&operation, total, &used), wanted);
        }
        for (operation, total, part) in [
            (create(&v), &start, "OPERATION_FAILED: CREATE does not fit"),
            (destroy(&v), &reserved, "OPERATION_FAILED: DESTROY does not fit"),
            (
                create(&volume("../x", 64.0)),
                &reserved,
                "OPERATION_ERROR: invalid persistence ID '../x'",
            ),
            (nothing, &start, "OPERATION_ERROR: RESERVE: "),
        ] {
            let told = check(&operation, total, &[]);
            assert!(told.starts_with(part), "{told}");
        }
        let half = volume("v", 32.0);
        let two = with(&[half.clone(), super::super::tests::reserved("disk", 32.0)]);
        let told = check(&create(&half), &two, &[]);
        assert!(told.contains("has a persistent volume 'v' already"), "{told}");
    }
}
