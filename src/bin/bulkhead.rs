//! `bulkhead`, also installed as `mesos-execute`: the people's command.

use std::process::ExitCode;

use bulkhead::cli;
use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::arguments(std::env::args().collect());
    let cli = cli::Cli::parse_from(arguments);
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("bulkhead: failed to start the runtime: {error}");
                return ExitCode::FAILURE;
            }
        };
    let code = runtime.block_on(cli::main(cli));
    runtime.shutdown_background();
    code
}
