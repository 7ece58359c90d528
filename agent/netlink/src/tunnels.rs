//! The UDP ports of a device's tunnel.

use netlink_packet_route::link::{
    InfoAmt, InfoBareUdp, InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoVxlan,
};

/// GTP-U and GTP version 0 (3GPP TS 29.281; GSM 09.60), which `gtp` devices decapsulate
/// whatever their attributes are.
const GTP: [u16; 2] = [2152, 3386];

/// Returns the ports given by a device's `IFLA_INFO_DATA`. For IP-in-IP and GRE over UDP,
/// that is the port of the other end, where packets are decapsulated.
pub(super) fn of_device(data: &InfoData) -> Vec<u16> {
    let ports: Vec<u16> = match data {
        InfoData::Vxlan(all) => all.iter().filter_map(vxlan).collect(),
        InfoData::Geneve(all) => all.iter().filter_map(geneve).collect(),
        InfoData::BareUdp(all) => all.iter().filter_map(bareudp).collect(),
        InfoData::Amt(all) => all.iter().filter_map(amt).collect(),
        InfoData::Gtp(_) => GTP.into(),
        InfoData::IpTunnel(all) => all.iter().filter_map(ip_tunnel).collect(),
        InfoData::GreTun(all) | InfoData::GreTap(all) | InfoData::ErSpan(all) => {
            all.iter().filter_map(gre).collect()
        }
        InfoData::GreTun6(all) | InfoData::GreTap6(all) | InfoData::Ip6ErSpan(all) => {
            all.iter().filter_map(gre6).collect()
        }
        _ => Vec::new(),
    };
    // 0 means none.
    ports.into_iter().filter(|port| *port != 0).collect()
}

macro_rules! port_of {
    ($($name:ident: $info:ident = $($port:ident)|+;)+) => {$(
        const fn $name(info: &$info) -> Option<u16> {
            match info {
                $($info::$port(port))|+ => Some(*port),
                _ => None,
            }
        }
    )+};
}

port_of! {
    vxlan: InfoVxlan = Port;
    geneve: InfoGeneve = Port;
    bareudp: InfoBareUdp = Port;
    amt: InfoAmt = RelayPort | GatewayPort;
    ip_tunnel: InfoIpTunnel = EncapDPort;
    gre: InfoGre = DestinationPort;
    gre6: InfoGre6 = DestinationPort;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_device_shows_the_port_that_is_unpacked() {
        let vxlan = InfoData::Vxlan(vec![InfoVxlan::Id(7), InfoVxlan::Port(8473)]);
        assert_eq!(of_device(&vxlan), [8473]);
        let geneve = InfoData::Geneve(vec![InfoGeneve::Port(6082)]);
        assert_eq!(of_device(&geneve), [6082]);
        let mpls = InfoData::BareUdp(vec![InfoBareUdp::Port(6635)]);
        assert_eq!(of_device(&mpls), [6635]);
        let amt = InfoData::Amt(vec![InfoAmt::RelayPort(2268), InfoAmt::GatewayPort(2269)]);
        assert_eq!(of_device(&amt), [2268, 2269]);
        assert_eq!(of_device(&InfoData::Gtp(Vec::new())), GTP);
        let fou = InfoData::IpTunnel(vec![InfoIpTunnel::EncapDPort(5555)]);
        assert_eq!(of_device(&fou), [5555]);
    }

    #[test]
    fn a_tunnel_without_udp_around_it_shows_no_port() {
        let plain = InfoData::IpTunnel(vec![InfoIpTunnel::EncapDPort(0)]);
        assert_eq!(of_device(&plain), [0; 0]);
        assert_eq!(of_device(&InfoData::Vlan(Vec::new())), [0; 0]);
    }
}
