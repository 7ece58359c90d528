//! The command `ringfence matrix`.

use std::collections::BTreeMap;

use anyhow::anyhow;
use ringfence_policy::matrix::{By, Cell, Difference, Matrix, Part, Query};

use super::answers;
use super::difference;
use crate::cli::{self, MatrixArgs, Output};
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Paint, print, print_json, right, stream_json, width};

/// The largest grid: with more rows or columns, nobody can follow a line of characters.
const WIDEST: usize = 60;

/// Prints who can reach whom, or how a change affects that.
pub fn run(args: &MatrixArgs) -> Outcome {
    let query = query(args)?;
    if args.diff.as_deref() == Some(super::STDIN.as_ref()) && args.cluster.is_stdin() {
        return Err(Failure::input(anyhow!(
            "--manifests - and --diff -: stdin can be only one of them"
        )));
    }
    let index = super::load(&args.cluster, &args.policy)?;
    let (judges, open) = if let Some(other) = &args.diff {
        let after = super::read(other, &args.policy)?;
        let found = Difference::compute(&index, &after, &query).map_err(Failure::input)?;
        match args.output {
            Output::Json => print_json(&answers::difference(&found))?,
            Output::Table => print(&difference::text(&found))?,
        }
        (found.judges, !found.opens.is_empty())
    } else {
        let matrix = Matrix::compute(&index, &query).map_err(Failure::input)?;
        match args.output {
            Output::Json => stream_json(&matrix)?,
            Output::Table => print(&text(&matrix, Paint::stdout()))?,
        }
        (matrix.judges(), matrix.is_open())
    };
    match (judges, args.fail_on_open && open) {
        (_, true) => Ok(Found::Something),
        (true, false) => Ok(Found::Fine),
        (false, false) if args.fail_on_open => Err(Failure::input(anyhow!("{NOTHING}"))),
        (false, false) => {
            eprintln!("ringfence: {NOTHING}");
            Ok(Found::Fine)
        }
    }
}

/// The report of a check that had nothing to check, and so proves nothing.
const NOTHING: &str = "nothing to judge: there is no caller, or no callee";

fn query(args: &MatrixArgs) -> Result<Query, Failure> {
    let ports = args.port.iter().map(|text| super::port(text));
    Ok(Query {
        ports: ports.collect::<Result<_, _>>()?,
        from: args.from.clone(),
        to: args.to.clone(),
        peers: args.peer.clone(),
        by: match (args.by, &args.diff) {
            (Some(cli::By::Pod), _) | (None, None) => By::Pod,
            (Some(cli::By::Workload), _) | (None, Some(_)) => By::Workload,
        },
    })
}

fn text(matrix: &Matrix, paint: Paint) -> String {
    match matrix.rows().len().max(matrix.columns().len()) {
        0..=WIDEST => grid(matrix, paint),
        _ => list(matrix),
    }
}

