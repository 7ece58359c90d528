//! Keeps a demo running for inspection, and removes kept demos.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::stage::{self, Stage, binary};
use crate::{shell, testnet};

/// Hands the servers over to a separate process and leaves everything in place.
pub(super) fn keep(mut stage: Stage) -> Result<()> {
    stage.servers.clear();
    let log = File::options()
        .create(true)
        .append(true)
        .open(stage.log())?;
    let own = std::env::current_exe().context("can't find xtask's own binary")?;
    let mut serve = Command::new(own);
    serve
        .arg("demo-serve")
        .arg(stage.net.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    stage.net.spawn(&mut serve)?;
    stage.net.keep()?;
    how_to_look(&stage, &binary()?);
    Ok(())
}

/// Runs the servers' process until it is killed.
pub(crate) fn serve(dir: &Path) -> Result<()> {
    let cluster = Cluster::read(&dir.join("manifests"))?;
    let _servers = stage::serve(dir, &cluster)?;
    loop {
        thread::park();
    }
}

/// Removes demos that were kept.
pub(super) fn remove_kept() -> Result<()> {
    let kept = testnet::kept();
    for dir in &kept {
        testnet::remove(dir)?;
        println!("removed {}", dir.display());
    }
    if kept.is_empty() {
        println!("no demo was kept");
    }
    Ok(())
}

fn how_to_look(stage: &Stage, ringfence: &Path) {
    let ringfence = ringfence.display().to_string();
    let flags = stage.where_it_is().join(" ");
    let dir = stage.net.dir().display();
    let ledger = stage
        .cluster
        .pod("service-ledger-1")
        .and_then(|pod| pod.address(true));
    let ledger = ledger
        .map(|address| address.to_string())
        .unwrap_or_default();
    let manifests = stage.manifests.display();
    let lines = [
        ("what is guarded", format!("{ringfence} endpoints {flags}")),
        (
            "what is dropped, live",
            format!("{ringfence} drops --follow {flags}"),
        ),
        (
            "a call that is denied",
            format!(
                "nsenter --net={dir}/netns/rogue-1 timeout 1 bash -c '</dev/tcp/{ledger}/8080'"
            ),
        ),
        ("policy; edit and save", manifests.to_string()),
        ("the agent's log", stage.log().display().to_string()),
        ("remove it all", "cargo xtask demo --remove".to_owned()),
    ];
    let rows: Vec<Vec<String>> = lines
        .into_iter()
        .map(|(what, how)| vec![format!("  {what}"), how])
        .collect();
    print!(
        "\nThe demo stays. To look at it, as root:\n\n{}",
        shell::columns(&rows)
    );
}
