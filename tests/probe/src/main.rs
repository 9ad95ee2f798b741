//! The program under test inside containers (being written).

fn main() {}
