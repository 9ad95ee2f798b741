//! The image store from outside: the store of this build with its helper, Debian's
//! registry on loopback, archives in directories, and servers that lie.

#[path = "../support/registry.rs"]
mod registry;
#[path = "../support/mod.rs"]
mod support;

mod images {
    //! One file per theme.
    pub mod archives;
    pub mod broken;
    pub mod collect;
    pub mod guarded;
    pub mod hostile;
    pub mod pulls;

    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use bulkhead::provisioner::{Lease, Location, Options, Reference, Settings, Store, StoreError};

    use crate::support::TempDir;

    /// Nothing takes longer.
    pub const PATIENCE: Duration = Duration::from_secs(60);

    /// The settings of a store below `dir`, for a registry or directory.
    pub fn settings(dir: &Path, registry: &str) -> Settings {
        Settings {
            dir: dir.join("store"),
            registry: Location::parse(registry).expect("a registry"),
            credentials: None,
            helper: env!("CARGO_BIN_EXE_bulkhead-helper").into(),
            insecure: Vec::new(),
            mirrors: Default::default(),
            certificates: dir.join("certs.d"),
            size_limit: 1 << 30,
            stall: Duration::from_secs(20),
        }
    }

    /// A store and its directory.
    pub struct Place {
        pub store: Store,
        pub dir: TempDir,
    }

    impl Place {
        pub fn new(registry: &str) -> Place {
            Place::with(registry, |_| {})
        }

        pub fn with(registry: &str, change: impl FnOnce(&mut Settings)) -> Place {
            let dir = TempDir::new("images");
            let mut settings = settings(dir.path(), registry);
            change(&mut settings);
            Place { store: Store::open(settings).expect("a store"), dir }
        }

        pub async fn get(&self, name: &str) -> Result<Lease, StoreError> {
            let reference = Reference::parse(name).expect(name);
            let get = self.store.get(&reference, Options::default());
            tokio::time::timeout(PATIENCE, get).await.expect("in time")
        }

        /// Why an image cannot be had.
        pub async fn refused(&self, name: &str) -> String {
            match self.get(name).await {
                Ok(_) => panic!("{name} was pulled"),
                Err(error) => kernel::chain(&error),
            }
        }

        /// Names in a part of the store.
        pub fn names(&self, part: &str) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path().join("store").join(part));
            let entries = entries.expect(part).flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }

        /// Waits until nothing unfinished is left.
        pub async fn settle(&self) {
            let empty = || self.names("staging").is_empty() && self.names("locks").is_empty();
            until("the staging area to be empty", empty).await;
        }
    }

    pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < deadline, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The topmost layer that has a file.
    pub fn find(lease: &Lease, name: &str) -> PathBuf {
        let mut paths = lease.layers.iter().rev().map(|layer| layer.join(name));
        paths.find(|path| path.symlink_metadata().is_ok()).unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn read(lease: &Lease, name: &str) -> String {
        std::fs::read_to_string(find(lease, name)).expect(name)
    }
}
