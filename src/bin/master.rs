//! The master: flags, logging, build, run, drain.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use bulkhead::daemon::flags::{Flags, master, usage};
use bulkhead::daemon::logging::Logging;
use bulkhead::daemon::signals::{Signal, Signals};
use bulkhead::daemon::version;
use bulkhead::master::app::{App, Settings};

const PROGRAM: &str = "bulkhead-master";

fn main() -> ExitCode {
    let flags = match Flags::parse(master::FLAGS, std::env::args().skip(1), std::env::vars()) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}\nSee `{PROGRAM} --help`");
            return ExitCode::FAILURE;
        }
    };
    if flags.bool("help") {
        println!("{}", usage(PROGRAM, master::FLAGS));
        return ExitCode::SUCCESS;
    }
    if flags.bool("version") {
        println!("{}", version::line(PROGRAM));
        return ExitCode::SUCCESS;
    }
    match start(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{PROGRAM}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: Flags) -> anyhow::Result<()> {
    let logging = Logging::start(PROGRAM, &flags).context("set up logging")?;
    for warning in flags.warnings() {
        tracing::warn!("{warning}");
    }
    let settings = Settings::new(&flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(8)))
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let done = runtime.block_on(async move {
        let mut signals = Signals::new().context("take over signals")?;
        let app = App::build(settings, Arc::new(flags), logging.clone()).await?;
        let stop = async move {
            loop {
                match signals.next().await {
                    Signal::Stop => return,
                    Signal::Reopen => {
                        if let Err(error) = logging.reopen() {
                            tracing::error!("reopen the log: {}", kernel::chain(&error));
                        }
                    }
                    Signal::Leave => {}
                }
            }
        };
        app.run(stop).await.map_err(anyhow::Error::from)
    });
    // Connections of clients that do not read must not hold us up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}
