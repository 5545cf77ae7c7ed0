//! Tables, JSON and YAML.

use std::io::{self, Write};

use serde::Serialize;

use super::Failure;

/// Plain columns, as wide as their widest cell and three blanks apart. An empty cell is printed as `-`, the blanks
/// after the last cell of a line are not printed.
pub(crate) struct Table {
    /// Each cell with its width.
    rows: Vec<Vec<(String, usize)>>,
}

impl Table {
    /// A table with its headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| ((*h).to_owned(), h.len())).collect()] }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        let cell = |cell: &String| {
            let text = if cell.is_empty() { "-".to_owned() } else { plain(cell) };
            let width = text.chars().count();
            (text, width)
        };
        self.rows.push(cells.iter().map(cell).collect());
    }

    /// Whether there is no line below the headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// Prints it.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|(_, width)| *width).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        // One write for all lines: a fleet has ten thousand of them.
        let mut text = String::new();
        for row in &self.rows {
            for ((cell, own), width) in row.iter().zip(&widths) {
                text.push_str(cell);
                text.push_str(&" ".repeat(width + 3 - own));
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        out.write_all(text.as_bytes())
    }
}

/// One line that no terminal acts on: keys and node ids are anybody's, so control characters are written out as `\u{1b}`.
pub(crate) fn plain(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Prints `value` as indented JSON.
pub(crate) fn json(value: &impl Serialize, out: &mut dyn Write) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(writeln!(out, "{text}")?)
}

/// `value` as YAML, ending in one line break.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| Failure::Failed(error.to_string()))?;
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}

/// Prints values as YAML documents, parted by `---`, so that `apply` can read them.
pub(crate) fn yaml_documents<T: Serialize>(values: &[T], out: &mut dyn Write) -> Result<(), Failure> {
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            writeln!(out, "---")?;
        }
        out.write_all(yaml(value)?.as_bytes())?;
    }
    Ok(())
}

/// Says what an answer may lack, on standard error: replicas that did not answer, and those that may know old things.
pub(crate) fn warn(stale: &str, unreachable: &[String], err: &mut dyn Write) -> std::io::Result<()> {
    for replica in unreachable {
        writeln!(err, "warning: not all replicas answered: {}", plain(replica))?;
    }
    if !stale.is_empty() {
        writeln!(err, "warning: the answer may be old: {}", plain(stale))?;
    }
    Ok(())
}
