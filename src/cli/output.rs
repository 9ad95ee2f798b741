//! Printing for people or, with `--json`, for programs: one object per line.

use std::error::Error;
use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use super::error::CliError;

/// Where and how results are printed. Progress and errors go to stderr.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// For people, or for programs.
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// Whether programs read this.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints an object as JSON, or the text for people.
    pub fn result(self, object: &Value, text: &str) {
        let line = if self.json { object.to_string() } else { text.to_owned() };
        // A reader that has gone (`| head`) is no reason to complain.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// Something a person may want to know while waiting.
    pub fn progress(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// An error with all its causes and what to do about it.
    pub fn error(self, error: &CliError) {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        let hint = error.hint();
        if self.json {
            let _ = writeln!(std::io::stderr(), "{}", json!({ "error": message, "hint": hint }));
            return;
        }
        let _ = writeln!(std::io::stderr(), "bulkhead: {message}");
        if let Some(hint) = hint {
            let _ = writeln!(std::io::stderr(), "  {hint}");
        }
    }

    /// Prints rows under a header in columns as wide as they need.
    pub fn table(self, header: &[&str], rows: &[Vec<String>]) {
        let _ = write!(std::io::stdout(), "{}", columns(header, rows));
    }

    /// Clears the screen where there is one.
    pub fn redraw(self) {
        if !self.json && std::io::stdout().is_terminal() {
            let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
        }
    }
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(header[column].chars().count())
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]];
        assert_eq!(columns(&["ID", "N"], &rows), "ID    N\na     1\nlong  22\n");
    }
}
