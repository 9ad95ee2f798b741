//! The master's HTTP side: read endpoints rendered off the snapshot.
//!
//! * [`state`], [`summary`], [`slaves`], [`frameworks`], [`tasks`], [`roles`]:
//!   bodies of the v0 read endpoints, pure functions of a snapshot.
//! * [`pieces`]: JSON of single agents and tasks, kept between requests.

pub mod frameworks;
pub mod pieces;
pub mod roles;
pub mod slaves;
pub mod state;
pub mod summary;
pub mod tasks;
