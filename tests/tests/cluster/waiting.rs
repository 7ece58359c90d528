//! Policy that `status --wait` and `wait policy` report as in force is in force: they
//! count what the API server has accepted, not what a watch has shown.

use ringfence_tests::agent::Ended;
use ringfence_tests::apiserver::Fault;

use crate::Cluster;

const SECONDS: &str = "20";

fn policy(ports: &str) -> String {
    format!(
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\n\
         metadata: {{ name: only, namespace: shop }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ app: server }} }}, ingress: [{ports}] }}\n"
    )
}

impl Cluster {
    fn wait(&self, arguments: &[&str], seconds: &str) -> Ended {
        let all = [arguments, &["--timeout", seconds]].concat();
        self.shop.agent.run(&all).unwrap()
    }

    /// Asserts that the policy is in force, and is reported so at once.
    fn in_force(&self, arguments: &[&str]) -> String {
        let ended = self.wait(arguments, SECONDS);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_was_waited_for_is_as_the_server_has_it() {
    let cluster = Cluster::start();
    for round in 0..10 {
        let allowed = round % 2 == 1;
        cluster.allow_client(allowed);
        // The caller changes; the question is about the callee's policy.
        cluster.in_force(&["status", "--wait", "shop/server"]);
        let calls = cluster.shop.calls("client", "server", allowed).unwrap();
        assert_eq!(calls, allowed, "round {round}");
    }
    cluster.server.inject("pods", Fault::Silence, usize::MAX);
    cluster.allow_client(false);
    let late = cluster.wait(&["status", "--wait", "shop/server"], "3");
    assert_eq!(late.code, 1, "{late:?}");
    assert!(
        late.stderr.contains("Pod: its watch hasn't shown"),
        "{late:?}"
    );
    cluster.server.heal();
    cluster.server.cut_watches();
    cluster.in_force(&["status", "--wait", "shop/server"]);
    assert!(!cluster.shop.calls("client", "server", false).unwrap());
    cluster.server.stop();
    let late = cluster.wait(&["status", "--wait", "shop/server"], "3");
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stderr.contains("not certain: listing"), "{late:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_that_was_waited_for_is_in_force() {
    let cluster = Cluster::start();
    let waits = ["wait", "policy", "shop/only"];
    let none = cluster.wait(&waits, "1");
    assert_eq!(none.code, 1, "{none:?}");
    assert!(none.stderr.contains("there is no such policy"), "{none:?}");
    for round in 0..10 {
        let allowed = round % 2 == 1;
        let rule = if allowed {
            "{}"
        } else {
            "{ from: [{ ipBlock: { cidr: 192.0.2.0/28 } }] }"
        };
        cluster.server.apply(&policy(rule)).unwrap();
        let said = cluster.in_force(&waits);
        assert!(said.contains("in force for 1 pod of this node"), "{said}");
        let calls = cluster.shop.calls("rogue", "server", allowed).unwrap();
        assert_eq!(calls, allowed, "round {round}");
    }
    cluster
        .server
        .apply(&policy("{ ports: [{ port: 0 }] }"))
        .unwrap();
    let invalid = cluster.wait(&waits, "2");
    assert_eq!(invalid.code, 1, "{invalid:?}");
    for word in ["port", "its last valid form is in force"] {
        assert!(invalid.stderr.contains(word), "{word}: {invalid:?}");
    }
    let other = "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\n\
                 metadata: { name: other, namespace: shop }\n\
                 spec: { podSelector: { matchLabels: { app: nobody } } }\n";
    cluster.server.apply(other).unwrap();
    let said = cluster.in_force(&["wait", "policy", "shop/other"]);
    assert!(said.contains("in force for no pod of this node"), "{said}");
    let wrong = cluster.wait(&["wait", "policy", "Shop/only"], SECONDS);
    assert_eq!(wrong.code, 2, "{wrong:?}");
}
