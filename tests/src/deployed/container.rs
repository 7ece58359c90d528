//! A container as a kubelet and its runtime would make it of a DaemonSet: what
//! the manifest says is what the process gets, and no more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Image, only, output, strings, tool};
use crate::testnet::Net;

/// Where a kubelet mounts a service account's token.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What is the node's, for the places that a manifest names.
#[derive(Debug, Default)]
pub struct Host {
    /// Host paths of the manifest, and where they are here.
    pub paths: BTreeMap<String, PathBuf>,
    /// Values of `spec.nodeName` and the like.
    pub fields: BTreeMap<String, String>,
    /// The folder with the service account's token.
    pub account: PathBuf,
    /// What every container has in its environment.
    pub env: Vec<(String, String)>,
}

/// A container on the node of a test network. It writes the agent's log. Drop it
/// before the network.
#[derive(Debug)]
pub struct Container {
    bundle: PathBuf,
    name: String,
    /// The process of the runtime, which waits for the container's.
    pub pid: u32,
}

impl Container {
    /// Starts the one container of the DaemonSet among these documents.
    pub fn start(net: &mut Net, image: &Image, documents: &[Value], host: &Host) -> Result<Self> {
        let bundle = net.dir().join("container");
        fs::create_dir_all(&bundle)?;
        let name = format!("ringfence-test-{}", std::process::id());
        let pod = &only(documents, "DaemonSet")?["spec"]["template"]["spec"];
        let config = config(pod, image, host, net.node().path(), &name)?;
        fs::write(bundle.join("config.json"), config.to_string())?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(net.dir().join("agent.log"))?;
        let mut runtime = runtime(&bundle)?;
        runtime.arg("run").arg("--bundle").arg(&bundle).arg(&name);
        runtime.stdin(Stdio::null());
        let pid = net.spawn(runtime.stdout(log.try_clone()?).stderr(log))?;
        Ok(Self { bundle, name, pid })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let delete = |mut runtime: Command| {
            output(runtime.args(["delete", "--force", &self.name])).map(drop)
        };
        if let Err(error) = runtime(&self.bundle).and_then(delete) {
            eprintln!("can't end {}: {error:#}", self.name);
        }
    }
}

fn runtime(bundle: &Path) -> Result<Command> {
    let mut command = tool("runc")?;
    command.arg("--root").arg(bundle.join("state"));
    Ok(command)
}

/// The runtime's configuration (OCI runtime specification, config.md).
fn config(pod: &Value, image: &Image, host: &Host, netns: &Path, name: &str) -> Result<Value> {
    let container = &pod["containers"][0];
    let env = environment(container, host)?;
    let entrypoint = strings(&image.config["Entrypoint"]);
    let given = strings(&container["args"]);
    let args = entrypoint
        .into_iter()
        .chain(given.iter().map(|arg| expanded(arg, &env)));
    let added = strings(&container["securityContext"]["capabilities"]["add"]);
    let capabilities: Vec<String> = added.iter().map(|one| format!("CAP_{one}")).collect();
    let env = env.iter().map(|(name, value)| format!("{name}={value}"));
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args.collect::<Vec<_>>(),
            "env": env.collect::<Vec<_>>(),
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": {
            "path": image.root,
            "readonly": container["securityContext"]["readOnlyRootFilesystem"] == true,
        },
        "mounts": mounts(pod, host)?,
        "linux": {
            "cgroupsPath": format!("/{name}"),
            "resources": {"memory": {"limit": memory(&container["resources"]["limits"])?}},
            // hostNetwork: the node's, which is a namespace here.
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": netns},
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))
}

fn environment(container: &Value, host: &Host) -> Result<Vec<(String, String)>> {
    let mut env = host.env.clone();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"]
            .as_str()
            .context("a variable without a name")?;
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match (variable["value"].as_str(), field) {
            (Some(value), _) => value,
            (None, Some(field)) => host
                .fields
                .get(field)
                .with_context(|| format!("no {field}"))?,
            _ => bail!("{name} has no value"),
        };
        env.push((name.to_owned(), value.to_owned()));
    }
    Ok(env)
}

/// `$(NAME)` is the kubelet's to replace.
fn expanded(arg: &str, env: &[(String, String)]) -> String {
    let replace =
        |text: String, (name, value): &(String, String)| text.replace(&format!("$({name})"), value);
    env.iter().fold(arg.to_owned(), replace)
}

fn mounts(pod: &Value, host: &Host) -> Result<Vec<Value>> {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": ACCOUNT, "type": "bind", "source": host.account, "options": ["bind", "ro"]}),
    ];
    let volumes = pod["volumes"].as_array().context("no volumes")?;
    for mount in pod["containers"][0]["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"]);
        let path = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
        let path = path.with_context(|| format!("no host path for {mount}"))?;
        let source = host.paths.get(path).with_context(|| format!("no {path}"))?;
        let access = if mount["readOnly"] == true {
            "ro"
        } else {
            "rw"
        };
        let propagation = match mount["mountPropagation"].as_str() {
            None => "rprivate",
            Some("HostToContainer") => "rslave",
            Some(other) => bail!("mountPropagation {other}"),
        };
        mounts.push(json!({
            "destination": mount["mountPath"], "type": "bind", "source": source,
            "options": ["rbind", access, propagation],
        }));
    }
    Ok(mounts)
}

/// Bytes of a quantity in Mi or Gi.
fn memory(limits: &Value) -> Result<u64> {
    let text = limits["memory"].as_str().context("no limit of memory")?;
    let (number, shift) = match (text.strip_suffix("Mi"), text.strip_suffix("Gi")) {
        (Some(number), _) => (number, 20),
        (_, Some(number)) => (number, 30),
        _ => bail!("{text} is in neither Mi nor Gi"),
    };
    Ok(number.parse::<u64>()? << shift)
}
