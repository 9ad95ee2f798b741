//! One container and one network: every plugin of the chain, in the right order and with
//! what was answered before.

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
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// Tells the plugins of a network which attachments there are, so that they remove all
/// others, and asks whether they are ready. What went wrong, for people.
pub async fn collect(
    plugins: &Plugins,
    network: &Network,
    valid: &[(String, String)],
) -> Vec<String> {
    let version = match negotiate(plugins, network).await {
        Ok(version) => version,
        Err(error) => return vec![error],
    };
    if !version.collects() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (index, part) in network.plugins.iter().enumerate() {
        let plugin = match plugins.find(&part.kind) {
            Ok(plugin) => plugin,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if !network.disable_gc {
            let conf = derive_collect(network, index, version, valid);
            errors.extend(plugins.call_for_all(&plugin, "GC", &conf).await.err());
        }
        let conf = derive(network, index, version, None);
        errors.extend(plugins.call_for_all(&plugin, "STATUS", &conf).await.err());
    }
    errors
}
