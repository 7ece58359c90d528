//! What became of each attack, as text.

use std::fmt;

/// Whether a packet or a call got where the attacker wanted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It did.
    Arrives,
    /// It did not.
    Stopped,
}

impl Outcome {
    /// [`Outcome::Arrives`] if so.
    pub fn arrives(yes: bool) -> Self {
        if yes { Self::Arrives } else { Self::Stopped }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arrives => "arrives",
            Self::Stopped => "stopped",
        })
    }
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is tried.
    pub attack: &'static str,
    /// `routed` or `bridge`, the firewall (`none`, `tcx`, `clsact`), the family.
    pub place: [&'static str; 3],
    /// What has to become of it, if that is known.
    pub expected: Option<Outcome>,
    /// What became of it, and what the firewall says about that.
    pub seen: String,
    /// Whether that is as expected.
    pub holds: bool,
}

/// All rows with aligned columns; those that differ are marked.
pub fn table(rows: &[Row]) -> String {
    let head = [
        "", "attack", "layout", "firewall", "family", "expected", "seen",
    ];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let mark = if row.holds { "" } else { "!!" };
        let [layout, firewall, family] = row.place;
        let expected = row.expected.map_or("-".to_owned(), |one| one.to_string());
        let cells = [
            mark, row.attack, layout, firewall, family, &expected, &row.seen,
        ];
        cells.map(str::to_owned)
    }));
    let width = |column: usize| {
        let widths = cells.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, &w)| format!("{cell:w$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    cells.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Row, table};

    #[test]
    fn columns_are_aligned_and_a_row_that_differs_is_marked() {
        let row = |attack, seen: &str, holds| Row {
            attack,
            place: ["routed", "tcx", "IPv4"],
            expected: Some(Outcome::Stopped),
            seen: seen.to_owned(),
            holds,
        };
        let rows = [
            row("short", "stopped", true),
            row("longer one", "arrives", false),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        let at = |line: &str| line.find("routed");
        assert_eq!(at(lines[1]), at(lines[2]));
        assert!(
            lines[2].starts_with("!!") && lines[1].starts_with("    short"),
            "{text}"
        );
    }
}
