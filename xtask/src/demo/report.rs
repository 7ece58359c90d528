//! The demo's output.

use std::io::IsTerminal as _;

use super::expected::Expected;
use super::traffic::Seen;

/// A colour or style, used on a terminal only.
#[derive(Clone, Copy)]
pub(super) enum Colour {
    Bold = 1,
    Red = 31,
    Green = 32,
    Dim = 2,
}

/// Returns text in a colour.
pub(super) fn paint(colour: Colour, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{}m{text}\x1b[0m", colour as u8)
    } else {
        text.to_owned()
    }
}

/// Prints the heading of a part of the demo.
pub(super) fn head(title: &str) {
    println!("\n{}", paint(Colour::Bold, title));
}

/// Prints a check that passed.
pub(super) fn fine(text: &str) {
    println!("  {} {text}", paint(Colour::Green, "ok"));
}

/// Prints expected results next to observed ones, for both families.
pub(super) fn compare(expected: &Expected, seen: &Seen) {
    let width = expected
        .callers
        .iter()
        .map(String::len)
        .max()
        .unwrap_or_default();
    let columns = expected.callees.len().max("expected".len()) + 2;
    println!(
        "  {:width$}  {:columns$}{:columns$}IPv6 seen",
        "from \\ to", "expected", "IPv4 seen"
    );
    let numbers: String = (0..expected.callees.len()).map(mark).collect();
    println!(
        "  {:width$}  {numbers:columns$}{numbers:columns$}{numbers}",
        ""
    );
    for from in &expected.callers {
        let cells = |family: Option<usize>| -> String {
            let cell = |to: &String| cell(expected, seen, from, to, family);
            expected.callees.iter().map(cell).collect()
        };
        // Padded by hand: `format!` would count the escape codes of colours.
        let pad = " ".repeat(columns - expected.callees.len());
        let (wanted, v4, v6) = (cells(None), cells(Some(0)), cells(Some(1)));
        println!("  {from:width$}  {wanted}{pad}{v4}{pad}{v6}");
    }
    let legend = expected.callees.iter().enumerate();
    let legend: Vec<String> = legend.map(|(n, to)| format!("{} {to}", mark(n))).collect();
    println!("  {}", paint(Colour::Dim, &legend.join("  ")));
    println!(
        "  {}",
        paint(
            Colour::Dim,
            ". allowed  X denied  ~ over one family only  - not tried"
        )
    );
}

/// Returns the label above a column, one character wide: 1 to 9, then a to z.
fn mark(column: usize) -> char {
    let after_zero = (column + 1) as u32;
    char::from_digit(after_zero, 36).unwrap_or('?')
}

fn cell(expected: &Expected, seen: &Seen, from: &str, to: &str, family: Option<usize>) -> String {
    let wanted = expected.cell(from, to);
    let (wanted, shown) = match family {
        // One character covers both families; `~` means that they differ.
        None if wanted[0] != wanted[1] => return "~".to_owned(),
        None => (wanted[0], wanted[0]),
        Some(family) => (wanted[family], saw(seen, from, to)[family]),
    };
    match shown {
        _ if shown != wanted => paint(Colour::Bold, &paint(Colour::Red, &shown.to_string())),
        '.' => paint(Colour::Green, "."),
        'X' => paint(Colour::Red, "X"),
        other => other.to_string(),
    }
}

fn saw(seen: &Seen, from: &str, to: &str) -> [char; 2] {
    let key = (from.to_owned(), to.to_owned());
    seen.get(&key).copied().unwrap_or(['-'; 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_has_a_letter_of_its_own() {
        let marks: String = (0..11).map(mark).collect();
        assert_eq!(marks, "123456789ab");
    }
}
