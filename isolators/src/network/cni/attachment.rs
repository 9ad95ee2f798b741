//! One container and one network: every plugin of the chain, in the right order and with
//! what was answered before.

use kernel::failpoint;
use serde_json::Value;

use super::conf::Network;
use super::outcome::{self, Outcome};
use super::plugins::{Place, Plugins};
use super::request::{derive, derive_collect};
use super::store::Stored;
use super::version::{Version, choose};

/// The version to speak with the plugins of a network.
///
/// # Errors
/// A plugin is missing, or there is none that all speak; for people.
pub async fn negotiate(plugins: &Plugins, network: &Network) -> Result<Version, String> {
    let mut all = Vec::with_capacity(network.plugins.len());
    for part in &network.plugins {
        let plugin = plugins.find(&part.kind)?;
        all.push((part.kind.as_str(), plugins.versions(&plugin).await?));
    }
    choose(&network.versions, &all)
}

/// Adds a container to a network: the final result, and what it means.
///
/// # Errors
/// A plugin failed; what it and those before it did must be undone by [`delete`].
pub async fn add(
    plugins: &Plugins,
    stored: &Stored,
    place: Place<'_>,
) -> Result<(Value, Outcome), String> {
    let Stored { network, version, .. } = stored;
    let mut last: Option<(Value, Outcome)> = None;
    for (index, part) in network.plugins.iter().enumerate() {
        let plugin = plugins.find(&part.kind)?;
        let previous = last.as_ref().map(|(result, _)| result);
        let conf = derive(network, index, *version, previous);
        let answer = plugins.call(&plugin, "ADD", place, &conf).await?;
        let read = outcome::read(&answer, *version, place.interface);
        last = Some(read.map_err(|why| format!("the CNI plugin '{}': {why}", part.kind))?);
        failpoint!("cni.plugin_added");
    }
    last.ok_or_else(|| format!("the CNI network '{}' has no plugins", network.name))
}

/// Asks every plugin whether all is as it should be.
///
/// # Errors
/// It is not, or a plugin failed.
pub async fn check(plugins: &Plugins, stored: &Stored, place: Place<'_>) -> Result<(), String> {
    let Stored { network, version, result, .. } = stored;
    if network.disable_check || !version.remembers() {
        return Ok(());
    }
    let Some(result) = result else { return Ok(()) };
    for (index, part) in network.plugins.iter().enumerate() {
        let plugin = plugins.find(&part.kind)?;
        let conf = derive(network, index, *version, Some(result));
        plugins.call(&plugin, "CHECK", place, &conf).await?;
    }
    Ok(())
}

/// Takes a container off a network, the last plugin first. A plugin that fails does not
/// keep the others from cleaning up.
///
/// # Errors
/// All that went wrong; it is to be repeated.
pub async fn delete(plugins: &Plugins, stored: &Stored, place: Place<'_>) -> Result<(), String> {
    let Stored { network, version, result, .. } = stored;
    let previous = result.as_ref().filter(|_| version.remembers());
    let mut errors = Vec::new();
    for (index, part) in network.plugins.iter().enumerate().rev() {
        let conf = derive(network, index, *version, previous);
        let deleted = match plugins.find(&part.kind) {
            Ok(plugin) => plugins.call(&plugin, "DEL", place, &conf).await.map(drop),
            Err(error) => Err(error),
        };
        errors.extend(deleted.err());
        failpoint!("cni.plugin_deleted");
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// Tells the plugins of a network which attachments there are, so that they remove all
/// others. What went wrong, for people.
pub async fn collect(
    plugins: &Plugins,
    network: &Network,
    valid: &[(String, String)],
) -> Vec<String> {
    if network.disable_gc {
        return Vec::new();
    }
    let conf = |index, version| derive_collect(network, index, version, valid);
    // Why there is nobody to tell is an answer to the question below.
    of_all(plugins, network, "GC", conf).await.unwrap_or_default()
}

/// Asks the plugins of a network whether they are ready. What is wrong, for people.
pub async fn status(plugins: &Plugins, network: &Network) -> Vec<String> {
    let conf = |index, version| derive(network, index, version, None);
    of_all(plugins, network, "STATUS", conf).await.unwrap_or_else(|error| vec![error])
}

/// Has every plugin of a network do `command`, if their version has that; what went wrong.
async fn of_all(
    plugins: &Plugins,
    network: &Network,
    command: &'static str,
    conf: impl Fn(usize, Version) -> Value,
) -> Result<Vec<String>, String> {
    let version = negotiate(plugins, network).await?;
    if !version.collects() {
        return Ok(Vec::new());
    }
    let mut errors = Vec::new();
    for (index, part) in network.plugins.iter().enumerate() {
        let done = match plugins.find(&part.kind) {
            Ok(plugin) => plugins.call_for_all(&plugin, command, &conf(index, version)).await,
            Err(error) => Err(error),
        };
        errors.extend(done.err());
    }
    Ok(errors)
}
