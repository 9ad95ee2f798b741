//! Images from a directory: archives of `docker save` and OCI layouts, packed or not,
//! compressed or not. For `--docker_registry=/path`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kernel::beneath::{BeneathError, Root};
use serde::Deserialize;
use thiserror::Error;

use super::layer::opened;
use super::manifest::{self, Descriptor, LARGEST_CONFIG, LARGEST_MANIFEST, Manifest, Parsed};
use super::tar::{self, Member};
use crate::provisioner::reference::{Digest, LATEST, Reference};

/// What an archive may be called, after the image's name.
const SUFFIXES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ""];
/// Links that are followed within an archive.
const LINKS: usize = 8;
/// What names an image in the index of an OCI layout.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Why there is no image in a directory.
#[derive(Debug, Error)]
pub(super) enum ArchiveError {
    #[error("there is none in '{}'; looked for: {}", dir.display(), tried.join(", "))]
    Missing { dir: PathBuf, tried: Vec<String> },
    #[error("failed to open '{}'", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read '{}'", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to open '{name}' of the layout")]
    Member { name: String, source: BeneathError },
    #[error("'{}' is larger, unpacked, than {limit} bytes (--docker_image_size_limit)", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("'{}' is no archive of docker and no OCI layout: it has no '{missing}'", path.display())]
    NoImage { path: PathBuf, missing: String },
    #[error("'{name}' of the archive is larger than {limit} bytes")]
    LargeMember { name: String, limit: usize },
    #[error("failed to read '{name}' of the archive")]
    Json { name: String, source: serde_json::Error },
    #[error("the archive has no image '{wanted}'; it has: {found}")]
    OtherImages { wanted: String, found: String },
    #[error("'{name}' is no name within an archive")]
    Name { name: String },
    #[error("failed to read the manifest '{name}'")]
    Manifest { name: String, source: manifest::ManifestError },
}

/// An image in a file or a directory.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    packing: Packing,
}

/// The content of a member, and its size in bytes.
type Content = (Box<dyn Read + Send>, u64);

#[derive(Debug)]
enum Packing {
    Tar { file: Arc<File>, members: BTreeMap<PathBuf, Member> },
    Layout(Root),
}

/// Where the parts of one image are.
#[derive(Debug)]
pub(super) struct Parts {
    pub config: Vec<u8>,
    /// `None` in archives of docker.
    pub manifest: Option<Digest>,
    /// Names in the archive, sizes in bytes, and digests if they are known.
    pub layers: Vec<(String, u64, Option<Digest>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl Archive {
    /// Finds and opens the archive of an image. One that is compressed is unpacked to
    /// `staging` first, at most `limit` bytes.
    pub fn open(
        dir: &Path,
        reference: &Reference,
        staging: &Path,
        limit: u64,
    ) -> Result<Archive, ArchiveError> {
        let mut tried = Vec::new();
        for name in names(reference) {
            for suffix in SUFFIXES {
                let path = dir.join(format!("{name}{suffix}"));
                match path.metadata() {
                    Ok(data) if data.is_dir() && path.join("index.json").exists() => {
                        let root = Root::open(&path);
                        let root = root.map_err(|source| ArchiveError::Member {
                            name: path.display().to_string(),
                            source,
                        })?;
                        return Ok(Archive { path, packing: Packing::Layout(root) });
                    }
                    Ok(data) if data.is_file() => return Archive::tar(path, staging, limit),
                    _ if suffix == ".tar" || suffix.is_empty() => {
                        tried.push(format!("'{name}{suffix}'"));
                    }
                    _ => {}
                }
            }
        }
        Err(ArchiveError::Missing { dir: dir.to_owned(), tried })
    }

    fn tar(path: PathBuf, staging: &Path, limit: u64) -> Result<Archive, ArchiveError> {
        let open = |source| ArchiveError::Open { path: path.clone(), source };
        let read = |source| ArchiveError::Read { path: path.clone(), source };
        let mut file = File::open(&path).map_err(open)?;
        let mut magic = [0; 4];
        let count = file.read_at(&mut magic, 0).map_err(read)?;
        let compressed =
            magic[..count].starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd];
        if compressed {
            let target = staging.join("archive.tar");
            let mut whole = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&target)
                .map_err(|source| ArchiveError::Open { path: target.clone(), source })?;
            let mut content = opened(&mut file).map_err(read)?.take(limit.saturating_add(1));
            let copied = io::copy(&mut content, &mut whole).map_err(read)?;
            if copied > limit {
                return Err(ArchiveError::TooLarge { path, limit });
            }
            drop(content);
            file = whole;
        }
        let members = tar::index(&file).map_err(read)?;
        let members = members.into_iter().filter_map(|(path, m)| Some((plain(&path)?, m)));
        let members = members.collect();
        Ok(Archive { path, packing: Packing::Tar { file: Arc::new(file), members } })
    }

