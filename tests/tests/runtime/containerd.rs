//! A real container runtime on the node of a test network: containerd with a private
//! folder for all of its state, and the network plugin `ptp` from Debian's packages.
//!
//! It runs in the node's network namespace and in its own mount namespace, in which
//! folders of the test network replace `/var/lib/cni`.

#[path = "image.rs"]
mod image;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use prost::Message;
use ringfence::runtime::cri::Client;
use ringfence::runtime::cri::messages::Metadata;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use ringfence_tests::deployed::tool;
use ringfence_tests::testnet::{Net, Ns};

/// Where packages install network plugins: Debian's, and others.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// The longest that containerd may take to start.
const START: Duration = Duration::from_secs(30);
/// The image of every sandbox.
const IMAGE: &str = "localhost/first:1";
/// The first three parts of the pods' IPv4 addresses.
pub(crate) const SUBNET: [u8; 3] = [10, 244, 7];

/// A running containerd. Drop it before the network.
pub(crate) struct Containerd {
    folder: PathBuf,
    tokio: Runtime,
    sandboxes: Vec<String>,
}

/// A pod's sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Its id.
    pub(crate) id: String,
    /// Its network namespace.
    pub(crate) ns: Ns,
    /// How long the runtime took to start it.
    pub(crate) took: Duration,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<Config>,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
struct Config {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

/// `RunPodSandboxResponse`, and the requests that stop and remove one.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

impl Containerd {
    /// Starts containerd on the node. Every sandbox runs a process that executes
    /// `script` in a shell from the start.
    pub(crate) fn start(net: &mut Net, script: &str) -> Result<Self> {
        let folder = net.dir().join("containerd");
        fs::create_dir_all(folder.join("state/io.containerd.grpc.v1.cri/netns"))?;
        fs::create_dir_all(folder.join("lib/results"))?;
        // Mounts below this folder are visible outside the mount namespace.
        let shared = folder.join("state/io.containerd.grpc.v1.cri/netns");
        let none = None::<&str>;
        mount(Some(&shared), &shared, none, MsFlags::MS_BIND, none).context("mount")?;
        mount(none, &shared, none, MsFlags::MS_SHARED, none).context("mount")?;
        fs::write(folder.join("config.toml"), config(&folder))?;
        fs::create_dir_all(folder.join("net.d"))?;
        fs::write(
            folder.join("net.d/10-pods.conflist"),
            network(&folder).to_string(),
        )?;
        link_plugins(&folder.join("bin"))?;
        let log = File::create(folder.join("log"))?;
        let (lib, results) = (folder.join("lib"), net.cni_cache());
        let program = PathBuf::from(tool("containerd")?.get_program());
        // Later mounts are not visible outside, except in the folder above.
        let script_in = format!(
            "mkdir -p /var/lib/cni && mount --make-private \"$(findmnt -no TARGET -T /var/lib/cni)\" \
             && mount --bind {} /var/lib/cni && mount --bind {} /var/lib/cni/results \
             && exec {} --config {}",
            lib.display(),
            results.display(),
            program.display(),
            folder.join("config.toml").display()
        );
        let mut command = net.node().command("unshare");
        command
            .args(["--mount", "--propagation", "unchanged", "--", "sh", "-c"])
            .arg(script_in)
            .env("PATH", path_with(program.parent()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        net.spawn(&mut command)?;
        let containerd = Self {
            folder,
            tokio: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            sandboxes: Vec::new(),
        };
        containerd.wait()?;
        containerd.load_image(script)?;
        Ok(containerd)
    }

    /// Returns the folder of all of its state: networks in `net.d`, plugins in `bin`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of the CRI socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Returns the folder with the sandboxes' network namespaces.
    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.folder.join("state/io.containerd.grpc.v1.cri/netns")
    }

    /// Returns containerd's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Chains the network plugin for all pods started from now on, with this entry in
    /// the network's list; `plugin` is its binary.
    pub(crate) fn chain(&self, plugin: &Path, entry: Value) -> Result<()> {
        fs::copy(plugin, self.folder.join("bin").join("ringfence-cni"))?;
        let mut network = network(&self.folder);
        let plugins = network["plugins"].as_array_mut();
        plugins.context("a list")?.push(entry);
        let fresh = self.folder.join("net.d/.fresh");
        fs::write(&fresh, network.to_string())?;
        fs::rename(fresh, self.folder.join("net.d/10-pods.conflist"))?;
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let asked: Result<Nothing> = self.call("Version", Nothing {});
            match asked {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > START => {
                    bail!("containerd doesn't come up: {error:#}\n{}", self.log())
                }
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.tokio.block_on(async {
            let mut client = Client::connect(&self.socket()).await?;
            client.call(method, request).await
        })
    }

    /// Builds and loads the image: a shell, and the script that it runs.
    fn load_image(&self, script: &str) -> Result<()> {
        let layout = self.folder.join("image");
        image::write(&layout, script)?;
        let tar = self.folder.join("image.tar");
        image::run(
            Command::new("tar")
                .arg("-C")
                .arg(&layout)
                .arg("-cf")
                .arg(&tar)
                .arg("."),
        )?;
        let mut ctr = tool("ctr")?;
        ctr.arg("--address").arg(self.socket());
        ctr.args([
            "-n",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
        ]);
        image::run(ctr.args(["--base-name", "localhost/first"]).arg(tar))
    }

    /// Runs a pod's sandbox, as a kubelet does.
    pub(crate) fn run(&mut self, namespace: &str, name: &str, uid: &str) -> Result<Sandbox> {
        let config = Config {
            metadata: Some(Metadata {
                name: name.into(),
                uid: uid.into(),
                namespace: namespace.into(),
            }),
            hostname: name.into(),
            linux: Some(Linux {
                cgroup_parent: "/ringfence-test".into(),
            }),
        };
        let before = self.namespaces()?;
        let start = Instant::now();
        let made: Id = self.call(
            "RunPodSandbox",
            RunRequest {
                config: Some(config),
            },
        )?;
        let took = start.elapsed();
        self.sandboxes.push(made.id.clone());
        let mut new = self.namespaces()?;
        new.retain(|path| !before.contains(path));
        ensure!(new.len() == 1, "{name}: {} new namespaces", new.len());
        Ok(Sandbox {
            id: made.id,
            ns: Ns::open(new.remove(0)),
            took,
        })
    }

    /// Stops a sandbox and removes it.
    pub(crate) fn remove(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.sandboxes.retain(|id| *id != sandbox.id);
        self.end(&sandbox.id)
    }

    fn end(&self, id: &str) -> Result<()> {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let _: Nothing = self.call(method, Id { id: id.to_owned() })?;
        }
        Ok(())
    }

    fn namespaces(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.netns_dir())?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.sandboxes) {
            if let Err(error) = self.end(&id) {
                eprintln!("can't end a sandbox: {error:#}");
            }
        }
    }
}

