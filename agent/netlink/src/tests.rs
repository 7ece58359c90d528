//! Links, addresses and errors from this machine's own kernel.

use std::fs::File;
use std::os::fd::AsFd as _;

use super::*;

#[test]
fn this_namespace_has_a_loopback_with_its_address() {
    let mut netlink = Netlink::open().unwrap();
    let links = netlink.links().unwrap();
    let loopback = links.iter().find(|link| link.name == "lo").unwrap();
    assert_eq!(loopback.mac, Some([0; 6]));
    assert_eq!(loopback.medium, LinkLayerType::Loopback);
    assert_eq!((loopback.peer, loopback.kind.as_str()), (None, ""));
    let addresses = netlink.addresses().unwrap();
    assert!(
        addresses
            .iter()
            .all(|a| links.iter().any(|link| link.index == a.link))
    );
}

#[test]
fn an_answer_beyond_the_limit_is_refused() {
    let mut netlink = Netlink::open().unwrap().with_limit(0);
    let error = netlink.links().unwrap_err();
    assert!(
        matches!(error, NetlinkError::TooMany { limit: 0, .. }),
        "{error}"
    );
}

#[test]
fn an_error_reply_is_an_error_and_the_socket_stays_usable() {
    let mut netlink = Netlink::open().unwrap();
    let file = File::open("/dev/null").unwrap();
    assert!(netlink.namespace_id(file.as_fd()).is_err());
    assert!(!netlink.links().unwrap().is_empty());
}
