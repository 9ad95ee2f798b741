//! Mount options in the words of fstab and OCI, as kernel flags. Pure.

/// What the options of one mount say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// `MS_*` flags of the file system or of the bind mount.
    pub flags: u64,
    /// A bind mount, and whether it takes the mounts below along.
    pub bind: Option<bool>,
    /// Of a bind mount, map ids by the container's user namespace; whether of the
    /// mounts below, too.
    pub map_ids: Option<bool>,
    /// `MS_*` propagation flags to apply after the mount, in order.
    pub propagation: Vec<u64>,
    /// What the file system understands, comma separated.
    pub data: String,
}

impl Options {
    /// Mounts made there are seen where it came from.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.propagation.iter().any(|flags| flags & libc::MS_SHARED != 0)
    }
}

/// Reads fstab style options; what is not a known word is the file system's.
#[must_use]
pub fn parse<S: AsRef<str>>(kind: Option<&str>, options: &[S]) -> Options {
    let mut out = Options::default();
    if kind == Some("bind") {
        out.bind = Some(false);
    }
    for option in options.iter().map(AsRef::as_ref) {
        if let Some((set, flag)) = flag(option) {
            out.flags = if set { out.flags | flag } else { out.flags & !flag };
        } else if let Some(flag) = propagation(option) {
            out.propagation.push(flag);
        } else {
            match option {
                "bind" => out.bind = Some(out.bind.unwrap_or(false)),
                "rbind" => out.bind = Some(true),
                "idmap" => out.map_ids = Some(false),
                "ridmap" => out.map_ids = Some(true),
                "" | "defaults" => {}
                other => {
                    if !out.data.is_empty() {
                        out.data.push(',');
                    }
                    out.data.push_str(other);
                }
            }
        }
    }
    out
}

/// Flag words: whether the word sets or clears, and what.
fn flag(option: &str) -> Option<(bool, u64)> {
    Some(match option {
        "ro" => (true, libc::MS_RDONLY),
        "rw" => (false, libc::MS_RDONLY),
        "nosuid" => (true, libc::MS_NOSUID),
        "suid" => (false, libc::MS_NOSUID),
        "nodev" => (true, libc::MS_NODEV),
        "dev" => (false, libc::MS_NODEV),
        "noexec" => (true, libc::MS_NOEXEC),
        "exec" => (false, libc::MS_NOEXEC),
        "sync" => (true, libc::MS_SYNCHRONOUS),
        "async" => (false, libc::MS_SYNCHRONOUS),
        "dirsync" => (true, libc::MS_DIRSYNC),
        "noatime" => (true, libc::MS_NOATIME),
        "atime" => (false, libc::MS_NOATIME),
        "nodiratime" => (true, libc::MS_NODIRATIME),
        "diratime" => (false, libc::MS_NODIRATIME),
        "relatime" => (true, libc::MS_RELATIME),
        "norelatime" => (false, libc::MS_RELATIME),
        "strictatime" => (true, libc::MS_STRICTATIME),
        "nostrictatime" => (false, libc::MS_STRICTATIME),
        _ => return None,
    })
}

/// A propagation word as `MS_*` flags.
#[must_use]
pub fn propagation(option: &str) -> Option<u64> {
    Some(match option {
        "private" => libc::MS_PRIVATE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "shared" => libc::MS_SHARED,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "unbindable" => libc::MS_UNBINDABLE,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

/// Mount flags as the attributes of `mount_setattr`; flags that are not
/// attributes of a mount are dropped.
#[must_use]
pub fn attributes(flags: u64) -> u64 {
    const ROWS: [(u64, u64); 6] = [
        (libc::MS_RDONLY, 0x01),
        (libc::MS_NOSUID, 0x02),
        (libc::MS_NODEV, 0x04),
        (libc::MS_NOEXEC, 0x08),
        (libc::MS_NOATIME, 0x10),
        (libc::MS_NODIRATIME, 0x80),
    ];
    ROWS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, attribute)| attribute).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags_and_the_rest_is_data() {
        let tmpfs = parse(Some("tmpfs"), &["nosuid", "size=1m", "ro", "rw", "mode=755"]);
        assert_eq!(tmpfs.flags, libc::MS_NOSUID);
        assert_eq!(tmpfs.data, "size=1m,mode=755");
        assert_eq!(tmpfs.bind, None);
    }

    #[test]
    fn binds_know_their_depth_and_propagation() {
        let rbind = parse(Some("bind"), &["rbind", "ro", "rslave"]);
        assert_eq!((rbind.bind, rbind.flags), (Some(true), libc::MS_RDONLY));
        assert_eq!(rbind.propagation, [libc::MS_SLAVE | libc::MS_REC]);
        assert_eq!(parse::<&str>(Some("bind"), &[]).bind, Some(false));
        assert_eq!(parse(None, &["bind"]).bind, Some(false));
        assert_eq!(parse(Some("bind"), &["rbind", "ridmap"]).map_ids, Some(true));
        assert_eq!(parse(Some("bind"), &["idmap"]).map_ids, Some(false));
        assert!(parse(None, &["bind", "rshared"]).is_shared() && !rbind.is_shared());
    }

    #[test]
    fn attributes_follow_the_flags() {
        assert_eq!(attributes(libc::MS_RDONLY | libc::MS_NOEXEC | libc::MS_SYNCHRONOUS), 0x09);
    }
}
