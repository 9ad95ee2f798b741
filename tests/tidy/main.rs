//! The rules of the house, as tests: who may use whom, headers, lengths, words.
//!
//! Each test reads the checkout as text and lists every breach at once, as
//! `path:line: what`. Nothing here compiles or runs the product.

mod dependencies;
mod docs;
mod source;

use source::{Breaches, Source, rust_files};

/// Rooms of the root package and their floors: a room may use only lower ones.
const FLOORS: &[(&str, u32)] = &[
    ("bin", 60),
    ("agent", 50),
    ("containerizer", 40),
    ("launch", 30),
    ("master", 30),
    ("executor", 30),
    ("cli", 30),
    ("logs", 28),
    ("daemon", 25),
    ("gc", 25),
    ("fetch", 22),
    ("provisioner", 23),
    ("checkpoint", 20),
    ("checks", 20),
    ("io", 20),
    ("wire", 20),
];

fn floor(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// The room of a file of the root package: `src/agent/core/mod.rs` is `agent`.
fn room(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let room = rest.split(['/', '.']).next()?;
    floor(room).map(|_| room)
}

#[test]
fn rooms_use_only_lower_floors() {
    let mut breaches = Breaches::default();
    for file in rust_files() {
        let Some(own) = room(&file.path) else { continue };
        for (number, line) in file.code_lines() {
            for used in words_after(line, "crate::") {
                // What is above is never used; neighbours neither.
                if let Some(theirs) = floor(used)
                    && used != own
                    && Some(theirs) >= floor(own)
                {
                    breaches.add(&file, number, format!("`{own}` must not use `{used}`"));
                }
            }
        }
    }
    breaches.check();
}

/// The identifiers that follow `prefix` in a line, also inside `{a, b::c}`.
fn words_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut words = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let rest = &line[at + prefix.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |r| r.split('}').next().unwrap_or(r));
        let parts: Vec<&str> =
            if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for part in parts {
            let part = part.trim();
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            words.push(&part[..end]);
        }
    }
    words
}

#[test]
fn pure_modules_touch_nothing_and_read_no_clock() {
    const FORBIDDEN: &[&str] =
        &["tokio", "std::fs", "std::net", "std::process", "std::thread", "::now()", "rand::"];
    let mut breaches = Breaches::default();
    for file in rust_files().into_iter().filter(is_pure) {
        for (number, line) in file.code_lines() {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                breaches.add(&file, number, format!("a pure module must not use `{word}`"));
            }
        }
    }
    breaches.check();
}

/// Files of modules named core, updates, gc, merge or allocator, tests excepted.
fn is_pure(file: &Source) -> bool {
    file.path.contains("src/")
        && !file.is_test()
        && file
            .path
            .split('/')
            .map(|part| part.trim_end_matches(".rs"))
            .any(|part| ["core", "updates", "gc", "merge", "allocator"].contains(&part))
}

#[test]
fn unsafe_stays_in_its_rooms() {
    const ALLOWED: &[&str] = &[
        "src/kernel/",
        "src/launch/",
        "src/shim/",
        "tests/probe/",
        "tests/kernel/",
        "tests/bench/launch/floor.rs",
    ];
    let mut breaches = Breaches::default();
    for file in rust_files() {
        if ALLOWED.iter().any(|dir| file.path.starts_with(dir)) {
            continue;
        }
        for (number, line) in file.all_code_lines() {
            if source::has_word(line, "unsafe") {
                breaches.add(&file, number, "`unsafe` is for kernel, launch, shim and probe only");
            }
        }
    }
    breaches.check();
}

#[test]
fn guarded_names_stay_in_their_rooms() {
    /// Word, directories or files it may appear in, why.
    const GUARDED: &[(&str, &[&str], &str)] = &[
        ("libcontainer", &["src/launch/oci"], "libcontainer is for src/launch/oci"),
        ("cgroups_rs", &["src/kernel/"], "cgroups-rs is for src/kernel"),
        ("procfs", &["src/kernel/"], "procfs is for src/kernel"),
        ("nix", &["src/kernel/", "src/launch/", "tests/"], "nix is for src/kernel and src/launch"),
        (
            "StatusCode",
            // The executor is a client of the agent and reads what it answers.
            &["/wire/", "src/daemon/", "src/cli/", "src/executor/", "/api/", "/api.rs"],
            "HTTP status codes are for wire and api",
        ),
        ("redb", &["src/master/registrar", "src/checkpoint/"], "redb is for storage"),
        ("axum", &[], "no axum (docs/decisions)"),
    ];
    let mut breaches = Breaches::default();
    for file in rust_files() {
        for (number, line) in file.code_lines() {
            for (word, rooms, why) in GUARDED {
                let at_home = rooms.iter().any(|r| {
                    file.path.starts_with(r) || (r.starts_with('/') && file.path.contains(r))
                });
                // A crate is used through `name::`; a type by its name.
                let crate_name = word.starts_with(char::is_lowercase);
                let used = source::has_word(line, word)
                    && (!crate_name || line.contains(&format!("{word}::")));
                if used && !at_home && !file.is_test() && !is_own_module(word, line) {
                    breaches.add(&file, number, *why);
                }
            }
        }
    }
    breaches.check();
}

