//! What we say we are. The version is that of the Mesos whose protocols we speak:
//! peers and clients compare it. Our own version stands in `git_tag`.

use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use mesos::VersionInfo;

/// The Mesos release that masters, agents and clients should take us for.
pub const MESOS_VERSION: &str = "1.12.0";

/// Name and version of this program for people.
pub const BULKHEAD: &str = concat!("bulkhead-", env!("CARGO_PKG_VERSION"));

/// Version and build of this program. The time is `SOURCE_DATE_EPOCH` of the
/// build if it was set, else that of the program's file.
#[must_use]
pub fn info() -> &'static VersionInfo {
    static INFO: OnceLock<VersionInfo> = OnceLock::new();
    INFO.get_or_init(|| {
        let seconds = built_at();
        #[allow(clippy::cast_precision_loss)] // seconds since 1970
        VersionInfo {
            version: MESOS_VERSION.to_owned(),
            build_date: Some(crate::wire::http::utc(seconds)),
            build_time: Some(seconds as f64),
            build_user: Some(String::new()),
            git_sha: option_env!("BULKHEAD_GIT_SHA").map(str::to_owned),
            git_branch: None,
            git_tag: Some(BULKHEAD.to_owned()),
        }
    })
}

fn built_at() -> u64 {
    if let Some(epoch) = option_env!("SOURCE_DATE_EPOCH").and_then(|s| s.parse().ok()) {
        return epoch;
    }
    std::fs::metadata("/proc/self/exe")
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_secs())
}

/// The answer to `--version`.
#[must_use]
pub fn line(program: &str) -> String {
    format!("{program} {} (speaks mesos {MESOS_VERSION})", env!("CARGO_PKG_VERSION"))
}
