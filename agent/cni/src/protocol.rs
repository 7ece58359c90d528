//! Inputs and outputs of the plugin: CNI specification, section 2 and following.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{OnTimeout, Via};

/// The name of the binary, and its `type` in a list of plugins.
pub const PLUGIN: &str = "ringfence-cni";
/// The CNI versions that the plugin supports.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The `CNI_*` variables.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Returns the variables of this process. A value that isn't UTF-8 counts as absent.
    pub fn of_process() -> Self {
        let all = env::vars_os().filter_map(|(key, value)| {
            let key = key.into_string().ok()?;
            Some((key, value.into_string().ok()?))
        });
        Self(all.filter(|(key, _)| key.starts_with("CNI_")).collect())
    }

    /// Builds an environment from the given variables.
    pub fn of(all: &[(&str, &str)]) -> Self {
        let all = all.iter();
        Self(all.map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn need(&self, name: &'static str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal {
            code: Code::Environment,
            message: format!("{name} isn't set"),
            details: "the runtime calls plugins with it".to_owned(),
        })
    }

    /// Returns one of `CNI_ARGS`, as in `K8S_POD_NAME=a;K8S_POD_NAMESPACE=b`.
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        let pairs = self.get("CNI_ARGS")?.split(';');
        let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        Some(value).filter(|value| !value.is_empty())
    }
}

/// The plugin's part of a network's configuration, with the fields added by the runtime.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) cni_version: String,
    /// The result of the plugins before this one.
    #[serde(default)]
    pub(crate) prev_result: Option<Box<RawValue>>,
    #[serde(default = "state_dir")]
    pub(crate) state_dir: PathBuf,
    #[serde(default = "socket")]
    pub(crate) socket: PathBuf,
    /// How long ADD waits for the pod's policy, in seconds.
    #[serde(default = "timeout")]
    pub(crate) timeout_seconds: u64,
    #[serde(default)]
    pub(crate) on_timeout: Option<OnTimeout>,
    /// Whether STATUS reports the network as unavailable while no agent answers.
    #[serde(default)]
    pub(crate) status_gates_node: bool,
    #[serde(default)]
    pub(crate) via: Via,
    /// For GC: everything else is removed.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub(crate) valid: Option<Vec<Attachment>>,
}

/// One interface of one sandbox.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub(crate) struct Attachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    pub(crate) ifname: String,
}

fn state_dir() -> PathBuf {
    "/var/lib/ringfence/cni".into()
}

fn socket() -> PathBuf {
    "/run/ringfence/agent.sock".into()
}

const fn timeout() -> u64 {
    5
}

impl Config {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let config: Self = serde_json::from_slice(text).map_err(|error| Refusal {
            code: Code::Decode,
            message: "the configuration doesn't parse".to_owned(),
            details: error.to_string(),
        })?;
        if VERSIONS.contains(&config.cni_version.as_str()) {
            Ok(config)
        } else {
            Err(Refusal {
                code: Code::Version,
                message: format!("cniVersion {:?} isn't supported", config.cni_version),
                details: format!("supported are {}", VERSIONS.join(", ")),
            })
        }
    }

    /// Returns the result of the plugins before this one, as text and parsed.
    pub(crate) fn made(&self) -> Result<(&str, Made), Refusal> {
        let text = self.prev_result.as_deref().ok_or_else(|| Refusal {
            code: Code::Config,
            message: "prevResult is missing".to_owned(),
            details: format!("{PLUGIN} makes no network of its own: put it last in the list"),
        })?;
        let made = serde_json::from_str(text.get()).map_err(|error| Refusal {
            code: Code::Decode,
            message: "prevResult doesn't parse".to_owned(),
            details: error.to_string(),
        })?;
        Ok((text.get(), made))
    }
}

/// A plugin's result, as of CNI version 0.3.0.
#[derive(Debug, Default, Deserialize)]
pub struct Made {
    #[serde(default)]
    interfaces: Option<Vec<Device>>,
    #[serde(default)]
    ips: Option<Vec<Given>>,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Given {
    address: IpNet,
}

impl Made {
    /// Returns the names of the devices created on the node's side.
    pub fn on_node(&self) -> impl Iterator<Item = &str> {
        let all = self.interfaces.iter().flatten();
        all.filter(|one| one.sandbox.is_empty())
            .map(|one| one.name.as_str())
    }

