//! A tenant's Services with more addresses than the table can hold: packets to an
//! address without an entry are still decided by their real backend.

use std::net::Ipv4Addr;

use ringfence_ebpf::abi::capacity;
use serde_json::{Value, json};

use crate::claims::{OUTSIDE, forward, layouts, outside, put, thief};
use crate::cluster::{Cluster, PORT};

use ringfence_tests::testnet::Server;

/// The largest share of the address table that one namespace may have.
const MOST: u32 = capacity::ADDRESSES / 16;

/// Returns a Service of the tenant with this many addresses; `filler` sorts before `thief`.
fn filler(addresses: u32) -> Value {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let shown = (first..first + addresses - 1).map(|ip| Ipv4Addr::from(ip).to_string());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "tenant", "name": "filler"},
        "spec": {
            "selector": {"app": "nobody"}, "clusterIP": "10.96.0.67",
            "externalIPs": shown.collect::<Vec<_>>(), "ports": [{"port": 1}],
        },
    })
}

/// Returns the problems of Services that `status` reports.
fn problems(cluster: &Cluster) -> Vec<String> {
    let status = cluster.agent.json(&["status"]).unwrap();
    let all = status["problems"].as_array().unwrap().iter();
    let all = all.filter_map(Value::as_str);
    let of_services = all.filter(|problem| problem.contains("Service "));
    of_services.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_that_a_full_share_hides_leads_to_no_backend_that_egress_denies() {
    for cluster in layouts() {
        let both = [true, false].map(|v4| outside(v4, 0).ip());
        let _server = Server::default()
            .tcp(cluster.ns("outside"), OUTSIDE, "outside")
            .unwrap();
        let blocks = both.map(|ip| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            json!({"ipBlock": {"cidr": format!("{ip}/{length}")}})
        });
        // The caller may call those of the addresses that are outside.
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "caller-out"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"],
                "egress": [{"to": blocks, "ports": [{"port": OUTSIDE}, {"port": PORT}]}],
            },
        });
        cluster.write("caller-out", &[policy]);
        cluster.write("filler", &[filler(MOST - 1)]);
        put(&cluster, thief(&both, PORT));
        let found = problems(&cluster);
        let [problem] = &found[..] else {
            panic!("{found:?}");
        };
        assert!(problem.contains("Service tenant/thief"), "{problem}");
        for v4 in [true, false] {
            let at = |port| outside(v4, port);
            assert_eq!(cluster.answers("caller", at(OUTSIDE)), "outside");
            forward(&cluster, at(PORT), cluster.backend("good", v4));
            assert_eq!(cluster.answers("caller", at(PORT)), "good");
            forward(&cluster, at(PORT), cluster.backend("bad", v4));
            cluster.is_denied(at(PORT), "bad");
            assert_eq!(cluster.answers("free", at(PORT)), "bad");
            assert_eq!(cluster.answers("caller", at(OUTSIDE)), "outside");
        }
        // Once there is room, the address is the Service's again.
        cluster.write("filler", &[filler(2)]);
        put(&cluster, thief(&both, PORT));
        assert_eq!(problems(&cluster), [""; 0]);
        for v4 in [true, false] {
            let at = |port| outside(v4, port);
            forward(&cluster, at(PORT), cluster.backend("bad", v4));
            cluster.is_denied(at(PORT), "bad");
            assert_eq!(cluster.answers("caller", at(OUTSIDE)), "outside");
        }
    }
}
