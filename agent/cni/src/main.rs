//! `ringfence-cni`: called by the container runtime, as specified by CNI 0.3.1 to 1.1.0.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use ringfence_cni::{Environment, Refusal, run};

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let answered = read()
        .and_then(|stdin| run(&Environment::of_process(), &stdin))
        .map(|answer| answer.into_bytes());
    let (text, code) = match answered {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(refusal) => (refusal.to_json().into_bytes(), ExitCode::FAILURE),
    };
    match out.write_all(&text).and_then(|()| out.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read() -> Result<Vec<u8>, Refusal> {
    let mut stdin = Vec::new();
    io::stdin()
        .read_to_end(&mut stdin)
        .map_err(|error| Refusal::io("reading the configuration", error))?;
    Ok(stdin)
}
