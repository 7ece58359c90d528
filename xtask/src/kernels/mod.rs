//! Tests on kernels other than this machine's: Debian's, each in its own guest.
//!
//! The guests have no disk and no network device. All they have is an initramfs with
//! busybox, the few modules that the tests need, the test binaries as cargo built them,
//! and programs of this machine with their libraries.

mod build;
mod fetch;
mod guest;
mod image;
mod modules;

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{ebpf, paths, setup, shell};

use self::build::Binaries;
use self::fetch::Kernel;
use self::guest::Report;

/// The test binaries that each guest runs. `smoke` comes first since it is shorter.
const TESTS: &[&str] = &["smoke", "packets_kernel"];
/// Arguments of every test binary.
const ARGUMENTS: &[&str] = &["--ignored", "--test-threads=1", "--nocapture"];
/// The test that prints how many instructions the verifier walked.
const VERIFIER: &str = "the_verifier_accepts_every_program_with_room_to_spare";

/// A kernel of the matrix.
struct Version {
    /// The short version, as in 6.1.
    name: &'static str,
    /// The Debian package that depends on the newest kernel of its kind.
    package: &'static str,
}

/// Debian 12's own kernel, and the one of Debian 13.
const VERSIONS: &[Version] = &[
    Version {
        name: "6.12",
        package: "linux-image-6.12-cloud-amd64",
    },
    Version {
        name: "6.1",
        package: "linux-image-cloud-amd64",
    },
];

/// Seconds after which a guest counts as hung, also on a busy machine.
const TIMEOUT: u64 = 600;

/// Flags of `cargo xtask kernels`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this kernel, as in 6.1; repeat for more
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Seconds that a guest may take; an idle machine needs about 100
    #[arg(long, default_value_t = TIMEOUT)]
    timeout: u64,
    /// Only load the programs and print how many instructions the verifier walked
    #[arg(long)]
    verifier_only: bool,
}

impl Options {
    /// Returns the test binaries that a guest runs.
    fn tests(&self) -> &'static [&'static str] {
        if self.verifier_only {
            &TESTS[..1]
        } else {
            TESTS
        }
    }

    /// Returns the arguments of a guest's test binaries.
    fn arguments(&self) -> Vec<&'static str> {
        let exact: &[&str] = if self.verifier_only {
            &["--exact", VERIFIER]
        } else {
            &[]
        };
        [ARGUMENTS, exact].concat()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: Vec::new(),
            timeout: TIMEOUT,
            verifier_only: false,
        }
    }
}

/// Runs the matrix.
pub(crate) fn run(options: &Options) -> Result<()> {
    let versions = chosen(options)?;
    if !setup::can_run_guests() {
        eprintln!("    SKIPPED: Debian's kernels need an x86-64 machine with apt");
        return Ok(());
    }
    if !setup::is_root() {
        bail!("the tests on this machine's own kernel load BPF programs: run as root");
    }
    setup::install_guest_programs()?;
    ebpf::build()?;
    let binaries = shell::step("build what the guests run", || {
        build::build(options.tests())
    })?;
    let fetched = versions.iter().map(|v| fetch::kernel(v.name, v.package));
    let kernels: Vec<Kernel> = fetched.collect::<Result<_>>()?;
    let mut matrix = vec![own(&binaries)?];
    // The guests run in parallel: each emulates one processor in one thread.
    let rows = thread::scope(|scope| {
        let binaries = &binaries;
        let one = |kernel| scope.spawn(move || one(kernel, binaries, options));
        let guests: Vec<_> = kernels.iter().map(one).collect();
        let rows = guests.into_iter().map(|guest| match guest.join() {
            Ok(row) => row,
            Err(_) => Err(anyhow!("the thread of a guest panicked")),
        });
        rows.collect::<Vec<_>>()
    });
    for row in rows {
        matrix.push(row?);
    }
    println!("\nInstructions that the verifier walked, of 1,000,000:\n");
    print!("{}", table(&matrix));
    Ok(())
}

fn chosen(options: &Options) -> Result<Vec<&'static Version>> {
    let wanted = |version: &&Version| {
        options.kernel.is_empty() || options.kernel.iter().any(|name| name == version.name)
    };
    let chosen: Vec<_> = VERSIONS.iter().filter(wanted).collect();
    let known: Vec<_> = VERSIONS.iter().map(|version| version.name).collect();
    ensure!(
        chosen.len() == options.kernel.len() || options.kernel.is_empty(),
        "--kernel: there are {}",
        known.join(" and ")
    );
    Ok(chosen)
}

/// The results of one kernel.
struct Row {
    kernel: String,
    tests: String,
    /// Instructions that the verifier walked, by program.
    walked: BTreeMap<String, u64>,
}

/// Counts instructions on this machine's own kernel. `cargo xtask test` runs all tests
/// on it anyway.
fn own(binaries: &Binaries) -> Result<Row> {
    shell::step("this machine's own kernel", || {
        let release = shell::output(Command::new("uname").arg("-r"))?;
        let mut command = Command::new(binaries.test("smoke")?);
        command.args(ARGUMENTS).args(["--exact", VERIFIER]);
        let said = shell::output(&mut command)?;
        Ok(Row {
            kernel: release.trim().to_owned(),
            tests: "(all of them: cargo xtask test)".to_owned(),
            walked: walked(&said),
        })
    })
}

