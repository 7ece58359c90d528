//! The handwritten table of allowed and denied calls: `expected.txt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The expected result of a call over IPv4, and over IPv6: `.` allowed, `X` denied, `-` not
/// tried.
pub(super) type Cell = [char; 2];

/// A table of allowed and denied calls.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Expected {
    /// Callers, in the file's order.
    pub(super) callers: Vec<String>,
    /// Callees, in the file's order.
    pub(super) callees: Vec<String>,
    cells: BTreeMap<(String, String), Cell>,
    /// The call that the fix must allow.
    pub(super) fix: (String, String),
}

impl Expected {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Returns the expected result of a call.
    pub(super) fn cell(&self, from: &str, to: &str) -> Cell {
        let key = (from.to_owned(), to.to_owned());
        self.cells.get(&key).copied().unwrap_or(['-'; 2])
    }

    /// Returns the table with the fix applied.
    pub(super) fn fixed(&self) -> Self {
        let mut fixed = self.clone();
        fixed.cells.insert(self.fix.clone(), ['.'; 2]);
        fixed
    }

    fn parse(text: &str) -> Result<Self> {
        let mut table = Self::default();
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["fix", from, "->", to] => table.fix = (from.to_string(), to.to_string()),
                ["from", "\\", "to", callees @ ..] => {
                    table.callees = callees.iter().map(ToString::to_string).collect();
                }
                [caller, cells @ ..] => table.row(caller, cells)?,
            }
        }
        let (from, to) = &table.fix;
        ensure!(
            table.cell(from, to) == ['X'; 2],
            "`fix` must name a denied call"
        );
        Ok(table)
    }

    fn row(&mut self, caller: &str, cells: &[&str]) -> Result<()> {
        ensure!(
            cells.len() == self.callees.len(),
            "{caller} has {} cells, the head {}",
            cells.len(),
            self.callees.len()
        );
        for (callee, cell) in self.callees.iter().zip(cells) {
            let families: Vec<char> = cell.chars().collect();
            let is_known = families.iter().all(|one| ".X-".contains(*one));
            let cell = match families.as_slice() {
                [both] if is_known => [*both; 2],
                [v4, v6] if is_known => [*v4, *v6],
                _ => bail!("{caller} to {callee}: `{cell}` is none of . X - or two of them"),
            };
            self.cells.insert((caller.to_owned(), callee.clone()), cell);
        }
        self.callers.push(caller.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# who\nfrom \\ to  a  b\na  .  X\nb  -  .\nfix a -> b\n";

    #[test]
    fn cells_are_found_by_caller_and_callee() {
        let table = Expected::parse(TABLE).expect("a table");
        assert_eq!(table.callers, ["a", "b"]);
        assert_eq!(table.cell("a", "b"), ['X'; 2]);
        assert_eq!(table.cell("b", "a"), ['-'; 2]);
        assert_eq!(table.fixed().cell("a", "b"), ['.'; 2]);
    }

    #[test]
    fn a_cell_of_two_is_of_ipv4_and_of_ipv6() {
        let table = TABLE.replace("b  -  .", "b  X.  .");
        let table = Expected::parse(&table).expect("a table");
        assert_eq!(table.cell("b", "a"), ['X', '.']);
        for wrong in ["X..", "XY", "x"] {
            let text = TABLE.replace("b  -  .", &format!("b  {wrong}  ."));
            assert!(Expected::parse(&text).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_short_row_and_a_pointless_fix_are_errors() {
        assert!(Expected::parse("from \\ to a b\na .\nfix a -> b\n").is_err());
        assert!(Expected::parse(&TABLE.replace("a -> b", "b -> b")).is_err());
    }
}
