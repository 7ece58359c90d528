//! `wait policy` over all nodes.

use ringfence_tests::agent::Ended;
use ringfence_tests::apiserver::Fault;

use crate::agents::Nodes;

fn policy(from: &str) -> String {
    format!(
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\n\
         metadata: {{ name: only, namespace: shop }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ app: server }} }}, \
         ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ app: {from} }} }} }}] }}] }}\n"
    )
}

fn wait(nodes: &Nodes, policy: &str, seconds: &str) -> Ended {
    nodes.run(&[
        "wait",
        "policy",
        policy,
        "--all-nodes",
        "--timeout",
        seconds,
    ])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_is_waited_for_on_all_nodes_or_where_it_is_not_is_said() {
    let mut nodes = Nodes::start();
    for round in 0..6 {
        let allowed = round % 2 == 1;
        let from = if allowed { "rogue" } else { "nobody" };
        nodes.server.apply(&policy(from)).unwrap();
        let ended = wait(&nodes, "shop/only", "20");
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
        for line in [
            "node-1: NetworkPolicy shop/only is in force for 1 pod",
            "node-2: NetworkPolicy shop/only is in force for no pod",
        ] {
            assert!(ended.stdout.contains(line), "{ended:?}");
        }
        let calls = nodes.shop.calls("rogue", "server", allowed).unwrap();
        assert_eq!(calls, allowed, "round {round}");
    }
    let none = wait(&nodes, "shop/none", "5");
    assert_eq!(none.code, 2, "{none:?}");
    assert!(
        none.stderr
            .contains("the cluster has no NetworkPolicy shop/none"),
        "{none:?}"
    );

    nodes
        .server
        .inject("networkpolicies", Fault::Silence, usize::MAX);
    nodes.server.apply(&policy("rogue")).unwrap();
    let late = wait(&nodes, "shop/only", "3");
    assert_eq!((late.code, late.stdout.as_str()), (1, ""), "{late:?}");
    for node in ["node-1: ", "node-2: "] {
        let line = late.stderr.lines().find(|line| line.contains(node));
        assert!(
            line.unwrap()
                .contains("NetworkPolicy: its watch hasn't shown that version"),
            "{late:?}"
        );
    }
    nodes.server.heal();
    nodes.server.cut_watches();
    assert_eq!(wait(&nodes, "shop/only", "30").code, 0);

    nodes.other.kill(&mut nodes.shop.net).unwrap();
    let ended = wait(&nodes, "shop/only", "2");
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.starts_with("node-1: "), "{ended:?}");
    let said = "node-2: its agent says: NetworkPolicy shop/only is not in force after 2 s: no agent answers";
    assert!(ended.stderr.contains(said), "{ended:?}");
}
