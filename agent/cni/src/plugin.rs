//! The CNI commands.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use ringfence_hooks::{Attach, Pinned, tcx};
use ringfence_netlink::{Link, Netlink};
use serde_json::json;

use crate::protocol::{Code, Config, Environment, Made, PLUGIN, Refusal, VERSIONS};
use crate::{DROP_IN, Node, OnTimeout, Record, Unknown, Via, agent, device};

/// The interface that has a pod's addresses, in every runtime. Policies don't apply to
/// further interfaces.
const FIRST: &str = "eth0";

/// Runs the command that the runtime requests; returns the text for standard output.
///
/// # Errors
/// The error to report to the runtime.
pub fn run(environment: &Environment, stdin: &[u8]) -> Result<String, Refusal> {
    match environment.need("CNI_COMMAND")? {
        "VERSION" => Ok(versions()),
        "ADD" => add(environment, &Config::parse(stdin)?),
        "DEL" => del(environment, &Config::parse(stdin)?),
        "CHECK" => check(environment, &Config::parse(stdin)?),
        "GC" => collect(&Config::parse(stdin)?),
        "STATUS" => status(&Config::parse(stdin)?),
        other => Err(Refusal {
            code: Code::Environment,
            message: format!("CNI_COMMAND {other:?} is unknown"),
            details: "known are ADD, DEL, CHECK, GC, STATUS and VERSION".to_owned(),
        }),
    }
}

fn versions() -> String {
    let newest = VERSIONS[VERSIONS.len() - 1];
    json!({ "cniVersion": newest, "supportedVersions": VERSIONS }).to_string()
}

/// Closes the pod's device, records its owner, and waits until the pod's policy is in force.
fn add(environment: &Environment, config: &Config) -> Result<String, Refusal> {
    let (handed_on, made) = config.made()?;
    if config.via == Via::DropIn {
        // A failure only affects what the installer knows.
        let _ = File::create(config.state_dir.join(DROP_IN));
    }
    if let Some(pod) = Pod::of(environment, made)? {
        guard(&pod, config)?;
    }
    Ok(handed_on.to_owned())
}

/// A pod's first interface, created by the plugins before this one.
struct Pod<'a> {
    container: &'a str,
    netns: &'a Path,
    namespace: &'a str,
    name: &'a str,
    uid: Option<&'a str>,
    made: Made,
}

