//! An in-memory datapath, for tests of the code around it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ringfence_api::{SeenMark, Status};
use ringfence_policy::diff::Change;
use ringfence_policy::tables::Tables;

use crate::cli::{Cli, Command};
use crate::datapath::{
    Applied, ConnectionRow, DropSeries, EndpointState, Followed, Interface, MapUsage, Others, Stats,
};
use crate::dataplane::{Counts, Dataplane};
use crate::discover::{DiscoverError, Discovery, Finder, Sought};
use crate::metrics::Metrics;
use crate::node::{Listed, Surroundings};
use crate::settings::Settings;
use crate::state::Shared;

/// What was applied last, and whether the next call fails.
#[derive(Default, Debug)]
pub(crate) struct Record {
    pub(crate) tables: Tables,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) others: Others,
    pub(crate) generation: u64,
    /// Number of the last update received.
    pub(crate) seen: u64,
    pub(crate) fail: Option<String>,
    /// Why no program can be attached.
    pub(crate) refuse: Option<String>,
    /// How often the endpoints were listed.
    pub(crate) asked: usize,
    /// UDP ports of tunnels.
    pub(crate) tunnels: BTreeSet<u16>,
    /// Other devices that can't be hooked, and why.
    pub(crate) unhooked: Vec<(String, String)>,
}

/// A datapath that records instead of enforcing.
#[derive(Clone, Default, Debug)]
pub(crate) struct FakeDataplane(pub(crate) Arc<Mutex<Record>>);

impl Dataplane for FakeDataplane {
    fn apply(
        &mut self,
        tables: &Tables,
        change: &Change,
        interfaces: &[Interface],
    ) -> anyhow::Result<Applied> {
        let followed = self.apply_delta(tables, change);
        let mut record = self.0.lock().unwrap();
        record.interfaces = interfaces.to_vec();
        let error = record.fail.clone();
        let pods = interfaces.iter().map(|one| one.pod.clone());
        let closed = pods.filter(|_| error.is_some()).collect();
        let refused = |error: &String| {
            let pods = interfaces.iter().map(|one| one.pod.clone());
            pods.map(|pod| (pod, error.clone())).collect()
        };
        Ok(Applied {
            generation: record.generation,
            flipped: followed.as_ref().is_ok_and(|followed| followed.flipped),
            in_force_at: followed.ok().map(|followed| followed.at),
            failed: record.refuse.as_ref().map(refused).unwrap_or_default(),
            devices: 1,
            unhooked: record.unhooked.clone(),
            error,
            closed,
        })
    }

    fn set_others(&mut self, others: Others) {
        self.0.lock().unwrap().others = others;
    }

    fn apply_delta(&mut self, tables: &Tables, change: &Change) -> anyhow::Result<Followed> {
        let mut record = self.0.lock().unwrap();
        assert_eq!(record.seen, change.since, "a change was lost");
        record.seen = change.until;
        if let Some(error) = &record.fail {
            anyhow::bail!("{error}");
        }
        let flipped = record.tables != *tables;
        record.generation += u64::from(flipped);
        record.tables = tables.clone();
        Ok(Followed {
            generation: record.generation,
            flipped,
            at: Instant::now(),
            refused: Vec::new(),
        })
    }

    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> anyhow::Result<()> {
        self.0.lock().unwrap().tunnels.clone_from(ports);
        Ok(())
    }

    fn tunnel_ports(&mut self) -> anyhow::Result<BTreeSet<u16>> {
        Ok(self.0.lock().unwrap().tunnels.clone())
    }

    fn endpoints(&mut self) -> Vec<EndpointState> {
        let mut record = self.0.lock().unwrap();
        record.asked += 1;
        let state = |interface: &Interface| EndpointState {
            pod: Some(interface.pod.clone()),
            gone: false,
            reason: None,
            workload: "ns/service".into(),
            id: 1,
            slot: 1,
            ifindex: interface.ifindex,
            interface: interface.name.clone(),
            addresses: Vec::new(),
            found_by: interface.by,
            ingress: "enforce",
            egress: "open",
            attached: true,
            foreign_filters: Vec::new(),
        };
        record.interfaces.iter().map(state).collect()
    }

    fn connections(&mut self) -> anyhow::Result<Vec<ConnectionRow>> {
        anyhow::bail!("connections: no such map")
    }

    fn maps(&mut self) -> Vec<MapUsage> {
        Vec::new()
    }

    fn counters(&self) -> Arc<dyn Counts> {
        Arc::new(NoCounts)
    }

    fn generation(&mut self) -> u64 {
        self.0.lock().unwrap().generation
    }

    fn seen_mark(&self) -> Option<SeenMark> {
        Some(SeenMark {
            bit: 1,
            asked: self.0.lock().unwrap().generation > 0,
        })
    }
}

impl<F> Finder for F
where
    F: FnMut(&[Sought], &[Interface]) -> Result<Discovery, DiscoverError> + Send,
{
    fn find(&mut self, wanted: &[Sought], known: &[Interface]) -> Result<Discovery, DiscoverError> {
        self(wanted, known)
    }
}

/// Returns a node without addresses and tunnels.
pub(crate) fn nowhere() -> Surroundings {
    Surroundings {
        addresses: none(),
        tunnels: none(),
    }
}

fn none<T: Ord>() -> Listed<T> {
    Listed {
        found: BTreeSet::new(),
        fault: None,
    }
}

/// Counters without any packets.
struct NoCounts;

impl Counts for NoCounts {
    fn drops(&self) -> anyhow::Result<Vec<DropSeries>> {
        Ok(Vec::new())
    }

    fn stats(&self) -> anyhow::Result<Stats> {
        Ok(Stats::default())
    }

    fn maps(&self) -> Vec<MapUsage> {
        Vec::new()
    }
}

/// Returns shared state over a fake datapath.
pub(crate) fn shared(kernel: &FakeDataplane) -> Shared {
    Shared::new(kernel.clone(), Metrics::new().unwrap(), Status::default())
}

/// Returns settings of an agent on node `n` with these manifests.
pub(crate) fn settings(manifests: &Path) -> Settings {
    use clap::Parser as _;
    let dir = manifests.display().to_string();
    let line = [
        "ringfence",
        "agent",
        "--node-name",
        "n",
        "--netns-dir",
        "/nowhere",
        "--socket",
        "/nowhere/agent.sock",
        "--manifests",
        &dir,
    ];
    let cli = Cli::try_parse_from(line).unwrap();
    match cli.command {
        Command::Agent(args) => args.resolve(&cli.global).unwrap(),
        other => panic!("{other:?}"),
    }
}
