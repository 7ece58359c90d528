//! Answers about manifests or a cluster, to JSON and back.

use crate::Direction;
use crate::offline::*;

use super::survives;

#[test]
fn every_word_of_an_offline_answer_is_read_back() {
    words_survive!(CallerKind Egress Form PartyKind Verdict);
}

fn explanation(verdict: &Verdict) -> Explanation {
    let party = |kind: PartyKind, name: &str| Party {
        kind,
        name: name.into(),
        workload: "bank/ledger".into(),
        address: Some([10, 0, 0, 1].into()),
    };
    let side = |direction| Side {
        direction,
        verdict: verdict.clone(),
        reason: "no rule allows it".into(),
        isolated_by: vec![Isolation {
            policy: "NetworkPolicy bank/deny-all".into(),
            why: "it selects all pods".into(),
            staged: true,
        }],
        allowed_by: vec![Allowing {
            policy: "NetworkPolicy bank/ledger".into(),
            rule: "spec.ingress[0]".into(),
            staged: false,
        }],
    };
    let calls = || Calls {
        count: 11,
        calls: vec![ChangedCall {
            from: "bank/web".into(),
            to: "bank/ledger".into(),
            ports: vec!["TCP/8080-8090".into(), "all".into()],
        }],
    };
    Explanation {
        from: party(PartyKind::Pod, "bank/web-0"),
        to: party(PartyKind::Pod, "bank/ledger-0"),
        port: "TCP/8080".into(),
        via: Some(Via {
            service: "bank/ledger".into(),
            address: "fd00::1".parse().unwrap(),
            port: "TCP/80".into(),
            backends: vec![Backend {
                name: "bank/ledger-0".into(),
                port: "TCP/8080".into(),
                verdict: verdict.clone(),
            }],
        }),
        note: Some("a note".into()),
        verdict: verdict.clone(),
        families: Some([Verdict::Allowed, verdict.clone()]),
        egress: side(Direction::Egress),
        ingress: side(Direction::Ingress),
        fix: vec![Fix {
            object: "Pod bank/web-0".into(),
            form: Form::Patch,
            patch: "metadata: {}\n".into(),
            sentence: "It may call the ledger.".into(),
        }],
        effect: Some(Effect {
            opens: calls(),
            closes: calls(),
            partly: true,
        }),
    }
}

#[test]
fn an_explanation_is_read_back() {
    for verdict in Verdict::KNOWN {
        survives(&explanation(verdict));
    }
    let mut short = explanation(&Verdict::Allowed);
    (short.via, short.note, short.families) = (None, None, None);
    (short.fix, short.effect) = (Vec::new(), None);
    survives(&short);
}

#[test]
fn callers_are_read_back() {
    let caller = |kind: &CallerKind, egress: &Egress| Caller {
        kind: kind.clone(),
        caller: "bank/web".into(),
        ports: vec!["TCP/8080".into()],
        once_enforced: Vec::new(),
        partly: true,
        egress: egress.clone(),
        through: vec![Through {
            policy: "NetworkPolicy bank/ledger".into(),
            rule: "spec.ingress[0]".into(),
            ports: vec!["TCP/8080".into()],
            staged: false,
        }],
    };
    let kinds = CallerKind::KNOWN.iter().cycle();
    let callers = Egress::KNOWN.iter().zip(kinds);
    survives(&Callers {
        service: "bank/ledger".into(),
        pods: vec!["bank/ledger-0".into()],
        isolated: true,
        policies: vec![PolicyName {
            policy: "NetworkPolicy bank/ledger".into(),
            staged: true,
        }],
        callers: callers.map(|(egress, kind)| caller(kind, egress)).collect(),
    });
}

#[test]
fn a_matrix_and_the_difference_of_two_are_read_back() {
    let cell = || [("bank/ledger-0".to_owned(), ".X".to_owned())].into();
    let rows = || [("bank/web-0".to_owned(), cell())].into();
    survives(&Matrix {
        ports: vec!["TCP/80".into(), "ICMP".into()],
        pods: vec!["bank/ledger-0".into(), "bank/web-0".into()],
        ingress: rows(),
        egress: rows(),
        allowed: rows(),
    });
    let edge = || Edge {
        from: "bank/web".into(),
        to: "bank/ledger".into(),
        ports: vec!["TCP/80".into()],
    };
    survives(&Difference {
        ports: vec!["TCP/80".into()],
        opens: vec![edge()],
        closes: vec![edge()],
        added: vec!["bank/web".into()],
        removed: vec!["bank/old".into()],
    });
}
