//! A pod's own XDP programs: they answer before the pod's stack, or the node's, has
//! seen the packet.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::xdp::{Xdp, XdpMode};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};
use ringfence_tests::attack::{ETHERNET, Outcome, datagram, ip_header};
use ringfence_tests::testnet::Ns;

use crate::attack::Attack;
use crate::lab::{Lab, UDP};

/// The number of bytes in front of a datagram's payload.
const HEADERS: u8 = (ETHERNET + ip_header(true) + 8) as u8;
/// The destination port of datagrams that carry frames.
const PORT: u16 = 7777;
const HIGH: u8 = PORT.to_be_bytes()[0];
const LOW: u8 = PORT.to_be_bytes()[1];

/// Strips the headers of such a datagram and sends the rest back out of the same
/// device: anyone who sends the pod a frame makes the pod send it. All other packets pass.
const BOUNCE: [[u8; 8]; 12] = [
    [0x61, 0x12, 0, 0, 0, 0, 0, 0],           // r2 = data
    [0x61, 0x13, 4, 0, 0, 0, 0, 0],           // r3 = data_end
    [0xbf, 0x24, 0, 0, 0, 0, 0, 0],           // r4 = r2
    [0x07, 4, 0, 0, HEADERS, 0, 0, 0],        // r4 += HEADERS
    [0xb7, 0, 0, 0, 2, 0, 0, 0],              // r0 = XDP_PASS
    [0x2d, 0x34, 5, 0, 0, 0, 0, 0],           // if r4 > r3 goto exit
    [0x69, 0x24, HEADERS - 6, 0, 0, 0, 0, 0], // r4 = destination port
    [0x55, 4, 3, 0, HIGH, LOW, 0, 0],         // if r4 != PORT goto exit
    [0xb7, 2, 0, 0, HEADERS, 0, 0, 0],        // r2 = HEADERS
    [0x85, 0, 0, 0, 44, 0, 0, 0],             // call bpf_xdp_adjust_head
    [0xb7, 0, 0, 0, 3, 0, 0, 0],              // r0 = XDP_TX
    [0x95, 0, 0, 0, 0, 0, 0, 0],              // exit
];
/// `r0 = XDP_PASS; exit`.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("XDP_TX by the kernel: a friend's address", |lab, v4| {
        bounced(lab, v4, ["rogue", "friend", "victim"], XdpMode::Skb)
    })
    .counted_as(&["spoofed_address"]),
    Attack::new("XDP_TX by the driver: a friend's address", |lab, v4| {
        bounced(lab, v4, ["rogue", "friend", "victim"], XdpMode::Driver)
    })
    .counted_as(&["spoofed_address"]),
    Attack::new(
        "XDP_TX by the driver: a call that egress denies",
        |lab, v4| bounced(lab, v4, ["caged", "caged", "neighbour"], XdpMode::Driver),
    )
    .counted_as(&["policy"]),
    Attack::honest("XDP_TX by the driver: a friend's call", |lab, v4| {
        bounced(lab, v4, ["friend", "friend", "victim"], XdpMode::Driver)
    }),
];

/// Has a pod bounce a frame that carries the address of `shown` to the destination.
fn bounced(lab: &mut Lab, v4: bool, [pod, shown, to]: [&str; 3], mode: XdpMode) -> Result<Outcome> {
    let marker = lab.marker();
    let shown = SocketAddr::new(lab.ip(shown, v4), lab.port());
    let inner = datagram(shown, lab.at(to, v4, UDP), &marker);
    let inner = lab.addressed(pod, &inner)?.bytes();
    let accomplice = SocketAddr::new(lab.ip("outside", true), lab.port());
    let outer = datagram(accomplice, lab.at(pod, true, PORT), &inner);
    // A veth transmits XDP frames only if its peer has a program too
    // (`veth_xdp_flush`), for instance one of a network plugin.
    let host = &lab.net.pod(pod)?.host_device;
    let _other = match mode {
        XdpMode::Driver => Some(attached(lab.ns("node"), host, &PASS, mode)?),
        _ => None,
    };
    let _program = attached(lab.ns(pod), "eth0", &BOUNCE, mode)?;
    lab.lands(to, &marker, || lab.send("outside", &outer))
}

/// Attaches a program to a device; dropping the result detaches it.
fn attached(ns: &Ns, device: &str, code: &[[u8; 8]], mode: XdpMode) -> Result<Ebpf> {
    let mut loaded = Ebpf::load(&elf(&code.concat())?)?;
    let program = loaded.program_mut("program").context("no program")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    ns.run(|| program.attach(device, mode))??;
    Ok(loaded)
}

/// Wraps a program in the ELF object that the loader expects.
fn elf(code: &[u8]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    object.append_section_data(section, code, 8);
    object.add_symbol(Symbol {
        name: b"program".to_vec(),
        value: 0,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    Ok(object.write()?)
}
