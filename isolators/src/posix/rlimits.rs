//! `posix/rlimits`: `ContainerInfo.rlimit_info` to the container's rlimits.

use std::sync::Arc;

use mesos::RLimitInfo;
use mesos::r_limit_info::r_limit::Type;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::simple::Preparing;

const NAME: &str = "posix/rlimits";

/// The isolator.
#[must_use]
pub fn isolator() -> Arc<dyn Isolator> {
    Preparing::everywhere(NAME, (), prepare)
}

fn prepare(_config: &(), context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    let info = context.info.as_ref().and_then(|info| info.rlimit_info.as_ref());
    let Some(info) = info else { return Ok(Contribution::default()) };
    let rlimits = rlimits(info).map_err(|text| IsolatorError::plain(NAME, "use", text))?;
    Ok(Contribution { rlimits: Some(rlimits), ..Contribution::default() })
}

/// Mesos' limits in OCI's words. Soft and hard come both or not at all; not at
/// all is unlimited.
///
/// # Errors
/// A limit that has no type, one bound only, or soft above hard; says which.
pub fn rlimits(info: &RLimitInfo) -> Result<Vec<PosixRlimit>, String> {
    let mut all: Vec<PosixRlimit> = Vec::new();
    for limit in &info.rlimits {
        let typ = limit.r#type.and_then(|t| Type::try_from(t).ok()).unwrap_or(Type::Unknown);
        let name = typ.as_str_name();
        let kind = kind(typ).ok_or("an rlimit of unknown type")?;
        let (soft, hard) = match (limit.soft, limit.hard) {
            (Some(soft), Some(hard)) if soft > hard => {
                return Err(format!("rlimit {name}: soft limit {soft} is above hard limit {hard}"));
            }
            (Some(soft), Some(hard)) => (soft, hard),
            (None, None) => (u64::MAX, u64::MAX),
            _ => return Err(format!("rlimit {name}: soft and hard limit come both or not at all")),
        };
        if all.iter().any(|known| known.typ() == kind) {
            return Err(format!("rlimit {name}: given twice"));
        }
        let built = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
        all.push(built.map_err(|error| format!("rlimit {name}: {error}"))?);
    }
    Ok(all)
}

fn kind(typ: Type) -> Option<PosixRlimitType> {
    Some(match typ {
        Type::Unknown => return None,
        Type::RlmtAs => PosixRlimitType::RlimitAs,
        Type::RlmtCore => PosixRlimitType::RlimitCore,
        Type::RlmtCpu => PosixRlimitType::RlimitCpu,
        Type::RlmtData => PosixRlimitType::RlimitData,
        Type::RlmtFsize => PosixRlimitType::RlimitFsize,
        Type::RlmtLocks => PosixRlimitType::RlimitLocks,
        Type::RlmtMemlock => PosixRlimitType::RlimitMemlock,
        Type::RlmtMsgqueue => PosixRlimitType::RlimitMsgqueue,
        Type::RlmtNice => PosixRlimitType::RlimitNice,
        Type::RlmtNofile => PosixRlimitType::RlimitNofile,
        Type::RlmtNproc => PosixRlimitType::RlimitNproc,
        Type::RlmtRss => PosixRlimitType::RlimitRss,
        Type::RlmtRtprio => PosixRlimitType::RlimitRtprio,
        Type::RlmtRttime => PosixRlimitType::RlimitRttime,
        Type::RlmtSigpending => PosixRlimitType::RlimitSigpending,
        Type::RlmtStack => PosixRlimitType::RlimitStack,
    })
}

#[cfg(test)]
mod tests {
    use mesos::r_limit_info::RLimit;

    use super::*;

    fn info(rows: &[(Type, Option<u64>, Option<u64>)]) -> RLimitInfo {
        let limit = |(typ, soft, hard): &(Type, _, _)| RLimit {
            r#type: Some(*typ as i32),
            soft: *soft,
            hard: *hard,
        };
        RLimitInfo { rlimits: rows.iter().map(limit).collect() }
    }

    #[test]
    fn both_or_neither() {
        let good = info(&[(Type::RlmtNofile, Some(10), Some(20)), (Type::RlmtCore, None, None)]);
        let limits = rlimits(&good).unwrap();
        assert_eq!((limits[0].soft(), limits[0].hard()), (10, 20));
        assert_eq!((limits[1].soft(), limits[1].hard()), (u64::MAX, u64::MAX));
        let bad = [
            info(&[(Type::RlmtNofile, Some(1), None)]),
            info(&[(Type::RlmtNofile, Some(2), Some(1))]),
            info(&[(Type::Unknown, None, None)]),
            info(&[(Type::RlmtCore, None, None), (Type::RlmtCore, None, None)]),
        ];
        for info in bad {
            assert!(rlimits(&info).is_err(), "{info:?}");
        }
    }
}