    /// The parts of the image that is asked for.
    pub fn parts(&self, reference: &Reference) -> Result<Parts, ArchiveError> {
        if matches!(self.packing, Packing::Tar { .. })
            && let Some(bytes) = self.small("manifest.json", LARGEST_MANIFEST)?
        {
            return self.saved(&bytes, reference);
        }
        let missing = || ArchiveError::NoImage {
            path: self.path.clone(),
            missing: "manifest.json' or 'index.json".into(),
        };
        let bytes = self.small("index.json", LARGEST_MANIFEST)?.ok_or_else(missing)?;
        self.layout(&bytes, reference)
    }

    /// What `docker save` writes.
    fn saved(&self, bytes: &[u8], reference: &Reference) -> Result<Parts, ArchiveError> {
        let json = |source| ArchiveError::Json { name: "manifest.json".into(), source };
        let all: Vec<Saved> = serde_json::from_slice(bytes).map_err(json)?;
        let named =
            |image: &Saved| image.repo_tags.iter().flatten().any(|tag| means(tag, reference));
        let image = match all.as_slice() {
            [only] => only,
            several => several.iter().find(|image| named(image)).ok_or_else(|| {
                let tags = several.iter().flat_map(|image| image.repo_tags.iter().flatten());
                other_images(reference, tags.cloned())
            })?,
        };
        let config = self.needed(&image.config, LARGEST_CONFIG)?;
        let mut layers = Vec::new();
        for name in &image.layers {
            layers.push((name.clone(), self.size(name)?, None));
        }
        Ok(Parts { config, manifest: None, layers })
    }

    /// What OCI's layouts are.
    fn layout(&self, bytes: &[u8], reference: &Reference) -> Result<Parts, ArchiveError> {
        let json = |source| ArchiveError::Json { name: "index.json".into(), source };
        let index: Index = serde_json::from_slice(bytes).map_err(json)?;
        let name = |one: &Descriptor| {
            let notes = one.annotations.as_ref()?;
            NAMES.iter().find_map(|name| notes.get(*name)).cloned()
        };
        let named = |one: &&Descriptor| {
            name(one).is_some_and(|name| {
                means(&name, reference) || Some(&name) == reference.tag.as_ref()
            })
        };
        let mut top = match index.manifests.as_slice() {
            [only] => only.digest,
            several => match several.iter().find(named) {
                Some(one) => one.digest,
                // Several platforms of one image.
                None if several.iter().all(|one| name(one).is_none()) => Digest::of(bytes),
                None => return Err(other_images(reference, several.iter().filter_map(name))),
            },
        };
        if let Some(wanted) = reference.digest
            && index.manifests.iter().any(|one| one.digest == wanted)
        {
            top = wanted;
        }
        let mut next = if top == Digest::of(bytes) { Some(bytes.to_owned()) } else { None };
        // A list of lists is as deep as it gets.
        for _ in 0..4 {
            let name = blob(top);
            let bytes = match next.take() {
                Some(bytes) => bytes,
                None => self.needed(&name, LARGEST_MANIFEST)?,
            };
            let parsed = manifest::parse(&bytes, &manifest::Platform::own());
            match parsed.map_err(|source| ArchiveError::Manifest { name, source })? {
                Parsed::Choice(descriptor) => top = descriptor.digest,
                Parsed::Image(Manifest { config, layers }) => {
                    let layer = |one: Descriptor| (blob(one.digest), one.size, Some(one.digest));
                    return Ok(Parts {
                        config: self.needed(&blob(config.digest), LARGEST_CONFIG)?,
                        manifest: Some(Digest::of(&bytes)),
                        layers: layers.into_iter().map(layer).collect(),
                    });
                }
            }
        }
        let missing = "a manifest of an image".into();
        Err(ArchiveError::NoImage { path: self.path.clone(), missing })
    }

