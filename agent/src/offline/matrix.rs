//! `ringfence matrix`.

use ringfence_policy::matrix::Matrix;

use crate::cli::{MatrixArgs, Output};
use crate::failure::{Found, Outcome};
use crate::output::{Paint, print, print_json};

/// Prints who can reach whom.
pub fn run(args: &MatrixArgs) -> Outcome {
    let ports = args
        .port
        .iter()
        .map(|text| super::port(text))
        .collect::<Result<Vec<_>, _>>()?;
    let index = super::load(&args.manifests, &args.policy)?;
    let matrix = Matrix::compute(&index, &ports);
    match args.output {
        Output::Json => print_json(&matrix)?,
        Output::Table => print(&text(&matrix, Paint::stdout()))?,
    }
    Ok(Found::Fine)
}

/// Columns bear the number of their row: names would make the page too wide.
fn text(matrix: &Matrix, paint: Paint) -> String {
    let cell = matrix.ports.len().max(matrix.pods.len().to_string().len());
    let number = matrix.pods.len().to_string().len();
    let name = matrix
        .pods
        .iter()
        .map(String::len)
        .max()
        .unwrap_or_default();
    let mut text = format!(
        "From each row to each column, one character a port ({}): . allowed, X denied\n\n",
        matrix.ports.join(", ")
    );
    text.push_str(&" ".repeat(number + 1 + name));
    for n in 1..=matrix.pods.len() {
        text.push_str(&format!("  {n:>cell$}"));
    }
    text.push('\n');
    for (n, source) in matrix.pods.iter().enumerate() {
        text.push_str(&format!("{:>number$} {source:<name$}", n + 1));
        for destination in &matrix.pods {
            let found = &matrix.allowed[source][destination];
            // Padded first: escape sequences have no width.
            let padded = format!("{found:>cell$}");
            let shown = match (found.contains('.'), found.contains('X')) {
                (_, false) => paint.green(&padded),
                (false, true) => paint.red(&padded),
                (true, true) => paint.yellow(&padded),
            };
            text.push_str("  ");
            text.push_str(&shown);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn rows_are_callers_and_columns_their_numbers() {
        let pods = ["a/x".to_owned(), "bank/y".to_owned()];
        let row = |cells: [&str; 2]| -> BTreeMap<String, String> {
            pods.iter().cloned().zip(cells.map(str::to_owned)).collect()
        };
        let matrix = Matrix {
            ports: vec!["TCP/80".into(), "UDP/53".into()],
            pods: pods.to_vec(),
            allowed: [
                (pods[0].clone(), row(["..", ".X"])),
                (pods[1].clone(), row(["XX", ".."])),
            ]
            .into(),
            ..Matrix::default()
        };
        let expected = "From each row to each column, one character a port (TCP/80, UDP/53): . allowed, X denied\n\n\
                        \x20          1   2\n1 a/x     ..  .X\n2 bank/y  XX  ..\n";
        assert_eq!(text(&matrix, Paint::off()), expected);
    }
}
