//! Test networks in Linux network namespaces of our own making.
//!
//! A [`Net`] is a node, its pods and the outside, each a namespace. The
//! node is a namespace too: nothing on the machine's own interfaces is touched.
//!
//! ```text
//!  outside ── eth0 ═══ eth0 ── node ── podN ═══ eth0 ── pod
//!                               │ nftables: Services
//!                               └ routed (veth per pod, host routes) or a bridge
//! ```
//!
//! All of it lies in one folder, `/run/ringfence-test-PID-N`: `netns/POD` are
//! the files that `ringfence agent --netns-dir` looks at, `node` and `outside`
//! are kept apart from them, `bpf` is a BPF filesystem of its own. Everything
//! goes when the `Net` is dropped, also in a panic; what a killed run leaves
//! behind goes when the next one starts. Needs root.

mod clean;
mod frames;
mod layout;
mod nat;
mod ns;
mod pod;
mod probe;
mod raw;
mod records;
mod server;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

pub use clean::{clean_stale, kept, remove};
pub use frames::Frames;
pub(crate) use frames::{link_address, packet_socket};
pub use nat::Dnat;
pub use ns::Ns;
pub use pod::{Mode, Pod};
pub use probe::{Probe, call_tcp, probe_tcp, probe_tcp_from, probe_udp, send_udp};
pub use raw::{arrives, ping, sctp_init};
pub use server::Server;

/// What a network shall hold.
#[derive(Clone, Debug)]
pub struct Builder {
    mode: Mode,
    node: Vec<IpAddr>,
    outside: Vec<IpAddr>,
    pods: Vec<(String, Vec<IpAddr>)>,
}

impl Builder {
    /// How pods hang on the node; routed by default.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The node's addresses on its uplink, at most one a family.
    pub fn node(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.node = addresses.into_iter().collect();
        self
    }

    /// Addresses of the outside; the first of a family is its default.
    pub fn outside(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.outside = addresses.into_iter().collect();
        self
    }

    /// One more pod, with at most one address a family.
    pub fn pod(
        mut self,
        name: impl Into<String>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        self.pods
            .push((name.into(), addresses.into_iter().collect()));
        self
    }

    /// Makes it.
    pub fn build(self) -> Result<Net> {
        clean_stale();
        let dir = new_folder()?;
        // Dropped by the guard inside `Net` whatever fails from here on.
        let guard = Guard { dir, keep: false };
        let bpf = guard.dir.join("bpf");
        fs::create_dir(&bpf)?;
        mount(
            None::<&str>,
            &bpf,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("can't mount a BPF filesystem")?;
        let node = Ns::create(guard.dir.join("node"))?;
        let outside = Ns::create(guard.dir.join("outside"))?;
        let mut net = Net {
            mode: self.mode,
            node,
            outside,
            node_addresses: self.node,
            outside_addresses: self.outside,
            pods: Vec::new(),
            next_pod: 1,
            children: Vec::new(),
            guard,
        };
        net.lay()?;
        net.add_pods(self.pods)?;
        Ok(net)
    }
}

/// A network; dropped, it is gone.
#[derive(Debug)]
pub struct Net {
    mode: Mode,
    node: Ns,
    outside: Ns,
    node_addresses: Vec<IpAddr>,
    outside_addresses: Vec<IpAddr>,
    pods: Vec<Pod>,
    next_pod: u16,
    children: Vec<Child>,
    guard: Guard,
}

impl Net {
    /// A routed, dual-stack network with a node, an outside and no pods yet.
    pub fn builder() -> Builder {
        Builder {
            mode: Mode::Routed,
            node: vec![
                Ipv4Addr::new(192, 168, 77, 2).into(),
                Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2).into(),
            ],
            outside: vec![
                Ipv4Addr::new(203, 0, 113, 1).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            ],
            pods: Vec::new(),
        }
    }

    /// The folder that holds the network.
    pub fn dir(&self) -> &Path {
        &self.guard.dir
    }

    /// The folder with the pods' namespaces, for `--netns-dir`.
    pub fn netns_dir(&self) -> PathBuf {
        self.guard.dir.join("netns")
    }

    /// A folder in a BPF filesystem of this network, for `--pin-dir`.
    pub fn pin_dir(&self) -> PathBuf {
        self.guard.dir.join("bpf/ringfence")
    }

    /// Where the agent's socket can be, for `--socket`.
    pub fn socket(&self) -> PathBuf {
        self.guard.dir.join("agent.sock")
    }

    /// The node.
    pub fn node(&self) -> &Ns {
        &self.node
    }

    /// The node's address of one family.
    pub fn node_address(&self, v4: bool) -> Option<IpAddr> {
        let addresses = self.node_addresses.iter();
        addresses.copied().find(|address| address.is_ipv4() == v4)
    }

