//! `/frameworks`: the frameworks, live and completed.

use mesos::json::Writer;

use super::pieces::{self, Pieces};
use crate::master::snapshot::Snapshot;

/// The body of `/frameworks`; of one framework only if `framework_id` is given.
#[must_use]
pub fn frameworks(snapshot: &Snapshot, pieces: &Pieces, framework_id: Option<&str>) -> Vec<u8> {
    let cluster = &snapshot.cluster;
    let wanted = |id: &str| framework_id.is_none_or(|only| only == id);
    let mut w = Writer::new();
    pieces.with(|kept| {
        w.object(|w| {
            w.key("frameworks").array(|w| {
                for framework in cluster.frameworks.values().filter(|f| wanted(f.id.as_str())) {
                    pieces::framework(w, framework, kept, &cluster.offers);
                }
            });
            w.key("completed_frameworks").array(|w| {
                let completed = cluster.completed_frameworks.iter();
                for framework in completed.filter(|f| wanted(f.id.as_str())) {
                    pieces::framework(w, framework, kept, &cluster.offers);
                }
            });
            w.key("unregistered_frameworks").array(|_| {});
        });
    });
    w.into_bytes()
}
