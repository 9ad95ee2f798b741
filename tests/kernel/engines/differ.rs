//! The differential test: generated plans, run by both engines, must make
//! containers that the probe cannot tell apart.

use std::collections::BTreeSet;

use crate::cgroups::Groups;
use crate::{Fixture, plans, require};

/// Plans of one run; about 0.1 s each.
const PLANS: u64 = 60;

/// What is known to differ and not promised: `docs/COMPAT.md` names it.
fn is_compared(fact: &str, groups: &Groups, with_cgroups: bool) -> bool {
    let elsewhere =
        |target: &str| target.starts_with("/tmp/") && !target.contains("engines-differ");
    match fact.split_once(' ') {
        // The rest of the host is busy: mounts of other tests come and go.
        Some(("mount", target)) if elsewhere(target) => false,
        // A cgroup namespace shows where in each hierarchy the container is.
        Some(("mount", rest)) if rest.contains(" cgroup ") => false,
        // On pure v2 that is a cgroup of libcontainer's, if the plan names none.
        Some(("mount", rest)) if rest.contains(" cgroup2 ") => with_cgroups,
        // libcontainer joins v1 hierarchies that the plan does not name.
        Some(("cgroup", rest)) => {
            let known = groups.hierarchies.iter().any(|name| rest.contains(name.as_str()));
            with_cgroups && known
        }
        _ => true,
    }
}

/// Facts with the numbers of new namespaces taken out.
fn facts(report: &str, groups: &Groups, with_cgroups: bool) -> BTreeSet<String> {
    report
        .lines()
        .filter(|fact| is_compared(fact, groups, with_cgroups))
        .map(|fact| match fact.strip_prefix("namespace ") {
            Some(rest) => {
                let (kind, link) = rest.split_once(' ').unwrap_or((rest, ""));
                let host = std::fs::read_link(format!("/proc/self/ns/{kind}"));
                let same = host.is_ok_and(|host| host.to_string_lossy() == link);
                format!("namespace {kind} {}", if same { "of the host" } else { "of its own" })
            }
            // A sysfs of a new network namespace is made writable by libcontainer and
            // then mounted read-only; the linux engine makes it read-only at once.
            None if fact.starts_with("mount /sys root=/ sysfs ro,") => {
                fact.split(" super=").next().unwrap_or(fact).to_owned()
            }
            None => fact.to_owned(),
        })
        .collect()
}

#[tokio::test]
async fn both_engines_make_the_same_container_of_a_plan() {
    require!(root, cgroup, overlay);
    let fixture = Fixture::new("differ");
    let groups = Groups::new("differ", &["memory", "pids"]);
    let start = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let start: u64 = start.unwrap_or(now.expect("after 1970").as_secs() * 1000);
    let count = std::env::var("PLANS").ok().and_then(|count| count.parse().ok()).unwrap_or(PLANS);
    println!("SEED={start} PLANS={count}");
    let mut different = Vec::new();
    for seed in start..start + count {
        let mut seen = Vec::new();
        for engine in ["linux", "oci"] {
            let plan = plans::plan(&fixture, &groups, seed);
            let with_cgroups = !plan.cgroups.is_empty();
            let (status, output) = fixture.run(engine, &plan).await;
            assert_eq!(status, Some(0), "SEED={seed} PLANS=1 {engine}: {output}");
            seen.push(facts(&output, &groups, with_cgroups));
        }
        let only = |a: usize, b: usize| -> Vec<_> { seen[a].difference(&seen[b]).collect() };
        let (linux, oci) = (only(0, 1), only(1, 0));
        if !linux.is_empty() || !oci.is_empty() {
            let text = format!("linux only: {linux:#?}\noci only: {oci:#?}");
            different.push(format!("SEED={seed} PLANS=1\n{text}"));
        }
    }
    assert!(different.is_empty(), "{} of {count}:\n{}", different.len(), different.join("\n"));
}
