//! The decisions of the master, pure: no clock, no files, no sockets.
//!
//! Called by the driver only. [`cluster`] is the part of the state that readers
//! see through a snapshot.

pub mod cluster;
