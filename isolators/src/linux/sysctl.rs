//! `linux/sysctl`, which Mesos does not have: kernel settings of the container's own
//! namespaces, by flag for every container and by label for a task.
//!
//! Only what the kernel keeps per namespace can be set: anything else would be the
//! host's. Which namespaces a container has of its own is known when all isolators
//! have spoken, so that is checked by the merge.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::runtime::LinuxNamespaceType;

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError, Sysctl};
use crate::config::Config;
use crate::simple::Preparing;

const NAME: &str = "linux/sysctl";
/// The label of a task, or of an executor, that asks for settings.
pub const LABEL: &str = "sysctls";

/// Settings of IPC namespaces.
const IPC: [&str; 12] = [
    "kernel.auto_msgmni",
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn isolator(config: Arc<Config>) -> Result<Arc<dyn Isolator>, IsolatorError> {
    config.require_linux(NAME)?;
    Ok(Preparing::everywhere(NAME, config, prepare))
}

/// Parses `net.core.somaxconn=1024;kernel.sem=250 32000 100 128`. Names may be
/// written with slashes, as below `/proc/sys`; they come back with dots.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("'{part}' is no kernel setting like net.core.somaxconn=1024");
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let (name, value) = (dotted(name.trim()).ok_or_else(wrong)?, value.trim());
        if value.is_empty() || value.contains(char::is_control) {
            return Err(wrong());
        }
        kind(&name)?;
        if all.insert(name, value.to_owned()).is_some() {
            return Err(format!("'{part}': the setting is there twice"));
        }
    }
    Ok(all)
}

/// A setting's name in the spelling with dots: of dot and slash the one that comes
/// first parts the words, the other belongs to a name (`net/ipv4/conf/eth0.7/mtu`).
#[must_use]
pub fn dotted(name: &str) -> Option<String> {
    let slashes = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/');
    let swapped: String = match slashes {
        false => name.to_owned(),
        true => name.chars().map(swap).collect(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '@' | ':');
    let good = |word: &str| !word.is_empty() && word.chars().all(plain);
    let sound = swapped.contains('.') && swapped.split('.').all(good);
    (sound && !file(&swapped).split('/').any(|part| part.is_empty() || part == ".."))
        .then_some(swapped)
}

/// The file of a dotted name, below `/proc/sys`.
#[must_use]
pub fn file(dotted: &str) -> String {
    dotted.chars().map(swap).collect()
}

fn swap(c: char) -> char {
    match c {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

/// The kind of namespace that a setting belongs to.
///
/// # Errors
/// It belongs to none, or has a better way; for people.
pub fn kind(dotted: &str) -> Result<LinuxNamespaceType, String> {
    if IPC.contains(&dotted) || dotted.starts_with("fs.mqueue.") {
        return Ok(LinuxNamespaceType::Ipc);
    }
    if dotted.starts_with("net.") {
        return Ok(LinuxNamespaceType::Network);
    }
    match dotted {
        "kernel.domainname" => Ok(LinuxNamespaceType::Uts),
        "kernel.hostname" => {
            Err("kernel setting 'kernel.hostname': use 'ContainerInfo.hostname'".to_owned())
        }
        _ => Err(format!("kernel setting '{dotted}' is the host's: no namespace has its own")),
    }
}

fn prepare(
    config: &Arc<Config>,
    context: &ContainerContext,
) -> Result<Contribution, IsolatorError> {
    let asked = context.labels.get(LABEL).map(|text| parse(text)).transpose();
    let asked = asked
        .map_err(|text| IsolatorError::plain(NAME, "read", format!("label '{LABEL}': {text}")))?;
    let of = |optional| {
        move |(name, value): (String, String)| (name, Sysctl { value, optional, yields: false })
    };
    // The flag is for those who have the namespace; who asks must have it.
    let mut sysctls: BTreeMap<_, _> =
        config.container_sysctls.clone().into_iter().map(of(true)).collect();
    sysctls.extend(asked.unwrap_or_default().into_iter().map(of(false)));
    Ok(Contribution { sysctls, ..Contribution::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::context;

    #[test]
    fn settings_are_parsed_or_refused() {
        let rows = [
            ("", Ok(vec![])),
            ("kernel.sem=250 32000 100 128", Ok(vec![("kernel.sem", "250 32000 100 128")])),
            (
                " net/ipv4/conf/eth0.7/mtu = 9 ; kernel.msgmax=1;",
                Ok(vec![("kernel.msgmax", "1"), ("net.ipv4.conf.eth0/7.mtu", "9")]),
            ),
            ("kernel.msgmax", Err("'kernel.msgmax' is no kernel setting like")),
            ("kernel.msgmax=", Err("is no kernel setting like")),
            ("kernel..msgmax=1", Err("is no kernel setting like")),
            ("net.../../kernel.panic=1", Err("is no kernel setting like")),
            ("net/../kernel/panic=1", Err("is no kernel setting like")),
            ("fs.mqueue.msg_max=1;fs/mqueue/msg_max=2", Err("is there twice")),
            ("kernel.panic=1", Err("'kernel.panic' is the host's")),
            ("vm.swappiness=1", Err("'vm.swappiness' is the host's")),
            ("kernel.hostname=x", Err("use 'ContainerInfo.hostname'")),
        ];
        for (text, wanted) in rows {
            match (parse(text), wanted) {
                (Ok(got), Ok(wanted)) => {
                    let wanted = wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
                    assert_eq!(got, wanted.collect(), "{text}");
                }
                (Err(got), Err(wanted)) => assert!(got.contains(wanted), "{text}: {got}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        assert_eq!(file("net.ipv4.conf.eth0/7.mtu"), "net/ipv4/conf/eth0.7/mtu");
    }

    #[test]
    fn the_label_stands_above_the_flag() {
        let container_sysctls = parse("kernel.msgmax=1;kernel.msgmnb=2").unwrap();
        let config = Arc::new(Config { container_sysctls, ..Config::default() });
        let mut context = context("a");
        context.labels.insert(LABEL.into(), "kernel.msgmax=3".into());
        let part = prepare(&config, &context).unwrap();
        let of = |name: &str| {
            let Sysctl { value, optional, yields } = part.sysctls[name].clone();
            (value, optional, yields)
        };
        assert_eq!(of("kernel.msgmax"), ("3".into(), false, false));
        assert_eq!(of("kernel.msgmnb"), ("2".into(), true, false));
        context.labels.insert(LABEL.into(), "vm.swappiness=1".into());
        let error = prepare(&config, &context).unwrap_err().to_string();
        assert!(error.contains("label 'sysctls': kernel setting 'vm.swappiness'"), "{error}");
    }
}
