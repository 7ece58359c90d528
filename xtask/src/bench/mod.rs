//! Benchmarks: cases measured many times, as a table or as JSON.
//!
//! A suite is a function that returns [`Case`]s; it is listed in [`SUITES`].

mod against;
mod cluster;
mod compile;
mod measured;
mod packet;
mod start;
mod startup;
mod storm;
mod wire;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

type Suite = fn() -> Result<Vec<Case>>;

/// Every suite, by its name on the command line.
const SUITES: &[(&str, Suite)] = &[
    ("cluster", cluster::cases),
    ("compile", compile::cases),
    ("packet", packet::cases),
    ("start", start::cases),
    ("startup", startup::cases),
    ("storm", storm::cases),
    ("wire", wire::cases),
];

/// The measurements of one case in one variant.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Case {
    /// What is measured.
    pub(crate) case: String,
    /// How it is measured.
    pub(crate) variant: String,
    /// Unit of the figures: `ns`, `s`, `bytes`, …
    pub(crate) unit: String,
    /// Every measurement, sorted, never empty.
    samples: Vec<f64>,
    /// The case of the same run that this one is compared with: in the same variant if
    /// that case has it, else in its first.
    pub(crate) against: Option<String>,
    /// Ratios to that case, round by round, sorted; empty if the rounds of the two aren't
    /// paired.
    pub(crate) paired: Vec<f64>,
    /// Maximum of the ratio.
    pub(crate) target: Option<f64>,
}

impl Case {
    /// Creates a case from its measurements, of which there must be at least one.
    pub(crate) fn new(
        case: impl Into<String>,
        variant: impl Into<String>,
        unit: impl Into<String>,
        mut samples: Vec<f64>,
    ) -> Result<Self> {
        let (case, variant) = (case.into(), variant.into());
        if samples.is_empty() {
            bail!("no measurement of {case}, {variant}");
        }
        samples.sort_by(f64::total_cmp);
        Ok(Self {
            case,
            variant,
            unit: unit.into(),
            samples,
            against: None,
            paired: Vec::new(),
            target: None,
        })
    }

    /// Sets the case to compare with.
    pub(crate) fn against(mut self, case: impl Into<String>) -> Self {
        self.against = Some(case.into());
        self
    }

    fn min(&self) -> f64 {
        self.samples[0]
    }

    fn median(&self) -> f64 {
        self.samples[self.samples.len() / 2]
    }

    fn max(&self) -> f64 {
        self.samples[self.samples.len() - 1]
    }

    /// Returns the median of the paired ratios; without any, this case's median divided by
    /// the median of the case that it is compared with.
    fn ratio(&self, all: &[Self]) -> Option<f64> {
        let against = self.against.as_ref()?;
        if !self.paired.is_empty() {
            return Some(self.paired[self.paired.len() / 2]);
        }
        let named = || all.iter().filter(|other| other.case == *against);
        let other = named()
            .find(|other| other.variant == self.variant)
            .or_else(|| named().next())?;
        Some(self.median() / other.median())
    }
}

/// Runs work once to warm up, then `times` times; returns the milliseconds of each run.
pub(crate) fn milliseconds(times: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    work()?;
    (0..times)
        .map(|_| {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

/// Runs one suite, or all; compares `packet` with another commit, if one is given.
pub(crate) fn run(suite: Option<&str>, against: Option<&str>, output: Output) -> Result<()> {
    let cases = match against {
        Some(commit) if suite == Some("packet") => against::cases(commit)?,
        Some(_) => bail!("only the suite `packet` is measured against another commit"),
        None => measure(suite)?,
    };
    match output {
        Output::Json => println!("{:#}", as_json(&cases)),
        Output::Table => print!("{}", as_table(&cases)),
    }
    Ok(())
}

fn measure(suite: Option<&str>) -> Result<Vec<Case>> {
    let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
    if let Some(name) = suite
        && !names.contains(&name)
    {
        bail!("no suite {name}; there are: {}", names.join(", "));
    }
    let mut cases = Vec::new();
    for (_, run) in SUITES
        .iter()
        .filter(|(name, _)| suite.is_none_or(|suite| suite == *name))
    {
        cases.extend(run()?);
    }
    Ok(cases)
}

fn as_json(cases: &[Case]) -> Value {
    let row = |case: &Case| {
        json!({
            "case": case.case, "variant": case.variant, "unit": case.unit,
            "min": case.min(), "median": case.median(), "max": case.max(),
            "ratio": case.ratio(cases), "against": case.against, "target": case.target,
        })
    };
    cases.iter().map(row).collect()
}

/// Formats a figure with three significant digits, whether nanoseconds or bytes.
fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = usize::try_from(2 - magnitude).unwrap_or_default();
    format!("{value:.decimals$}")
}

fn as_table(cases: &[Case]) -> String {
    let mut rows = vec![
        [
            "case", "variant", "unit", "min", "median", "max", "ratio", "against", "target",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for case in cases {
        rows.push(vec![
            case.case.clone(),
            case.variant.clone(),
            case.unit.clone(),
            figure(case.min()),
            figure(case.median()),
            figure(case.max()),
            or_dash(case.ratio(cases).map(figure)),
            or_dash(case.against.clone()),
            or_dash(case.target.map(figure)),
        ]);
    }
    crate::shell::columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Vec<Case> {
        let slow = Case::new("drop", "v4", "ns", vec![30.0, 20.0, 70.0]).expect("measured");
        let fast = Case::new("floor", "v4", "ns", vec![15.0]).expect("measured");
        vec![slow.against("floor"), fast]
    }

    #[test]
    fn a_ratio_is_of_medians_and_to_the_case_that_is_named() {
        let json = as_json(&cases());
        assert_eq!(json[0]["min"], 20.0);
        assert_eq!(json[0]["median"], 30.0);
        assert_eq!(json[0]["max"], 70.0);
        assert_eq!(json[0]["ratio"], 2.0);
        assert_eq!(json[0]["against"], "floor");
        assert!(json[1]["ratio"].is_null() && json[1]["target"].is_null());
    }

    #[test]
    fn a_ratio_is_of_pairs_where_there_are_any() {
        let mut cases = cases();
        cases[0].paired = vec![1.5, 1.6, 9.0];
        assert_eq!(as_json(&cases)[0]["ratio"], 1.6);
    }

    #[test]
    fn a_case_without_a_measurement_is_an_error() {
        assert!(Case::new("drop", "v4", "ns", Vec::new()).is_err());
    }

    #[test]
    fn figures_show_three_digits_that_count() {
        let shown = [0.00042, 0.2, 1.0, 27.34, 184.2, 61_234_567.0].map(figure);
        let expected = ["0.000420", "0.200", "1.00", "27.3", "184", "61234567"];
        assert_eq!(shown, expected);
        assert_eq!(figure(0.0), "0");
    }

    #[test]
    fn the_table_has_a_line_for_each_case_below_its_head() {
        assert_eq!(as_table(&cases()).lines().count(), 3);
    }
}
