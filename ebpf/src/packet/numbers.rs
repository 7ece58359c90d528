//! Protocol constants: protocols, flags, types, and the parser's bounds.

/// IANA protocol numbers that the datapath knows.
pub mod protocol {
    #![allow(missing_docs)]
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6_IN_IP: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;
    pub const ETHERIP: u8 = 97;
    pub const PIM: u8 = 103;
    pub const L2TP: u8 = 115;
    pub const SCTP: u8 = 132;
    pub const MPLS_IN_IP: u8 = 137;
    pub const ETHERNET: u8 = 143;
}

/// TCP flag bits (RFC 9293).
pub mod tcp {
    #![allow(missing_docs)]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// SCTP chunk types (RFC 9260).
pub mod sctp {
    #![allow(missing_docs)]
    pub const INIT: u8 = 1;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// ICMPv6 types (RFC 4443, 4861, 2710, 3810).
pub mod icmpv6 {
    #![allow(missing_docs)]
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const MLD_QUERY: u8 = 130;
    pub const MLD_REPORT: u8 = 131;
    pub const MLD_DONE: u8 = 132;
    pub const ROUTER_SOLICIT: u8 = 133;
    pub const ROUTER_ADVERT: u8 = 134;
    pub const NEIGHBOUR_SOLICIT: u8 = 135;
    pub const NEIGHBOUR_ADVERT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const MLD2_REPORT: u8 = 143;
}

/// EtherTypes (host order).
pub mod ethertype {
    #![allow(missing_docs)]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    pub const IPV6: u16 = 0x86dd;
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET: u32 = 14;

/// Maximum number of IPv6 extension headers that the parser walks. RFC 8200 expects each kind at
/// most once (destination options twice), which makes six; one more is spare.
pub const EXTENSION_HEADERS: u32 = 7;

/// UDP ports of tunnels that Linux decapsulates: VXLAN (IANA's port, and the one used by
/// Linux, flannel and Cilium), VXLAN-GPE, Geneve. Host order. These always count as tunnel
/// ports, in addition to those in the `TUNNELS` map.
pub const TUNNEL_PORTS: [u16; 4] = [4789, 8472, 4790, 6081];

/// Reports whether a UDP port is one of [`TUNNEL_PORTS`].
#[inline(always)]
pub const fn is_tunnel_port(port: u16) -> bool {
    // Not `contains`, which is a loop over memory.
    let [a, b, c, d] = TUNNEL_PORTS;
    port == a || port == b || port == c || port == d
}

/// Reports whether Linux decapsulates an IP protocol and treats the inner packet as if it had
/// arrived by a device of its own, without proof of its sender: IP-in-IP, 6in4, GRE, EtherIP, PIM
/// registers, L2TPv3, MPLS, and Ethernet in IPv6 (SRv6).
#[inline(always)]
pub const fn is_tunnel_protocol(number: u8) -> bool {
    matches!(
        number,
        protocol::IPIP
            | protocol::IPV6_IN_IP
            | protocol::GRE
            | protocol::ETHERIP
            | protocol::PIM
            | protocol::L2TP
            | protocol::MPLS_IN_IP
            | protocol::ETHERNET
    )
}
