//! Output of tables and JSON to stdout.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

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

/// A named column of a table with rows of type `T`.
pub struct Column<'a, T> {
    name: &'static str,
    is_number: bool,
    cell: Box<dyn Fn(&T) -> String + 'a>,
}

impl<'a, T> Column<'a, T> {
    /// Returns a column of text, aligned to the left.
    pub fn text(name: &'static str, cell: impl Fn(&T) -> String + 'a) -> Self {
        Self {
            name,
            is_number: false,
            cell: Box::new(cell),
        }
    }

    /// Returns a column of numbers, aligned to the right.
    pub fn number(name: &'static str, cell: impl Fn(&T) -> String + 'a) -> Self {
        Self {
            is_number: true,
            ..Self::text(name, cell)
        }
    }

    /// Returns the same column for rows that contain a `T`.
    pub fn within<U>(self, of: fn(&U) -> &T) -> Column<'a, U>
    where
        T: 'a,
        U: 'a,
    {
        let cell = self.cell;
        Column {
            name: self.name,
            is_number: self.is_number,
            cell: Box::new(move |row| cell(of(row))),
        }
    }
}

/// Formats a table without lines, as `kubectl` does: easy to read, cut and paste.
pub fn table<T>(columns: &[Column<'_, T>], rows: &[T]) -> String {
    let cells = |row: &T| -> Vec<String> { columns.iter().map(|one| (one.cell)(row)).collect() };
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.iter().map(|one| one.name.to_uppercase()))
        .add_rows(rows.iter().map(cells));
    for (column, shown) in columns.iter().zip(table.column_iter_mut()) {
        shown.set_padding((0, 2));
        if column.is_number {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats text of an agent as a cell: on one line, and `-` if it is empty.
pub fn cell(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => plain(text),
    }
}

/// Formats texts of an agent as one cell.
pub fn cells<W: ToString>(texts: &[W]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| cell(&text.to_string())).collect();
    cell(&texts.join(","))
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

/// Puts foreign text on one line and removes terminal control characters.
pub fn plain(text: &str) -> String {
    let one = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(one).collect()
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

    /// The columns of rows of a name and a number.
    fn columns<'a>() -> [Column<'a, (String, u64)>; 2] {
        [
            Column::text("name", |row: &(String, u64)| row.0.clone()),
            Column::number("n", |row: &(String, u64)| row.1.to_string()),
        ]
    }

    #[test]
    fn a_table_is_aligned_and_leaves_no_blanks_at_line_ends() {
        let rows = [("a".to_owned(), 1), ("long".to_owned(), 200)];
        let expected = "NAME    N\na       1\nlong  200\n";
        assert_eq!(table(&columns(), &rows), expected);
    }

    #[test]
    fn columns_stay_themselves_among_others() {
        type Row = (u8, (String, u64));
        let mut all: Vec<Column<'_, Row>> =
            vec![Column::text("node", |row: &Row| row.0.to_string())];
        all.extend(columns().map(|column| column.within(|row: &Row| &row.1)));
        let rows = [(1, ("a".to_owned(), 1)), (2, ("b".to_owned(), 20))];
        let expected = "NODE  NAME   N\n1     a      1\n2     b     20\n";
        assert_eq!(table(&all, &rows), expected);
    }

    #[test]
    fn a_name_of_any_length_and_alphabet_is_printed_whole() {
        for name in ["x".repeat(70_000), "é".repeat(70_000), "🦀".repeat(70_000)] {
            let rows = [(name.clone(), 1), ("b".to_owned(), 2)];
            let text = table(&columns(), &rows);
            let whole: String = text.split_whitespace().collect();
            assert!(whole.contains(&name[..1000 * name.chars().next().map_or(1, char::len_utf8)]));
            assert_eq!(width([name.as_str(), "b"]), WIDEST_NAME);
        }
        assert_eq!((width(["é", "ab"]), width([])), (2, 0));
    }

    #[test]
    fn an_agents_words_are_one_line_that_no_terminal_obeys() {
        assert_eq!(cell("a\u{1b}[31m\nb"), "a [31m b");
        assert_eq!(cell(""), "-");
        assert_eq!(cells(&["x", "y"]), "x,y");
        assert_eq!(cells::<u64>(&[]), "-");
    }
}