/// `kernel::procfs` and `mod procfs` are our own, not the crate of that name.
fn is_own_module(word: &str, line: &str) -> bool {
    line.contains(&format!("kernel::{word}")) || line.contains(&format!("mod {word}"))
}

#[test]
fn work_dir_paths_have_one_home() {
    const PARTS: &[&str] = &["slaves", "frameworks", "executors", "runs", "meta"];
    let mut breaches = Breaches::default();
    for file in rust_files() {
        if file.path == "src/checkpoint/paths.rs"
            || !file.path.starts_with("src/")
            || file.is_test()
        {
            continue;
        }
        for (number, line) in file.raw_lines() {
            for part in PARTS {
                if line.contains(&format!(".join(\"{part}\")")) {
                    breaches.add(&file, number, "work-dir paths are for src/checkpoint/paths.rs");
                }
            }
        }
    }
    breaches.check();
}

#[test]
fn files_have_headers_and_are_short() {
    let mut breaches = Breaches::default();
    for file in rust_files() {
        let first = file.text.lines().find(|l| !l.trim().is_empty()).unwrap_or("");
        if !first.starts_with("//!") {
            breaches.add(&file, 1, "a file begins with `//!`: what it owns, who calls it");
        }
        let lines = file.text.lines().count();
        if lines > 800 {
            breaches.add(&file, lines, format!("{lines} lines: split the thought (800)"));
        }
    }
    breaches.check();
}

#[test]
fn constructors_take_at_most_five_arguments() {
    let mut breaches = Breaches::default();
    for file in rust_files() {
        for (number, signature) in file.signatures() {
            let Some((arguments, returns)) = source::split_signature(&signature) else { continue };
            let builds = returns.starts_with("Self") || returns.contains("<Self");
            let count = source::count_arguments(arguments);
            if builds && !arguments.contains("self") && count > 5 {
                breaches.add(&file, number, format!("{count} arguments: pass a struct (5)"));
            }
        }
    }
    breaches.check();
}

#[test]
fn operator_input_does_not_panic() {
    const FORBIDDEN: &[&str] = &[".unwrap()", "panic!(", "todo!(", "unimplemented!("];
    let mut breaches = Breaches::default();
    for file in rust_files() {
        let product = file.path.starts_with("src/") || file.path.starts_with("isolators/");
        let exempt = file.path.ends_with("build.rs") || file.path.starts_with("src/shim/");
        if !product || exempt || file.is_test() {
            continue;
        }
        for (number, line) in file.code_lines() {
            // An `expect` whose text needs formatting: it states the invariant.
            let line = line.replace("unwrap_or_else(|| panic!(", "");
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                breaches.add(&file, number, format!("`{word}` outside tests"));
            }
        }
    }
    breaches.check();
}

#[test]
fn nothing_names_a_builder_s_machine() {
    /// In two halves, so that this file does not name them either.
    const FORBIDDEN: &[(&str, &str)] = &[
        ("/wo", "rk/"),
        ("/root", "/."),
        ("deb.deb", "ian.org"),
        ("static.cra", "tes.io"),
        ("index.cra", "tes.io"),
        ("py", "pi.org"),
        ("registry.np", "mjs"),
    ];
    let mut breaches = Breaches::default();
    for file in source::text_files() {
        for (number, line) in file.raw_lines() {
            for (a, b) in FORBIDDEN {
                if line.contains(&format!("{a}{b}")) {
                    breaches.add(&file, number, format!("names a machine: {a}{b}"));
                }
            }
        }
    }
    breaches.check();
}

#[test]
fn root_directory_is_tidy() {
    const KNOWN: &[&str] = &[
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "NOTICE",
        "Makefile",
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "clippy.toml",
        "deny.toml",
        "rustfmt.toml",
        "src",
        "isolators",
        "tests",
        "packaging",
        "docs",
        "target",
        // What proptest leaves of a failed run; not kept.
        "proptest-regressions",
    ];
    let mut unknown = Vec::new();
    for entry in std::fs::read_dir(source::root()).expect("read the checkout") {
        let name = entry.expect("read the checkout").file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !KNOWN.contains(&name.as_str()) {
            unknown.push(name);
        }
    }
    assert!(unknown.is_empty(), "not known at the top of the checkout: {unknown:?}");
}
