//! Tests of the core: scenarios in a simulated world, and a model test with
//! crashes at any effect.

#![allow(clippy::unwrap_used)]

mod executors;
mod garbage;
mod model;
mod operations;
mod progress;
mod scenarios;
mod walk;
mod world;
