//! `make bench SCENARIO=launch`: one full container, from nothing to removed, by
//! the bare floor, by us, by runc and by crun, in interleaved rounds.
//!
//! Figures are ratios of medians of one run, because the machine's speed differs
//! from hour to hour. Needs root and the v1 hierarchies cpu, memory and pids.

#[path = "../figures.rs"]
mod figures;
mod floor;
mod ours;
mod runtimes;
mod scene;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::launch::{Engine, Launcher};
use figures::figure;
use scene::Scene;

/// Rounds, and containers of each launcher in a round (the runtimes do a tenth).
const ROUNDS: usize = 6;
const PER_ROUND: usize = 100;
const IN_FLIGHT: usize = 16;

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn at(&mut self, fraction: f64) -> f64 {
        self.0.sort();
        let index = (self.0.len() as f64 * fraction) as usize;
        self.0.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    fn row(&mut self, name: &str) {
        let (p50, p90, p99) = (self.at(0.5), self.at(0.9), self.at(0.99));
        let rate = self.0.len() as f64 / self.0.iter().sum::<Duration>().as_secs_f64();
        println!("{name:<12} {p50:>8.2} {p90:>8.2} {p99:>8.2} {rate:>8.0}");
    }

    fn time(&mut self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        self.0.push(start.elapsed());
    }

    async fn wait(&mut self, work: impl Future<Output = ()>) {
        let start = Instant::now();
        work.await;
        self.0.push(start.elapsed());
    }
}

fn main() {
    let needed = scene::HIERARCHIES.map(|name| Path::new("/sys/fs/cgroup").join(name));
    if !needed.iter().all(|path| path.join("tasks").exists()) {
        println!("SKIPPED launch: needs the v1 hierarchies {:?}", scene::HIERARCHIES);
        return;
    }
    // As the launcher does for its threads, so that the floor has it as well.
    let _ = kernel::sched::set_slice(kernel::sched::SHORT_SLICE_NS);
    let launcher = Arc::new(Launcher::new(Engine::Linux).expect("a launcher"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let scene = Arc::new(Scene::new());
    runtimes::write_config(&scene);
    let mut times: [Times; 4] = Default::default();
    let hugetlb = runtimes::Hugetlb::mount();
    let mut stack = floor::stack();
    for round in 0..ROUNDS {
        eprint!("\rround {} of {ROUNDS} ", round + 1);
        for _ in 0..PER_ROUND {
            times[0].time(|| floor::run(&scene, &mut stack));
        }
        times[1] = runtime.block_on(one_by_one(&scene, &launcher, std::mem::take(&mut times[1])));
        for (index, name) in [(2, "runc"), (3, "crun")] {
            for _ in 0..PER_ROUND / 10 {
                let start = Instant::now();
                match runtimes::run(&scene, name) {
                    Ok(()) => times[index].0.push(start.elapsed()),
                    Err(why) => {
                        eprintln!("{name} is left out: {why}");
                        break;
                    }
                }
            }
        }
    }
    drop(hugetlb);
    let floor_rate = floor_in_flight(&scene);
    let rate = runtime.block_on(in_flight(&scene, &launcher));
    println!("\n{:<12} {:>8} {:>8} {:>8} {:>8}", "launcher", "p50 ms", "p90", "p99", "per s");
    for (time, name) in times.iter_mut().zip(["floor", "ours", "runc", "crun"]) {
        time.row(name);
    }
    println!("{IN_FLIGHT} in flight: floor {floor_rate:.0} per s, ours {rate:.0} per s\n");
    let [floor, ours, runc, crun] = times.each_mut().map(|times| times.at(0.5));
    figure("launch.p50_over_floor", ours / floor);
    for (name, value) in [("runc", runc), ("crun", crun)] {
        if value.is_finite() {
            figure(&format!("launch.{name}_over_ours"), value / ours);
        }
    }
    figure("launch.per_s_16", rate);
}

/// One container after the other, on a worker thread as in the agent.
async fn one_by_one(scene: &Arc<Scene>, launcher: &Arc<Launcher>, mut times: Times) -> Times {
    let (scene, launcher) = (Arc::clone(scene), Arc::clone(launcher));
    let task = tokio::spawn(async move {
        for _ in 0..PER_ROUND {
            times.wait(ours::run(&scene, &launcher)).await;
        }
        times
    });
    task.await.expect("all launches succeed")
}

/// Containers in each of the lanes of the next two.
const EACH: usize = ROUNDS * PER_ROUND / IN_FLIGHT;

/// The floor's containers per second, a thread for each lane.
fn floor_in_flight(scene: &Scene) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(|| {
                let mut stack = floor::stack();
                (0..EACH).for_each(|_| floor::run(scene, &mut stack));
            });
        }
    });
    (EACH * IN_FLIGHT) as f64 / start.elapsed().as_secs_f64()
}

/// Our containers per second, a task for each lane.
async fn in_flight(scene: &Arc<Scene>, launcher: &Arc<Launcher>) -> f64 {
    let start = Instant::now();
    let lanes: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (scene, launcher) = (Arc::clone(scene), Arc::clone(launcher));
            tokio::spawn(async move {
                for _ in 0..EACH {
                    ours::run(&scene, &launcher).await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.expect("all launches succeed");
    }
    (EACH * IN_FLIGHT) as f64 / start.elapsed().as_secs_f64()
}
