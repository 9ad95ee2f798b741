//! Secrets of tasks: values are what they say, references are looked up.
//!
//! [`Secrets`] is asked by `volume/secret` and for variables of type `SECRET`. Who
//! looks references up is a [`Resolver`]; the one there is reads files of a
//! directory (`--secrets_dir`). Errors name the secret and never show it.

use std::borrow::Cow;
use std::fmt::Debug;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kernel::beneath::{self, BeneathError};
use mesos::Secret;
use mesos::secret::{Reference, Type};
use thiserror::Error;

/// The largest secret that is looked up, in bytes.
pub const LARGEST: u64 = 1 << 20;

/// Why there is no secret. For people; does not show the secret.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum SecretError {
    #[error("a secret of unknown type: expected VALUE or REFERENCE")]
    Unknown,
    #[error("a secret of type VALUE without 'value'")]
    NoValue,
    #[error("a secret of type VALUE with 'reference'")]
    ValueAndReference,
    #[error("a secret of type REFERENCE without 'reference'")]
    NoReference,
    #[error("the secret '{0}' of type REFERENCE with 'value'")]
    ReferenceAndValue(String),
    #[error(
        "the secret is a reference to '{0}': there is no secret resolver, give its value or start \
         the agent with --secrets_dir"
    )]
    NoResolver(String),
    #[error("the secret '{0}' is no relative path without '..'")]
    Name(String),
    #[error("there is no secret '{name}' in --secrets_dir")]
    Missing { name: String },
    #[error("the secret '{name}' is larger than {LARGEST} bytes")]
    TooLarge { name: String },
    #[error("failed to read the secret '{name}'")]
    Read { name: String, source: std::io::Error },
    #[error("failed to find the secret '{name}'")]
    Find { name: String, source: BeneathError },
}

/// Looks references up. Called while a container is prepared, so it must answer at
/// once or fail.
pub trait Resolver: Send + Sync + Debug {
    /// The secret's bytes.
    ///
    /// # Errors
    /// There is no such secret, or it cannot be read.
    fn resolve(&self, reference: &Reference) -> Result<Vec<u8>, SecretError>;
}

/// Where secrets come from. The default knows values only, as Mesos' does.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    resolver: Option<Arc<dyn Resolver>>,
}

impl Secrets {
    /// References are looked up by `resolver`.
    #[must_use]
    pub fn with(resolver: Arc<dyn Resolver>) -> Secrets {
        Secrets { resolver: Some(resolver) }
    }

    /// The secret's bytes.
    ///
    /// # Errors
    /// The message contradicts itself, or the reference leads nowhere.
    pub fn get<'a>(&self, secret: &'a Secret) -> Result<Cow<'a, [u8]>, SecretError> {
        match secret.r#type.and_then(|value| Type::try_from(value).ok()) {
            Some(Type::Value) => match (&secret.value, &secret.reference) {
                (Some(value), None) => Ok(Cow::Borrowed(&value.data)),
                (None, _) => Err(SecretError::NoValue),
                (_, Some(_)) => Err(SecretError::ValueAndReference),
            },
            Some(Type::Reference) => {
                let reference = secret.reference.as_ref().ok_or(SecretError::NoReference)?;
                if secret.value.is_some() {
                    return Err(SecretError::ReferenceAndValue(reference.name.clone()));
                }
                match &self.resolver {
                    Some(resolver) => resolver.resolve(reference).map(Cow::Owned),
                    None => Err(SecretError::NoResolver(reference.name.clone())),
                }
            }
            Some(Type::Unknown) | None => Err(SecretError::Unknown),
        }
    }
}

/// Secrets in the files of a directory: `NAME`, or `NAME/KEY` for a reference that
/// has a key. Read at each use, so a changed file is the new secret.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The directory must be the operator's: whoever writes to it gives secrets.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Directory {
        Directory { root: root.into() }
    }
}

impl Resolver for Directory {
    fn resolve(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
        let relative = reference.name.trim_start_matches('/');
        let name = match &reference.key {
            Some(key) => format!("{relative}/{key}"),
            None => relative.to_owned(),
        };
        let path = Path::new(&name);
        let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
        if relative.is_empty() || !path.components().all(normal) {
            return Err(SecretError::Name(name));
        }
        let node = beneath::find(&self.root, path).map_err(|source| match source {
            BeneathError::NotFound { .. } => SecretError::Missing { name: name.clone() },
            source => SecretError::Find { name: name.clone(), source },
        })?;
        let mut bytes = Vec::new();
        let read = node.open().and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
        match read {
            Err(source) => Err(SecretError::Read { name, source }),
            Ok(length) if length as u64 > LARGEST => Err(SecretError::TooLarge { name }),
            Ok(_) => Ok(bytes),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn value(data: &[u8]) -> Secret {
        Secret {
            r#type: Some(Type::Value as i32),
            value: Some(mesos::secret::Value { data: data.to_vec() }),
            ..Secret::default()
        }
    }

    pub(crate) fn reference(name: &str, key: Option<&str>) -> Secret {
        let reference = Reference { name: name.into(), key: key.map(str::to_owned) };
        Secret {
            r#type: Some(Type::Reference as i32),
            reference: Some(reference),
            ..Secret::default()
        }
    }

    #[test]
    fn values_are_given_and_references_refused() {
        let plain = value(b"hush");
        let secrets = Secrets::default();
        assert_eq!(secrets.get(&plain).unwrap()[..], b"hush"[..]);
        let named = reference("vault", None);
        assert!(secrets.get(&named).unwrap_err().to_string().contains("'vault'"));
        for bad in [
            Secret::default(),
            Secret { r#type: Some(Type::Value as i32), ..Secret::default() },
            Secret { r#type: Some(Type::Reference as i32), ..Secret::default() },
            Secret { reference: named.reference.clone(), ..plain.clone() },
            Secret { value: plain.value.clone(), ..named.clone() },
        ] {
            let error = secrets.get(&bad).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn references_are_files_of_the_directory_and_never_lead_out_of_it() {
        let root = std::env::temp_dir().join(format!("secrets-{}", std::process::id()));
        std::fs::create_dir_all(root.join("in/db")).unwrap();
        std::fs::write(root.join("outside"), "no").unwrap();
        std::fs::write(root.join("in/token"), "t").unwrap();
        std::fs::write(root.join("in/db/password"), "p").unwrap();
        std::fs::write(root.join("in/huge"), vec![0; (LARGEST + 1) as usize]).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("in/link")).unwrap();
        let secrets = Secrets::with(Arc::new(Directory::new(root.join("in"))));
        for (name, key, wanted) in
            [("token", None, "t"), ("/db/password", None, "p"), ("db", Some("password"), "p")]
        {
            let found = reference(name, key);
            assert_eq!(secrets.get(&found).unwrap()[..], *wanted.as_bytes(), "{name}");
        }
        for (name, key, words) in [
            ("none", None, "no secret 'none'"),
            ("../outside", None, "'../outside' is no relative path"),
            ("db", Some("../../outside"), "is no relative path"),
            ("", None, "is no relative path"),
            ("link", None, "'link'"),
            ("db", None, "failed to read"),
            ("huge", None, "larger than"),
        ] {
            let error = secrets.get(&reference(name, key)).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
