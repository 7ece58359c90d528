//! What Ringfence costs real traffic between two pods, beside nothing and
//! beside nftables; started by `cargo xtask bench wire`.
//!
//! One network, one pair of pods, the same sockets. A round puts each firewall
//! in place once, in an order that rotates, and runs all traffic through it;
//! ratios are those of one round, so that a machine that slows down slows both
//! of a pair. `none-again` is no firewall a second time: what its ratios are off
//! by is what the run can't tell apart. `hooks` is programs that do nothing where
//! Ringfence has its own: what no firewall at these hooks can be below.
//!
//! The sockets' stack leaves checksums pending, so `from_pod` looks at where each is to
//! be written: `no-checksum-check` is Ringfence without that look. In `computed` the
//! senders' devices take no checksums off the stack, so that none is pending.

mod nftables;
mod traffic;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use ringfence::datapath::{Attach, Datapath, Interface, Options, SEEN_MARK, over_pins};
use ringfence::runtime::FoundBy;
use ringfence_policy::tables::Tables;
use ringfence_tests::bench;
use ringfence_tests::packets::fixture;
use ringfence_tests::testnet::{Net, Probe};
use serde_json::{Value, json};

use traffic::{Measure, Path as Between};

/// Rounds that count; one more warms up. RINGFENCE_BENCH_ROUNDS says otherwise.
const ROUNDS: usize = 61;
/// How long each kind of traffic runs through each firewall in a round.
const TIME: Duration = Duration::from_millis(120);
/// Of a stream and of an exchange, by no firewall.
const STEADY_TARGET: f64 = 1.03;
/// Of connections, each of which policy decides anew, by no firewall.
const CONNECT_TARGET: f64 = 1.10;

/// What stands between the pods.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Firewall {
    None,
    NoneAgain,
    Hooks,
    Nftables,
    Unchecked,
    Ringfence,
}

impl Firewall {
    const ALL: [Self; 6] = [
        Self::None,
        Self::NoneAgain,
        Self::Hooks,
        Self::Nftables,
        Self::Unchecked,
        Self::Ringfence,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoneAgain => "none-again",
            Self::Hooks => "hooks",
            Self::Nftables => "nftables",
            Self::Unchecked => "no-checksum-check",
            Self::Ringfence => "ringfence",
        }
    }
}

/// One figure a round.
type Samples = HashMap<(Firewall, Measure), Vec<f64>>;

fn main() -> Result<()> {
    bench::go_first()?;
    let mut builder = Net::builder();
    for name in ["callee", "caller"] {
        builder = builder.pod(name, fixture::find(name).addresses());
    }
    let net = builder.build()?;
    eprintln!("{}", nftables::RULES);
    let samples = net.node().run(|| measure(&net))??;
    let mut rows: Vec<Value> = kinds()
        .into_iter()
        .flat_map(|what| rows(what, &samples))
        .collect();
    rows.extend(by_computed(&samples));
    println!("{}", Value::from(rows));
    Ok(())
}

/// The kinds of traffic that are named as arguments, or all.
fn kinds() -> Vec<Measure> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let is_named = |what: &Measure| named.iter().any(|name| name == what.name().0);
    let all = Measure::ALL.into_iter();
    let some: Vec<Measure> = all.filter(is_named).collect();
    if some.is_empty() {
        Measure::ALL.to_vec()
    } else {
        some
    }
}

fn measure(net: &Net) -> Result<Samples> {
    let rounds = bench::rounds(ROUNDS)?;
    let between = Between {
        client: &net.pod("caller")?.ns,
        server: &net.pod("callee")?.ns,
        address: fixture::address("callee", true),
    };
    let mut samples = Samples::new();
    for round in 0..=rounds {
        for turn in 0..Firewall::ALL.len() {
            let firewall = Firewall::ALL[(round + turn) % Firewall::ALL.len()];
            let up = Up::raise(net, firewall)?;
            expect(firewall, between.knock()?)?;
            for what in kinds() {
                let cost = measure_one(net, &between, what)
                    .with_context(|| format!("{} through {}", what.name().0, firewall.name()))?;
                if round > 0 {
                    samples.entry((firewall, what)).or_default().push(cost);
                }
            }
            up.take_down()?;
        }
    }
    Ok(samples)
}

