//! Flags of `ringfence uninstall`: its own, and those of the agent, which it ignores.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Id, value_parser};

use super::AgentArgs;

/// Arguments of `ringfence uninstall`.
#[derive(Args, Debug, Clone, Default)]
pub struct UninstallArgs {
    /// The directory of the node's network configuration, for example /etc/cni/net.d, from which
    /// the network plugin is removed. Its binary stays, for pods that were started with it
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The agent's --cni-state directory, to be removed
    #[arg(long, value_name = "DIR")]
    pub cni_state: Option<PathBuf>,
    /// Keep running until SIGTERM when everything is removed: a pod that exits would be restarted,
    /// and would report that there was nothing to remove
    #[arg(long)]
    pub stay: bool,
    /// All other flags of the agent.
    #[command(flatten)]
    pub ignored: AgentsFlags,
}

/// The flags of `ringfence agent` that have no meaning here. A pod that uninstalls replaces the
/// agent with whatever flags the agent has, and none of them may keep it from removing what is in
/// force.
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
    /// Copies the names of the agent's flags and whether they take values, but neither the
    /// permitted values nor which flags require or exclude each other.
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
        // A manifest that appends flags to those of a base may give one twice: the last one counts.
        command.args_override_self(true).args(ignored)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn id(arg: &clap::Arg) -> Id {
    arg.get_id().clone()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::{Cli, Command as Asked};

    fn parse(line: &str) -> Result<Cli, Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    /// Every flag of the agent as a pod's arguments would have it, with a meaningless value if it
    /// takes one.
    fn flags_of_the_agent() -> Vec<String> {
        let mut command = Cli::command();
        command.build();
        let agent = command.find_subcommand("agent").unwrap();
        let long = agent.get_arguments().filter_map(|arg| {
            let takes = arg.get_action().takes_values();
            let long = arg
                .get_long()
                .filter(|long| !["help", "version"].contains(long))?;
            Some(match takes {
                true => format!("--{long}=what"),
                false => format!("--{long}"),
            })
        });
        long.collect()
    }

    #[test]
    fn uninstall_takes_every_flag_of_the_agent_alone_and_all_at_once_and_twice() {
        let flags = flags_of_the_agent();
        let named = |name: &str| flags.iter().any(|flag| flag.starts_with(name));
        assert!(named("--emit-events") && named("--cni-bin-dir=") && named("--api-key="));
        assert!(named("--socket=") && flags.len() > 35, "{flags:?}");
        for flag in &flags {
            let line = format!("ringfence uninstall {flag}");
            assert!(parse(&line).is_ok(), "{line}");
        }
        let all = flags.join(" ");
        let line = format!("ringfence uninstall --stay --cni-state=/s {all} {all} --pin-dir=/p");
        let cli = parse(&line).unwrap();
        assert_eq!(cli.global.pin_dir, PathBuf::from("/p"), "the last one");
        let Asked::Uninstall(args) = cli.command else {
            panic!("{line}")
        };
        assert!(args.stay);
        assert_eq!(args.cni_state, Some("what".into()), "the last one");
        // Only the agent's own flags are accepted.
        for wrong in [
            "--emit-event",
            "--cni-stat=/s",
            "agent",
            "--emit-events=what",
        ] {
            let line = format!("ringfence uninstall {wrong}");
            assert_eq!(parse(&line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn what_uninstall_ignores_is_not_in_its_help() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("uninstall").unwrap();
        let help = help.render_long_help().to_string();
        assert!(help.contains("--cni-state") && help.contains("--stay"));
        for flag in ["--emit-events", "--mode", "--cni-bin-dir"] {
            assert!(!help.contains(flag), "{help}");
        }
    }
}
