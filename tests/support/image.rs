//! Images made in tests: directories packed as `docker save` packs them.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::provisioner::Digest;
use serde_json::{Value, json};

/// Packs layers, bottom first, and how the image is run (`config`) as `name:tag` into
/// `<dir>/<name>:<tag>.tar`.
///
/// # Panics
/// Without `tar`.
pub fn save(dir: &Path, name: &str, layers: &[PathBuf], config: &Value) -> PathBuf {
    let made = dir.join(format!(".{name}"));
    std::fs::create_dir_all(&made).expect("a directory");
    let (mut ids, mut files) = (Vec::new(), Vec::new());
    for (n, layer) in layers.iter().enumerate() {
        let file = format!("layer{n}.tar");
        tar(&made.join(&file), layer, &["."]);
        let bytes = std::fs::read(made.join(&file)).expect("read the layer");
        ids.push(Digest::of(&bytes).to_string());
        files.push(file);
    }
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let description = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": ids },
        "history": layers.iter().map(|_| json!({ "created_by": "a test" })).collect::<Vec<_>>(),
    })
    .to_string();
    let config_file = format!("{}.json", Digest::of(description.as_bytes()).hex());
    std::fs::write(made.join(&config_file), description).expect("write");
    let manifest = json!([{ "Config": config_file, "RepoTags": [name], "Layers": files }]);
    std::fs::write(made.join("manifest.json"), manifest.to_string()).expect("write");
    let archive = dir.join(format!("{name}.tar"));
    let mut all = vec!["manifest.json".to_owned(), config_file];
    all.extend(files);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    tar(&archive, &made, &all);
    std::fs::remove_dir_all(&made).expect("remove");
    archive
}

fn tar(archive: &Path, dir: &Path, names: &[&str]) {
    let mut command = Command::new("tar");
    command.arg("--numeric-owner").arg("-cf").arg(archive).arg("-C").arg(dir).args(names);
    assert!(command.status().expect("run tar").success());
}

/// A layer with busybox and links to it, `/etc/passwd` and `/etc/group`.
///
/// # Panics
/// Without busybox.
pub fn base(dir: &Path) -> PathBuf {
    let layer = dir.join("base");
    for sub in ["bin", "etc", "tmp", "srv/app", "home/app"] {
        std::fs::create_dir_all(layer.join(sub)).expect("a directory");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let busybox = std::env::split_paths(&path).map(|dir| dir.join("busybox"));
    let busybox = busybox.into_iter().find(|path| path.is_file()).expect("busybox");
    std::fs::copy(busybox, layer.join("bin/busybox")).expect("copy busybox");
    for name in ["sh", "sleep", "cat", "echo", "env", "hostname", "id", "ls", "pwd", "touch", "wc"]
    {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).expect("a link");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\n";
    std::fs::write(layer.join("etc/passwd"), passwd).expect("write");
    let group = "root:x:0:\napp:x:1002:\nextra:x:1003:app\n";
    std::fs::write(layer.join("etc/group"), group).expect("write");
    layer
}

/// A layer with a program.
///
/// # Panics
/// When it cannot be written.
pub fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let layer = dir.join(format!("script-{name}"));
    std::fs::create_dir_all(&layer).expect("a directory");
    let file = layer.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("write");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    layer
}