fn measure_one(net: &Net, between: &Between<'_>, what: Measure) -> Result<f64> {
    if what != Measure::Computed {
        return between.measure(what, TIME);
    }
    let pending = |wanted: &str| {
        net.pods().iter().try_for_each(|pod| {
            pod.ns.output("ethtool", &["-K", "eth0", "tx", wanted])?;
            anyhow::Ok(())
        })
    };
    pending("off")?;
    let cost = between.measure(what, TIME);
    pending("on")?;
    cost
}

/// A firewall that lets everything through is quick, and none that doesn't is
/// none.
fn expect(firewall: Firewall, seen: Probe) -> Result<()> {
    let expected = match firewall {
        Firewall::None | Firewall::NoneAgain | Firewall::Hooks => Probe::Refused,
        Firewall::Nftables | Firewall::Unchecked | Firewall::Ringfence => Probe::TimedOut,
    };
    ensure!(
        seen == expected,
        "a call that policy denies is {seen} with firewall {}",
        firewall.name()
    );
    Ok(())
}

/// A firewall in place.
struct Up<'a> {
    net: &'a Net,
    firewall: Firewall,
    datapath: Option<Datapath>,
    /// The bench's own programs, detached when they are dropped, unless their links are
    /// pinned.
    own: Option<Ebpf>,
}

impl<'a> Up<'a> {
    /// To be called inside the node's namespace.
    fn raise(net: &'a Net, firewall: Firewall) -> Result<Self> {
        if firewall == Firewall::Nftables {
            nftables::load(net)?;
        }
        let ringfence = matches!(firewall, Firewall::Ringfence | Firewall::Unchecked);
        let datapath = ringfence.then(|| attach(net)).transpose()?;
        let own = match firewall {
            Firewall::Hooks => Some(attach_empty(net)?),
            Firewall::Unchecked => Some(leave_out_check(net)?),
            _ => None,
        };
        Ok(Self {
            net,
            firewall,
            datapath,
            own,
        })
    }

    fn take_down(self) -> Result<()> {
        if self.firewall == Firewall::Nftables {
            nftables::unload(self.net)?;
        }
        drop(self.own);
        // It holds the links beside their pins.
        if self.datapath.is_some() {
            drop(self.datapath);
            detach(&pins(self.net).join("links"))?;
        }
        Ok(())
    }
}

/// Where Ringfence pins its maps and links.
fn pins(net: &Net) -> PathBuf {
    let version = ringfence_ebpf::abi::ABI_VERSION;
    net.pin_dir().join(format!("v{version}"))
}

fn attach(net: &Net) -> Result<Datapath> {
    let tables = fixture::tables();
    let mut datapath = Datapath::open(&Options {
        pin_dir: net.pin_dir(),
        audit: false,
        events_per_second: 0,
        pickup: Duration::ZERO,
        attach: Attach::Best,
        seen_mark: SEEN_MARK,
        enters_namespaces: false,
    })?;
    let applied = datapath.apply(&tables, &interfaces(net, &tables)?)?;
    if let Some((pod, error)) = applied.failed.first() {
        bail!("{pod}: {error}");
    }
    Ok(datapath)
}

/// Puts a program that does nothing at both hooks of every pod's device.
fn attach_empty(net: &Net) -> Result<Ebpf> {
    let pins = net.pin_dir().join("empty");
    fs::create_dir_all(&pins).with_context(|| pins.display().to_string())?;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(pins)
        .load(&object()?)?;
    let program = loaded(&mut ebpf, "empty")?;
    for pod in net.pods() {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            program.attach(&pod.host_device, side)?;
        }
    }
    Ok(ebpf)
}

/// Puts the program that doesn't look at pending checksums under every pod's link.
fn leave_out_check(net: &Net) -> Result<Ebpf> {
    let pins = pins(net);
    let mut ebpf = over_pins(&object()?, &pins, SEEN_MARK)?;
    let program = loaded(&mut ebpf, "from_pod_unchecked")?;
    for entry in fs::read_dir(pins.join("links"))? {
        let path = entry?.path();
        let is_from_pod = path.to_string_lossy().ends_with("-from_pod");
        if is_from_pod {
            let link = FdLink::from(PinnedLink::from_pin(&path)?);
            program.attach_to_link(link.try_into()?)?;
        }
    }
    Ok(ebpf)
}

fn object() -> Result<Vec<u8>> {
    let object = std::env::var("RINGFENCE_BENCH_OBJECT")
        .context("RINGFENCE_BENCH_OBJECT isn't set: run `cargo xtask bench wire`")?;
    fs::read(&object).with_context(|| format!("can't read {object}"))
}

