//! Whether a NetworkPolicy is one that the API server would have taken.

use serde_json::Value;

use super::address::Cidr;
use super::object::{field, list, protocol_number, text};

/// What is wrong with a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Its own selector: whom it guards can't be told.
    PodSelector,
    /// Anything else.
    Elsewhere,
}

/// The gravest fault of a policy.
pub(super) fn fault(policy: &Value) -> Option<Fault> {
    let spec = &policy["spec"];
    if !selector_fits(spec.get("podSelector")) {
        return Some(Fault::PodSelector);
    }
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    let rules = |way: &str, peers: &str| {
        list(spec, way).iter().all(|rule| {
            only(rule, &[&peers[1..], "ports"])
                && list(rule, peers).iter().all(peer_fits)
                && list(rule, "/ports").iter().all(port_fits)
        })
    };
    let types = list(spec, "/policyTypes").iter();
    let fits = only(spec, &known)
        && rules("/ingress", "/from")
        && rules("/egress", "/to")
        && types.into_iter().all(|t| t == "Ingress" || t == "Egress");
    (!fits).then_some(Fault::Elsewhere)
}

pub(super) fn only(value: &Value, known: &[&str]) -> bool {
    let fields = value.as_object();
    fields.is_some_and(|map| map.keys().all(|key| known.contains(&key.as_str())))
}

pub(super) fn selector_fits(selector: Option<&Value>) -> bool {
    let Some(selector) = selector.filter(|s| !s.is_null()) else {
        return true;
    };
    let expressions = list(selector, "/matchExpressions").iter();
    only(selector, &["matchLabels", "matchExpressions"])
        && expressions.into_iter().all(|e| {
            let values = list(e, "/values");
            match text(e, "/operator") {
                "In" | "NotIn" => !values.is_empty(),
                "Exists" | "DoesNotExist" => values.is_empty(),
                _ => false,
            }
        })
}

fn peer_fits(peer: &Value) -> bool {
    let selectors =
        field(peer, "podSelector").is_some() || field(peer, "namespaceSelector").is_some();
    let block = field(peer, "ipBlock");
    only(peer, &["ipBlock", "podSelector", "namespaceSelector"])
        && selectors != block.is_some()
        && selector_fits(peer.get("podSelector"))
        && selector_fits(peer.get("namespaceSelector"))
        && block.is_none_or(block_fits)
}

fn block_fits(block: &Value) -> bool {
    let Some(cidr) = Cidr::parse(text(block, "/cidr")) else {
        return false;
    };
    list(block, "/except").iter().all(|except| {
        let except = except.as_str().and_then(Cidr::parse);
        except.is_some_and(|e| cidr.strictly_holds(&e))
    })
}

fn port_fits(port: &Value) -> bool {
    let number = |name| field(port, name).and_then(Value::as_u64);
    let fits = |n: u64| (1..=65535).contains(&n);
    let first = match field(port, "port") {
        None => true,
        Some(Value::String(name)) => !name.is_empty(),
        Some(_) => number("port").is_some_and(fits),
    };
    let last = field(port, "endPort").is_none()
        || match (number("port"), number("endPort")) {
            (Some(first), Some(last)) => fits(last) && first <= last,
            _ => false,
        };
    only(port, &["protocol", "port", "endPort"])
        && protocol_number(text(port, "/protocol")).is_some()
        && first
        && last
}
