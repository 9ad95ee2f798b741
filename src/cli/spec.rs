//! The task that `bulkhead run` asks for: command-line arguments or a JSON
//! `TaskInfo` become a `mesos.v1.TaskInfo` as JSON, and offers that fit it.
//!
//! Pure but for reading the task file.

use std::path::PathBuf;

use clap::Args;
use mesos::resources::Resources;
use serde_json::{Map, Value, json};

use super::error::CliError;

/// What to run. Names with `_` are those of mesos-execute.
#[derive(Debug, Default, Args)]
pub struct TaskArgs {
    /// Name of task and framework
    #[arg(long)]
    name: Option<String>,
    /// Shell command to run
    #[arg(long, conflicts_with = "task")]
    command: Option<String>,
    /// Task as JSON (mesos.v1.TaskInfo), or a file that holds it
    #[arg(long, value_name = "JSON|FILE")]
    task: Option<String>,
    /// All resources, e.g. `cpus:0.5;mem:64;disk:32`
    #[arg(long, conflicts_with_all = ["cpus", "mem", "disk"])]
    resources: Option<String>,
    /// CPUs to ask for [default: 0.1]
    #[arg(long)]
    cpus: Option<f64>,
    /// Memory to ask for, in MB [default: 32]
    #[arg(long)]
    mem: Option<f64>,
    /// Disk to ask for, in MB
    #[arg(long)]
    disk: Option<f64>,
    /// CPUs never to exceed (a hard limit)
    #[arg(long, value_name = "CPUS")]
    cpu_limit: Option<f64>,
    /// Memory in MB at which the task is killed, when above --mem
    #[arg(long, value_name = "MB")]
    mem_limit: Option<f64>,
    /// Environment: NAME=VALUE, repeated, or one JSON object
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Most processes and threads the task may have
    #[arg(long, value_name = "N")]
    pids: Option<u64>,
    /// Image to run in; its own command is run if none is given
    #[arg(long, alias = "docker_image", conflicts_with = "task")]
    image: Option<String>,
    /// Who runs the image: mesos or docker
    #[arg(
        long,
        value_name = "NAME",
        default_value = "mesos",
        value_parser = ["mesos", "docker"],
        conflicts_with = "task"
    )]
    containerizer: String,
    /// Give the task a terminal; what it writes there is its standard output
    #[arg(long, conflicts_with = "task")]
    tty: bool,
    /// Command and arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

impl TaskArgs {
    /// Name of the framework.
    pub fn name<'a>(&'a self) -> String {
        let word = || self.argv.first().or(self.command.as_ref())?.split_whitespace().next();
        let last = |word: &'a str| word.rsplit('/').next();
        let image = || last(self.image.as_deref()?)?.split(['@', ':']).next();
        let word = word().and_then(last).or_else(image);
        self.name.clone().unwrap_or_else(|| word.unwrap_or("task").to_owned())
    }

    /// The task, complete but for `agent_id`. `id` is used when the task has
    /// none of its own.
    ///
    /// # Errors
    /// [`CliError`] naming the argument that cannot be read.
    pub fn build(&self, id: &str) -> Result<Value, CliError> {
        let mut task = match &self.task {
            Some(given) => read_task(given)?,
            None => json!({ "command": self.command()? }),
        };
        let members =
            task.as_object_mut().ok_or_else(|| argument("--task", "not a JSON object"))?;
        members.entry("name").or_insert_with(|| json!(self.name()));
        members.entry("task_id").or_insert_with(|| json!({ "value": id }));
        if self.task.is_none() || self.resources.is_some() {
            members.insert("resources".into(), self.resources()?);
        }
        if let Some(image) = &self.image {
            members.insert("container".into(), container(image, &self.containerizer));
        }
        if self.tty {
            let container =
                members.entry("container").or_insert_with(|| json!({ "type": "MESOS" }));
            container["tty_info"] = json!({});
        }
        let mut limits = Map::new();
        if let Some(cpus) = self.cpu_limit {
            limits.insert("cpus".into(), json!({ "value": cpus }));
        }
        if let Some(mem) = self.mem_limit {
            limits.insert("mem".into(), json!({ "value": mem }));
        }
        if !limits.is_empty() {
            members.insert("limits".into(), Value::Object(limits));
        }
        if let Some(pids) = self.pids {
            // Mesos has no such resource: the agent reads it from a label.
            let label = json!({ "key": "pids_limit", "value": pids.to_string() });
            members.insert("labels".into(), json!({ "labels": [label] }));
        }
        // One check for all: the schema says what a task must have.
        let text = task.to_string();
        mesos::v1::from_json("mesos.v1.TaskInfo", with_agent(&text).as_bytes())
            .map_err(|e| argument("--task", &e.to_string()))?;
        Ok(task)
    }

    fn command(&self) -> Result<Value, CliError> {
        let mut command = match (&self.command, self.argv.first()) {
            (Some(shell), None) => json!({ "shell": true, "value": shell }),
            (None, Some(program)) => {
                json!({ "shell": false, "value": program, "arguments": self.argv })
            }
            (None, None) if self.image.is_some() => json!({ "shell": false }),
            (None, None) => return Err(CliError::NothingToRun),
            (Some(_), Some(_)) => {
                return Err(argument("--command", "a command is also given after `--`"));
            }
        };
        let variables = environment(&self.env)?;
        if !variables.is_empty() {
            command["environment"] = json!({ "variables": variables });
        }
        Ok(command)
    }

    fn resources(&self) -> Result<Value, CliError> {
        let text = self.resources.clone().unwrap_or_else(|| {
            let disk = self.disk.map_or(String::new(), |d| format!(";disk:{d}"));
            format!("cpus:{};mem:{}{disk}", self.cpus.unwrap_or(0.1), self.mem.unwrap_or(32.0))
        });
        let parsed =
            Resources::parse(&text, "*").map_err(|e| argument("--resources", &e.to_string()))?;
        let mut list = Vec::new();
        for resource in parsed.to_protos() {
            let json = mesos::v1::to_json("mesos.v1.Resource", &resource)
                .map_err(|e| argument("--resources", &e.to_string()))?;
            let value = serde_json::from_slice(&json)
                .map_err(|e| argument("--resources", &e.to_string()))?;
            list.push(value);
        }
        Ok(Value::Array(list))
    }
}

