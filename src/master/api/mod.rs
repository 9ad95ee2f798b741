//! The master's HTTP side: routes, calls, event streams, and the read endpoints
//! rendered off the snapshot.
//!
//! * [`service`]: which path leads where; the only place that knows status codes,
//!   with the calls themselves.
//! * [`scheduler`], [`operator`], [`v0`]: calls, to be decided by the core.
//! * [`stream`]: event streams; [`views`]: what operator calls and streams show.
//! * [`state`], [`summary`], [`slaves`], [`frameworks`], [`tasks`], [`roles`]:
//!   bodies of the v0 read endpoints, pure functions of a snapshot.
//! * `help`: what each path is for; [`lists`]: the `GET_*` lists of the operator API as JSON.
//! * [`pieces`]: JSON of single agents and tasks, kept between requests.

pub mod frameworks;
mod help;
pub mod lists;
pub mod operator;
pub mod pieces;
pub mod roles;
pub mod scheduler;
pub mod service;
pub mod slaves;
pub mod state;
pub mod stream;
pub mod summary;
pub mod tasks;
pub mod v0;
pub mod views;

pub use service::{Api, Door};
use service::{call_bytes, not_implemented, not_yet, overloaded, refusal, render, run};
