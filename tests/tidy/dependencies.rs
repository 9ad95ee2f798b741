//! Crates: the arrows between ours, and licences and duplicates of the others.
//!
//! `make deny` asks cargo-deny the same and more; this light version needs
//! nothing installed. Both read `deny.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::source::{Breaches, root};

/// Our library crates and what of ours each may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("mesos", &[]),
    ("kernel", &[]),
    ("isolators", &["mesos", "kernel"]),
    ("isolator-plugin", &["mesos", "isolators"]),
];

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

#[test]
fn crates_point_down() {
    let metadata = metadata();
    let ours: BTreeSet<&str> = packages(&metadata)
        .filter(|p| p["source"].is_null())
        .filter_map(|p| p["name"].as_str())
        .collect();
    let mut breaches = Breaches::default();
    for package in packages(&metadata) {
        let Some((name, allowed)) =
            ARROWS.iter().find(|(n, _)| package["source"].is_null() && package["name"] == *n)
        else {
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or("");
            let development = dependency["kind"] == "dev";
            if ours.contains(used) && !allowed.contains(&used) && !development {
                breaches.note(format!("crate `{name}` must not use `{used}`"));
            }
            let http = ["hyper", "hyper-util"].contains(&used) && *name != "isolator-plugin";
            if http || (used == "tokio" && *name == "mesos") {
                breaches.note(format!("crate `{name}` must not use `{used}`"));
            }
        }
    }
    let libraries: Vec<&str> = packages(&metadata)
        .filter(|p| p["source"].is_null())
        .filter(|p| p["targets"].as_array().into_iter().flatten().any(|t| t["kind"][0] == "lib"))
        .filter_map(|p| p["name"].as_str())
        .collect();
    if libraries.len() > 5 {
        breaches.note(format!("five libraries are enough: {libraries:?}"));
    }
    breaches.check();
}

/// The strings of `KEY = [ ... ]` in deny.toml, `name = ".."` inside tables too.
fn deny_list(key: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("read deny.toml");
    let start = text.find(&format!("\n{key} = [")).expect("deny.toml has the list");
    let list = text[start..].split("\n]").next().unwrap_or("");
    list.lines()
        .skip(2)
        .map(|l| l.split('#').next().unwrap_or(""))
        .filter_map(|l| l.split('"').nth(1).map(str::to_owned))
        .collect()
}

#[test]
fn licences_are_allowed() {
    let metadata = metadata();
    let allowed = deny_list("allow");
    let mut breaches = Breaches::default();
    for package in packages(&metadata).filter(|p| !p["source"].is_null()) {
        let licence = package["license"].as_str().unwrap_or("");
        if !licence_allowed(licence, &allowed) {
            breaches.note(format!("{}: licence `{licence}`", package["name"]));
        }
    }
    breaches.check();
}

/// Any alternative of `A OR B` (or the old `A/B`) whose `AND` parts are allowed.
fn licence_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    expression.replace('/', " OR ").split(" OR ").any(|alternative| {
        alternative
            .split(" AND ")
            .all(|part| allowed.contains(part.trim().trim_matches(['(', ')'])))
    })
}

#[test]
fn duplicates_are_known() {
    let metadata = metadata();
    let known = deny_list("skip");
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n["id"].as_str())
        .collect();
    for package in packages(&metadata).filter(|p| used.contains(p["id"].as_str().unwrap_or(""))) {
        let name = package["name"].as_str().unwrap_or("");
        versions.entry(name).or_default().insert(package["version"].as_str().unwrap_or(""));
    }
    let mut breaches = Breaches::default();
    for (name, versions) in versions.iter().filter(|(n, v)| v.len() > 1 && !known.contains(**n)) {
        breaches.note(format!("{name}: {versions:?}: two versions (deny.toml: skip)"));
    }
    breaches.check();
}
