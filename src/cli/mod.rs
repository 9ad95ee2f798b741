//! The people's command: `bulkhead local`, `run`, `ps`, `logs`, `exec`, `kill`, `top`,
//! `plugin`, `agent`, `image`.
//!
//! Speaks to master and agents over their public HTTP APIs only, so it works
//! against Apache Mesos as well; `agent` also reads work directories.
//! `src/bin/bulkhead.rs` calls [`main`]. Holds no state between two commands.

mod agent;
mod api;
mod error;
mod exec;
mod follow;
mod image;
mod kill;
mod local;
mod logs;
mod output;
mod plugin;
mod ps;
mod run;
mod spec;
mod task;
mod terminal;
mod top;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use error::CliError;
use output::Output;

/// Runs tasks on a Bulkhead (or Apache Mesos) cluster and looks at them.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, max_term_width = 100)]
pub struct Cli {
    /// Print JSON, one object per line, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a master and an agent here; Ctrl-C stops them and cleans up
    Local(local::LocalArgs),
    /// Run a command or a task, show its output, exit with its result
    Run(Box<run::RunArgs>),
    /// List tasks
    Ps(ps::PsArgs),
    /// Print the output of a task
    Logs(logs::LogsArgs),
    /// Run a command in the container of a task
    Exec(exec::ExecArgs),
    /// Stop a task
    Kill(kill::KillArgs),
    /// Watch what containers use
    Top(top::TopArgs),
    /// Check isolator plugins
    Plugin(plugin::PluginArgs),
    /// Explain an agent's work directory and its garbage collection
    Agent(agent::AgentArgs),
    /// Fetch, list and remove the images of an agent
    Image(image::ImageArgs),
}

/// Where the master is.
#[derive(Debug, Clone, Args)]
struct MasterArg {
    /// Master to talk to
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "BULKHEAD_MASTER",
        default_value = "127.0.0.1:5050"
    )]
    master: String,
}

impl MasterArg {
    fn api(&self) -> Result<api::Api, CliError> {
        let address = self.master.trim_start_matches("http://").trim_end_matches('/');
        if address.starts_with("zk://") {
            return Err(CliError::NotYet { what: "finding the master in ZooKeeper (zk://)" });
        }
        let port = if address.contains(':') { "" } else { ":5050" };
        Ok(api::Api::new("master", &format!("{address}{port}")))
    }
}

/// Runs the command line and reports errors the way people can act on them.
pub async fn main(cli: Cli) -> ExitCode {
    let output = Output::new(cli.json);
    let result = match cli.command {
        Command::Local(args) => local::local(&args, output).await,
        Command::Run(args) => run::run(&args, output).await,
        Command::Ps(args) => ps::ps(&args, output).await,
        Command::Logs(args) => logs::logs(&args, output).await,
        Command::Exec(args) => exec::exec(&args, output).await,
        Command::Kill(args) => kill::kill(&args, output).await,
        Command::Top(args) => top::top(&args, output).await,
        Command::Plugin(args) => plugin::plugin(&args, output).await,
        Command::Agent(args) => agent::agent(&args, output).await,
        Command::Image(args) => image::image(&args, output).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::from(2)
        }
    }
}

/// The arguments of `mesos-execute` as those of `bulkhead run`: a program that
/// is started under that name takes no subcommand.
#[must_use]
pub fn arguments(mut arguments: Vec<String>) -> Vec<String> {
    let name = arguments.first().and_then(|a| a.rsplit('/').next()).unwrap_or("");
    if name == "mesos-execute" {
        arguments.insert(1, "run".to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn mesos_execute_is_run() {
        let given = ["/usr/bin/mesos-execute", "--master=h:1", "--name=a", "--command=true"];
        let cli = Cli::try_parse_from(arguments(given.map(str::to_owned).to_vec())).unwrap();
        assert!(matches!(cli.command, Command::Run(_)));
    }
}
