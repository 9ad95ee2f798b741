//! `bulkhead-helper pull`: brings one image into the store and ends.
//!
//! Started by the agent with an empty environment; the job comes on a pipe that is its
//! leash ([`kernel::leash`]): it dies with the agent, or when nobody waits any more.
//! What it writes is below its own staging directory; a layer that is whole and checked
//! is renamed into the store, where other pulls find it. Layers that two pulls want at a
//! time are unpacked by one of them, the other waits (a lock on a file).
//!
//! * `registry`, `auth`, `blob`: the network. `archive`: directories of archives.
//! * `manifest`: what an image consists of (pure). `layer`, `tar`: unpacking.
//! * `probe`: what reads strangers' bytes, for the fuzzer.

mod archive;
mod auth;
mod blob;
mod layer;
mod manifest;
pub mod probe;
mod registry;
mod tar;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kernel::{chain, leash, lock};
use thiserror::Error;

use self::archive::{Archive, ArchiveError};
use self::blob::{Checked, Download, Expected, Meter};
use self::layer::{Budget, LayerError};
use self::manifest::{LARGEST_CONFIG, ManifestError, Parsed, Platform};
use self::registry::Registry;
use super::image::{ConfigError, ImageConfig};
use super::message::{Job, Report, Source, VERSION};
use super::reference::Digest;
use super::store::files::{self, LayerRecord};
use crate::fetch::{read_job, tell};
use crate::wire::blocking::HttpError;

pub use self::registry::environment;

/// Layers that come at a time.
const AT_A_TIME: usize = 4;
/// Between two looks at a layer that another pull unpacks.
const LOOK: Duration = Duration::from_millis(50);

