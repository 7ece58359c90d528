//! One boot of a virtual machine, which powers itself off or is killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fetch::Kernel;
use crate::shell;

/// Memory in megabytes. The maps take about 60, and the initramfs is in memory twice.
const MEMORY: &str = "1024";
/// Interval at which the guest is polled for its end.
const TICK: Duration = Duration::from_millis(100);

/// The output of a guest.
pub(super) struct Report {
    /// Its full console output.
    pub(super) console: String,
    /// The command that started it.
    pub(super) command: String,
    /// Whether it was killed at its timeout.
    pub(super) timed_out: bool,
}

impl Report {
    /// Returns the exit code of a test that ran to completion.
    pub(super) fn ended(&self, test: &str) -> Option<i32> {
        self.console.lines().rev().find_map(|line| {
            let (name, code) = line.trim().strip_prefix("@@ ")?.rsplit_once(' ')?;
            (name == test).then(|| code.parse().ok())?
        })
    }

    /// Returns the number of passed tests, from the summaries of the test binaries.
    pub(super) fn passed(&self) -> u64 {
        let sums = self.console.lines().filter_map(|line| {
            let (_, sum) = line.split_once("test result: ok. ")?;
            sum.split(' ').next()?.parse::<u64>().ok()
        });
        sums.sum()
    }

    /// Returns the last lines of the console.
    pub(super) fn tail(&self, count: usize) -> String {
        let lines: Vec<String> = self.console.lines().map(shortened).collect();
        let last = &lines[lines.len().saturating_sub(count)..];
        last.join("\n")
    }
}

/// Cuts out the middle of a long line: the verifier's log comes as one long line, with
/// its verdict at the end.
fn shortened(line: &str) -> String {
    const KEPT: usize = 300;
    let letters: Vec<char> = line.chars().collect();
    if letters.len() <= 2 * KEPT {
        return line.to_owned();
    }
    let text = |letters: &[char]| letters.iter().collect::<String>();
    let (first, last) = (&letters[..KEPT], &letters[letters.len() - KEPT..]);
    format!("{} [...] {}", text(first), text(last))
}

/// Boots the guest; returns once it is off.
///
/// The guest is emulated, since few build machines offer nested virtualisation, and
/// runs in one thread: with several, Linux 6.12 oopsed now and then.
pub(super) fn run(
    kernel: &Kernel,
    initramfs: &Path,
    log: &Path,
    timeout: Duration,
) -> Result<Report> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=single", "-cpu", "max"])
        .args(["-m", MEMORY, "-display", "none", "-nodefaults"])
        .args(["-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"])
        .arg("-serial")
        .arg(format!("file:{}", log.display()));
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("can't start `{}`", shell::text(&command)))?;
    let ended = wait(&mut child, timeout);
    if !matches!(ended, Ok(Some(_))) {
        // Whether it ended by itself or is killed here, it is reaped.
        let _ = child.kill();
        let _ = child.wait();
    }
    let console = fs::read(log).with_context(|| format!("no {}", log.display()))?;
    Ok(Report {
        console: String::from_utf8_lossy(&console).into_owned(),
        command: shell::text(&command),
        timed_out: ended?.is_none(),
    })
}

fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            None if start.elapsed() < timeout => thread::sleep(TICK),
            ended => return Ok(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(console: &str) -> Report {
        Report {
            console: console.to_owned(),
            command: String::new(),
            timed_out: false,
        }
    }

    #[test]
    fn a_test_that_the_guest_did_not_finish_has_no_code() {
        let report = report("@@ smoke 0\r\n[ 2.0] oops\r\n@@ packets_kernel 101\r\n");
        assert_eq!(report.ended("smoke"), Some(0));
        assert_eq!(report.ended("packets_kernel"), Some(101));
        assert_eq!(report.ended("packets"), None);
    }

    #[test]
    fn passed_tests_of_all_binaries_are_summed_up() {
        let ok = "test result: ok. 3 passed; 0 failed; 0 ignored\r\n";
        let failed = "test result: FAILED. 2 passed; 1 failed\r\n";
        assert_eq!(report(&format!("{ok}{failed}{ok}")).passed(), 6);
    }

    #[test]
    fn the_tail_of_a_short_console_is_all_of_it() {
        assert_eq!(report("a\nb\nc").tail(2), "b\nc");
        assert_eq!(report("a\nb").tail(60), "a\nb");
    }

    #[test]
    fn a_long_line_keeps_its_beginning_and_its_end() {
        let line = format!("first{}last", "é".repeat(5000));
        let tail = report(&line).tail(1);
        assert!(tail.starts_with("first") && tail.ends_with("last"));
        assert!(tail.chars().count() < 700, "{tail}");
    }

    #[test]
    fn a_guest_that_hangs_is_given_up_after_its_time() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let ended = wait(&mut child, Duration::ZERO).expect("a look");
        child.kill().expect("ended");
        child.wait().expect("reaped");
        assert!(ended.is_none());
    }
}
