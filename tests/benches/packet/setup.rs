//! What the packets are measured in: the packet table's pods, thousands of peers
//! beside them, and as many rules as a case asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use ringfence::datapath::{Datapath, Events, Hook, Interface};
use ringfence::runtime::FoundBy;
use ringfence_ebpf::abi::{Addr, ConnectionKey, Grant};
use ringfence_ebpf::packet::tcp;
use ringfence_policy::tables::Tables;
use ringfence_tests::packets::{Frame, fixture};
use ringfence_tests::testnet::Net;

/// Peers whom the caller may call, and as many whom it may not.
pub(super) const PEERS: u32 = 10_000;
/// Rules, and addresses with a class, in a large setup.
pub(super) const MANY_RULES: usize = 100_000;
/// CIDRs in every setup.
const CIDRS: u16 = 1000;
/// A peer class that no rule names.
const UNNAMED_CLASS: u32 = 0x7fff_0000;

/// Tables, and the interfaces of the packet table's pods.
pub(super) struct Setup {
    pub(super) tables: Tables,
    pub(super) interfaces: Vec<Interface>,
}

/// A peer whom the caller may call on TCP/8080.
pub(super) fn peer(v4: bool, number: u16) -> IpAddr {
    numbered(v4, 250, number)
}

/// A known pod whom the caller may not call.
pub(super) fn stranger(v4: bool) -> IpAddr {
    numbered(v4, 251, 0)
}

fn numbered(v4: bool, block: u8, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if v4 {
        Ipv4Addr::new(10, block, high, low).into()
    } else {
        Ipv6Addr::new(0xfd00, 0x10, u16::from(block), 0, 0, 0, 0, number).into()
    }
}

/// The key of the caller's connection with a peer, as [`ConnectionKey`] lies in memory; the
/// caller is endpoint 1.
pub(super) fn connection_key(v4: bool, number: u16) -> [u8; size_of::<ConnectionKey>()] {
    let local = Addr::from(fixture::address("caller", v4)).octets();
    let remote = Addr::from(peer(v4, number)).octets();
    let mut key = [0; size_of::<ConnectionKey>()];
    key[..16].copy_from_slice(&local);
    key[16..32].copy_from_slice(&remote);
    key[32..36].copy_from_slice(&1_u32.to_ne_bytes());
    key[36..38].copy_from_slice(&40_000_u16.to_ne_bytes());
    key[38..40].copy_from_slice(&8080_u16.to_ne_bytes());
    key[40..44].copy_from_slice(&6_u32.to_ne_bytes());
    key
}

impl Setup {
    pub(super) fn new(net: &Net, rules: usize) -> Result<Self> {
        let mut tables = fixture::tables();
        let callee = Addr::from(fixture::address("callee", true));
        let called = tables.class_of(&callee);
        for number in 0..PEERS as u16 {
            for v4 in [true, false] {
                for (block, class) in [(250, called), (251, UNNAMED_CLASS)] {
                    let addr = Addr::from(numbered(v4, block, number));
                    let name = Arc::from(format!("bank/peer-{}", number % 1000));
                    tables.classes.insert(addr, class);
                    tables.identities.insert(addr, (name, 0));
                }
            }
        }
        for number in 0..CIDRS {
            // Beside the address that is asked for, and around it.
            let v4 = Addr::from(IpAddr::from(Ipv4Addr::new(
                203,
                (number >> 8) as u8,
                number as u8,
                0,
            )));
            let v6 = Addr::from(IpAddr::from(Ipv6Addr::new(
                0x2001, 0xdb8, 9, number, 0, 0, 0, 0,
            )));
            tables.cidrs.insert((v4, 96 + 24), UNNAMED_CLASS + 1);
            tables.cidrs.insert((v6, 64), UNNAMED_CLASS + 1);
        }
        for number in 0..rules.saturating_sub(1) as u32 {
            let grant = Grant {
                enforced: 15,
                staged: 15,
            };
            tables
                .rules
                .insert((0x6000_0000 + number, UNNAMED_CLASS), grant);
            let addr = Ipv4Addr::from(0x0b00_0000 + number);
            tables
                .classes
                .insert(Addr::from(IpAddr::from(addr)), UNNAMED_CLASS + 2 + number);
        }
        let mut interfaces = interfaces(net, &tables)?;
        // The floor's key has endpoint id 1: the caller's, who comes first.
        interfaces.sort_by_key(|interface| interface.pod.name != "caller");
        Ok(Self { tables, interfaces })
    }

    /// The caller's device.
    pub(super) fn ifindex(&self) -> u32 {
        self.interfaces[0].ifindex
    }

    /// Opens a connection of the caller's with every peer whom it may call.
    pub(super) fn open_connections(&self, datapath: &mut Datapath, v4: bool) -> Result<()> {
        for number in 0..PEERS as u16 {
            let own = (fixture::address("caller", v4), 40_000);
            let syn = Frame::tcp(own, (peer(v4, number), 8080), tcp::SYN);
            let answer = syn.reply().flags(tcp::SYN | tcp::ACK);
            let steps = [
                (Hook::FromPod, &syn),
                (Hook::ToPod, &answer),
                (Hook::FromPod, &syn.flags(tcp::ACK)),
            ];
            for (hook, frame) in steps {
                let run = datapath.run(hook, &frame.bytes(), self.ifindex(), 1, true, 1)?;
                ensure!(run.passes, "a peer's connection doesn't open");
            }
        }
        Ok(())
    }
}

fn interfaces(net: &Net, tables: &Tables) -> Result<Vec<Interface>> {
    tables
        .endpoints
        .keys()
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

/// Takes events off the ring until the datapath is closed; ends with the bench.
pub(super) fn read_events(mut events: Events) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        if let Ok(runtime) = runtime {
            runtime.block_on(async move { while events.next().await.is_ok() {} });
        }
    })
}