/// Returns a search path in which containerd finds its shim, and the shim finds runc.
fn path_with(folder: Option<&Path>) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = folder
        .map(PathBuf::from)
        .into_iter()
        .chain(env::split_paths(&path));
    env::join_paths(all).unwrap_or(path)
}

/// Links the machine's network plugins into a folder to which others can be added.
fn link_plugins(folder: &Path) -> Result<()> {
    let plugins = PLUGINS
        .iter()
        .find(|folder| Path::new(folder).join("ptp").exists());
    let plugins = plugins.context("no network plugins: `cargo xtask setup`")?;
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(plugins)? {
        let path = entry?.path();
        symlink(&path, folder.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn config(folder: &Path) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = {socket:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\n\
         disable_apparmor = true\ndisable_cgroup = true\nnetns_mounts_under_state_dir = true\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {plugins:?}\nconf_dir = {conf:?}\n",
        root = at("root"),
        state = at("state"),
        socket = at("containerd.sock"),
        plugins = at("bin"),
        conf = at("net.d"),
    )
}

/// Writes the network's list. IPv4 only: with IPv6 the plugin waits for duplicate
/// address detection, which takes seconds per pod.
fn network(folder: &Path) -> Value {
    let [a, b, c] = SUBNET;
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                "ranges": [
                    [{"subnet": format!("{a}.{b}.{c}.0/24")}]
                ],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}