    /// A small member in whole, if there is one.
    fn small(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some((reader, _)) = self.find(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = |source| ArchiveError::Read { path: self.path.join(name), source };
        reader.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() > limit {
            return Err(ArchiveError::LargeMember { name: name.to_owned(), limit });
        }
        Ok(Some(bytes))
    }

    fn needed(&self, name: &str, limit: usize) -> Result<Vec<u8>, ArchiveError> {
        self.small(name, limit)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> ArchiveError {
        ArchiveError::NoImage { path: self.path.clone(), missing: name.to_owned() }
    }

    fn size(&self, name: &str) -> Result<u64, ArchiveError> {
        Ok(self.find(name)?.ok_or_else(|| self.missing(name))?.1)
    }

    /// The content of a member.
    pub fn reader(&self, name: &str) -> Result<Box<dyn Read + Send>, ArchiveError> {
        Ok(self.find(name)?.ok_or_else(|| self.missing(name))?.0)
    }

    fn find(&self, name: &str) -> Result<Option<Content>, ArchiveError> {
        let odd = || ArchiveError::Name { name: name.to_owned() };
        let mut path = plain(Path::new(name)).ok_or_else(odd)?;
        match &self.packing {
            Packing::Layout(root) => match root.open_file(&path) {
                Ok(file) => {
                    let size = file.metadata().map(|data| data.len());
                    let open = |source| ArchiveError::Open { path: path.clone(), source };
                    Ok(Some((Box::new(file), size.map_err(open)?)))
                }
                Err(error) if missing(&error) => Ok(None),
                Err(source) => Err(ArchiveError::Member { name: name.to_owned(), source }),
            },
            Packing::Tar { file, members } => {
                for _ in 0..LINKS {
                    match members.get(&path) {
                        None => return Ok(None),
                        Some(Member::File { at, size }) => {
                            let file = Arc::clone(file);
                            let section = Section { file, at: *at, end: at + size };
                            return Ok(Some((Box::new(section), *size)));
                        }
                        // Docker keeps a layer once: the others are links to it.
                        Some(Member::Link(target)) => {
                            let base = path.parent().unwrap_or(Path::new(""));
                            let whole = plain(&base.join(target)).or_else(|| plain(target));
                            path = whole.ok_or_else(odd)?;
                        }
                    }
                }
                Err(odd())
            }
        }
    }
}

fn missing(error: &BeneathError) -> bool {
    error.system().is_some_and(|source| source.kind() == io::ErrorKind::NotFound)
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn other_images(reference: &Reference, found: impl Iterator<Item = String>) -> ArchiveError {
    let found: Vec<String> = found.take(20).collect();
    let found = if found.is_empty() { "none with a name".into() } else { found.join(", ") };
    ArchiveError::OtherImages { wanted: reference.to_string(), found }
}

/// Whether a name in an archive, which may be spelled out, means the image.
fn means(name: &str, reference: &Reference) -> bool {
    let Ok(name) = Reference::parse(name) else { return false };
    let plain = |reference: &Reference| {
        let whole = reference.canonical(super::super::reference::HUB);
        (whole.registry, whole.repository, whole.tag)
    };
    plain(&name) == plain(reference)
}

/// What the archive of an image may be called, without suffix.
fn names(reference: &Reference) -> Vec<String> {
    let whole = reference.to_string();
    let mut names = vec![whole.clone()];
    if let Some(short) = whole.strip_suffix(&format!(":{LATEST}")) {
        names.push(short.to_owned());
    }
    names
}

/// A path within an archive, `..` resolved by name; `None` if it leaves it.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(part) => plain.push(part),
            Component::ParentDir if plain.pop() => {}
            _ => return None,
        }
    }
    Some(plain)
}

/// A part of a file that others read as well.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_within_archives() {
        let path = |text: &str| plain(Path::new(text)).map(|path| path.display().to_string());
        assert_eq!(path("./a/../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(path("../a"), None);
        assert_eq!(path("/a").as_deref(), Some("a"));
        let reference = Reference::parse("busybox").expect("a name");
        assert_eq!(names(&reference), ["busybox:latest", "busybox"]);
        for same in ["busybox:latest", "docker.io/library/busybox:latest", "library/busybox"] {
            assert!(means(same, &reference), "{same}");
        }
        for other in ["busybox:1", "x/busybox:latest", "h:1/busybox:latest", "!"] {
            assert!(!means(other, &reference), "{other}");
        }
    }
}
