//! `bulkhead-executor`, also installed as `mesos-default-executor`: the default
//! executor. Started by an agent inside the executor's container, never by
//! people. Writes its log to its standard error, the sandbox's `stderr`.

use std::process::ExitCode;

use bulkhead::executor::{driver, settings::Settings};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let settings = match Settings::read(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("bulkhead-executor: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bulkhead-executor: failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(driver::run(settings));
    // Waits and timers that are still under way do not matter any more.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}
