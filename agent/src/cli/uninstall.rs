//! Flags of `ringfence uninstall`: its own, and the agent's, which it ignores.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Id, value_parser};

use super::AgentArgs;

/// `ringfence uninstall`.
#[derive(Args, Debug, Clone, Default)]
pub struct UninstallArgs {
    /// Where the node's networks are configured, as in /etc/cni/net.d: the network plugin
    /// is taken out. Its binary stays, for pods that were started with it
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The agent's --cni-state: it is removed
    #[arg(long, value_name = "DIR")]
    pub cni_state: Option<PathBuf>,
    /// When all is removed, go on until SIGTERM: a pod that ended would be started again,
    /// and say that there was nothing to remove
    #[arg(long)]
    pub stay: bool,
    /// All other flags of the agent
    #[command(flatten)]
    pub ignored: AgentsFlags,
}

/// The flags of `ringfence agent` that mean nothing here. A pod that uninstalls takes the
/// agent's place with whatever flags that has, and none of them may keep it from removing
/// what is in force.
#[derive(Debug, Clone, Copy, Default)]
pub struct AgentsFlags;

impl FromArgMatches for AgentsFlags {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), Error> {
        Ok(())
    }
}

impl Args for AgentsFlags {
    /// Takes over from the agent's definitions which flags there are and which have values,
    /// and neither what a value may be nor which flags need or exclude each other.
    fn augment_args(command: Command) -> Command {
        let agents = AgentArgs::augment_args(Command::new("agent"));
        let own: Vec<Id> = command.get_arguments().map(id).collect();
        let others = agents.get_arguments().filter(|arg| !own.contains(&id(arg)));
        let ignored = others.map(|arg| {
            let free = arg.clone().requires(Resettable::<Id>::Reset);
            let free = free.conflicts_with(Resettable::<Id>::Reset).hide(true);
            match arg.get_action().takes_values() {
                true => free.value_parser(value_parser!(OsString)),
                false => free,
            }
        });
        // Who adds flags to those of the base may give one twice: the last one counts.
        command.args_override_self(true).args(ignored)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn id(arg: &clap::Arg) -> Id {
    arg.get_id().clone()
}
