//! `ringfence uninstall`: removes every trace except the network plugin's binary.

use anyhow::Context as _;

use crate::api;
use crate::cli::{Global, UninstallArgs};
use crate::cni;
use crate::daemon::Stop;
use crate::datapath;
use crate::failure::{Failure, Found, Outcome};
use crate::forms::Forms;
use crate::output::print;

/// Removes what agents have created. Refuses while an agent runs, which would recreate it.
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
    // Installed before anything is removed: a signal doesn't end the first process of a container
    // unless the process listens for it.
    let mut stop = Stop::new().map_err(Failure::fault)?;
    let found = remove(global, args)?;
    print("done; delete this pod once every node reports so\n")?;
    runtime.block_on(stop.asked());
    Ok(found)
}

/// Removes the plugin from the chain first, so that pods stop starting closed. The state that marks
/// the node as enforcing goes next, for calls of configurations that the runtime remembers: they do
/// nothing from then on.
fn remove(global: &Global, args: &UninstallArgs) -> Outcome {
    api::refuse_second_agent(&global.socket).map_err(Failure::fault)?;
    if let Some(folder) = &args.cni_conf_dir {
        let edited = cni::remove_from(folder).map_err(Failure::fault)?;
        for file in edited {
            print(&format!("removed ringfence-cni from {}\n", file.display()))?;
        }
    }
    if let Some(state) = &args.cni_state {
        ringfence_cni::remove_state(state).map_err(Failure::fault)?;
    }
    let removed = datapath::uninstall(&global.pin_dir).map_err(Failure::fault)?;
    if let Some(state) = &args.cni_state {
        // A call that was in progress may have written its record meanwhile.
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
