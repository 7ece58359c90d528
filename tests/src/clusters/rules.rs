//! Rules of policies: peers that someone else chose, ports and blocks.

use serde_json::{Value, json};

use super::parts;
use crate::random::Dice;

/// Which directions a policy isolates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ways {
    In,
    Out,
    Both,
}

impl Ways {
    /// More policies guard what comes in.
    pub(super) fn any(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0..6 => Self::In,
            6..8 => Self::Out,
            _ => Self::Both,
        }
    }
}

/// A policy's spec; `peers` chooses who is let through in one direction.
pub(super) fn spec(
    dice: &mut Dice,
    subject: Value,
    ways: Ways,
    nodes: usize,
    mut peers: impl FnMut(&mut Dice) -> Vec<Value>,
) -> Value {
    let mut spec = json!({"podSelector": subject});
    let mut types = Vec::new();
    for (way, kind, list, who) in [
        (Ways::In, "Ingress", "ingress", "from"),
        (Ways::Out, "Egress", "egress", "to"),
    ] {
        if ways == way || ways == Ways::Both {
            types.push(kind);
            let chosen = peers(dice);
            spec[list] = rules(dice, who, chosen, nodes);
        }
    }
    spec["policyTypes"] = json!(types);
    spec
}

/// Closes a namespace but for what other policies allow.
pub(super) fn default_deny(ways: Ways) -> Value {
    let types = match ways {
        Ways::In => json!(["Ingress"]),
        Ways::Out => json!(["Egress"]),
        Ways::Both => json!(["Ingress", "Egress"]),
    };
    json!({"podSelector": {}, "policyTypes": types})
}

/// The peers in one rule or in one each; at times a block besides.
fn rules(dice: &mut Dice, who: &str, mut peers: Vec<Value>, nodes: usize) -> Value {
    if dice.chance(15) {
        peers.push(block(dice, nodes));
    }
    let groups: Vec<Vec<Value>> = match dice.chance(40) {
        true => peers.into_iter().map(|peer| vec![peer]).collect(),
        false => vec![peers],
    };
    let rule = |peers: Vec<Value>| {
        let mut rule = json!({ who: peers });
        if dice.chance(85) {
            rule["ports"] = ports(dice);
        }
        rule
    };
    groups.into_iter().map(rule).collect()
}

fn ports(dice: &mut Dice) -> Value {
    let port = |dice: &mut Dice| match dice.below(10) {
        0..5 => json!({"protocol": "TCP", "port": *dice.choose(&[8080, 8081, 9000, 9090, 9102])}),
        5..8 => json!({"protocol": "TCP", "port": dice.pick(&["http", "grpc", "metrics"])}),
        8 => json!({"protocol": "UDP", "port": *dice.choose(&[53, 4317, 8125])}),
        _ => {
            let first = *dice.choose(&[7000, 30_000]);
            json!({"protocol": "TCP", "port": first, "endPort": first + 99})
        }
    };
    let count = dice.between(1, 2);
    (0..count).map(|_| port(dice)).collect()
}

/// The outside, a partner, or the pods of one node.
fn block(dice: &mut Dice, nodes: usize) -> Value {
    let block = match dice.below(4) {
        0 => json!({
            "cidr": "0.0.0.0/0",
            "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
        }),
        1 => json!({"cidr": "2000::/3", "except": ["2001:db8::/32"]}),
        2 => {
            let partner = format!("203.0.113.{}", dice.below(16) * 16);
            json!({"cidr": format!("{partner}/28"), "except": [format!("{partner}/32")]})
        }
        _ => {
            let cidr = parts::pod_block(dice.below(nodes));
            let part = cidr.replace(".0/24", ".64/27");
            json!({"cidr": cidr, "except": [part]})
        }
    };
    json!({ "ipBlock": block })
}