/// A container in an image.
fn container(image: &str, containerizer: &str) -> Value {
    if containerizer == "docker" {
        return json!({ "type": "DOCKER", "docker": { "image": image } });
    }
    let image = json!({ "type": "DOCKER", "docker": { "name": image } });
    json!({ "type": "MESOS", "mesos": { "image": image } })
}

fn argument(option: &'static str, message: &str) -> CliError {
    CliError::Argument { option, message: message.to_owned() }
}

/// `agent_id` is required in a task, but only the offer brings it.
fn with_agent(task: &str) -> String {
    let mut task: Value = serde_json::from_str(task).unwrap_or_default();
    task["agent_id"] = json!({ "value": "" });
    task.to_string()
}

fn read_task(given: &str) -> Result<Value, CliError> {
    let path = given.strip_prefix("file://").unwrap_or(given);
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        std::fs::read_to_string(path).map_err(|source| CliError::Io {
            verb: "read",
            path: PathBuf::from(path),
            source,
        })?
    };
    serde_json::from_str(&text).map_err(|e| argument("--task", &e.to_string()))
}

/// `NAME=VALUE` words, or a JSON object as mesos-execute takes it.
fn environment(given: &[String]) -> Result<Vec<Value>, CliError> {
    let mut variables = Vec::new();
    for word in given {
        if word.trim_start().starts_with('{') {
            let object: Map<String, Value> =
                serde_json::from_str(word).map_err(|e| argument("--env", &e.to_string()))?;
            for (name, value) in object {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                variables.push(json!({ "name": name, "value": value }));
            }
        } else {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| argument("--env", &format!("`{word}` is not NAME=VALUE")))?;
            variables.push(json!({ "name": name, "value": value }));
        }
    }
    Ok(variables)
}

/// The resources of a task or an offer as an algebra value, without the role
/// they are allocated to.
pub fn resources_of(owner: &Value) -> Option<Resources> {
    let mut protos = Vec::new();
    for item in owner["resources"].as_array()? {
        let bytes = mesos::v1::from_json("mesos.v1.Resource", item.to_string().as_bytes()).ok()?;
        protos.push(mesos::schema::decode::<mesos::Resource>(&bytes).ok()?);
    }
    Resources::from_protos(&protos).ok().map(Resources::unallocated)
}

/// Whether an offer holds everything the task asks for.
pub fn fits(offer: &Value, task: &Value) -> bool {
    match (resources_of(offer), resources_of(task)) {
        (Some(offered), Some(asked)) => offered.contains(&asked),
        _ => false,
    }
}

