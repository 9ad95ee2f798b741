//! `bulkhead-helper`: jobs that must not run in a daemon, by their first argument. No
//! threads but for `pull`; started by other programs of this package, not by people.
//!
//! * `fetch`: fetches one URI into a sandbox or the cache, as a task's user.
//! * `logger`: takes the output of an agent's containers to where it belongs.
//! * `pull`: brings an image into the store of the native containerizer.
//! * `oci`: makes a container with libcontainer (feature `oci`).
//!
//! Under the name of one of our CNI plugins, such as `bulkhead-port-mapper`, it is that
//! plugin.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use isolators::network::cni::IN_HELPER;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if let Some((_, plugin)) = IN_HELPER.iter().find(|(plugin, _)| name == *plugin) {
        return plugin();
    }
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.first().and_then(|name| name.to_str()) {
        Some("fetch") => bulkhead::fetch::main(),
        Some("logger") => bulkhead::logs::helper::main(&arguments[1..]),
        Some("pull") => bulkhead::provisioner::pull::main(),
        Some("oci") => oci(&arguments[1..]),
        _ => {
            eprintln!("usage: bulkhead-helper fetch|logger|pull|oci ...");
            ExitCode::from(2)
        }
    }
}

#[cfg(feature = "oci")]
fn oci(arguments: &[OsString]) -> ExitCode {
    bulkhead::launch::oci::main(arguments)
}

#[cfg(not(feature = "oci"))]
fn oci(_: &[OsString]) -> ExitCode {
    eprintln!("this bulkhead-helper was built without the feature 'oci'");
    ExitCode::from(2)
}