/// One of the bench's own programs.
fn loaded<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the bench's object has no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program)
}

/// A link without a pin or a descriptor is gone, and at once if the descriptor
/// goes last. The maps stay, for the next time.
fn detach(links: &Path) -> Result<()> {
    for entry in fs::read_dir(links).with_context(|| links.display().to_string())? {
        let path = entry?.path();
        let held = PinnedLink::from_pin(&path)?;
        fs::remove_file(&path)?;
        drop(held);
    }
    Ok(())
}

fn interfaces(net: &Net, tables: &Tables) -> Result<Vec<Interface>> {
    let guarded = tables.endpoints.keys();
    guarded
        .filter_map(|pod| Some((pod, net.pod(&pod.name).ok()?)))
        .map(|(pod, at)| {
            let ifindex = nix::net::if_::if_nametoindex(at.host_device.as_str())
                .with_context(|| format!("no device {}", at.host_device))?;
            Ok(Interface {
                pod: pod.clone(),
                ifindex,
                name: at.host_device.clone(),
                mac: at.mac,
                by: FoundBy::CniCache,
            })
        })
        .collect()
}

/// A measure's rows: each firewall by none, and Ringfence by nftables as well.
fn rows(what: Measure, samples: &Samples) -> Vec<Value> {
    let (variant, unit) = what.name();
    let of = |firewall| &samples[&(firewall, what)];
    let noise = off_by(&paired(of(Firewall::NoneAgain), of(Firewall::None)));
    eprintln!("{variant}: this run can't tell apart what differs by less than {noise:.4}");
    let row = |firewall: Firewall, against: Option<Firewall>, target: Option<f64>| {
        let ratios = against.map(|other| paired(of(firewall), of(other)));
        if let (Some(ratios), Some(other)) = (&ratios, against) {
            let (low, high) = interval(ratios);
            let (name, other) = (firewall.name(), other.name());
            eprintln!("{variant}: {name} by {other} between {low:.4} and {high:.4}");
        }
        json!({
            "case": firewall.name(), "variant": variant, "unit": unit,
            "samples": of(firewall), "ratios": ratios,
            "against": against.map(Firewall::name), "target": target,
        })
    };
    let target = match what {
        Measure::Connect => CONNECT_TARGET,
        Measure::Stream | Measure::Request | Measure::Computed => STEADY_TARGET,
    };
    let none = Some(Firewall::None);
    vec![
        row(Firewall::None, None, None),
        row(Firewall::NoneAgain, none, None),
        row(Firewall::Hooks, none, None),
        row(Firewall::Nftables, none, None),
        row(Firewall::Unchecked, none, None),
        row(Firewall::Ringfence, none, Some(target)),
        row(Firewall::Ringfence, Some(Firewall::Unchecked), None),
        row(
            Firewall::Ringfence,
            Some(Firewall::Nftables),
            Some(1.0 + noise),
        ),
    ]
}

/// Exchanges with pending checksums by the same without, which the stack computes.
fn by_computed(samples: &Samples) -> Vec<Value> {
    let (variant, unit) = Measure::Request.name();
    let against = Measure::Computed.name().0;
    let rows = [Firewall::None, Firewall::Ringfence].into_iter();
    rows.filter_map(|firewall| {
        let pending = samples.get(&(firewall, Measure::Request))?;
        let computed = samples.get(&(firewall, Measure::Computed))?;
        Some(json!({
            "case": firewall.name(), "variant": variant, "unit": unit, "samples": pending,
            "ratios": paired(pending, computed), "against": against, "target": null,
        }))
    })
    .collect()
}

/// Round by round, sorted.
fn paired(these: &[f64], those: &[f64]) -> Vec<f64> {
    let mut ratios: Vec<f64> = these.iter().zip(those).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// Where the true median lies, in 19 of 20 runs: the ranks of the binomial
/// distribution's 95%, whatever the ratios' own distribution is.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let count = sorted.len() as f64;
    let half = 0.98 * count.sqrt();
    let low = (count / 2.0 - half).max(0.0) as usize;
    let high = ((count / 2.0 + half).ceil() as usize).min(sorted.len() - 1);
    (sorted[low], sorted[high])
}

/// How far from 1 the median of such ratios may be by chance.
fn off_by(ratios: &[f64]) -> f64 {
    let (low, high) = interval(ratios);
    (1.0 - low).abs().max((high - 1.0).abs())
}
