//! `bulkhead top`: what every container uses, from the agents' `/monitor/statistics`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::MasterArg;
use super::api::Api;
use super::error::CliError;
use super::output::Output;
use super::task;

/// Arguments of `bulkhead top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    master: MasterArg,
    /// Seconds between two looks
    #[arg(long, short, default_value_t = 2.0)]
    interval: f64,
    /// Print once and end
    #[arg(long)]
    once: bool,
}

/// One container's numbers.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    framework: String,
    executor: String,
    agent: String,
    timestamp: f64,
    cpu_seconds: f64,
    cpu_limit: Option<f64>,
    memory: Option<u64>,
    memory_limit: Option<u64>,
    processes: Option<u64>,
}

impl Sample {
    fn read(entry: &Value, agent: &str) -> Sample {
        let text = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
        let figures = &entry["statistics"];
        let seconds = |key: &str| figures[key].as_f64().unwrap_or(0.0);
        Sample {
            framework: text("framework_id"),
            executor: text("executor_id"),
            agent: agent.to_owned(),
            timestamp: seconds("timestamp"),
            cpu_seconds: seconds("cpus_user_time_secs") + seconds("cpus_system_time_secs"),
            cpu_limit: figures["cpus_limit"].as_f64().or(figures["cpus_soft_limit"].as_f64()),
            memory: figures["mem_total_bytes"].as_u64().or(figures["mem_rss_bytes"].as_u64()),
            memory_limit: figures["mem_limit_bytes"].as_u64(),
            // What the pid limit counts, unless the agent counts processes apart.
            processes: figures["processes"].as_u64().or(figures["threads"].as_u64()),
        }
    }

    fn key(&self) -> (String, String) {
        (self.framework.clone(), self.executor.clone())
    }

    /// CPUs in use since `before`.
    fn cpus(&self, before: Option<&Sample>) -> Option<f64> {
        let before = before?;
        let time = self.timestamp - before.timestamp;
        (time > 0.0).then(|| (self.cpu_seconds - before.cpu_seconds).max(0.0) / time)
    }
}

/// Shows what containers use until stopped.
pub async fn top(args: &TopArgs, output: Output) -> Result<ExitCode, CliError> {
    let master = args.master.api()?;
    let pause = Duration::from_secs_f64(args.interval.clamp(0.1, 3600.0));
    let mut before: HashMap<(String, String), Sample> = HashMap::new();
    for round in 0u64.. {
        let samples = sample(&master).await?;
        // The first look has no rates yet: with --once take a second one.
        if round > 0 || !args.once {
            show(&samples, &before, output);
        }
        if args.once && round > 0 {
            break;
        }
        before = samples.into_iter().map(|s| (s.key(), s)).collect();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn sample(master: &Api) -> Result<Vec<Sample>, CliError> {
    let mut samples = Vec::new();
    for agent in task::agents(master).await? {
        let (Some(pid), hostname) = (agent["pid"].as_str(), &agent["hostname"]) else { continue };
        let answer = Api::agent(pid).get("/monitor/statistics").await?;
        let hostname = hostname.as_str().unwrap_or("");
        samples.extend(answer.as_array().into_iter().flatten().map(|e| Sample::read(e, hostname)));
    }
    Ok(samples)
}

fn show(samples: &[Sample], before: &HashMap<(String, String), Sample>, output: Output) {
    let cpus = |s: &Sample| s.cpus(before.get(&s.key()));
    if output.is_json() {
        for s in samples {
            output.result(
                &json!({
                    "framework_id": s.framework, "executor_id": s.executor, "agent": s.agent,
                    "cpus": cpus(s), "cpus_limit": s.cpu_limit, "mem_bytes": s.memory,
                    "mem_limit_bytes": s.memory_limit, "processes": s.processes,
                    "cpu_seconds": s.cpu_seconds, "timestamp": s.timestamp,
                }),
                "",
            );
        }
        return;
    }
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by(|a, b| cpus(b).unwrap_or(0.0).total_cmp(&cpus(a).unwrap_or(0.0)));
    let rows: Vec<Vec<String>> = sorted
        .iter()
        .map(|s| {
            vec![
                s.executor.clone(),
                cpus(s).map_or("-".to_owned(), |c| format!("{c:.2}")),
                s.cpu_limit.map_or("-".to_owned(), |c| format!("{c:.2}")),
                s.memory.map_or("-".to_owned(), bytes),
                s.memory_limit.map_or("-".to_owned(), bytes),
                s.processes.map_or("-".to_owned(), |p| p.to_string()),
                s.agent.clone(),
            ]
        })
        .collect();
    output.redraw();
    output.table(&["EXECUTOR", "CPUS", "OF", "MEM", "OF", "PIDS", "AGENT"], &rows);
}

/// A size with one decimal in the unit people read best.
fn bytes(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_two_samples() {
        let entry = |at: f64, user: f64| {
            json!({ "executor_id": "e", "framework_id": "f", "statistics": {
                "timestamp": at, "cpus_user_time_secs": user, "cpus_system_time_secs": 0.5,
                "cpus_limit": 1.5, "mem_rss_bytes": 4096, "mem_limit_bytes": 8192 } })
        };
        let (a, b) = (Sample::read(&entry(10.0, 1.0), "h"), Sample::read(&entry(12.0, 2.0), "h"));
        assert_eq!(b.cpus(Some(&a)), Some(0.5));
        assert_eq!(b.cpus(None), None);
        assert_eq!((b.cpu_limit, b.memory, b.memory_limit), (Some(1.5), Some(4096), Some(8192)));
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(10), bytes(64 << 20), bytes(3 << 29)], ["10B", "64.0M", "1.5G"]);
    }
}
