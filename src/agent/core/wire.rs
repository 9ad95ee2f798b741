//! Resource formats on the wire, and limits of executors.
//!
//! Inside, resources are in the format with `reservations`; what goes to the
//! master in (re)registration is brought back to the older `role` format unless
//! a reservation is refined, exactly as Mesos' agents do.

// The older format's fields are deprecated and still what older peers read.
#![allow(deprecated)]

use std::collections::BTreeMap;

pub use mesos::resources::upgrade_all as upgrade;
use mesos::{Resource, TaskInfo, resource, value};

/// Brings the resources of one message to the older format if all of them fit.
pub fn downgrade<'a>(resources: impl IntoIterator<Item = &'a mut Resource>) {
    let resources: Vec<&mut Resource> = resources.into_iter().collect();
    if resources.iter().any(|r| r.reservations.len() > 1) {
        return;
    }
    for resource in resources {
        let Some(reservation) = resource.reservations.pop() else {
            if resource.role.is_none() {
                resource.role = Some("*".to_owned());
            }
            continue;
        };
        if reservation.r#type() == resource::reservation_info::Type::Dynamic {
            resource.reservation = Some(resource::ReservationInfo {
                principal: reservation.principal,
                labels: reservation.labels,
                ..resource::ReservationInfo::default()
            });
        }
        resource.role = reservation.role;
    }
}

/// Adds resources: scalars of the same kind are summed, the rest is listed. A volume
/// that several tasks share is there once.
pub fn add(total: &mut Vec<Resource>, more: &[Resource]) {
    for resource in more {
        if resource.shared.is_some() && total.contains(resource) {
            continue;
        }
        let same = |t: &&mut Resource| {
            let mut t = (**t).clone();
            t.scalar = resource.scalar;
            t.scalar.is_some() && t == *resource
        };
        match total.iter_mut().find(same) {
            Some(t) => {
                let sum = t.scalar.map_or(0.0, |s| s.value)
                    + scalar(std::slice::from_ref(resource), &resource.name);
                // Fixed point with three decimals, as everywhere in Mesos.
                t.scalar = Some(value::Scalar { value: (sum * 1000.0).round() / 1000.0 });
            }
            None => total.push(resource.clone()),
        }
    }
}

/// Sum of the scalars called `name`.
pub fn scalar(resources: &[Resource], name: &str) -> f64 {
    resources
        .iter()
        .filter(|r| r.name == name)
        .filter_map(|r| r.scalar.as_ref())
        .map(|s| s.value)
        .sum()
}

/// Limits of an executor's container: set for a name as soon as one task sets
/// one; a task without one counts with its request.
pub fn limits<'a>(
    executor: &[Resource],
    tasks: impl Iterator<Item = (&'a [Resource], &'a BTreeMap<String, value::Scalar>)> + Clone,
) -> BTreeMap<String, f64> {
    let mut result = BTreeMap::new();
    for name in ["cpus", "mem"] {
        if tasks.clone().any(|(_, limits)| limits.contains_key(name)) {
            let sum: f64 = tasks
                .clone()
                .map(|(requests, limits)| {
                    limits.get(name).map_or_else(|| scalar(requests, name), |l| l.value)
                })
                .sum();
            result.insert(name.to_owned(), sum + scalar(executor, name));
        }
    }
    result
}

/// Limits of the container of one command task.
pub fn task_limits(task: &TaskInfo) -> BTreeMap<String, f64> {
    task.limits.iter().map(|(name, limit)| (name.clone(), limit.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(value: f64) -> Resource {
        Resource {
            name: "cpus".into(),
            r#type: value::Type::Scalar as i32,
            scalar: Some(value::Scalar { value }),
            ..Resource::default()
        }
    }

    #[test]
    fn unreserved_resources_get_the_star_role_and_lose_it_again() {
        let mut resources = vec![cpus(1.0)];
        downgrade(&mut resources);
        assert_eq!(resources[0].role.as_deref(), Some("*"));
        upgrade(&mut resources);
        assert_eq!(resources, vec![cpus(1.0)]);
    }

    #[test]
    fn a_reservation_survives_both_ways() {
        let mut reserved = cpus(1.0);
        reserved.reservations.push(resource::ReservationInfo {
            r#type: Some(resource::reservation_info::Type::Dynamic as i32),
            role: Some("web".into()),
            principal: Some("p".into()),
            ..resource::ReservationInfo::default()
        });
        let mut resources = vec![reserved.clone()];
        downgrade(&mut resources);
        assert_eq!(resources[0].role.as_deref(), Some("web"));
        assert!(resources[0].reservations.is_empty());
        upgrade(&mut resources);
        assert_eq!(resources, vec![reserved]);
    }

    #[test]
    fn a_refined_reservation_keeps_the_whole_message_in_the_new_format() {
        let mut refined = cpus(1.0);
        refined.reservations =
            vec![resource::ReservationInfo::default(), resource::ReservationInfo::default()];
        let mut resources = vec![cpus(2.0), refined];
        let before = resources.clone();
        downgrade(&mut resources);
        assert_eq!(resources, before);
    }

    #[test]
    fn one_limit_makes_the_others_count_with_their_requests() {
        let some = BTreeMap::from([("cpus".to_owned(), value::Scalar { value: 2.0 })]);
        let none = BTreeMap::new();
        let requests = [cpus(0.5)];
        let tasks = [(&requests[..], &some), (&requests[..], &none)];
        let sum = limits(&[cpus(0.1)], tasks.into_iter());
        assert_eq!(sum.len(), 1);
        assert!((sum["cpus"] - 2.6).abs() < 1e-9);
        assert!(limits(&[cpus(0.1)], [(&requests[..], &none)].into_iter()).is_empty());
    }
}
