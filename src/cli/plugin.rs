//! `bulkhead plugin check SOCKET`: the conformance suite against any plugin.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use isolator_plugin::check::{self, Options};
use isolators::suite::Outcome;
use serde_json::json;

use super::CliError;
use super::output::Output;

/// What to do with plugins.
#[derive(Debug, Args)]
pub struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Check that a plugin keeps its promises; it must not serve an agent now
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Socket that the plugin listens on
    socket: PathBuf,
    /// Configuration to give it, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
}

/// Runs `bulkhead plugin`.
///
/// # Errors
/// The arguments make no sense. A check that fails is an exit code of 1.
pub async fn plugin(args: &PluginArgs, output: Output) -> Result<ExitCode, CliError> {
    let PluginCommand::Check(args) = &args.command;
    let config = serde_json::from_str(&args.config)
        .map_err(|error| CliError::Argument { option: "--config", message: error.to_string() })?;
    let scratch = format!("bulkhead-plugin-check-{}", std::process::id());
    let scratch = std::env::temp_dir().join(scratch);
    let options = Options { socket: args.socket.clone(), config, scratch };
    let outcomes = check::run(&options, &mut |outcome| line(outcome, output)).await;
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    let total = outcomes.len();
    let text = match failed {
        0 => format!("{total} checks passed"),
        _ => format!("{failed} of {total} checks failed"),
    };
    output.result(&json!({ "checks": total, "failed": failed }), &text);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn line(outcome: &Outcome, output: Output) {
    let check = outcome.check;
    match &outcome.result {
        Ok(()) => {
            output.result(&json!({ "check": check, "pass": true }), &format!("pass  {check}"))
        }
        Err(why) => output.result(
            &json!({ "check": check, "pass": false, "why": why }),
            &format!("FAIL  {check}: {why}"),
        ),
    }
}
