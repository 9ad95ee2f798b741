//! `make fuzz`: mutates known inputs and checks what must hold for any input.
//!
//! Runs on stable Rust without instrumentation. Instead of coverage, a target
//! returns a fingerprint of what happened (which error, which shape); an input
//! that makes something new happen joins the corpus. A broken property or a
//! panic ends the run with the input saved under `tests/fuzz/found/`.
//!
//! `fuzz [--seconds N] [--seed N] [--target NAME] [--input FILE]`

mod corpus;
mod mutate;
mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutate::Random;
use targets::Target;

/// An input may take this long before it counts as a hang.
const HANG: Duration = Duration::from_secs(5);
/// Inputs kept per target.
const CORPUS: usize = 4000;

struct Options {
    seconds: u64,
    seed: u64,
    target: Option<String>,
    input: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = clock.map_or(1, |d| d.as_secs() ^ u64::from(d.subsec_nanos()));
    let mut options = Options { seconds: 30, seed, target: None, input: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse().map_err(|e| format!("{name}={value}: {e}"));
        match name.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--target" => options.target = Some(value),
            "--input" => options.input = Some(value.into()),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = false;
    for mut target in targets::all() {
        if options.target.as_deref().is_some_and(|wanted| wanted != target.name) {
            continue;
        }
        failed |= match &options.input {
            Some(file) => !replay(&mut target, file),
            None => !fuzz(&mut target, &options),
        };
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn replay(target: &mut Target, file: &Path) -> bool {
    let input = std::fs::read(file).expect("the input file is readable");
    match run(target, &input) {
        Ok(_) => true,
        Err(message) => {
            println!("{}: {message}", target.name);
            false
        }
    }
}

fn fuzz(target: &mut Target, options: &Options) -> bool {
    let mut random = Random::new(options.seed);
    let mut corpus = corpus::load(target.name);
    assert!(!corpus.is_empty(), "every target has seeds in corpus.rs");
    let mut seen = HashSet::new();
    let begun = Instant::now();
    let mut runs = 0u64;
    let seeds = corpus.len();
    for input in corpus.clone() {
        match run(target, &input) {
            Ok(fingerprint) => seen.insert(fingerprint),
            Err(message) => return report(target, &input, &message, options.seed),
        };
    }
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        let input = mutate::next(&mut random, &corpus);
        runs += 1;
        match run(target, &input) {
            Ok(fingerprint) => {
                if seen.insert(fingerprint) && corpus.len() < CORPUS {
                    corpus.push(input);
                }
            }
            Err(message) => return report(target, &input, &message, options.seed),
        }
    }
    println!(
        "{:<12} {runs:>9} inputs, {seeds} seeds, {} kinds of outcome, nothing found (seed {})",
        target.name,
        seen.len(),
        options.seed
    );
    true
}

/// The fingerprint, or what went wrong.
fn run(target: &mut Target, input: &[u8]) -> Result<u64, String> {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    let fingerprint = match outcome {
        Ok(result) => result?,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            return Err(format!("panicked: {}", text.unwrap_or("(no message)")));
        }
    };
    if begun.elapsed() > HANG {
        return Err(format!("took {:?}", begun.elapsed()));
    }
    Ok(fingerprint)
}

fn report(target: &Target, input: &[u8], message: &str, seed: u64) -> bool {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    let file = dir.join(format!("{}-{seed}", target.name));
    let saved = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, input));
    println!("{}: {message} (seed {seed})", target.name);
    println!("  input: {:?}", String::from_utf8_lossy(&input[..input.len().min(400)]));
    match saved {
        Ok(()) => println!("  again: --target {} --input {}", target.name, file.display()),
        Err(error) => println!("  failed to save it as {}: {error}", file.display()),
    }
    false
}
