//! Mounts and namespaces in OCI's words. Pure.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount};

/// A new namespace.
pub(crate) fn new_namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(None);
    namespace
}

/// The namespace of a running process.
pub(crate) fn namespace_of(kind: LinuxNamespaceType, pid: u32, file: &str) -> LinuxNamespace {
    let mut namespace = new_namespace(kind);
    namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/{file}"))));
    namespace
}

/// A mount of a file system of the kernel.
pub(crate) fn file_system(kind: &str, target: impl AsRef<Path>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.as_ref().to_path_buf())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(kind)))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// A recursive bind mount.
pub(crate) fn bind(source: &Path, target: &Path, read_only: bool) -> Mount {
    let mut options = vec!["rbind".to_owned()];
    if read_only {
        options.push("ro".to_owned());
    }
    let mut mount = Mount::default();
    mount
        .set_destination(target.to_path_buf())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_path_buf()))
        .set_options(Some(options));
    mount
}
