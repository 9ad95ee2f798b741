//! Flags for people: `--help` and the name that was probably meant.

use super::{Flag, Kind, Support};

/// Width of a line of help.
const WIDTH: usize = 100;
/// Column of the description.
const INDENT: usize = 6;

/// The text of `--help`: every flag with its default and what it does.
#[must_use]
pub fn usage(program: &str, table: &[Flag]) -> String {
    let mut sorted: Vec<&Flag> = table.iter().collect();
    sorted.sort_by_key(|f| f.name);
    let mut out = format!(
        "Usage: {program} [options]\n\nEvery flag may also be set as MESOS_NAME in the \
         environment. A value file:///path is read from that file.\n\n"
    );
    for flag in sorted {
        out.push_str(&head(flag));
        for line in wrap(flag.help, WIDTH - INDENT) {
            out.push_str(&format!("{:INDENT$}{line}\n", ""));
        }
    }
    out
}

fn head(flag: &Flag) -> String {
    let (no, value) = match flag.kind {
        Kind::Bool => ("[no-]", ""),
        _ => ("", "=VALUE"),
    };
    let mut line = format!("  --{no}{}{value}", flag.name);
    if let Some(alias) = flag.alias {
        line.push_str(&format!(", --{no}{alias}{value}"));
    }
    if flag.required {
        line.push_str("  (required)");
    }
    if let Some(default) = flag.default.filter(|d| !d.is_empty()) {
        line.push_str(&format!("  (default: {default})"));
    }
    if flag.support == Support::NotYet {
        line.push_str("  [not supported yet]");
    }
    line.push('\n');
    line
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("starts with one line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The known name that `name` was probably meant to be: at most a third of it
/// mistyped, or the same with other separators. Also used for isolator names.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(name);
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= wanted.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two texts.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_their_flag() {
        let known = ["work_dir", "isolation", "port", "launcher", "launcher_dir", "resources"];
        for (typo, meant) in [
            ("workdir", Some("work_dir")),
            ("work-dir", Some("work_dir")),
            ("islation", Some("isolation")),
            ("prot", Some("port")),
            ("resource", Some("resources")),
            ("LAUNCHER", Some("launcher")),
            ("frobnicate", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typo, known), meant, "{typo}");
        }
    }
}
