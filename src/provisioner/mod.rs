//! Images of the native containerizer: names, the store, pulling.
//!
//! ```text
//! Store (agent) --Job on a pipe--> bulkhead-helper pull, one for each pull
//!    |  leases, flights, gc           |  <-- pipe: Report lines
//!    +-- <docker_store_dir> ----------+-- registry or archive, layers unpacked
//! ```
//!
//! * `reference`: names of images and digests (pure). `image`: configurations (pure).
//! * `store`: what is there, for whom, since when; pulls shared by all who wait.

pub mod image;
pub mod reference;
pub mod store;

pub use image::{ImageConfig, StoredImage};
pub use reference::{Digest, Reference, ReferenceError};
pub use store::{Lease, Listed, Options, Progress, Pruned, Settings, Store, StoreError};
