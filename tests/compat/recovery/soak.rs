//! Many short containers while the agent is killed at random and limits are hit.
//! `BULKHEAD_SOAK=5000` makes it long (`make soak`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options};
use crate::framework::{Framework, command, is_terminal, offered};
use crate::require;

/// Tasks under way at once.
const WIDTH: usize = 40;

/// Command and the end it must have.
fn kind(number: usize) -> (&'static str, &'static str) {
    match number % 8 {
        0 => ("exit 7", "TASK_FAILED"),
        1 => ("sleep 0.3", "TASK_FINISHED"),
        2 => ("head -c 64m /dev/zero | tail | wc -c", "TASK_FAILED"),
        3 => ("(setsid sleep 1000 &) ; sleep 0.1", "TASK_FINISHED"),
        4 => ("kill -9 $$", "TASK_FAILED"),
        5 => ("for i in 1 2 3 4 5 6 7 8; do sleep 0.1 & done; wait", "TASK_FINISHED"),
        _ => ("exit 0", "TASK_FINISHED"),
    }
}

/// Tasks that ended otherwise than they must, with what was said of them.
fn wrong_ends(framework: &Framework, total: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for n in 0..total {
        let statuses = &framework.statuses[&format!("s{n}")];
        let ends: BTreeSet<(String, String)> = statuses
            .iter()
            .filter(|s| is_terminal(s["state"].as_str().unwrap_or("")))
            .map(|s| (s["state"].as_str().unwrap_or("").to_owned(), s["uuid"].to_string()))
            .collect();
        let states: Vec<&str> = ends.iter().map(|(state, _)| state.as_str()).collect();
        let fine = match states[..] {
            [state] if state == kind(n).1 => true,
            // On its way when the agent died. Each agent that does not know it says so,
            // as in Mesos, until the framework's word has reached one.
            [_, ..] => {
                states.iter().all(|state| ["TASK_DROPPED", "TASK_LOST"].contains(state))
                    && !statuses.iter().any(|s| s["state"] == "TASK_RUNNING")
            }
            _ => false,
        };
        if !fine {
            let all = statuses.iter().map(|s| format!("{} {}", s["state"], s["message"]));
            wrong.push(format!("s{n} ({}): {:?}", kind(n).0, all.collect::<Vec<_>>()));
        }
    }
    wrong
}

#[tokio::test]
async fn nothing_is_lost_or_leaked_under_random_deaths() {
    require!(root, cgroup);
    let total: usize =
        std::env::var("BULKHEAD_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(160);
    let seed = std::env::var("BULKHEAD_SEED").ok().and_then(|n| n.parse().ok());
    let mut seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("BULKHEAD_SEED={seed}");
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let options = Options::default()
        .master(&["--allocation_interval=50ms"])
        // What is over is collected meanwhile.
        .agent(&["--registration_backoff_factor=10ms", "--gc_delay=10secs"]);
    let mut cluster = Cluster::start("soak", options);
    let mut framework = Framework::subscribe(&cluster.master, "soak").await;
    let mut launched = 0;
    let mut deaths = 0;
    // Counts from the first launch after a death: an agent has to be there to know of any.
    let mut next_death = None;
    let by = Instant::now() + Duration::from_secs(60 + total as u64 / 4);
    loop {
        let name = |n: usize| format!("s{n}");
        let is_open = |n: &usize| framework.end(&name(*n)).is_none();
        let open = (0..launched).filter(is_open).count();
        if launched == total && open == 0 {
            break;
        }
        if Instant::now() > by {
            let said: Vec<_> = (0..launched)
                .filter(is_open)
                .map(|n| (n, framework.statuses.get(&name(n))))
                .collect();
            panic!("open after {deaths} deaths: {said:#?}\n{}", cluster.logs());
        }
        framework.next(tokio::time::Instant::now() + Duration::from_millis(20)).await;
        if open < WIDTH && launched < total && framework.has_offer() {
            let count = (WIDTH - open).min(total - launched).min(20);
            let tasks = (launched..launched + count).map(|n| command(&name(n), kind(n).0, 16.0));
            let offer = framework.take_offer().expect("at hand");
            if offered(&offer, "cpus") < 2.0 {
                // What a task has just given back: wait for the rest.
                framework.decline(&offer).await;
                continue;
            }
            let reply = framework.accept(&offer, tasks.collect()).await;
            assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
            launched += count;
            next_death.get_or_insert(Instant::now() + Duration::from_millis(300 + random(1500)));
        }
        if next_death.is_some_and(|at| Instant::now() > at) && launched < total {
            cluster.kill_agent();
            cluster.spawn_agent();
            deaths += 1;
            next_death = None;
        }
    }
    let wrong = wrong_ends(&framework, total);
    assert!(wrong.is_empty(), "{deaths} deaths, {} wrong: {wrong:#?}", wrong.len());
    let dropped = |n: &usize| {
        let end = framework.end(&format!("s{n}"));
        end.is_some_and(|s| s["state"] == "TASK_DROPPED" || s["state"] == "TASK_LOST")
    };
    let dropped = (0..total).filter(dropped).count();
    println!("{total} tasks, {deaths} deaths, {dropped} dropped on their way");
    // A slow machine drops more; it must not drop all.
    assert!(deaths > 0 && dropped < total - total / 10);
    cluster.wait_clean();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", cluster.agent_pid())).expect("fds").count();
    assert!(fds < 100, "{fds} descriptors are open in an idle agent");
}