fn one(kernel: &Kernel, binaries: &Binaries, options: &Options) -> Result<Row> {
    shell::step(&format!("Linux {} in a guest", kernel.release), || {
        let folder = paths::target().join("kernels").join(kernel.name);
        let initramfs = folder.join("initramfs");
        image::write(
            &initramfs,
            kernel,
            binaries,
            &init(&kernel.modules.names(), options),
        )?;
        let timeout = Duration::from_secs(options.timeout);
        let report = guest::run(kernel, &initramfs, &folder.join("console.log"), timeout)?;
        for test in options.tests() {
            let code = report.ended(test);
            ensure!(
                code == Some(0),
                "{}",
                failure(test, code, kernel, &report, &folder.join("console.log"))
            );
        }
        let passed = report.passed();
        ensure!(passed > 0, "the guest ran no test at all");
        Ok(Row {
            kernel: kernel.release.clone(),
            tests: format!("{passed} passed"),
            walked: walked(&report.console),
        })
    })
    .with_context(|| format!("Linux {}", kernel.name))
}

fn failure(
    test: &str,
    code: Option<i32>,
    kernel: &Kernel,
    report: &Report,
    log: &std::path::Path,
) -> String {
    let what = match code {
        Some(code) => format!("{test} ended with {code}"),
        None if report.timed_out => format!("the guest didn't get through {test} in time"),
        None => format!("the guest never got through {test}"),
    };
    format!(
        "{what}; the end of its console ({}):\n\n{}\n\nonce more: cargo xtask kernels --kernel {}\n\
         this guest as it was: {}",
        log.display(),
        report.tail(60),
        kernel.name,
        report.command
    )
}

/// The busybox applets that the guest uses.
const APPLETS: &[&str] = &["insmod", "mkdir", "mount", "poweroff"];

/// Returns the script of the guest's first process. Each line that it prints for xtask
/// starts with `@@`.
fn init(modules: &[String], options: &Options) -> String {
    let insert: String = modules
        .iter()
        .map(|name| format!("insmod /modules/{name} || echo '@@ no module {name}'\n"))
        .collect();
    let arguments = options.arguments().join(" ");
    let tests: String = options
        .tests()
        .iter()
        .map(|test| format!("/bin/{test} {arguments} 2>&1; echo \"@@ {test} $?\"\n"))
        .collect();
    let links: String = APPLETS
        .iter()
        .map(|name| format!("/bin/busybox ln -s busybox /bin/{name}\n"))
        .collect();
    format!(
        "#!/bin/busybox sh\n{links}\
         export PATH=/bin\n\
         mkdir -p /proc /sys /dev /run /tmp\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t tmpfs run /run\n\
         mount -t tmpfs tmp /tmp\n\
         {insert}ip link set lo up\n\
         {tests}echo '@@ end 0'\n\
         poweroff -f\n"
    )
}

/// Parses the lines `verified PROGRAM COUNT` of the smoke test.
fn walked(said: &str) -> BTreeMap<String, u64> {
    let lines = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("verified "));
    lines
        .filter_map(|line| {
            let (program, count) = line.split_once(' ')?;
            Some((program.to_owned(), count.parse().ok()?))
        })
        .collect()
}

fn table(matrix: &[Row]) -> String {
    let mut programs: Vec<&String> = matrix.iter().flat_map(|row| row.walked.keys()).collect();
    programs.sort();
    programs.dedup();
    let head = ["kernel"].into_iter().map(str::to_owned);
    let head = head.chain(programs.iter().map(|name| (*name).clone()));
    let mut rows = vec![head.chain(["tests".to_owned()]).collect()];
    for row in matrix {
        let count = |name: &&String| row.walked.get(*name).map_or("-".into(), u64::to_string);
        let cells = [row.kernel.clone()].into_iter();
        let cells = cells.chain(programs.iter().map(count));
        rows.push(cells.chain([row.tests.clone()]).collect());
    }
    shell::columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_walked_is_read_from_among_other_lines() {
        let said = "test a ... \nverified from_pod 48123\nok\nverified to_pod x\n";
        let walked = walked(said);
        assert_eq!(walked.len(), 1);
        assert_eq!(walked["from_pod"], 48_123);
    }

    #[test]
    fn an_unknown_kernel_is_refused_with_the_known_ones() {
        let kernel = vec!["6.1".to_owned(), "2.4".to_owned()];
        let options = Options {
            kernel,
            ..Options::default()
        };
        let error = chosen(&options).err().map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("--kernel: there are 6.12 and 6.1"),
            "{error:?}"
        );
    }

    #[test]
    fn a_guest_asked_for_the_verifier_alone_runs_that_one_test() {
        let script = |verifier_only| {
            let options = Options {
                verifier_only,
                ..Options::default()
            };
            init(&[], &options)
        };
        let alone = script(true);
        assert!(alone.contains(&format!("--exact {VERIFIER} ")), "{alone}");
        assert!(!alone.contains("packets_kernel"), "{alone}");
        let all = script(false);
        assert!(TESTS.iter().all(|test| all.contains(test)), "{all}");
        assert!(!all.contains(VERIFIER), "{all}");
    }

    #[test]
    fn a_program_that_a_kernel_does_not_have_is_a_dash() {
        let row = |kernel: &str, said: &str| Row {
            kernel: kernel.to_owned(),
            tests: "4 passed".to_owned(),
            walked: walked(said),
        };
        let matrix = [
            row("6.12", "verified a 1\nverified b 2"),
            row("6.1", "verified a 3"),
        ];
        assert_eq!(
            table(&matrix),
            "kernel  a  b  tests\n6.12    1  2  4 passed\n6.1     3  -  4 passed\n"
        );
    }
}
