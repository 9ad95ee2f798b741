//! `bulkhead-agent`, also installed as `mesos-agent` and `mesos-slave`.
//!
//! Flags, then logging, then the parts, then the loop. `SIGTERM` leaves the
//! containers running, `SIGUSR1` unregisters and ends them, `SIGHUP` opens the
//! log file again.

use std::process::ExitCode;

use anyhow::Context as _;
use bulkhead::agent::app::App;
use bulkhead::daemon::flags::{Flags, agent::FLAGS, usage};
use bulkhead::daemon::logging::Logging;
use bulkhead::daemon::signals::Signals;
use bulkhead::daemon::version;

const PROGRAM: &str = "bulkhead-agent";

fn main() -> ExitCode {
    let flags = match Flags::parse(FLAGS, std::env::args().skip(1), std::env::vars()) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}\nSee '{PROGRAM} --help'.");
            return ExitCode::FAILURE;
        }
    };
    if flags.bool("help") {
        println!("{}", usage(PROGRAM, FLAGS));
        return ExitCode::SUCCESS;
    }
    if flags.bool("version") {
        println!("{}", version::line(PROGRAM));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build();
    let ended = runtime
        .context("failed to start the runtime")
        .and_then(|runtime| runtime.block_on(run(flags)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{PROGRAM}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let logging = Logging::start("agent", &flags)?;
    flags.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let signals = Signals::new().context("failed to watch for signals")?;
    Ok(App::build(flags, logging).await?.run(signals).await?)
}
