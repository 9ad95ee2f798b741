//! Fetching a command's URIs into the sandbox, as far as this version can:
//! local files. Runs before the container starts.
//!
//! A file is copied by `cp` as the task's user, so that a URI cannot read what
//! the user may not. Archives and other schemes are refused by name.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mesos::command_info::Uri;

/// Suffixes that Mesos extracts.
const ARCHIVES: [&str; 10] =
    [".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip", ".gz", ".bz2"];

/// What one URI asks for.
#[derive(Debug, PartialEq, Eq)]
struct Copy {
    from: PathBuf,
    /// Below the sandbox.
    name: PathBuf,
    executable: bool,
}

/// Reads a URI. Pure.
fn plan(uri: &Uri, frameworks_home: Option<&Path>) -> Result<Copy, String> {
    let value = uri.value.as_str();
    let bad = |what: &str| Err(format!("URI '{value}': {what}"));
    if value.contains(['\\', '\'', '\0']) || value.is_empty() {
        return bad("it is empty or has illegal characters");
    }
    let path = match value.split_once("://") {
        Some(("file", path)) => Path::new(path),
        Some((scheme, _)) => {
            return bad(&format!(
                "fetching over '{scheme}' is not supported yet; use a local file"
            ));
        }
        None => Path::new(value),
    };
    let from = match (path.is_absolute(), frameworks_home) {
        (true, _) => path.to_path_buf(),
        (false, Some(home)) => home.join(path),
        (false, None) => return bad("a relative path needs --frameworks_home"),
    };
    let executable = uri.executable.unwrap_or(false);
    let archive = ARCHIVES.iter().any(|suffix| value.ends_with(suffix));
    if archive && uri.extract.unwrap_or(true) && !executable {
        return bad("extracting archives is not supported yet; set 'extract' to false");
    }
    let name = match &uri.output_file {
        Some(name) => PathBuf::from(name),
        None => from.file_name().map(PathBuf::from).unwrap_or_default(),
    };
    let tame = name.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if name.as_os_str().is_empty() || !tame {
        return bad("it leads out of the sandbox, or has no file name");
    }
    Ok(Copy { from, name, executable })
}

/// Fetches all URIs, one after the other. `ids`: the task's user.
///
/// # Errors
/// Says which URI failed and why; for people.
pub(in crate::containerizer) async fn fetch(
    uris: &[Uri],
    sandbox: &Path,
    frameworks_home: Option<&Path>,
    ids: Option<(u32, u32)>,
) -> Result<(), String> {
    let copies: Result<Vec<Copy>, String> =
        uris.iter().map(|uri| plan(uri, frameworks_home)).collect();
    for copy in copies? {
        copy_one(&copy, sandbox, ids).await?;
    }
    Ok(())
}

async fn copy_one(copy: &Copy, sandbox: &Path, ids: Option<(u32, u32)>) -> Result<(), String> {
    let to = sandbox.join(&copy.name);
    let fail = |why: String| format!("failed to fetch '{}': {why}", copy.from.display());
    if let Some(dir) = to.parent() {
        tokio::fs::create_dir_all(dir).await.map_err(|e| fail(e.to_string()))?;
    }
    let mut command = tokio::process::Command::new("cp");
    command.arg("-L").arg("--").arg(&copy.from).arg(&to).env_clear().kill_on_drop(true);
    command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stdout(Stdio::null());
    if let Some((uid, gid)) = ids {
        command.uid(uid).gid(gid);
    }
    let output = command.output().await.map_err(|e| fail(e.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    if copy.executable {
        let mode = std::fs::Permissions::from_mode(0o755);
        tokio::fs::set_permissions(&to, mode).await.map_err(|e| fail(e.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(value: &str) -> Uri {
        Uri { value: value.into(), ..Uri::default() }
    }

    #[test]
    fn plans() {
        let copy = |from: &str, name: &str| Copy {
            from: from.into(),
            name: name.into(),
            executable: false,
        };
        assert_eq!(plan(&uri("file:///a/b"), None), Ok(copy("/a/b", "b")));
        assert_eq!(plan(&uri("/a/b"), None), Ok(copy("/a/b", "b")));
        assert_eq!(plan(&uri("b"), Some(Path::new("/home"))), Ok(copy("/home/b", "b")));
        let named = Uri { output_file: Some("d/c".into()), ..uri("/a/b") };
        assert_eq!(plan(&named, None), Ok(copy("/a/b", "d/c")));
        let raw = Uri { extract: Some(false), ..uri("/a/b.tar.gz") };
        assert_eq!(plan(&raw, None), Ok(copy("/a/b.tar.gz", "b.tar.gz")));
        let bad = ["", "b", "http://x/y", "hdfs://x/y", "/a/b.zip", "/a/b'c", "/"];
        for value in bad {
            assert!(plan(&uri(value), None).is_err(), "{value}");
        }
        for name in ["../x", "/x", ""] {
            let named = Uri { output_file: Some(name.into()), ..uri("/a/b") };
            assert!(plan(&named, None).is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn copies_and_names_what_is_missing() {
        let dir = std::env::temp_dir().join(format!("fetch-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sandbox")).unwrap();
        std::fs::write(dir.join("tool"), "#!/bin/sh\n").unwrap();
        let tool = Uri { executable: Some(true), ..uri(dir.join("tool").to_str().unwrap()) };
        let sandbox = dir.join("sandbox");
        fetch(&[tool], &sandbox, None, None).await.unwrap();
        let mode = std::fs::metadata(sandbox.join("tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let error = fetch(&[uri("/does/not/exist")], &sandbox, None, None).await.unwrap_err();
        assert!(error.contains("'/does/not/exist'"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
