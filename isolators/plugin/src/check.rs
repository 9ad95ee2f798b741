//! `bulkhead plugin check SOCKET`: is this a plugin, and does it keep its promises?
//!
//! The wire first, as `curl` would see it; then the conformance suite through the
//! agent's own end, so that what passes here works there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isolators::api::{ContainerContext, IsolatorError};
use isolators::suite::{self, Fixture, Outcome};
use mesos::bulkhead::plugin::{Call, call};
use serde_json::Value as Json;

use crate::manifest::{Manifest, Policy};
use crate::remote::RemoteIsolator;
use crate::wire::{CallError, Client, Encoding, PROTOCOL, bare};

const DEADLINE: Duration = Duration::from_secs(5);

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the plugin listens.
    pub socket: PathBuf,
    /// What it is configured with.
    pub config: Json,
    /// Where the directories of the made-up containers go.
    pub scratch: PathBuf,
}

/// Runs every check; `tell` hears of each as soon as it is done.
pub async fn run(options: &Options, tell: &mut dyn FnMut(&Outcome)) -> Vec<Outcome> {
    let mut all = Vec::new();
    let mut note = |all: &mut Vec<Outcome>, outcome: Outcome| {
        tell(&outcome);
        all.push(outcome);
    };
    let mut name = None;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let check = match encoding {
            Encoding::Json => "it answers HELLO in JSON",
            Encoding::Protobuf => "it answers HELLO in protobuf (optional)",
        };
        let result = hello(&options.socket, encoding).await;
        let optional = encoding == Encoding::Protobuf && result.is_err();
        if encoding == Encoding::Json {
            name = result.as_ref().ok().cloned();
        }
        if !optional {
            note(&mut all, Outcome { check, result: result.map(drop) });
        }
    }
    let Some(name) = name else { return all };
    let check = "a call that it does not know is refused";
    note(&mut all, Outcome { check, result: unknown(&options.socket).await });
    let check = "calls before CONFIGURE and RECOVER are refused or harmless";
    note(&mut all, Outcome { check, result: early(&options.socket).await });
    let plugin = RemoteIsolator::new(Manifest {
        name,
        socket: options.socket.clone(),
        command: Vec::new(),
        deadline: DEADLINE,
        policy: Policy::Fail,
        protobuf: false,
        config: options.config.clone(),
    });
    plugin.start(true);
    let fixture = Scratch { root: options.scratch.clone() };
    let run = format!("check{}", std::process::id());
    for outcome in suite::run(&plugin, &fixture, &run).await {
        note(&mut all, outcome);
    }
    let report = plugin.report();
    let result = match (report.failures, report.owed) {
        (0, 0) => Ok(()),
        (failures, owed) => {
            let reason = report.reason.unwrap_or_default();
            Err(format!("{failures} bad answers, {owed} cleanups owed: {reason}"))
        }
    };
    let check = "every answer was in time and understood";
    note(&mut all, Outcome { check, result });
    plugin.stop();
    let _ = std::fs::remove_dir_all(&options.scratch);
    all
}

/// The plugin's name.
async fn hello(socket: &Path, encoding: Encoding) -> Result<String, String> {
    let hello = call::Hello { protocol: PROTOCOL, agent_version: None };
    let call = Call { hello: Some(hello), ..bare(call::Type::Hello) };
    let answer = Client::new(socket, encoding).call(&call, DEADLINE).await;
    let answer = answer.map_err(|error| error.chain())?;
    let hello = answer.hello.ok_or("the response lacks 'hello'")?;
    match hello.protocol == PROTOCOL {
        true => Ok(hello.name),
        false => Err(format!("it speaks protocol {}, not {PROTOCOL}", hello.protocol)),
    }
}

async fn unknown(socket: &Path) -> Result<(), String> {
    let answer =
        Client::new(socket, Encoding::Json).call(&bare(call::Type::Unknown), DEADLINE).await;
    match answer {
        Err(CallError::Refused { .. } | CallError::Garbage { .. }) => Ok(()),
        Err(error) => Err(error.chain()),
        Ok(_) => Err("it was answered as if it were known".into()),
    }
}

async fn early(socket: &Path) -> Result<(), String> {
    let container_id = mesos::ContainerId { value: "nobody".into(), parent: None };
    let cleanup = call::Cleanup { container_id };
    let call = Call { cleanup: Some(cleanup), ..bare(call::Type::Cleanup) };
    match Client::new(socket, Encoding::Json).call(&call, DEADLINE).await {
        Ok(_) | Err(CallError::Refused { .. }) => Ok(()),
        Err(error) => Err(error.chain()),
    }
}

/// Directories for made-up containers.
struct Scratch {
    root: PathBuf,
}

impl Scratch {
    fn make(&self, id: &str, what: &str) -> Result<PathBuf, IsolatorError> {
        let path = self.root.join(id).join(what);
        std::fs::create_dir_all(&path).map_err(|error| {
            IsolatorError::new("suite", "make", path.display().to_string(), error)
        })?;
        Ok(path)
    }
}

impl Fixture for Scratch {
    fn context(&self, id: &str) -> ContainerContext {
        let mut context = suite::context(id);
        if let (Ok(sandbox), Ok(runtime)) = (self.make(id, "sandbox"), self.make(id, "runtime")) {
            (context.sandbox, context.runtime) = (sandbox, runtime);
        }
        context
    }
}