impl<'a> Pod<'a> {
    /// Returns `None` if the interface isn't a pod's first, or its namespace is the node's own.
    fn of(environment: &'a Environment, made: Made) -> Result<Option<Self>, Refusal> {
        let container = environment.need("CNI_CONTAINERID")?;
        let netns = Path::new(environment.need("CNI_NETNS")?);
        let is_first = environment.need("CNI_IFNAME")? == FIRST;
        let argument = |name| environment.argument(name);
        let (Some(namespace), Some(name)) =
            (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"))
        else {
            return Ok(None);
        };
        Ok((is_first && !device::is_node(netns)).then_some(Self {
            container,
            netns,
            namespace,
            name,
            uid: argument("K8S_POD_UID"),
            made,
        }))
    }

    fn device(&self) -> Result<Option<Link>, Refusal> {
        let found = device::find(self.netns, self.made.on_node());
        found.map_err(|error| Refusal::io("looking for the pod's device", error))
    }

    fn record(&self, device: &Link, open: bool) -> Record {
        Record {
            container: self.container.to_owned(),
            interface: FIRST.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            uid: self.uid.map(str::to_owned),
            netns: self.netns.to_owned(),
            device: device.name.clone(),
            mac: self.made.mac(FIRST).map(str::to_owned),
            addresses: self.made.addresses(),
            open,
        }
    }
}

fn node(config: &Config) -> Result<Option<Node>, Refusal> {
    Node::read(&config.state_dir).map_err(|error| {
        let file = config.state_dir.join("node.json");
        Refusal::io(&format!("reading {}", file.display()), error)
    })
}

const fn way(node: &Node) -> Attach {
    if node.clsact {
        Attach::Clsact
    } else {
        Attach::Best
    }
}

fn guard(pod: &Pod<'_>, config: &Config) -> Result<(), Refusal> {
    // No agent has ever run here, or it was uninstalled.
    let Some(node) = node(config)? else {
        return Ok(());
    };
    let Some(device) = pod.device()? else {
        // The pod's device can't be filtered: `ringfence endpoints` reports it.
        return Ok(());
    };
    let treated = node.treats(pod.namespace);
    let failed = |error| Refusal::io("recording the pod's device", error);
    let record = |open| pod.record(&device, open).write(&config.state_dir);
    if treated == Unknown::Pass {
        return record(true).map_err(failed);
    }
    match attach(&node, &device) {
        Err(refusal) if treated == Unknown::Close => return Err(refusal),
        // Nothing is denied here. Packets go uncounted until the agent attaches its own hooks,
        // so report the failure.
        Err(refusal) => eprintln!("{PLUGIN}: {}: {}", refusal.message, refusal.details),
        Ok(()) => {}
    }
    record(false).map_err(failed)?;
    let name = format!("{}/{}", pod.namespace, pod.name);
    let limit = Duration::from_secs(config.timeout_seconds);
    let in_force = agent::wait(&config.socket, &name, device.index, limit);
    let opens = config.on_timeout == Some(OnTimeout::Allow) && treated == Unknown::Close;
    if !in_force && opens {
        // The agent notices the record, and drops its own state for the device.
        record(true).map_err(failed)?;
        return Pinned::detach(&node.pins, device.index)
            .map_err(|error| Refusal::io(&format!("opening {}", device.name), error));
    }
    Ok(())
}

/// Attaches the pinned programs, which keep the device closed until it has a slot.
fn attach(node: &Node, device: &Link) -> Result<(), Refusal> {
    let failed = |error| {
        let operation = format!("closing {} until its policy is in force", device.name);
        Refusal::io(&operation, error)
    };
    match Pinned::open(&node.pins).map_err(failed)? {
        Some(mut programs) => programs
            .attach(device.index, &device.name, way(node))
            .map_err(failed),
        // After a reboot nothing is pinned.
        None => Err(Refusal {
            code: Code::TryAgain,
            message: "this node enforces policy, and its agent hasn't loaded yet".to_owned(),
            details: "try again when pod ringfence of this node is ready".to_owned(),
        }),
    }
}

/// Removes the record, if it exists. The hooks stay until the device is removed.
fn del(environment: &Environment, config: &Config) -> Result<String, Refusal> {
    let container = environment.need("CNI_CONTAINERID")?;
    let interface = environment.need("CNI_IFNAME")?;
    Record::remove(&config.state_dir, container, interface)
        .map_err(|error| Refusal::io("removing the record of the pod's device", error))?;
    Ok(String::new())
}

fn check(environment: &Environment, config: &Config) -> Result<String, Refusal> {
    let (_, made) = config.made()?;
    let Some(pod) = Pod::of(environment, made)? else {
        return Ok(String::new());
    };
    let Some(node) = node(config)?.filter(|node| node.treats(pod.namespace) != Unknown::Pass)
    else {
        return Ok(String::new());
    };
    let Some(device) = pod.device()? else {
        return Ok(String::new());
    };
    let missing = ringfence_hooks::missing(&node.pins, device.index, way(&node));
    let missing = missing.map_err(|error| Refusal::io("looking at the pod's hooks", error))?;
    if missing.is_empty() {
        return Ok(String::new());
    }
    let names: Vec<&str> = missing.iter().map(|hook| hook.program()).collect();
    Err(Refusal {
        code: Code::Unguarded,
        message: format!("{} isn't attached to {}", names.join(", "), device.name),
        details: "`ringfence endpoints` on the node says why".to_owned(),
    })
}

/// Removes records and pins that are no longer valid. Continues after errors, and returns
/// one of them.
fn collect(config: &Config) -> Result<String, Refusal> {
    let Some(valid) = &config.valid else {
        return Err(Refusal {
            code: Code::Config,
            message: "cni.dev/valid-attachments is missing".to_owned(),
            details: "without it everything would be removed".to_owned(),
        });
    };
    let records = Record::keep(&config.state_dir, valid)
        .map_err(|error| Refusal::io("removing records", error));
    let pins = match node(config)? {
        Some(node) => remove_pins(&node),
        None => Ok(()),
    };
    records.and(pins).map(|()| String::new())
}

/// Removes pins of devices that are gone.
fn remove_pins(node: &Node) -> Result<(), Refusal> {
    let links = tcx::links(&node.pins);
    if !links.exists() {
        return Ok(());
    }
    let failed = |error| Refusal::io("removing the hooks of devices that have gone", error);
    let pins = tcx::pins(&links).map_err(failed)?;
    let there = Netlink::open().and_then(|mut netlink| netlink.links());
    let there = there.map_err(|error| Refusal::io("listing devices", error))?;
    let is_there = |ifindex: u32| there.iter().any(|link| link.index == ifindex);
    let gone = pins.into_iter().filter(|(n, _, _)| !is_there(*n));
    let mut done = Ok(());
    for (_, _, pin) in gone {
        done = tcx::remove_pin(&pin).map_err(failed).and(done);
    }
    done
}

/// Reports the network as unavailable while no agent answers, if configured to.
fn status(config: &Config) -> Result<String, Refusal> {
    if !config.status_gates_node || agent::is_there(&config.socket) {
        return Ok(String::new());
    }
    Err(Refusal {
        code: Code::NotAvailable,
        message: format!("{PLUGIN}: no agent answers on {}", config.socket.display()),
        details: "pods would start closed: look at pod ringfence of this node".to_owned(),
    })
}
