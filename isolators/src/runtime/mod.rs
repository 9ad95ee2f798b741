//! `*/runtime`: what an image says of the processes that run in it.

mod docker;
pub mod users;

pub use self::docker::{docker, merge};
