//! The demo: a small bank behind Ringfence, in network namespaces.
//!
//! Every claim is checked with real packets; the demo succeeds only if all of them
//! hold, and leaves nothing behind.

mod cluster;
mod counters;
mod expected;
mod fix;
mod keep;
mod report;
mod stage;
mod takeover;
mod traffic;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::expected::Expected;
use self::report::{Colour, fine, head, paint};
use self::stage::{DNS, DNS_PORT, Stage, binary};
use self::traffic::Seen;
use crate::{ebpf, paths, setup, shell, testnet};

pub(crate) use keep::serve;

/// Time limit for the kernel to detach unpinned programs.
const LETS_GO: Duration = Duration::from_secs(2);

/// Flags of the demo.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Leave it running for inspection
    #[arg(long)]
    keep: bool,
    /// Remove a demo that was left running
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !setup::is_root() {
        bail!(
            "the demo makes network namespaces and loads BPF programs: run it as root, for \
             example `sudo -E env PATH=\"$PATH\" cargo xtask demo`"
        );
    }
    if options.remove {
        return keep::remove_kept();
    }
    ebpf::build()?;
    shell::step("build ringfence", || {
        shell::run(ebpf::cargo().args(["build", "--quiet", "--workspace", "--bin", "ringfence"]))
    })?;
    let start = Instant::now();
    let manifests = paths::root().join("deploy/demo");
    let expected = Expected::read(&manifests.join("expected.txt"))?;
    let mut stage = Stage::build(&manifests)?;
    remove_on_signal(&stage)?;
    play(&mut stage, &expected)?;
    let took = shell::seconds(start.elapsed());
    if options.keep {
        keep::keep(stage)?;
    } else {
        end(&mut stage)?;
        let dir = stage.net.dir().to_owned();
        drop(stage);
        ensure!(!dir.exists(), "{} is still there", dir.display());
        fine("namespaces, mounts and files are gone");
    }
    let verdict = format!("Everything agrees ({took}).");
    println!("\n{}", paint(Colour::Bold, &paint(Colour::Green, &verdict)));
    Ok(())
}

fn play(stage: &mut Stage, expected: &Expected) -> Result<()> {
    head("A node and a small bank");
    fine(&format!(
        "{} pods on node {}, an outside with a client and a database, dual-stack",
        stage.cluster.pods.len(),
        stage.cluster.node_name
    ));
    let start = Instant::now();
    stage.start_agent()?;
    let took = start.elapsed().as_millis();
    fine(&format!(
        "ringfence agent runs; every pod's policy is in force after {took} ms"
    ));

    head("Who reaches whom: real connections, all at once");
    let before = counters::read(stage)?;
    let seen = traffic::try_all(stage, expected)?;
    report::compare(expected, &seen);
    let wrong = traffic::differing(expected, &seen);
    ensure!(wrong == 0, "{wrong} calls ended otherwise than expected");
    fine("traffic agrees with deploy/demo/expected.txt");
    agree_with_matrix(stage, expected, &seen)?;
    dns_needs_no_label(stage)?;

    head("What was dropped, by pair of services");
    counters::agree_with_table(stage, expected, &before)?;
    counters::agree_with_a_flood(stage)?;
    for line in stage.ringfence(&["drops"])?.lines() {
        println!("  {line}");
    }

    head("Why, and how to allow it");
    fix::explain_and_apply(stage, expected)?;

    head("The agent is killed (kill -9), and another one takes over");
    takeover::run(stage, &expected.fixed())
}

/// Checks that `ringfence matrix` agrees with the traffic for each pair of pods.
fn agree_with_matrix(stage: &Stage, expected: &Expected, seen: &Seen) -> Result<()> {
    let mut matrix = Command::new(binary()?);
    matrix.current_dir(paths::root()).args([
        "matrix",
        "--manifests",
        "deploy/demo",
        "--port",
        "TCP/8080",
        "-o",
        "json",
    ]);
    let matrix: serde_json::Value =
        serde_json::from_str(&shell::output(&mut matrix)?).context("ringfence matrix -o json")?;
    let mut cells = 0;
    for ((from, to), live) in seen {
        let (Ok(source), Ok(target)) = (stage.cluster.pod(from), stage.cluster.pod(to)) else {
            continue;
        };
        let (source, target) = (source.full_name(), target.full_name());
        let said = matrix["allowed"][&source][&target]
            .as_str()
            .unwrap_or("nothing");
        let expected = match live {
            [v4, v6] if v4 == v6 => v4.to_string(),
            _ => "~".to_owned(),
        };
        ensure!(
            said == expected,
            "{source} to {target}: `ringfence matrix` says {said}, traffic {live:?}"
        );
        cells += 1;
    }
    let pods = stage.cluster.pods.len();
    ensure!(
        cells == pods * pods && expected.callers.len() >= pods,
        "the table compares {cells} pairs of {pods} pods"
    );
    fine(&format!(
        "`ringfence matrix --manifests deploy/demo` agrees with all {cells} cells"
    ));
    Ok(())
}

/// Checks that a pod that may call no service may query the node's DNS cache, also
/// according to its manifests alone.
fn dns_needs_no_label(stage: &Stage) -> Result<()> {
    let pod = stage.cluster.pod("service-statements-1")?.full_name();
    let (dns, port) = (DNS.to_string(), format!("TCP/{DNS_PORT}"));
    let mut explain = Command::new(binary()?);
    let explain = explain.current_dir(paths::root()).args([
        "explain",
        &pod,
        &dns,
        &port,
        "--manifests",
        "deploy/demo",
    ]);
    shell::output(explain).context("the way to NodeLocal DNS")?;
    fine(&format!(
        "{pod} may call nobody but NodeLocal DNS at {dns}, says `ringfence explain`"
    ));
    Ok(())
}

/// Stops the agent, uninstalls, and checks that nothing is left.
fn end(stage: &mut Stage) -> Result<()> {
    head("Uninstall");
    stage.stop_agent()?;
    fine("the agent stops cleanly on SIGTERM");
    let denied = traffic::Call::new(stage, "rogue-1", "service-ledger-1", true, 'X')?;
    ensure!(
        denied.make()? == 'X',
        "the stopped agent left the door open"
    );
    fine("and leaves its enforcement in place");
    stage.ringfence(&["uninstall"])?;
    ensure!(
        !stage.net.pin_dir().exists(),
        "pins are left in {}",
        stage.net.pin_dir().display()
    );
    let start = Instant::now();
    while denied.make()? != '.' {
        // The kernel releases unpinned links with a short delay (after an RCU
        // grace period).
        ensure!(
            start.elapsed() < LETS_GO,
            "after `ringfence uninstall` packets are dropped"
        );
    }
    fine("`ringfence uninstall` removes every program, map and pin");
    Ok(())
}

/// Removes the network on Ctrl-C, so that nothing is left behind.
fn remove_on_signal(stage: &Stage) -> Result<()> {
    let dir = stage.net.dir().to_owned();
    ctrlc::set_handler(move || {
        if let Err(error) = testnet::remove(&dir) {
            eprintln!("xtask: {error:#}");
        }
        std::process::exit(130);
    })
    .context("can't watch for Ctrl-C")
}
