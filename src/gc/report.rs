//! The plan in words: for `bulkhead agent gc --dry-run` and the agent's `/gc`.

use isolators::quantity::readable;
use serde_json::{Value, json};

use super::{Decision, Disk, Policy, Verdict, Why};
use crate::checkpoint::WorkDir;

/// The whole plan as one object: times in seconds, sizes in bytes.
#[must_use]
pub fn json(work: &WorkDir, policy: &Policy, disk: &Disk, plan: &[Verdict]) -> Value {
    let item = |verdict: &Verdict| {
        let paths = work.garbage(&verdict.garbage);
        let (action, why, seconds) = match verdict.decision {
            Decision::Go(why) => ("delete", word(why), 0.0),
            Decision::Stay(left) => ("keep", "young", left),
            Decision::Retry(left) => ("retry", "failed or in use", left),
        };
        json!({
            "kind": verdict.garbage.kind(),
            "path": paths.first(),
            "since": verdict.item.since,
            "age_secs": verdict.age,
            "bytes": verdict.item.bytes,
            "action": action,
            "why": why,
            "in_secs": seconds,
        })
    };
    json!({
        "gc_delay_secs": policy.delay.as_secs_f64(),
        "gc_disk_headroom": policy.headroom,
        "disk_used": disk.used,
        "disk_total_bytes": disk.total,
        "max_age_secs": policy.max_age(disk).as_secs_f64(),
        "items": plan.iter().map(item).collect::<Vec<_>>(),
    })
}

fn word(why: Why) -> &'static str {
    match why {
        Why::Old => "old",
        Why::Repeated => "repeated",
        Why::Pressure => "pressure",
    }
}

/// The plan that [`json`] gives, for people: lines without their ends.
#[must_use]
pub fn text(plan: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let items = plan["items"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines = vec![format!(
        "disk {:.1}% used, sandboxes may get {} old",
        number(&plan["disk_used"]) * 100.0,
        span(number(&plan["max_age_secs"]))
    )];
    for item in items {
        let age = span(number(&item["age_secs"]));
        let left = span(number(&item["in_secs"]));
        let reason = match (item["action"].as_str(), item["why"].as_str()) {
            (Some("delete"), Some("old")) => format!("delete: {age} old"),
            (Some("delete"), Some("repeated")) => {
                format!("delete: {age} old, the disk fills and its family has newer ones")
            }
            (Some("delete"), _) => format!("delete: {age} old, the disk is full"),
            (Some("retry"), _) => format!("try again in {left}: in use or not deletable before"),
            _ => format!("keep for {left}: {age} old"),
        };
        let size = item["bytes"].as_u64().map_or("size unknown".to_owned(), readable);
        let path = item["path"].as_str().unwrap_or("?");
        let kind = item["kind"].as_str().unwrap_or("?");
        lines.push(format!("{reason}, {size}, {kind} {path}"));
    }
    let going = items.iter().filter(|item| item["action"] == "delete");
    let bytes = going.clone().filter_map(|item| item["bytes"].as_u64()).sum();
    lines.push(format!(
        "{} of {} would go now, {} known to be in them",
        going.count(),
        items.len(),
        readable(bytes)
    ));
    lines
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.1}h", s / 3600.0),
        s => format!("{:.1}d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::{Garbage, Item};
    use crate::gc::Schedule;

    #[test]
    fn people_read_what_goes_and_why() {
        let mut schedule = Schedule::default();
        let bytes = Some(3 << 20);
        let item = |since| Item { bytes, ..Item::since(since) };
        schedule.add(Garbage::Agent("old".into()), item(0.0));
        schedule.add(Garbage::Agent("new".into()), item(86_000.0));
        let policy = Policy { delay: Duration::from_secs(86_400), headroom: 0.1 };
        let disk = Disk { used: 0.4, total: 1 << 30 };
        let plan = schedule.plan(86_400.0, &policy, &disk);
        let lines = text(&json(&WorkDir::new("/w"), &policy, &disk, &plan));
        assert_eq!(
            lines,
            [
                "disk 40.0% used, sandboxes may get 12.0h old",
                "delete: 24.0h old, 3.0 MB, agent /w/slaves/old",
                "keep for 11.9h: 7m old, 3.0 MB, agent /w/slaves/new",
                "1 of 2 would go now, 3.0 MB known to be in them",
            ]
        );
    }
}
