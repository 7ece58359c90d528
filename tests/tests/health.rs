//! What `status`, `endpoints` and the metrics report about an agent and its pods: no
//! alarm on a node where the agent is healthy, and no open endpoint reported as closed.
#![allow(clippy::unwrap_used)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Manifest, Shop};
use serde_json::{Value, json};

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The maximum age of a page of metrics.
const PAGE: Duration = Duration::from_millis(1100);

/// Waits until `status` exits with a code. Returns its output.
#[track_caller]
fn until(shop: &Shop, code: i32) -> String {
    let start = Instant::now();
    loop {
        let said = shop.agent.run(&["status"]).unwrap();
        if said.code == code {
            return said.stdout;
        }
        assert!(start.elapsed() < PATIENCE, "not {code}: {said:?}");
        sleep(Duration::from_millis(20));
    }
}

fn row(shop: &Shop, pod: &str) -> Value {
    let all = shop.agent.json(&["endpoints"]).unwrap();
    let mut all = all.as_array().unwrap().iter();
    all.find(|row| row["pod"] == pod)
        .cloned()
        .unwrap_or_default()
}

fn state(shop: &Shop, state: &str) -> f64 {
    sleep(PAGE);
    let metric = format!("ringfence_endpoints{{state=\"{state}\"}}");
    shop.agent.metric(&metric).unwrap()
}

/// Returns a pod on the host network, as most nodes have some.
fn on_host_network(shop: &Shop) -> String {
    let address = shop.net.node_address(true).unwrap();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "proxy"},
        "spec": {"nodeName": Shop::NODE, "hostNetwork": true, "containers": []},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
    .to_string()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_exit_code_of_status_says_whether_all_is_well() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    assert!(until(&shop, 0).starts_with("healthy\n"));

    // State that every node has is no alarm.
    shop.write("proxy", &on_host_network(&shop)).unwrap();
    let start = Instant::now();
    while row(&shop, "shop/proxy")["attached"] != false {
        assert!(start.elapsed() < PATIENCE);
    }
    let said = until(&shop, 0);
    let line = "\nendpoints   3 guarded, 0 not; 1 on the host network\n";
    assert!(said.contains(line), "{said}");
    assert!(!said.contains("not guarded"), "{said}");
    let reason = row(&shop, "shop/proxy")["reason"].clone();
    assert!(
        reason.as_str().unwrap().starts_with("host network"),
        "{reason}"
    );
    assert_eq!(
        shop.agent.json(&["status"]).unwrap()["unguarded"],
        json!([])
    );
    assert_eq!(
        (state(&shop, "host_network"), state(&shop, "unguarded")),
        (1.0, 0.0)
    );

    shop.write("broken", "kind: [").unwrap();
    assert!(until(&shop, 1).starts_with("running on older policy\n"));
    shop.remove("broken").unwrap();
    until(&shop, 0);

    // A pod whose namespace can't be found.
    let lost = Manifest::pod("lost", Shop::NODE, 77);
    shop.write("lost", &lost.yaml()).unwrap();
    let said = until(&shop, 1);
    assert!(said.starts_with("1 pod not guarded\n"), "{said}");
    shop.remove("lost").unwrap();
    until(&shop, 0);

    shop.agent.stop(&mut shop.net).unwrap();
    until(&shop, 3);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_audits_says_closed_of_no_door() {
    let cut = Shop::rogue().label("ringfence.dev/quarantine", "true");
    let mut shop = Shop::with([Shop::server(), Shop::client(), cut]).unwrap();
    shop.agent.flags = vec!["--mode=audit".to_owned()];
    shop.start().unwrap();
    let said = |pod: &str| {
        let row = row(&shop, pod);
        ["ingress", "egress"].map(|side| row[side].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(said("shop/server"), ["audit", "open"]);
    assert_eq!(said("shop/client"), ["open", "open"]);
    assert_eq!(said("shop/rogue"), ["audit", "audit"]);
    // The report is correct.
    assert!(shop.calls("rogue", "server", true).unwrap());
    assert_eq!((state(&shop, "audit"), state(&shop, "enforce")), (2.0, 0.0));
    assert_eq!(
        (state(&shop, "quarantine"), state(&shop, "closed")),
        (0.0, 0.0)
    );

    shop.remove("rogue").unwrap();
    let start = Instant::now();
    while row(&shop, "shop/rogue")["gone"] != true {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(said("shop/rogue"), ["audit", "audit"]);
    assert!(shop.calls("client", "rogue", true).unwrap());

    shop.agent.stop(&mut shop.net).unwrap();
    shop.write(
        "rogue",
        &Shop::rogue()
            .label("ringfence.dev/quarantine", "true")
            .yaml(),
    )
    .unwrap();
    shop.agent.flags.clear();
    shop.start().unwrap();
    let row = row(&shop, "shop/rogue");
    assert_eq!(
        (&row["ingress"], &row["egress"]),
        (&json!("quarantine"), &json!("quarantine"))
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_whose_object_is_gone_is_shown_by_its_last_name_and_counts_as_gone() {
    let mut shop = Shop::open().unwrap();
    shop.start().unwrap();
    assert!(shop.calls("client", "rogue", true).unwrap());
    shop.remove("rogue").unwrap();
    let start = Instant::now();
    while row(&shop, "shop/rogue")["gone"] != true {
        assert!(start.elapsed() < PATIENCE, "{}", row(&shop, "shop/rogue"));
    }
    let gone = row(&shop, "shop/rogue");
    assert!(
        gone["reason"].as_str().unwrap().starts_with("gone: "),
        "{gone}"
    );
    assert_eq!(
        (&gone["ingress"], &gone["workload"]),
        (&json!("closed"), &json!("shop/rogue"))
    );
    assert!(!shop.calls("client", "rogue", false).unwrap());
    let said = until(&shop, 0);
    assert!(said.contains("\nendpoints   2 guarded, 0 not\n"), "{said}");
    assert_eq!((state(&shop, "gone"), state(&shop, "closed")), (1.0, 0.0));
    let refused = shop
        .agent
        .run(&["status", "--wait", "shop/rogue", "--timeout", "1"]);
    assert_eq!(
        refused.unwrap().code,
        1,
        "a pod that is gone is guarded by nothing"
    );

    // The next agent knows its workload, and doesn't invent a name.
    shop.agent.kill(&mut shop.net).unwrap();
    let pods = ["shop/server", "shop/client"];
    shop.agent.start(&mut shop.net, &pods).unwrap();
    let all = shop.agent.json(&["endpoints"]).unwrap();
    let all = all.as_array().unwrap();
    let gone = all.iter().find(|row| row["gone"] == true).unwrap();
    assert_eq!(
        (&gone["pod"], &gone["workload"]),
        (&Value::Null, &json!("shop/rogue"))
    );
    let table = shop.agent.run(&["endpoints"]).unwrap().stdout;
    assert!(!table.lines().any(|line| line.starts_with("/ ")), "{table}");
    // The pod comes back.
    shop.write("rogue", &Shop::rogue().yaml()).unwrap();
    shop.agent.wait_for("shop/rogue").unwrap();
    assert_eq!(row(&shop, "shop/rogue")["gone"], false);
    assert!(shop.calls("client", "rogue", true).unwrap());
}
