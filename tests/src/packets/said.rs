//! What a parsed packet says.

use ringfence_ebpf::abi::Mac;
use ringfence_ebpf::packet::{Layout, Packet, ethertype, protocol};

/// A packet without what means nothing in its kind.
pub fn said(packet: &Packet) -> Packet {
    let mut said = *packet;
    if packet.layout == Layout::Ip && !packet.first_fragment {
        (said.fragment_at, said.fragment_len, said.identification) = (0, 0, 0);
    }
    if !matches!(packet.protocol, protocol::TCP | protocol::SCTP) {
        said.numbers = 0;
    }
    if packet.protocol != protocol::TCP || packet.detail & 7 == 0 {
        said.payload = 0;
    }
    if packet.layout != Layout::Arp {
        said.sender_mac = Mac::default();
    }
    if packet.ethertype != ethertype::IPV6 {
        said.hop_limit = 0;
    }
    said
}
