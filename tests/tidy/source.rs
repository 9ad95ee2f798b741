//! Source files as text: comments and strings blanked, tests cut off.
//!
//! A lexer of a hundred lines, good enough for the rules in `main.rs`; it does
//! not parse Rust.

use std::path::{Path, PathBuf};

/// One text file of the checkout.
#[derive(Debug)]
pub struct Source {
    /// Relative to the checkout, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments, strings and character literals replaced by spaces.
    code: String,
}

impl Source {
    fn load(root: &Path, path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let code =
            if path.extension().is_some_and(|e| e == "rs") { blank(&text) } else { text.clone() };
        let path = path.strip_prefix(root).ok()?.to_string_lossy().into_owned();
        Some(Self { path, text, code })
    }

    /// Whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or("");
        self.path.starts_with("tests/")
            || name == "tests.rs"
            || name.ends_with("_tests.rs")
            || name == "suite.rs"
            || self.path.contains("/tests/")
            || self.path.contains("/testing")
    }

    /// Numbered lines as written.
    pub fn raw_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// Numbered lines without comments and strings, unit tests included.
    pub fn all_code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    /// As [`Self::all_code_lines`] up to the unit tests at the end of the file.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.code.lines().collect();
        let end = (0..lines.len())
            .find(|&i| {
                lines[i].trim() == "#[cfg(test)]"
                    && lines[i + 1..]
                        .iter()
                        .take(3)
                        .any(|l| has_word(l, "mod") && l.trim_end().ends_with('{'))
            })
            .unwrap_or(lines.len());
        (1..).zip(lines.into_iter().take(end))
    }

    /// Every `fn` signature up to its `{` or `;`, on one line, with its line.
    pub fn signatures(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let lines: Vec<&str> = self.code.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            if has_word(line, "fn") && line.contains('(') {
                let rest = lines[i..].iter().take(20).copied().collect::<Vec<_>>().join(" ");
                let end = rest.find(['{', ';']).unwrap_or(rest.len());
                found.push((i + 1, rest[..end].to_owned()));
            }
        }
        found
    }
}

/// The arguments and the return type of a signature.
pub fn split_signature(signature: &str) -> Option<(&str, &str)> {
    let at = signature.find("fn ")?;
    let open = at + signature[at..].find('(')?;
    let mut depth = 0;
    for (i, c) in signature[open..].char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let rest = &signature[open + i + 1..];
            let returns = rest.split_once("->").map_or("", |(_, r)| r.trim());
            return Some((&signature[open + 1..open + i], returns));
        }
    }
    None
}

/// How many arguments a list has: commas outside brackets.
pub fn count_arguments(list: &str) -> usize {
    let mut depth = 0i32;
    let mut count = 0;
    let mut pending = false;
    for c in list.chars() {
        match c {
            '(' | '<' | '[' => depth += 1,
            ')' | '>' | ']' => depth -= 1,
            ',' if depth == 0 => {
                count += usize::from(pending);
                pending = false;
                continue;
            }
            _ => {}
        }
        pending |= !c.is_whitespace();
    }
    count + usize::from(pending)
}

/// Whether `word` stands in `line` on its own.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part)
            && !line[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// Replaces comments, strings and character literals by spaces, keeping lines.
fn blank(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            '/' if bytes.get(i + 1) == Some(&'/') => {
                (i..bytes.len()).find(|&j| bytes[j] == '\n').unwrap_or(bytes.len())
            }
            '/' if bytes.get(i + 1) == Some(&'*') => block_comment(&bytes, i),
            'r' if raw_string(&bytes, i).is_some() && !identifier_before(&bytes, i) => {
                raw_string(&bytes, i).expect("just seen")
            }
            '"' => string(&bytes, i),
            '\'' => char_literal(&bytes, i).unwrap_or(i),
            _ => i,
        };
        if end == i {
            out.push(bytes[i]);
            i += 1;
        } else {
            out.extend(bytes[i..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out
}

fn identifier_before(text: &[char], at: usize) -> bool {
    // `br"` is a raw string as well; `for"` does not exist.
    at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_') && text[at - 1] != 'b'
}

fn block_comment(text: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i + 1 < text.len() {
        match (text[i], text[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    text.len()
}

fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
    if text.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut i = at + 2 + hashes;
    while i < text.len() {
        if text[i] == '"'
            && text[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
        {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(text.len())
}

fn string(text: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < text.len() {
        match text[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    text.len()
}

fn char_literal(text: &[char], at: usize) -> Option<usize> {
    if text.get(at + 1) == Some(&'\\') {
        return (at + 3..text.len()).find(|&j| text[j] == '\'').map(|j| j + 1);
    }
    (text.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

/// The checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
            let skipped = ["target", ".git", "corpus", "testdata"].contains(&name.as_str());
            if !skipped {
                walk(&path, found);
            }
        } else if kind.is_ok_and(|k| k.is_file()) && name != ".git" {
            found.push(path);
        }
    }
}

fn files(keep: impl Fn(&Path) -> bool) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    found.iter().filter(|p| keep(p)).filter_map(|p| Source::load(&root, p)).collect()
}

/// Every Rust file.
pub fn rust_files() -> Vec<Source> {
    files(|path| path.extension().is_some_and(|e| e == "rs"))
}

/// Every text file people wrote, this program excepted.
pub fn text_files() -> Vec<Source> {
    files(|path| {
        !path.ends_with("Cargo.lock") && !path.components().any(|c| c.as_os_str() == "tidy")
    })
}

/// The documents.
pub fn markdown_files() -> Vec<Source> {
    files(|path| path.extension().is_some_and(|e| e == "md"))
}

/// What breaks a rule.
#[derive(Debug, Default)]
pub struct Breaches(Vec<String>);

impl Breaches {
    /// Notes one.
    pub fn add(&mut self, file: &Source, line: usize, what: impl std::fmt::Display) {
        self.0.push(format!("{}:{line}: {what}", file.path));
    }

    /// Notes one that has no line.
    pub fn note(&mut self, what: impl std::fmt::Display) {
        self.0.push(what.to_string());
    }

    /// Fails the test with the whole list.
    pub fn check(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_what_is_not_code() {
        let rows = [
            ("a // unsafe\nb", "a          \nb"),
            ("\"x\\\"unsafe\" y", "            y"),
            ("r#\"un\"safe\"# y", "             y"),
            ("/* a /* b */ c */d", "                 d"),
            ("'\"' 'a 'b'", "    'a    "),
        ];
        for (given, wanted) in rows {
            assert_eq!(blank(given), wanted, "{given}");
        }
    }

    #[test]
    fn counts_arguments() {
        let signature = "pub fn new(a: u8, b: Vec<(u8, u8)>, c: impl Fn(u8, u8),) -> Self ";
        let (arguments, returns) = split_signature(signature).expect("a signature");
        assert_eq!((count_arguments(arguments), returns.trim()), (3, "Self"));
        assert_eq!(count_arguments(""), 0);
    }
}
