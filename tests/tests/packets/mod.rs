//! A network of the fixture's pods and the loaded datapath on its node, shared by the
//! two levels of the packet table that use a kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use ringfence::datapath::{Attach, Datapath, Interface, Options, SEEN_MARK};
use ringfence::runtime::FoundBy;
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;
use ringfence_tests::packets::Series;
use ringfence_tests::packets::fixture::{self, PODS};
use ringfence_tests::testnet::{Mode, Net};

/// Packets by drop counter.
pub(crate) type Counters = BTreeMap<Series, u64>;

/// Creates a node with the fixture's pods.
pub(crate) fn network(mode: Mode) -> Net {
    let mut builder = Net::builder().mode(mode);
    for pod in PODS {
        builder = builder.pod(pod.name, pod.addresses());
    }
    builder.build().unwrap()
}

/// The loaded datapath, and the counters as last read.
pub(crate) struct Node {
    pub(crate) datapath: Datapath,
    counted: Counters,
}

impl Node {
    /// Guards the pods; must be called inside the node's namespace.
    pub(crate) fn guard(net: &Net, audit: bool) -> Self {
        Self::guard_by(net, audit, &fixture::tables())
    }

    /// Does the same with other tables for the same pods.
    pub(crate) fn guard_by(net: &Net, audit: bool, tables: &Tables) -> Self {
        let mut datapath = Datapath::open(&Options {
            pin_dir: net.pin_dir(),
            audit,
            events_per_second: 0,
            pickup: Duration::ZERO,
            attach: Attach::Best,
            seen_mark: SEEN_MARK,
            enters_namespaces: false,
        })
        .unwrap();
        let interface = |key: &PodKey| {
            let pod = net.pod(&key.name).unwrap();
            Interface {
                pod: key.clone(),
                ifindex: if_nametoindex(pod.host_device.as_str()).unwrap(),
                name: pod.host_device.clone(),
                mac: pod.mac,
                by: FoundBy::CniCache,
            }
        };
        let interfaces: Vec<Interface> = tables.endpoints.keys().map(interface).collect();
        let tunnels = fixture::TUNNEL_PORTS.into();
        datapath.set_tunnel_ports(&tunnels).unwrap();
        let applied = datapath.apply(tables, &interfaces).unwrap();
        assert_eq!(applied.failed, []);
        let counted = counters(&datapath);
        Self { datapath, counted }
    }

    /// Returns the counters that have risen since the last call, and by how much.
    pub(crate) fn risen(&mut self) -> Counters {
        let now = counters(&self.datapath);
        let before = std::mem::replace(&mut self.counted, now);
        let difference = self.counted.iter().map(|(series, n)| {
            let old = before.get(series).unwrap_or(&0);
            assert!(n >= old, "{series:?} fell");
            (series.clone(), n - old)
        });
        difference.filter(|(_, n)| *n > 0).collect()
    }
}

fn counters(datapath: &Datapath) -> Counters {
    let series = datapath.drops().unwrap().into_iter().map(|one| {
        let series = Series {
            source: one.source,
            destination: one.destination,
            direction: one.direction,
            reason: one.reason,
            protocol: one.protocol,
            audited: one.audited,
        };
        (series, one.packets)
    });
    series.collect()
}
