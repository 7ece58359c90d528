//! Output of tables and JSON to stdout.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// Prints text that ends with a newline. A closed stdout is a fault that [`crate::failure::report`]
/// recognizes.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::fault)
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::fault)?;
    print(&format!("{text}\n"))
}

/// Prints a large value as JSON on one line, in chunks.
pub fn stream_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    // Converted to an I/O error, so that a closed stdout is recognized.
    serde_json::to_writer(&mut out, value).map_err(|e| Failure::fault(io::Error::from(e)))?;
    out.write_all(b"\n")
        .and_then(|()| out.flush())
        .map_err(Failure::fault)
}

/// Formats a table without lines, as `kubectl` does: easy to read, cut and paste.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|word| word.to_uppercase()))
        .add_rows(rows);
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&n) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The maximum width of a column of names: the longest `namespace/name`. Longer names in a file
/// overflow the column; a width of more than 16 bits panics in `format!`.
const WIDEST_NAME: usize = 63 + 1 + 253;

/// Returns the width of a column of these words, in characters.
pub fn width<'w>(words: impl IntoIterator<Item = &'w str>) -> usize {
    let widths = words.into_iter().map(|word| word.chars().count());
    widths.max().unwrap_or_default().min(WIDEST_NAME)
}

/// Pads the text with blanks on the left to at least this width.
pub fn right(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.chars().count())) + text
}

/// Formats a field of a JSON object for people.
pub fn field(row: &Value, name: &str) -> String {
    plain(&text(&row[name]))
}

/// Puts foreign text on one line and removes terminal control characters.
pub fn plain(text: &str) -> String {
    let one = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(one).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        // Pods and other names that consist of parts.
        Value::Object(map) => match (map.get("namespace"), map.get("name")) {
            (Some(namespace), Some(name)) => format!("{}/{}", text(namespace), text(name)),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

/// Colours, used only if stdout is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// Returns the colours for stdout; `NO_COLOR` disables them (no-color.org).
    pub fn stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            on: io::stdout().is_terminal() && !refused,
        }
    }

    /// Returns a value that adds no colours.
    pub fn off() -> Self {
        Self { on: false }
    }

    /// For good states.
    pub fn green(self, text: &str) -> String {
        self.wrap("32;1", text)
    }

    /// For bad states.
    pub fn red(self, text: &str) -> String {
        self.wrap("31;1", text)
    }

    /// For states in between.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33;1", text)
    }

    /// For headings.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_leaves_no_blanks_at_line_ends() {
        let rows = vec![
            vec!["a".into(), "1".into()],
            vec!["long".into(), "200".into()],
        ];
        assert_eq!(
            table(&["name", "n"], rows, &[1]),
            "NAME    N\na       1\nlong  200\n"
        );
    }

    #[test]
    fn a_name_of_any_length_and_alphabet_is_printed_whole() {
        for name in ["x".repeat(70_000), "é".repeat(70_000), "🦀".repeat(70_000)] {
            let rows = vec![vec![name.clone(), "1".into()], vec!["b".into(), "2".into()]];
            let text = table(&["name", "n"], rows, &[]);
            let whole: String = text.split_whitespace().collect();
            assert!(whole.contains(&name[..1000 * name.chars().next().map_or(1, char::len_utf8)]));
            assert_eq!(width([name.as_str(), "b"]), WIDEST_NAME);
        }
        assert_eq!((width(["é", "ab"]), width([])), (2, 0));
    }

    #[test]
    fn json_fields_read_as_names() {
        let row = serde_json::json!({"pod": {"namespace": "a", "name": "b", "uid": "u"}, "list": ["x", "y"], "none": null});
        assert_eq!(field(&row, "pod"), "a/b");
        assert_eq!(field(&row, "list"), "x,y");
        assert_eq!(field(&row, "none"), "-");
        assert_eq!(field(&row, "absent"), "-");
        let row = serde_json::json!({"name": "a\u{1b}[31m\nb"});
        assert_eq!(field(&row, "name"), "a [31m b");
    }
}