    fn in_pod(&self, interface: &str) -> Option<&Device> {
        let mut all = self.interfaces.iter().flatten();
        all.find(|one| !one.sandbox.is_empty() && one.name == interface)
    }

    /// Returns the MAC of an interface of the pod, as text.
    pub fn mac(&self, interface: &str) -> Option<&str> {
        let mac = self.in_pod(interface)?.mac.as_str();
        Some(mac).filter(|mac| !mac.is_empty())
    }

    /// Returns the file that names the namespace of an interface of the pod.
    pub fn namespace(&self, interface: &str) -> Option<&str> {
        Some(self.in_pod(interface)?.sandbox.as_str())
    }

    /// Returns the pod's addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let all = self.ips.iter().flatten();
        all.map(|given| given.address.addr()).collect()
    }
}

/// The specification's error codes that the plugin uses, and one of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    Version = 1,
    Environment = 4,
    Io = 5,
    Decode = 6,
    Config = 7,
    TryAgain = 11,
    NotAvailable = 50,
    /// CHECK: the programs aren't attached where they should be.
    Unguarded = 100,
}

/// An error in CNI's format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    cni_version: &'static str,
    code: u32,
    msg: &'a str,
    details: &'a str,
}

impl Refusal {
    /// Wraps a failed system operation.
    pub fn io(operation: &str, error: impl Display) -> Self {
        Self {
            code: Code::Io,
            message: operation.to_owned(),
            details: error.to_string(),
        }
    }

    /// Returns the error code for the runtime.
    pub const fn code(&self) -> u32 {
        self.code as u32
    }

    /// Returns the error as JSON, for standard output.
    pub fn to_json(&self) -> String {
        let said = Said {
            cni_version: VERSIONS[VERSIONS.len() - 1],
            code: self.code(),
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&said).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_is_read_from_the_arguments() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_UID=";
        let environment = Environment::of(&[("CNI_ARGS", args)]);
        assert_eq!(environment.argument("K8S_POD_NAMESPACE"), Some("shop"));
        assert_eq!(environment.argument("K8S_POD_NAME"), Some("a"));
        assert_eq!(environment.argument("K8S_POD_UID"), None);
        assert_eq!(environment.argument("POD"), None);
        let missing = environment.need("CNI_NETNS").unwrap_err();
        assert_eq!(missing.code(), 4);
        assert!(missing.to_json().contains("CNI_NETNS isn't set"));
    }

    #[test]
    fn a_configuration_of_another_version_is_refused_with_those_that_are_spoken() {
        for version in VERSIONS {
            let text = format!(r#"{{"cniVersion":"{version}","name":"pods","type":"{PLUGIN}"}}"#);
            let config = Config::parse(text.as_bytes()).unwrap();
            assert_eq!((config.timeout_seconds, config.on_timeout), (5, None));
            assert_eq!(config.made().unwrap_err().code(), 7, "{version}");
        }
        let refused = Config::parse(br#"{"cniVersion":"0.2.0"}"#).unwrap_err();
        assert_eq!(refused.code(), 1);
        assert!(refused.details.contains("1.1.0"), "{refused:?}");
        assert_eq!(Config::parse(b"{").unwrap_err().code(), 6);
        let wrong = br#"{"cniVersion":"1.0.0","onTimeout":"maybe"}"#;
        assert!(Config::parse(wrong).unwrap_err().details.contains("maybe"));
    }

    #[test]
    fn what_was_made_before_is_handed_on_to_the_letter() {
        let result = r#"{ "ips":[{"address":"10.0.0.2/24"}],  "x": 1.0 ,"interfaces":[
            {"name":"cni0"},{"name":"veth1"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/n"}]}"#;
        let text = format!(r#"{{"cniVersion":"1.0.0","prevResult":{result}}}"#);
        let config = Config::parse(text.as_bytes()).unwrap();
        let (text, made) = config.made().unwrap();
        assert_eq!(text, result);
        assert_eq!(made.on_node().collect::<Vec<_>>(), ["cni0", "veth1"]);
        assert_eq!(made.mac("eth0"), Some("02:00:00:00:00:01"));
        assert_eq!(made.mac("veth1"), None);
        assert_eq!(made.addresses(), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }
}
