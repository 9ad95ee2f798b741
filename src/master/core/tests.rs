//! Scenarios for the core.
