//! Runs commands and reports on them.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Variables that the outer `cargo run` and rustup set for *their* toolchain.
/// The build of the BPF object uses another toolchain.
const OUTER: &[&str] = &[
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// Removes the variables of the outer toolchain from a command.
pub(crate) fn clear_toolchain(command: &mut Command) -> &mut Command {
    for name in OUTER {
        command.env_remove(name);
    }
    command
}

/// Runs a command with its output shown; an error contains the exact command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("can't start `{}`", text(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", text(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; an error contains its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("can't start `{}`", text(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            text(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Formats a command as a person would type it.
pub(crate) fn text(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let value = value.to_string_lossy();
            let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(&value));
        }
    }
    line.push_str(&quoted(&command.get_program().to_string_lossy()));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(&argument.to_string_lossy()));
    }
    line
}

fn quoted(word: &str) -> String {
    // Flags in `CARGO_ENCODED_RUSTFLAGS` are separated by unit separators.
    if word.contains('\x1f') {
        return format!("$'{}'", word.replace('\x1f', "\\x1f"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Announces a step, runs it, and prints its result and duration.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = work();
    let (mark, took) = (
        if result.is_ok() { "ok" } else { "FAILED" },
        seconds(start.elapsed()),
    );
    eprintln!("    {what}: {mark} in {took}");
    result
}

/// Formats a duration for people.
pub(crate) fn seconds(time: Duration) -> String {
    let total = time.as_secs_f64();
    if total < 60.0 {
        format!("{total:.1} s")
    } else {
        format!("{} min {:.0} s", time.as_secs() / 60, total % 60.0)
    }
}

/// Formats rows as aligned columns, separated by two spaces.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_as_one_would_type_it() {
        let mut command = Command::new("false");
        command.arg("two words").env("KEY", "v");
        let error = run(&mut command).expect_err("false fails");
        assert!(
            error
                .to_string()
                .contains("`KEY=v false 'two words'` ended with")
        );
    }

    #[test]
    fn long_times_are_given_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(seconds(Duration::from_secs(62)), "1 min 2 s");
    }
}
