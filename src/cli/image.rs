//! `bulkhead image pull|ls|prune`: the images that an agent has at hand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::api::Api;
use super::error::CliError;
use super::output::Output;

/// Where an agent serves its images.
const IMAGES: &str = "/slave(1)/images";
/// Largest record of an answer.
const MAX_RECORD: usize = 1 << 20;

/// Arguments of `bulkhead image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Fetch an image, so that it is there before a task needs it
    Pull(PullArgs),
    /// List images
    Ls(AgentArg),
    /// Remove the images that no container uses
    Prune(PruneArgs),
}

/// Which agent.
#[derive(Debug, Args)]
pub struct AgentArg {
    /// Ask this agent
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "BULKHEAD_AGENT",
        default_value = "127.0.0.1:5051"
    )]
    agent: String,
}

impl AgentArg {
    fn api(&self) -> Api {
        let address = self.agent.trim_start_matches("http://").trim_end_matches('/');
        let port = if address.contains(':') { "" } else { ":5051" };
        Api::new("agent", &format!("{address}{port}"))
    }
}

/// Arguments of `bulkhead image pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Ask the registry although the image is there
    #[arg(long)]
    force: bool,
    /// Whose image: mesos or docker; default: the first of the agent's that has images
    #[arg(long, value_name = "NAME")]
    containerizer: Option<String>,
    /// [registry[:port]/]repository[:tag][@digest]
    #[arg(required = true)]
    images: Vec<String>,
}

/// Arguments of `bulkhead image prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Leave this image; may be repeated. Default: those of the agent's --image_gc_config
    #[arg(long, value_name = "IMAGE")]
    exclude: Vec<String>,
}

/// Runs one of the commands.
pub async fn image(args: &ImageArgs, output: Output) -> Result<ExitCode, CliError> {
    match &args.command {
        ImageCommand::Pull(args) => {
            for image in &args.images {
                pull(args, image, output).await?;
            }
        }
        ImageCommand::Ls(agent) => list(&agent.api(), output).await?,
        ImageCommand::Prune(args) => prune(args, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull(args: &PullArgs, image: &str, output: Output) -> Result<(), CliError> {
    let api = args.agent.api();
    let mut body = json!({ "image": image, "force": args.force });
    if let Some(containerizer) = &args.containerizer {
        body["containerizer"] = containerizer.as_str().into();
    }
    let (_, mut records) = api.subscribe(IMAGES, &body).await?;
    let mut shown = String::new();
    while let Some(record) = records.next().await.map_err(|e| api.unreachable(e))? {
        let wrong = |e: serde_json::Error| api.unexpected(IMAGES, &e.to_string());
        let record: Value =
            serde_json::from_slice(&record[..record.len().min(MAX_RECORD)]).map_err(wrong)?;
        if let Some(message) = record["error"].as_str() {
            return Err(CliError::Image { message: message.to_owned() });
        }
        if record["image"].is_object() {
            let row = &record["image"];
            let size = size(row["bytes"].as_u64().unwrap_or(0));
            output.result(row, &format!("{} ({size})", text(row, "name")));
            return Ok(());
        }
        let line = far(image, &record["progress"]);
        if line != shown {
            output.progress(&line);
            shown = line;
        }
    }
    Err(api.unexpected(IMAGES, "the answer ended before the pull"))
}

/// One line on how far a pull is.
fn far(image: &str, now: &Value) -> String {
    let number = |name: &str| now[name].as_u64().unwrap_or(0);
    let (layers, bytes) = (number("layers"), number("bytes"));
    if layers == 0 {
        return format!("{image}: asking the registry");
    }
    let done = number("layers_done");
    let mut line = format!("{image}: {done} of {layers} layers");
    if bytes > 0 {
        line.push_str(&format!(", {} of {}", size(number("bytes_done")), size(bytes)));
    }
    line
}

async fn list(api: &Api, output: Output) -> Result<(), CliError> {
    let answer = api.get(IMAGES).await?;
    let images = answer["images"].as_array().cloned().unwrap_or_default();
    for error in answer["errors"].as_array().into_iter().flatten() {
        output.progress(&format!("{}: {}", text(error, "containerizer"), text(error, "message")));
    }
    if output.is_json() {
        images.iter().for_each(|row| output.result(row, ""));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|row| {
            let digest = text(row, "digest").trim_start_matches("sha256:");
            vec![
                text(row, "name").to_owned(),
                digest.chars().take(12).collect(),
                size(row["bytes"].as_u64().unwrap_or(0)),
                if row["in_use"] == true { "yes" } else { "no" }.to_owned(),
                text(row, "containerizer").to_owned(),
            ]
        })
        .collect();
    output.table(&["IMAGE", "DIGEST", "SIZE", "IN USE", "CONTAINERIZER"], &rows);
    Ok(())
}

async fn prune(args: &PruneArgs, output: Output) -> Result<(), CliError> {
    let api = args.agent.api();
    let names = |answer: &Value| -> Vec<String> {
        let rows = answer["images"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| text(row, "name").to_owned()).collect()
    };
    let before = names(&api.get(IMAGES).await?);
    let excluded: Vec<Value> = args
        .exclude
        .iter()
        .map(|name| json!({ "type": "DOCKER", "docker": { "name": name } }))
        .collect();
    let call = json!({ "type": "PRUNE_IMAGES", "prune_images": { "excluded_images": excluded } });
    api.post("/api/v1", &call, None).await?;
    let after = names(&api.get(IMAGES).await?);
    let gone: Vec<String> = before.into_iter().filter(|name| !after.contains(name)).collect();
    let said = match gone.len() {
        0 => "nothing to remove".to_owned(),
        _ => gone.iter().map(|name| format!("removed {name}")).collect::<Vec<_>>().join("\n"),
    };
    output.result(&json!({ "removed": gone }), &said);
    Ok(())
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or("")
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KB", "MB", "GB"];
    #[allow(clippy::cast_precision_loss)] // one digit is shown
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_on_how_far_it_is() {
        assert_eq!(far("a", &json!({ "layers": 0 })), "a: asking the registry");
        let now = json!({ "layers": 3, "layers_done": 1, "bytes": 5_000_000, "bytes_done": 999 });
        assert_eq!(far("a:b", &now), "a:b: 1 of 3 layers, 999 B of 5.0 MB");
        assert_eq!(size(12_345_678_901), "12.3 GB");
    }
}
