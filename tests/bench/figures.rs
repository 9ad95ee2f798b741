//! What all benches share: figures for programs, and the middle of many times.

#![allow(dead_code, reason = "every bench uses its own part")]

/// One figure on a line of its own, for programs.
pub fn figure(name: &str, value: f64) {
    println!("{{\"name\": \"{name}\", \"value\": {value:.3}}}");
}

/// The one that so many others, from none (0) to all (1), are below. Sorts them.
pub fn quantile(all: &mut [f64], share: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    let last = all.len().checked_sub(1).expect("at least one");
    all[(last as f64 * share).round() as usize]
}

/// The one in the middle. Sorts them.
pub fn median(all: &mut [f64]) -> f64 {
    quantile(all, 0.5)
}
