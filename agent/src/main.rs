//! The `ringfence` binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfence::run(std::env::args_os())
}
