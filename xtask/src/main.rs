//! Tasks that cargo alone cannot do for Ringfence: the BPF object, the static binary,
//! the tools to build them, the demo, the full test run and the house rules.
//!
//! `cargo xtask COMMAND` runs from anywhere in the checkout. Outside of it, only
//! installed packages and cargo's own folders change.

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod kernels;
mod lanes;
mod mutants;
mod paths;
mod setup;
mod shell;
mod standalone;
mod test;
// Included as source rather than as a dependency: xtask must build even if the
// packages that it builds don't, and the tests' package depends on most of them.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../tests/src/testnet/mod.rs"]
mod testnet;
mod tidy;
mod toolchain;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and show Ringfence")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the tools for building and testing
    Setup,
    /// Build the BPF object into target/bpf/ringfence.o
    BuildEbpf {
        /// With logging on the packet path (aya-log): for debugging, never for release
        #[arg(long)]
        debug_log: bool,
    },
    /// Build agents of other versions, with other map layouts, for the tests of upgrades
    /// and rollbacks
    BuildOthers,
    /// Build the BPF object and the statically linked release binaries: target/static
    Build,
    /// Show a small bank behind Ringfence, in network namespaces (root)
    Demo(demo::Options),
    /// Run the servers of a demo that was kept
    #[command(hide = true)]
    DemoServe {
        /// The network's folder
        dir: PathBuf,
    },
    /// Run everything that CI checks (root)
    Test,
    /// Run the same, with the random tests and the fuzzers at full length (root)
    Soak {
        /// Another task that takes hours
        #[command(subcommand)]
        what: Option<Soak>,
    },
    /// Fuzz the parsers of YAML, JSON, labels and packets
    Fuzz {
        /// Seconds per target; the packet target gets six times as many
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Run the packet table and a smoke test on Debian's kernels, in guests (root)
    Kernels(kernels::Options),
    /// Run the benchmarks
    Bench {
        /// The suite to run; all of them if none is given
        suite: Option<String>,
        /// With `packet`: compare with this commit, in turns on one CPU
        #[arg(long, value_name = "COMMIT")]
        against: Option<String>,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: bench::Output,
    },
    /// Check the house rules that a program can check
    Tidy,
}

#[derive(Subcommand)]
enum Soak {
    /// Test mutants of the policy compiler and the datapath library, in shards
    Mutants(mutants::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Setup => setup::report(),
        Command::BuildEbpf { debug_log: false } => ebpf::build().map(drop),
        Command::BuildEbpf { debug_log: true } => ebpf::build_debug().map(drop),
        Command::BuildOthers => ebpf::build_other_agents(),
        Command::Build => ebpf::build_release(),
        Command::Demo(options) => demo::run(&options),
        Command::DemoServe { dir } => demo::serve(&dir),
        Command::Test => test::test(),
        Command::Soak { what: None } => test::soak(),
        Command::Soak {
            what: Some(Soak::Mutants(options)),
        } => mutants::run(&options),
        Command::Fuzz { seconds } => fuzz::run(seconds),
        Command::Kernels(options) => kernels::run(&options),
        Command::Bench {
            suite,
            against,
            output,
        } => bench::run(suite.as_deref(), against.as_deref(), output),
        Command::Tidy => tidy::run(),
    }
}
