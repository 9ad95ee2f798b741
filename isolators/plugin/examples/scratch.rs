//! A plugin: a scratch directory for every container, with a size limit.
//!
//! Configuration: `root` (where the directories go) and `limit_bytes`; the label
//! `scratch_bytes` of a task asks for another limit. The directory is in the
//! variable `SCRATCH`. `scratch.py` beside this file does the same in Python; both
//! are explained in docs/plugins.md, and tests of the plugin protocol run them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isolator_plugin::Plugin;
use isolators::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Probe, Recovered, Watch,
};
use mesos::ResourceStatistics;
use mesos::bulkhead::plugin::call::Type::{Usage, Watch as Watching};
use mesos::task_status::Reason;

const NAME: &str = "example/scratch";

/// Of this agent.
struct Scratch {
    root: PathBuf,
    limit: u64,
}

/// Of one container.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    limit: u64,
    ids: Option<(u32, u32)>,
}

fn failed(verb: &'static str, path: &Path, error: io::Error) -> IsolatorError {
    IsolatorError::new(NAME, verb, format!("'{}'", path.display()), error)
}

impl Scratch {
    fn new(config: &serde_json::Value) -> Result<Scratch, IsolatorError> {
        let root = config.get("root").and_then(serde_json::Value::as_str);
        let root =
            root.ok_or_else(|| IsolatorError::plain(NAME, "read", "'root' of the config"))?;
        let limit = config.get("limit_bytes").and_then(serde_json::Value::as_u64);
        let root = PathBuf::from(root);
        std::fs::create_dir_all(&root).map_err(|e| failed("make", &root, e))?;
        Ok(Scratch { root, limit: limit.unwrap_or(1 << 30) })
    }

    fn directory(&self, context: &ContainerContext) -> Directory {
        let asked = context.labels.get("scratch_bytes").and_then(|label| label.parse().ok());
        Directory {
            path: self.root.join(context.id.to_string()),
            limit: asked.unwrap_or(self.limit),
            ids: context.ids,
        }
    }
}

#[async_trait]
impl Isolator for Scratch {
    fn about(&self) -> About {
        About::top_level(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.directory(context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let directories: Vec<Directory> =
            known.iter().map(|known| self.directory(&known.context)).collect();
        // Whatever else is there was left by a container that is gone.
        let mut leftovers = Vec::new();
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if directories.iter().all(|known| known.path != entry.path()) {
                let removed = std::fs::remove_dir_all(entry.path());
                removed.map_err(|e| failed("remove", &entry.path(), e))?;
                leftovers.push(entry.path().display().to_string());
            }
        }
        let handles = directories.into_iter().map(|known| Box::new(known) as _).collect();
        Ok(Recovered { handles, leftovers })
    }
}

#[async_trait]
impl Isolation for Directory {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        std::fs::create_dir(&self.path).map_err(|e| failed("make", &self.path, e))?;
        if let Some((uid, gid)) = self.ids {
            std::os::unix::fs::chown(&self.path, Some(uid), Some(gid))
                .map_err(|e| failed("give away", &self.path, e))?;
        }
        let variable = ("SCRATCH".to_owned(), self.path.display().to_string());
        Ok(Contribution { environment: BTreeMap::from([variable]), ..Contribution::default() })
    }

    fn watch(&mut self) -> Option<Watch> {
        let (mut hit, watch) = tokio::sync::oneshot::channel();
        let (path, limit) = (self.path.clone(), self.limit);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = hit.closed() => return,
                }
                let used = size(&path);
                if used > limit {
                    let message = format!("Scratch of {used} bytes exceeds {limit} bytes");
                    let reason = Reason::ContainerLimitationDisk;
                    let _ = hit.send(Limitation { resources: Vec::new(), message, reason });
                    return;
                }
            }
        });
        Some(watch)
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        vec![Box::new(Size { path: self.path.clone(), limit: self.limit })]
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

/// The figures of one directory.
#[derive(Debug)]
struct Size {
    path: PathBuf,
    limit: u64,
}

impl Probe for Size {
    fn source(&self) -> &'static str {
        NAME
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        statistics.disk_used_bytes = Some(size(&self.path));
        statistics.disk_limit_bytes = Some(self.limit);
        Ok(())
    }
}

/// Bytes of the files directly in a directory.
fn size(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    Plugin::new(NAME, "1.0", Scratch::new).calls(&[Watching, Usage]).run().await
}
