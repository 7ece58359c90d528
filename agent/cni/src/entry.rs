//! The plugin's entry in a network's configuration, as written by its installer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::PLUGIN;

/// How a pod is treated if its policy isn't in force in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnTimeout {
    /// The pod starts, and its device stays closed until its policy is in force.
    Deny,
    /// The pod starts, and its device is open until its policy is in force.
    Allow,
}

/// Where the runtime finds the plugin's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Via {
    /// The network's list itself.
    #[default]
    List,
    /// The drop-in folder beside the list.
    DropIn,
}

/// The plugin's settings in each entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The folder through which the plugin and the agent exchange files.
    pub state_dir: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// How long ADD waits for the pod's policy, in seconds.
    pub timeout_seconds: u64,
    /// How the pod is treated after that; `None` for the default of the node's mode.
    pub on_timeout: Option<OnTimeout>,
    /// Whether STATUS reports the network as unavailable while no agent answers.
    pub status_gates_node: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    r#type: &'static str,
    state_dir: &'a PathBuf,
    socket: &'a PathBuf,
    timeout_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_timeout: Option<OnTimeout>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    status_gates_node: bool,
    via: Via,
}

impl Entry {
    /// Returns the entry as a JSON object on one line.
    ///
    /// # Errors
    /// If a path isn't UTF-8.
    pub fn to_json(&self, via: Via) -> serde_json::Result<String> {
        serde_json::to_string(&Written {
            r#type: PLUGIN,
            state_dir: &self.state_dir,
            socket: &self.socket,
            timeout_seconds: self.timeout_seconds,
            on_timeout: self.on_timeout,
            status_gates_node: self.status_gates_node,
            via,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Config;

    #[test]
    fn the_plugin_reads_what_its_installer_writes() {
        let entry = Entry {
            state_dir: "/s".into(),
            socket: "/a.sock".into(),
            timeout_seconds: 9,
            on_timeout: Some(OnTimeout::Allow),
            status_gates_node: true,
        };
        for via in [Via::List, Via::DropIn] {
            // The runtime adds the CNI version.
            let text = entry.to_json(via).unwrap();
            let text = text.replacen('{', r#"{"cniVersion":"1.0.0","#, 1);
            let read = Config::parse(text.as_bytes()).unwrap();
            assert_eq!(
                (read.state_dir, read.socket),
                ("/s".into(), "/a.sock".into())
            );
            assert_eq!((read.timeout_seconds, read.via), (9, via));
            assert_eq!(read.on_timeout, Some(OnTimeout::Allow));
            assert!(read.status_gates_node);
        }
    }
}