/// Formats a grid. Columns have numbers, since names would make the page too wide. If rows and
/// columns are the same, the rows are numbered; otherwise there is a legend.
fn grid(matrix: &Matrix, paint: Paint) -> String {
    let rows: Vec<&str> = matrix.rows().collect();
    let columns: Vec<&str> = matrix.columns().collect();
    let (ports, count) = (matrix.ports().len(), columns.len());
    let square = rows == columns;
    let number = rows.len().to_string().len();
    let cell = ports.max(count.to_string().len());
    let name = width(rows.iter().copied());
    let mut text = heading(matrix);
    text.push_str(&" ".repeat(if square { number + 1 } else { 0 } + name));
    (1..=count).for_each(|n| text.push_str(&format!("  {}", right(&n.to_string(), cell))));
    text.push('\n');
    for (row, source) in rows.iter().enumerate() {
        if square {
            text.push_str(&format!("{:>number$} ", row + 1));
        }
        let mut line = format!("{source:<name$}");
        for column in 0..count {
            line.push_str("  ");
            line.push_str(&match matrix.cell(row, column, Part::Allowed) {
                Some(found) => coloured(&cell_text(found, ports), cell, paint),
                None => " ".repeat(cell),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if !square {
        text.push('\n');
        let names = columns.iter().zip(1..);
        names.for_each(|(name, n)| {
            text.push_str(&format!("{} {name}\n", right(&n.to_string(), cell)));
        });
    }
    text
}

/// Explains the characters; `~` only if the grid may contain it.
fn heading(matrix: &Matrix) -> String {
    let ports: Vec<String> = matrix.ports().iter().map(ToString::to_string).collect();
    let columns = 0..matrix.columns().len();
    let mut cells = (0..matrix.rows().len())
        .flat_map(|row| columns.clone().map(move |column| (row, column)))
        .filter_map(|(row, column)| matrix.cell(row, column, Part::Allowed));
    let partly = cells.any(|cell| cell_text(cell, ports.len()).contains('~'));
    format!(
        "From each row to each column, one character per port ({}): . allowed, X denied{}\n\n",
        ports.join(", "),
        if partly { ", ~ some of both" } else { "" }
    )
}

/// Pads before colouring, since escape sequences have no width.
fn coloured(found: &str, width: usize, paint: Paint) -> String {
    let padded = right(found, width);
    match (found.contains(['.', '~']), found.contains(['X', '~'])) {
        (_, false) => paint.green(&padded),
        (false, true) => paint.red(&padded),
        (true, true) => paint.yellow(&padded),
    }
}

fn cell_text(cell: Cell, ports: usize) -> String {
    let mut text = String::with_capacity(ports);
    cell.write(ports, &mut text);
    text
}

/// Formats one line for each caller and set of ports, with the callees that it may call on them.
/// Calls of a pod or workload to itself are omitted.
fn list(matrix: &Matrix) -> String {
    let ports: Vec<String> = matrix.ports().iter().map(ToString::to_string).collect();
    let columns: Vec<&str> = matrix.columns().collect();
    let name = width(matrix.rows());
    let mut lines = Vec::new();
    for (row, source) in matrix.rows().enumerate() {
        let mut by_ports: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut asked = Vec::new();
        for column in (0..columns.len()).filter(|column| !matrix.is_self(row, *column)) {
            if let Some(cell) = matrix.cell(row, column, Part::Allowed) {
                asked.push(column);
                let allowed = allowed(cell, &ports);
                if !allowed.is_empty() {
                    by_ports.entry(allowed).or_default().push(column);
                }
            }
        }
        if by_ports.is_empty() {
            by_ports.insert("-".into(), Vec::new());
        }
        for (ports, found) in by_ports {
            lines.push((source, ports, destinations(&columns, &asked, &found)));
        }
    }
    let middle = width(lines.iter().map(|line| line.1.as_str()).chain(["PORTS"]));
    let mut text = format!("{:<name$}  {:<middle$}  MAY CALL\n", "CALLER", "PORTS");
    for (source, ports, found) in lines {
        text.push_str(&format!("{source:<name$}  {ports:<middle$}  {found}\n"));
    }
    text
}

/// Formats ports like `TCP/80,~UDP/53`: the tilde marks a port that is open for some of the pods or
/// addresses.
fn allowed(cell: Cell, ports: &[String]) -> String {
    let ports = ports.iter().enumerate();
    let open = ports.filter_map(|(n, port)| match cell.port(n) {
        '.' => Some(port.clone()),
        '~' => Some(format!("~{port}")),
        _ => None,
    });
    open.collect::<Vec<_>>().join(",")
}

/// Lists the allowed callees, or the exceptions if that is shorter.
fn destinations(columns: &[&str], asked: &[usize], found: &[usize]) -> String {
    let names = |of: &[usize]| {
        let names: Vec<&str> = of.iter().map(|column| columns[*column]).collect();
        names.join(", ")
    };
    let missing: Vec<usize> = asked
        .iter()
        .filter(|column| found.binary_search(column).is_err())
        .copied()
        .collect();
    match (found.len(), missing.len()) {
        (0, _) => "nobody".to_owned(),
        (_, 0) => format!("all {}", asked.len()),
        (some, few) if few < some => format!("all {} but {}", asked.len(), names(&missing)),
        _ => names(found),
    }
}

#[cfg(test)]
#[path = "matrix_tests.rs"]
mod tests;