/// A short text of an object's resources, for people.
pub fn describe(owner: &Value) -> String {
    let items = owner["resources"].as_array().into_iter().flatten();
    let scalars = items.filter_map(|item| {
        let value = item["scalar"]["value"].as_f64()?;
        Some(format!("{}:{value}", item["name"].as_str()?))
    });
    scalars.collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> TaskArgs {
        use clap::Parser;
        #[derive(Parser)]
        struct Wrapper {
            #[command(flatten)]
            task: TaskArgs,
        }
        let words = std::iter::once("run").chain(words.iter().copied());
        Wrapper::try_parse_from(words).unwrap().task
    }

    #[test]
    fn a_shell_command_becomes_a_task() {
        let task =
            args(&["--command", "echo $A", "--env", "A=b=c", "--mem=64"]).build("id").unwrap();
        assert_eq!(task["command"]["shell"], true);
        assert_eq!(task["command"]["environment"]["variables"][0]["value"], "b=c");
        assert_eq!(task["task_id"]["value"], "id");
        assert_eq!(task["name"], "echo");
        assert_eq!(describe(&task), "cpus:0.1;mem:64");
    }

    #[test]
    fn words_after_dashes_are_arguments() {
        let task = args(&["--cpu-limit=0.5", "--", "/bin/echo", "a b"]).build("id").unwrap();
        assert_eq!(task["command"]["shell"], false);
        assert_eq!(task["command"]["arguments"], json!(["/bin/echo", "a b"]));
        assert_eq!(task["limits"]["cpus"]["value"], 0.5);
        assert_eq!(task["name"], "echo");
    }

    #[test]
    fn an_image_brings_its_own_command() {
        let task = args(&["--image", "localhost:5000/team/web:1"]).build("id").unwrap();
        assert_eq!(
            task["container"]["mesos"]["image"]["docker"]["name"],
            "localhost:5000/team/web:1"
        );
        assert_eq!((&task["name"], &task["command"]["shell"]), (&json!("web"), &json!(false)));
        let words = ["--image=a", "--containerizer=docker", "--", "/bin/ls"];
        let task = args(&words).build("id").unwrap();
        assert_eq!(task["container"], json!({ "type": "DOCKER", "docker": { "image": "a" } }));
        assert_eq!(task["command"]["value"], "/bin/ls");
    }

    #[test]
    fn a_terminal_is_a_containers() {
        let task = args(&["--tty", "--command", "sh"]).build("id").unwrap();
        assert_eq!(task["container"], json!({ "type": "MESOS", "tty_info": {} }));
        let task = args(&["--tty", "--image=a", "--", "sh"]).build("id").unwrap();
        assert_eq!(task["container"]["tty_info"], json!({}));
        assert!(task["container"]["mesos"]["image"].is_object());
        let docker = args(&["--tty", "--image=a", "--containerizer=docker", "--", "sh"]);
        assert_eq!(docker.build("id").unwrap()["container"]["tty_info"], json!({}));
    }

    #[test]
    fn a_json_task_keeps_its_own() {
        let given = r#"{"name":"n","task_id":{"value":"x"},"command":{"value":"true"},
            "resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1}}]}"#;
        let task = args(&["--task", given]).build("id").unwrap();
        assert_eq!((&task["name"], &task["task_id"]["value"]), (&json!("n"), &json!("x")));
        assert_eq!(describe(&task), "cpus:1");
    }

    #[test]
    fn mistakes_name_their_argument() {
        let rows: &[(&[&str], &str)] = &[
            (&[], "nothing to run"),
            (&["--command=a", "--resources=cpus:x"], "--resources"),
            (&["--command=a", "--env=A"], "--env"),
            (&["--task={\"name\":1"], "--task"),
            (&["--task={\"resources\":[{}]}"], "--task"),
            (&["--task=/no/such/file"], "read"),
        ];
        for (words, expected) in rows {
            let error = args(words).build("id").unwrap_err().to_string();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }

    #[test]
    fn offers_fit_or_not() {
        let owner = |cpus: f64| {
            json!({ "resources": [{ "name": "cpus", "type": "SCALAR", "scalar": { "value": cpus },
                    "allocation_info": { "role": "*" } }] })
        };
        assert!(fits(&owner(1.0), &owner(0.5)));
        assert!(!fits(&owner(0.2), &owner(0.5)));
    }
}
