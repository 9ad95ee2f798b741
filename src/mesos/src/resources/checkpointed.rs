//! What operations have made of an agent's resources: the part that agents keep
//! over their restart, and how it fits into what they are started with.

use super::conversion::strip_volume;
use super::{Item, Resources};
use crate::resource::reservation_info::Type as ReservationType;

impl Resources {
    /// What an agent must remember: dynamic reservations and persistent volumes.
    #[must_use]
    pub fn to_checkpoint(&self) -> Resources {
        self.filter(|item| item.is_dynamically_reserved() || item.is_persistent_volume())
    }

    /// What an agent has that was started with these and keeps `checkpointed`;
    /// `None` if they do not fit.
    #[must_use]
    pub fn with_checkpointed(&self, checkpointed: &Resources) -> Option<Resources> {
        let mut total = self.clone();
        for item in checkpointed.iter().filter(|item| item.provider_id().is_none()) {
            let plain = as_started(item);
            if !total.contains(&plain) {
                return None;
            }
            total -= &plain;
            total += &Resources::from(item.clone());
        }
        Some(total)
    }
}

/// The resource an item was before it was reserved dynamically or made a volume.
fn as_started(item: &Item) -> Resources {
    let mut proto = item.to_proto();
    while proto.reservations.last().is_some_and(|r| r.r#type() == ReservationType::Dynamic) {
        proto.reservations.pop();
    }
    if item.is_persistent_volume() {
        strip_volume(&mut proto);
    }
    Resources::from_valid(&[proto])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ReservationInfo;

    #[test]
    fn checkpointed_resources_replace_what_they_came_from() {
        let parse = |text: &str| Resources::parse(text, "*").expect("resources");
        let total = parse("cpus:4;disk:100");
        let dynamic = ReservationInfo {
            r#type: Some(ReservationType::Dynamic as i32),
            role: Some("web".into()),
            ..Default::default()
        };
        let reserved = parse("cpus:1").push_reservation(&dynamic).expect("reserved");
        let all = total.with_checkpointed(&reserved).expect("fits");
        assert!(all.contains(&reserved) && all.contains(&parse("cpus:3;disk:100")));
        assert!(!all.contains(&total));
        assert_eq!(all.to_checkpoint(), reserved);
        let much = parse("cpus:5").push_reservation(&dynamic).expect("reserved");
        assert!(total.with_checkpointed(&much).is_none());
    }
}