/// Why a registry does not give what it was asked for.
#[derive(Debug, Error)]
enum RegistryError {
    #[error("the request failed")]
    Http(#[from] HttpError),
    #[error("failed to find credentials")]
    Auth(#[from] auth::AuthError),
    #[error("{host} answered {status}{explained}")]
    Status { host: String, status: u16, explained: String },
    #[error("{host} wants credentials, and none are known for it (--docker_config)")]
    NoCredentials { host: String },
    #[error("{host} does not accept our credentials")]
    Denied { host: String },
    #[error("{host} wants to know who asks in a way that is not supported ({schemes})")]
    Schemes { host: String, schemes: String },
    #[error("the service of tokens that {host} names is of no use: {why}")]
    Token { host: String, why: String },
    #[error("{host} speaks TLS but sends us to {target}, which does not")]
    Downgrade { host: String, target: String },
}

impl RegistryError {
    /// The next attempt may go well.
    fn is_passing(&self) -> bool {
        match self {
            RegistryError::Http(HttpError::Stalled { .. }) => true,
            RegistryError::Http(error) => error.is_passing(),
            RegistryError::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }
}

/// Why an image is not pulled.
#[derive(Debug, Error)]
enum PullError {
    #[error("failed to get the manifest '{version}' from {host}")]
    Manifest { version: String, host: String, source: Box<RegistryError> },
    #[error("the manifest '{version}' is of no use")]
    Unusable { version: String, source: ManifestError },
    #[error("the manifest is a list of lists of lists")]
    Nested,
    #[error("failed to get {digest}")]
    Blob { digest: Digest, source: Box<RegistryError> },
    #[error("the digest of its {what} is {found}, not {wanted}")]
    Digest { what: &'static str, wanted: Digest, found: Digest },
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    Layers { layers: usize, diff_ids: usize },
    #[error("its configuration is of no use")]
    Config(#[from] ConfigError),
    #[error("failed to use the archives (--docker_registry)")]
    Archive(#[from] ArchiveError),
    #[error("failed to unpack layer {name}")]
    Layer { name: String, source: LayerError },
    #[error("failed to check layer {name}")]
    Check { name: String, source: Box<PullError> },
    #[error("failed to read it")]
    Read { source: io::Error },
    #[error("failed to {verb} '{}'", path.display())]
    Store { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("another layer failed")]
    Over,
}

/// Runs one job.
#[must_use]
pub fn main() -> ExitCode {
    let result = prepare().and_then(|job| run(&job).map_err(|error| chain(&error)));
    let (report, code) = match result {
        Ok(report) => (report, ExitCode::SUCCESS),
        Err(message) => (Report::Failed { message }, ExitCode::FAILURE),
    };
    tell(&report);
    code
}

fn prepare() -> Result<Job, String> {
    let job = read_job(VERSION, |job: &Job| job.version)
        .map_err(|error| format!("failed to read the job: {error}"))?;
    leash::die_with_writer(io::stdin().as_fd()).map_err(|error| chain(&error))?;
    Ok(job)
}

/// One layer to bring.
struct Planned {
    diff_id: Digest,
    /// For messages, and for [`Origin::Archive`] its name there.
    name: String,
    expected: Expected,
}

/// Where layers come from.
enum Origin<'a> {
    Registry { registry: &'a Registry<'a>, host: usize },
    Archive(&'a Archive),
}

impl Origin<'_> {
    fn open(&self, layer: &Planned) -> Result<Box<dyn Read + Send + '_>, PullError> {
        match self {
            Origin::Registry { registry, host } => {
                let digest = layer.expected.digest.unwrap_or(layer.diff_id);
                Ok(Box::new(Download::new(registry, *host, digest)))
            }
            Origin::Archive(archive) => Ok(archive.reader(&layer.name)?),
        }
    }
}

fn run(job: &Job) -> Result<Report, PullError> {
    match &job.source {
        Source::Directory(dir) => {
            let archive = Archive::open(dir, &job.reference, &job.staging, job.size_limit)?;
            let parts = archive.parts(&job.reference)?;
            let layers = parts.layers.into_iter();
            let layers = layers.map(|(name, size, digest)| (name, Expected { digest, size }));
            bring(job, &Origin::Archive(&archive), &parts.config, layers.collect())
                .map(|id| Report::Done { id, manifest: parts.manifest })
        }
        Source::Registry { endpoints, certificates } => {
            let registry = Registry::new(job, endpoints, certificates);
            let (manifest, host, id) = resolve(job, &registry)?;
            let config = registry.blob(host, manifest.config.digest, LARGEST_CONFIG)?;
            let layers = manifest.layers.iter().map(|layer| {
                let digest = Some(layer.digest);
                (layer.digest.to_string(), Expected { digest, size: layer.size })
            });
            let origin = Origin::Registry { registry: &registry, host };
            bring(job, &origin, &config, layers.collect())
                .map(|config| Report::Done { id: config, manifest: Some(id) })
        }
    }
}

/// The manifest for this machine, the host that has it, and what the image's name means:
/// the digest of the list, if there is one.
fn resolve(
    job: &Job,
    registry: &Registry<'_>,
) -> Result<(manifest::Manifest, usize, Digest), PullError> {
    let mut version = job.reference.version();
    let mut wanted = job.reference.digest;
    let mut top = None;
    for _ in 0..3 {
        let (bytes, host) = registry.manifest(&version)?;
        let found = Digest::of(&bytes);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(PullError::Digest { what: "manifest", wanted, found });
        }
        let top = *top.get_or_insert(found);
        let parsed = manifest::parse(&bytes, &Platform::own());
        match parsed.map_err(|source| PullError::Unusable { version: version.clone(), source })? {
            Parsed::Image(manifest) => return Ok((manifest, host, top)),
            Parsed::Choice(one) => {
                version = one.digest.to_string();
                wanted = Some(one.digest);
            }
        }
    }
    Err(PullError::Nested)
}

/// Brings the layers, and writes down the configuration; who the image is.
fn bring(
    job: &Job,
    origin: &Origin<'_>,
    config: &[u8],
    layers: Vec<(String, Expected)>,
) -> Result<Digest, PullError> {
    let parsed = ImageConfig::parse(config)?;
    if parsed.diff_ids.len() != layers.len() {
        let (layers, diff_ids) = (layers.len(), parsed.diff_ids.len());
        return Err(PullError::Layers { layers, diff_ids });
    }
    let mut planned: Vec<Planned> = Vec::new();
    for (diff_id, (name, expected)) in parsed.diff_ids.into_iter().zip(layers) {
        if planned.iter().all(|layer| layer.diff_id != diff_id) {
            planned.push(Planned { diff_id, name, expected });
        }
    }
    let meter = Meter::new();
    meter.expect(planned.iter().map(|layer| layer.expected.size).sum(), planned.len());
    let budget = AtomicU64::new(job.size_limit);
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(planned.len()) {
            scope.spawn(|| {
                while let Some(layer) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Err(error) = one(job, origin, layer, &meter, &budget) else { continue };
                    // The first failure counts; others follow from it.
                    let mut slot = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if !meter.is_over() {
                        *slot = Some(error);
                    }
                    meter.end();
                    return;
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let path = job.staging.join(files::CONFIG);
    std::fs::write(&path, config).map_err(store("write", &path))?;
    Ok(Digest::of(config))
}

fn store<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PullError + 'a {
    move |source| PullError::Store { verb, path: path.to_owned(), source }
}

/// Brings one layer, unless it is there or another pull brings it.
fn one(
    job: &Job,
    origin: &Origin<'_>,
    layer: &Planned,
    meter: &Meter,
    budget: &AtomicU64,
) -> Result<(), PullError> {
    let (size, lock_path) = (layer.expected.size, files::lock(&job.store, layer.diff_id));
    let held = File::options().create(true).append(true).open(&lock_path);
    let held = held.map_err(store("create", &lock_path))?;
    while !lock::try_lock(&held).map_err(store("lock", &lock_path))? {
        if meter.is_over() {
            return Err(PullError::Over);
        }
        std::thread::sleep(LOOK);
    }
    let result = if files::has_layer(&job.store, layer.diff_id) {
        meter.layer(size);
        Ok(())
    } else {
        unpack(job, origin, layer, meter, budget)
    };
    // Whoever opened it before waits for a file without a name, and finds the layer.
    let _ = std::fs::remove_file(&lock_path);
    result
}

fn unpack(
    job: &Job,
    origin: &Origin<'_>,
    layer: &Planned,
    meter: &Meter,
    budget: &AtomicU64,
) -> Result<(), PullError> {
    let staged = job.staging.join(layer.diff_id.hex());
    let tree = staged.join(files::TREE);
    std::fs::create_dir_all(&tree).map_err(store("create", &tree))?;
    let mut source = Checked::new(origin.open(layer)?, layer.expected, meter);
    let budget = Budget { image: budget, archive: layer.expected.size };
    let applied = layer::apply(&mut source, &tree, layer.diff_id, &budget);
    let name = || layer.name.clone();
    let applied = applied.map_err(|source| PullError::Layer { name: name(), source })?;
    let checked = source.finish();
    checked.map_err(|error| PullError::Check { name: name(), source: Box::new(error) })?;
    let record = LayerRecord::new(applied.bytes, applied.hides);
    files::commit_layer(&job.store, &staged, layer.diff_id, &record)
        .map_err(store("commit", &staged))?;
    meter.layer(0);
    Ok(())
}
