//! The documents keep their word: links resolve, COMPAT rows name real tests.

use crate::source::{Breaches, markdown_files, root, rust_files};

#[test]
fn links_resolve() {
    let mut breaches = Breaches::default();
    for file in markdown_files() {
        let dir = root().join(&file.path);
        let dir = dir.parent().expect("a file has a directory");
        for (number, line) in file.raw_lines() {
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split(')').next().unwrap_or("");
                let path = target.split('#').next().unwrap_or("");
                if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                    continue;
                }
                if !dir.join(path).exists() {
                    breaches.add(&file, number, format!("no such file: {path}"));
                }
            }
        }
    }
    breaches.check();
}

/// A row is `| feature | state | test |`; its tests stand in backticks.
#[test]
fn promises_name_their_tests() {
    let mut breaches = Breaches::default();
    let functions: std::collections::HashSet<String> = rust_files()
        .iter()
        .flat_map(|f| f.signatures())
        .filter_map(|(_, s)| {
            let rest = s.split("fn ").nth(1)?.to_owned();
            Some(rest.split(['(', '<']).next()?.trim().to_owned())
        })
        .collect();
    for (path, free) in
        [("docs/COMPAT.md", &["not yet"][..]), ("docs/SPECIFICATION.md", &["pending"][..])]
    {
        let Some(file) = markdown_files().into_iter().find(|f| f.path == path) else {
            breaches.note(format!("{path} is missing"));
            continue;
        };
        for (number, line) in file.raw_lines() {
            let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").collect();
            let is_row = line.starts_with("| ") && cells.len() >= 3 && !line.contains("---");
            let last = cells.last().map_or("", |c| c.trim());
            if !is_row || last == "test" || free.iter().any(|f| cells[1].trim().starts_with(f)) {
                continue;
            }
            if free.iter().any(|f| last.starts_with(f)) {
                continue;
            }
            let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            if names.is_empty() {
                breaches.add(&file, number, "the row names no test");
            }
            for name in names {
                let function = name.rsplit("::").next().unwrap_or(name);
                let command = name.starts_with("make ") || root().join(name).exists();
                if !command && !functions.contains(function) {
                    breaches.add(&file, number, format!("no test `{name}`"));
                }
            }
        }
    }
    breaches.check();
}

/// Every name of the table in `registry.rs`: a row of COMPAT, and, if there is such
/// an isolator, a row in the list of isolators that links to its page.
#[test]
fn every_isolator_has_its_rows_and_a_page() {
    let mut breaches = Breaches::default();
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let registry = read("isolators/src/registry.rs");
    let table = registry.split("pub const TABLE").nth(1).expect("the table");
    let table = table.split("];").next().unwrap_or_default();
    let rows = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("| ")).map(str::to_owned).collect()
    };
    let (compat, list) = (rows(&read("docs/COMPAT.md")), rows(&read("docs/isolators/README.md")));
    let mut names = 0;
    for line in table.lines().filter(|line| line.trim_start().starts_with("(\"")) {
        let name = line.split('"').nth(1).unwrap_or_default();
        names += 1;
        if !compat.iter().any(|row| row.contains(&format!("`{name}`"))) {
            breaches.note(format!("docs/COMPAT.md: no row of `{name}`"));
        }
        let linked = list.iter().any(|row| {
            let first = row.split(']').next().unwrap_or_default();
            first.trim_start_matches("| [").split(", ").any(|known| known == name)
        });
        if line.contains("true") && !linked {
            breaches.note(format!("docs/isolators/README.md: no row and page of `{name}`"));
        }
    }
    assert!(names > 30, "only {names} names were found");
    breaches.check();
}

#[test]
fn architecture_fits_one_sitting() {
    let lines = markdown_files()
        .into_iter()
        .find(|f| f.path == "docs/ARCHITECTURE.md")
        .map_or(0, |f| f.text.lines().count());
    assert!((1..=300).contains(&lines), "docs/ARCHITECTURE.md has {lines} lines (1 to 300)");
}
