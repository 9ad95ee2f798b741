//! What a URI asks for. Pure; used by the agent to refuse nonsense at once and by
//! the helper to act.

use std::path::{Component, Path, PathBuf};

use mesos::command_info::Uri;

/// How a URI is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A file of this machine.
    Local(PathBuf),
    /// By ourselves.
    Http,
    /// By the program `curl`.
    Ftp,
    /// By the Hadoop client, which knows more schemes than we do.
    Hadoop,
}

/// The URI without surrounding space and without a checksum.
pub(super) fn address(value: &str) -> &str {
    let value = value.trim_start();
    split_checksum(value).map_or(value, |(address, _)| address)
}

/// `#sha256=HEX` at the end: what the content must be; no feature of Mesos.
fn split_checksum(value: &str) -> Option<(&str, &str)> {
    value.rsplit_once("#sha256=")
}

/// The checksum that the URI asks for, in lower case.
///
/// # Errors
/// It is no SHA-256.
pub(super) fn checksum(value: &str) -> Result<Option<String>, String> {
    let Some((_, sum)) = split_checksum(value) else { return Ok(None) };
    if sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("'#sha256={sum}' is no checksum: 64 hexadecimal digits are expected"));
    }
    Ok(Some(sum.to_ascii_lowercase()))
}

/// How to fetch `value`. Schemes are matched as Mesos does.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn source(value: &str, frameworks_home: Option<&Path>) -> Result<Source, String> {
    let address = address(value);
    let scheme = address.split_once("://").map(|(scheme, _)| scheme);
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        Some("http" | "https") => Ok(Source::Http),
        Some("ftp" | "ftps") => Ok(Source::Ftp),
        Some("docker") => Err("images are not fetched as URIs".into()),
        Some("file") => {
            let path = &address["file://".len()..];
            let path = Path::new(path.strip_prefix("localhost").unwrap_or(path));
            if !path.is_absolute() {
                return Err("a file URI needs an absolute path, as in file:///etc/hosts".into());
            }
            Ok(Source::Local(path.to_owned()))
        }
        Some("") => Err("it has no scheme before '://'".into()),
        Some(_) => Ok(Source::Hadoop),
        None => match (Path::new(address), frameworks_home) {
            (path, _) if path.is_absolute() => Ok(Source::Local(path.to_owned())),
            (path, Some(home)) => Ok(Source::Local(home.join(path))),
            (_, None) => Err("a relative path needs the agent's --frameworks_home".into()),
        },
    }
}

/// The last part of the path, as Mesos cuts it: a query belongs to it.
///
/// # Errors
/// The URI has illegal characters or no path.
pub(super) fn basename(value: &str) -> Result<&str, String> {
    if let Some(bad) = value.chars().find(|c| ['\\', '\'', '\0', '\n', '\r'].contains(c)) {
        return Err(format!("illegal character {bad:?}"));
    }
    let address = address(value);
    let path = match address.split_once("://") {
        Some((scheme, rest)) if scheme != "file" => match rest.split_once('/') {
            Some((_, path)) if !path.is_empty() => path,
            _ => return Err("malformed URI (missing path)".into()),
        },
        Some((_, path)) => path,
        None => address.trim_end_matches('/'),
    };
    match path.rsplit('/').next().unwrap_or("") {
        "" => Err("it names no file".into()),
        "." | ".." => Err("it names a directory".into()),
        name => Ok(name),
    }
}

/// Where in the sandbox the URI goes: `output_file`, or the last part of its path.
///
/// # Errors
/// The URI is malformed, or leads out of the sandbox.
pub(super) fn output(uri: &Uri) -> Result<PathBuf, String> {
    let name = basename(&uri.value)?;
    let Some(wanted) = &uri.output_file else { return Ok(name.into()) };
    if wanted.is_empty() {
        return Err("its 'output_file' is empty".into());
    }
    tame(Path::new(wanted))
        .filter(|path| !wanted.starts_with('/') && !path.as_os_str().is_empty())
        .ok_or_else(|| format!("its 'output_file' '{wanted}' must be within the sandbox directory"))
}

/// Everything about a URI that can be checked without looking at the machine.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn check(uri: &Uri, frameworks_home: Option<&Path>) -> Result<PathBuf, String> {
    let output = output(uri)?;
    checksum(&uri.value)?;
    source(&uri.value, frameworks_home)?;
    Ok(output)
}

/// A relative path without `.`, `..` and leading slashes; `None` if it has `..`.
pub(super) fn tame(path: &Path) -> Option<PathBuf> {
    let mut tame = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => tame.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(tame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(value: &str) -> Uri {
        Uri { value: value.into(), ..Uri::default() }
    }

    #[test]
    fn sources() {
        let local = |path: &str| Ok(Source::Local(path.into()));
        let home = Some(Path::new("/home"));
        let rows = [
            ("file:///a/b", local("/a/b")),
            ("file://localhost/a/b", local("/a/b")),
            ("  /a/b", local("/a/b")),
            ("a/b", local("/home/a/b")),
            ("/a/b#sha256=00", local("/a/b")),
            ("http://x/y", Ok(Source::Http)),
            ("HTTPS://x/y", Ok(Source::Http)),
            ("ftps://x/y", Ok(Source::Ftp)),
            ("hdfs://x/y", Ok(Source::Hadoop)),
            ("s3n://x/y", Ok(Source::Hadoop)),
        ];
        for (value, expected) in rows {
            assert_eq!(source(value, home), expected, "{value}");
        }
        for bad in ["a/b", "file://a/b", "://x/y", "docker://x/y"] {
            assert!(source(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_in_the_sandbox() {
        let rows = [
            ("http://x/a/b.tgz", "b.tgz"),
            ("http://x/b?c=d", "b?c=d"),
            ("http://x/b#sha256=0", "b"),
            ("file:///a/b", "b"),
            ("a/b", "b"),
        ];
        for (value, expected) in rows {
            assert_eq!(output(&uri(value)), Ok(expected.into()), "{value}");
        }
        for bad in ["", "/", "http://x", "http://x/", "http://x/a/", "a\\b", "it's", "a/..", "a\0b"]
        {
            assert!(output(&uri(bad)).is_err(), "{bad:?}");
        }
        let named = |name: &str| output(&Uri { output_file: Some(name.into()), ..uri("/a/b") });
        assert_eq!(named("d/./c"), Ok("d/c".into()));
        for bad in ["", "/c", "../c", "d/../../c", "."] {
            assert!(named(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn checksums() {
        let sum = "AB".repeat(32);
        assert_eq!(checksum(&format!("/a#sha256={sum}")), Ok(Some(sum.to_lowercase())));
        assert_eq!(checksum("/a#b"), Ok(None));
        assert!(checksum("/a#sha256=abc").unwrap_err().contains("64 hexadecimal digits"));
    }
}
