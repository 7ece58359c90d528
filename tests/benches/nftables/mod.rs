//! The packet table's policy for its caller and its callee, as somebody who
//! knows nftables would write it on the node.

use std::fs;

use anyhow::Result;
use ringfence_tests::testnet::Net;

/// Pods are routed: what they send each other is forwarded by the node. What is
/// established is accepted first, by far most packets; a new packet costs a
/// lookup in a set, however many grants there are.
pub(crate) const RULES: &str = "\
table inet isolation {
  set egress_isolated4 { type ipv4_addr; elements = { 10.244.0.11 } }
  set egress_isolated6 { type ipv6_addr; elements = { fd00:10:244::11 } }
  set ingress_isolated4 { type ipv4_addr; elements = { 10.244.0.10 } }
  set ingress_isolated6 { type ipv6_addr; elements = { fd00:10:244::10 } }
  set calls4 {
    type ipv4_addr . ipv4_addr . inet_proto . inet_service
    elements = { 10.244.0.11 . 10.244.0.10 . tcp . 8080 }
  }
  set calls6 {
    type ipv6_addr . ipv6_addr . inet_proto . inet_service
    elements = { fd00:10:244::11 . fd00:10:244::10 . tcp . 8080 }
  }
  set friends4 { type ipv4_addr; flags interval; elements = { 192.0.2.0/25 } }
  set friends6 {
    type ipv6_addr; flags interval
    elements = {
      2001:db8:5::-2001:db8:5::7fff,
      2001:db8:5::1:0-2001:db8:5:0:ffff:ffff:ffff:ffff
    }
  }
  set trusted4 { type ipv4_addr; flags interval; elements = { 198.51.100.0/28 } }
  set trusted6 { type ipv6_addr; flags interval; elements = { 2001:db8:6::/64 } }
  set friends_ports {
    type inet_proto . inet_service; flags interval
    elements = {
      udp . 5353, sctp . 7000, tcp . 1000-1100, tcp . 65534-65535
    }
  }
  chain egress {
    ip saddr . ip daddr . meta l4proto . th dport @calls4 return
    ip6 saddr . ip6 daddr . meta l4proto . th dport @calls6 return
    drop
  }
  chain ingress {
    ip saddr . ip daddr . meta l4proto . th dport @calls4 accept
    ip6 saddr . ip6 daddr . meta l4proto . th dport @calls6 accept
    ip saddr @trusted4 accept
    ip6 saddr @trusted6 accept
    ip saddr @friends4 meta l4proto . th dport @friends_ports accept
    ip6 saddr @friends6 meta l4proto . th dport @friends_ports accept
    drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    ip saddr @egress_isolated4 jump egress
    ip6 saddr @egress_isolated6 jump egress
    ip daddr @ingress_isolated4 jump ingress
    ip6 daddr @ingress_isolated6 jump ingress
  }
}
";

/// Puts the rules in force.
pub(crate) fn load(net: &Net) -> Result<()> {
    let file = net.dir().join("policy.nft");
    fs::write(&file, RULES)?;
    let file = file.to_string_lossy();
    net.node().output("nft", &["-f", &file]).map(drop)
}

/// Takes them away, and connection tracking with them.
pub(crate) fn unload(net: &Net) -> Result<()> {
    let delete = ["delete", "table", "inet", "isolation"];
    net.node().output("nft", &delete).map(drop)
}
