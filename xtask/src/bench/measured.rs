//! Runs a bench of the tests' package and parses its output.
//!
//! The measuring itself is in the tests' package, since that package may depend on the
//! agent.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Case;
use crate::{ebpf, shell};

/// A case as `tests/benches/` prints it.
#[derive(Deserialize)]
struct Measured {
    case: String,
    variant: String,
    unit: String,
    samples: Vec<f64>,
    ratios: Option<Vec<f64>>,
    against: Option<String>,
    target: Option<f64>,
}

/// Runs a bench with the given environment variables.
pub(super) fn cases(bench: &str, env: &[(&str, &std::ffi::OsStr)]) -> Result<Vec<Case>> {
    let mut command = ebpf::cargo();
    command
        .args(["bench", "--quiet", "-p", "ringfence-tests", "--bench"])
        .arg(bench)
        .envs(env.iter().copied());
    read(&shell::output(&mut command)?)
}

/// Parses the output of a bench.
pub(super) fn read(text: &str) -> Result<Vec<Case>> {
    let measured: Vec<Measured> =
        serde_json::from_str(text).context("can't read what the bench printed")?;
    measured
        .into_iter()
        .map(|m| {
            let mut case = Case::new(m.case, m.variant, m.unit, m.samples)?;
            case.against = m.against;
            case.paired = m.ratios.unwrap_or_default();
            case.paired.sort_by(f64::total_cmp);
            case.target = m.target;
            Ok(case)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_read_as_it_was_printed() {
        let text = r#"[{"case": "mesh", "variant": "time", "unit": "s", "samples": [0.5, 0.25],
            "against": "floor", "target": null}]"#;
        let expected = Case::new("mesh", "time", "s", vec![0.25, 0.5]).expect("measured");
        assert_eq!(read(text).expect("cases"), [expected.against("floor")]);
        assert!(read("no bench").is_err());
    }

    #[test]
    fn ratios_of_pairs_are_read_too() {
        let text = r#"[{"case": "x", "variant": "y", "unit": "s", "samples": [1], "against": "z",
            "ratios": [3.0, 1.0, 2.0], "target": 1.5}]"#;
        let cases = read(text).expect("cases");
        assert_eq!(cases[0].paired, [1.0, 2.0, 3.0]);
        assert_eq!(cases[0].target, Some(1.5));
    }
}
