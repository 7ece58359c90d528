//! `ringfence uninstall`: every trace but the network plugin's binary.

use anyhow::Context as _;

use crate::api;
use crate::cli::{Global, UninstallArgs};
use crate::cni;
use crate::daemon::Stop;
use crate::datapath;
use crate::failure::{Failure, Found, Outcome};
use crate::forms::Forms;
use crate::output::print;

/// Removes what agents have made, and refuses while one would put everything back.
pub fn run(global: &Global, args: &UninstallArgs) -> Outcome {
    if !args.stay {
        return remove(global, args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .map_err(Failure::fault)?;
    let _entered = runtime.enter();
    // Before anything is removed: the first process of a container ends by no signal that
    // it doesn't listen for.
    let mut stop = Stop::new().map_err(Failure::fault)?;
    let found = remove(global, args)?;
    print("done; delete this pod when every node says so\n")?;
    runtime.block_on(stop.asked());
    Ok(found)
}

/// The plugin goes out of the chain first: then no pod starts closed any more. What tells
/// it that the node enforces goes next, for calls of configurations that the runtime
/// remembers: they do nothing from then on.
fn remove(global: &Global, args: &UninstallArgs) -> Outcome {
    api::refuse_second_agent(&global.socket).map_err(Failure::fault)?;
    if let Some(folder) = &args.cni_conf_dir {
        let edited = cni::remove_from(folder).map_err(Failure::fault)?;
        for file in edited {
            print(&format!("took ringfence-cni out of {}\n", file.display()))?;
        }
    }
    if let Some(state) = &args.cni_state {
        ringfence_cni::remove_state(state).map_err(Failure::fault)?;
    }
    let removed = datapath::uninstall(&global.pin_dir).map_err(Failure::fault)?;
    if let Some(state) = &args.cni_state {
        // A call that was under way has written its record meanwhile.
        ringfence_cni::remove_state(state).map_err(Failure::fault)?;
    }
    let kept = Forms::beside(&global.socket);
    kept.remove().map_err(Failure::fault)?;
    api::remove_left_socket(&global.socket).map_err(Failure::fault)?;
    print(&format!(
        "removed {} programs and {} maps below {}\n",
        removed.links + removed.filters,
        removed.maps,
        global.pin_dir.display()
    ))?;
    Ok(Found::Fine)
}