    /// The outside.
    pub fn outside(&self) -> &Ns {
        &self.outside
    }

    /// The outside's default address of one family.
    pub fn outside_address(&self, v4: bool) -> Option<IpAddr> {
        let addresses = self.outside_addresses.iter();
        addresses.copied().find(|address| address.is_ipv4() == v4)
    }

    /// How pods hang on the node.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// All pods, in the order in which they were added.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let mut pods = self.pods.iter();
        pods.find(|pod| pod.name == name)
            .with_context(|| format!("no pod {name}"))
    }

    /// Adds a pod.
    pub fn add_pod(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Pod> {
        self.add_pods(vec![(name.to_owned(), addresses.to_vec())])?;
        self.pod(name).cloned()
    }

    /// Removes a pod: its namespace, and its interface with it.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name)?.clone();
        self.forget(name)?;
        self.node.ip(&format!("link del {}\n", pod.host_device))?;
        nix::mount::umount2(pod.ns.path(), nix::mount::MntFlags::MNT_DETACH)?;
        fs::remove_file(pod.ns.path())?;
        self.pods.retain(|other| other.name != name);
        Ok(())
    }

    /// What kube-proxy would do on this node; replaces what it did before.
    pub fn dnat(&self, rules: &[Dnat]) -> Result<()> {
        let mut nft = self.node.command("nft");
        ns::feed(nft.args(["-f", "-"]), &nat::table(rules)).map(drop)
    }

    /// Starts a process that ends with the network at the latest, also when
    /// this process is killed and the next run cleans up.
    pub fn spawn(&mut self, command: &mut Command) -> Result<u32> {
        let child = command
            .spawn()
            .with_context(|| format!("can't start {command:?}"))?;
        let pid = child.id();
        self.children.push(child);
        clean::note_process(&self.guard.dir, pid)?;
        Ok(pid)
    }

    /// A process that [`Net::spawn`] started.
    pub fn child(&mut self, pid: u32) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id() == pid)
    }

    /// Leaves everything in place when this `Net` is dropped; [`remove`] with
    /// its folder takes it away.
    pub fn keep(&mut self) -> Result<()> {
        clean::mark_kept(&self.guard.dir)?;
        self.guard.keep = true;
        Ok(())
    }

    fn lay(&self) -> Result<()> {
        fs::create_dir(self.netns_dir())?;
        self.node.sysctl("net/ipv4/ip_forward", "1")?;
        self.node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let (node, outside) = (&self.node_addresses, &self.outside_addresses);
        let mut batch = layout::uplink(node, outside, self.outside.path());
        batch.push_str(&layout::bridge(self.mode));
        self.node.ip(&batch)?;
        self.outside.ip(&layout::end_of_uplink(outside, node))
    }

    /// One `ip` process for the node, however many pods, and one a pod.
    fn add_pods(&mut self, pods: Vec<(String, Vec<IpAddr>)>) -> Result<()> {
        let mut added = Vec::new();
        for (name, addresses) in pods {
            let number = self.next_pod;
            self.next_pod += 1;
            added.push(self.new_pod(name, &addresses, number)?);
        }
        let batch = layout::node_side(&added, self.mode, &self.node_addresses);
        if !batch.is_empty() {
            self.node.ip(&batch)?;
        }
        for pod in &added {
            pod.ns.ip(&layout::pod_side(pod, self.mode))?;
        }
        self.pods.extend(added);
        Ok(())
    }

    fn new_pod(&self, name: String, addresses: &[IpAddr], number: u16) -> Result<Pod> {
        let ns = Ns::create(self.netns_dir().join(&name))?;
        let [high, low] = number.to_be_bytes();
        Ok(Pod {
            name,
            ns,
            v4: addresses.iter().find_map(|address| match address {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            }),
            v6: addresses.iter().find_map(|address| match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(v6) => Some(*v6),
            }),
            mac: [2, 0, 0, high, low, 1],
            host_device: format!("pod{number}"),
            host_mac: [2, 0, 0, high, low, 2],
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.guard.keep {
            return;
        }
        for child in &mut self.children {
            // Gone already, or ended now: either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Removes the folder and all that is mounted in it, last of all.
#[derive(Debug)]
struct Guard {
    dir: PathBuf,
    keep: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.dir)
        {
            eprintln!("testnet: {error:#}");
        }
    }
}

/// A folder of this process that no other `Net` has.
fn new_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}{}-{number}", clean::PREFIX, std::process::id());
    let dir = Path::new("/run").join(name);
    fs::create_dir(&dir)
        .with_context(|| format!("can't make {} (test networks need root)", dir.display()))?;
    Ok(dir)
}
