//! Images of the native containerizer: names, the store, pulling.
//!
//! ```text
//! Store (agent) --Job on a pipe--> bulkhead-helper pull, one for each pull
//!    |  leases, flights, gc           |  <-- pipe: Report lines
//!    +-- <docker_store_dir> ----------+-- registry or archive, layers unpacked
//! ```
//!
//! * `reference`: names of images and digests (pure). `image`: configurations (pure).
//! * `roots`: root file systems of containers. `record`: what is kept of them. `backend`:
//!   how they are made. `look`: files of images that are not mounted. `points`: what images
//!   lack, as a layer. `ahead`: roots for the next containers. `trash`: roots that go.
//! * `store`: what is there, for whom, since when; pulls shared by all who wait.
//! * `gc`: which images go when room is needed (pure). `collect`: when that is.
//! * `message`: what agent and helper say. `pull`: body of `bulkhead-helper pull`.

mod ahead;
pub mod backend;
mod collect;
mod facts;
pub mod gc;
pub mod image;
mod look;
mod message;
mod points;
pub mod pull;
mod record;
pub mod reference;
mod roots;
mod rush;
pub mod store;
mod trash;

pub use backend::Backend;
pub use collect::Collection;
pub use image::{ImageConfig, StoredImage};
pub use look::Point;
pub use message::Progress;
pub use reference::{Digest, Reference, ReferenceError};
pub use roots::{Provisioner, Root, Watcher};
pub use store::{
    Lease, Listed, Location, Options, Pruned, Settings, SettingsError, Store, StoreError,
};
