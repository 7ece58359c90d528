//! The complete deployment as it would run on a node: the image's binary in a container
//! created as the manifests say, with the credentials of a service account.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_tests::agent::{Manifest, Shop};
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::deployed::{
    Container, Host, Image, Prometheus, documents, kustomize_with, static_binary,
};

use crate::cluster;

/// For steps that take seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Allows ingress from the client only.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: server, namespace: shop }
spec:
  podSelector: { matchLabels: { app: server } }
  ingress:
    - from: [ { podSelector: { matchLabels: { app: client } } } ]
";

/// The node's network list, which isn't used to create any of the test's pods.
const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp"}]}"#;

#[test]
#[ignore = "needs root, runc, buildah, kubectl, Prometheus and the static binary: cargo xtask test"]
fn a_policy_applied_through_the_api_drops_traffic_and_the_drop_shows_under_both_services_names() {
    let names = [("server", 10), ("client", 11), ("rogue", 12)];
    let pods = names.map(|(name, number)| Manifest::pod(name, Shop::NODE, number));
    let mut shop = Shop::with(pods).unwrap();
    let server = cluster(&mut shop);
    let image = Image::build(shop.net.dir()).unwrap();
    let host = host(&shop, &server);
    let enforce = kustomize_with("overlays/enforce", &["cni"]).unwrap();
    let enforce = documents(&enforce).unwrap();
    let container = Container::start(&mut shop.net, &image, &enforce, &host).unwrap();
    shop.agent.binary = static_binary().unwrap();
    shop.agent.socket = host.paths["/run/ringfence"].join("agent.sock");
    for (name, _) in names {
        shop.agent.wait_for(&format!("shop/{name}")).unwrap();
    }
    let target = format!("127.0.0.1:{}", shop.agent.metrics_port);
    let prometheus = Prometheus::start(&mut shop.net, &target).unwrap();
    assert!(
        shop.calls("rogue", "server", true).unwrap(),
        "no policy yet"
    );

    server.apply(POLICY).unwrap();
    until_denied(&shop);
    assert!(shop.calls("client", "server", true).unwrap());
    // The network plugin is next to the agent in the image, and now in the node's chain.
    assert_eq!(
        shop.agent.json(&["status"]).unwrap()["plugin"]["way"],
        "both"
    );
    let list = host.paths["/etc/cni/net.d"].join("10-pods.conflist");
    assert!(fs::read_to_string(&list).unwrap().contains("ringfence-cni"));
    let dropped = "ringfence_dropped_packets_total{source_namespace=\"shop\",source=\"rogue\",\
                   destination_namespace=\"shop\",destination=\"server\",reason=\"policy\"} > 0";
    prometheus.wait_for(dropped, PATIENCE).unwrap();

    // A namespace mounted on the host later is visible in the container.
    let late = Manifest::pod("late", Shop::NODE, 13);
    let addresses = [late.v4().into(), late.v6().into()];
    shop.net.add_pod("late", &addresses).unwrap();
    shop.record(&late).unwrap();
    server.apply(&late.yaml()).unwrap();
    shop.agent.wait_for("shop/late").unwrap();

    uninstall(&mut shop, &image, &host, container);
}

fn host(shop: &Shop, server: &ApiServer) -> Host {
    let dir = shop.net.dir();
    let (account, run) = (dir.join("account"), dir.join("run"));
    server.write_service_account(&account).unwrap();
    let [state, networks, plugins] = ["state", "net.d", "plugins"].map(|name| dir.join(name));
    for folder in [&run, &state, &networks, &plugins] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(networks.join("10-pods.conflist"), LIST).unwrap();
    shared(&shop.net.netns_dir());
    let env = server.env().map(|(name, value)| (name.to_owned(), value));
    Host {
        paths: BTreeMap::from([
            ("/run/netns".to_owned(), shop.net.netns_dir()),
            ("/var/lib/cni/results".to_owned(), shop.net.cni_cache()),
            ("/sys/fs/bpf".to_owned(), dir.join("bpf")),
            ("/run/ringfence".to_owned(), run),
            ("/var/lib/ringfence".to_owned(), state),
            ("/etc/cni/net.d".to_owned(), networks),
            ("/opt/cni/bin".to_owned(), plugins),
        ]),
        fields: BTreeMap::from([("spec.nodeName".to_owned(), Shop::NODE.to_owned())]),
        account,
        env: env.into(),
    }
}

/// Makes mounts below a folder propagate, as systemd does for all mounts of a host.
fn shared(folder: &Path) {
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(folder), folder, none, bind, none).unwrap();
    mount(none, folder, none, MsFlags::MS_SHARED, none).unwrap();
}

fn until_denied(shop: &Shop) {
    let start = Instant::now();
    // While policy changes, some of its four calls may pass and others not.
    while shop.calls("rogue", "server", false).unwrap_or(true) {
        assert!(start.elapsed() < PATIENCE, "the policy isn't in force");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Does what `deploy/overlays/uninstall` does on each node, with components whose flags
/// it ignores.
fn uninstall(shop: &mut Shop, image: &Image, host: &Host, agent: Container) {
    drop(agent);
    assert!(
        !shop.calls("rogue", "server", false).unwrap(),
        "enforcement went with the agent"
    );
    let remove = kustomize_with("overlays/uninstall", &["cni", "events"]).unwrap();
    let remove = documents(&remove).unwrap();
    let container = Container::start(&mut shop.net, image, &remove, host).unwrap();
    let start = Instant::now();
    while !shop.agent.log().unwrap().contains("\nremoved ") {
        let said = shop.agent.log().unwrap();
        assert!(start.elapsed() < PATIENCE, "nothing is removed: {said}");
        thread::sleep(Duration::from_millis(50));
    }
    // It would be restarted, and find nothing to remove.
    thread::sleep(Duration::from_millis(500));
    let runtime = shop.net.child(container.pid).unwrap();
    assert_eq!(runtime.try_wait().unwrap(), None, "it ended by itself");
    let pid = Pid::from_raw(i32::try_from(runtime.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let status = runtime.wait().unwrap();
    let said = shop.agent.log().unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(
        shop.calls("rogue", "server", true).unwrap(),
        "something stayed behind: {said}"
    );
    let left = |path: &str| fs::read_dir(&host.paths[path]).unwrap().count();
    assert_eq!((left("/var/lib/ringfence"), left("/run/ringfence")), (0, 0));
    assert_eq!((left("/etc/cni/net.d"), left("/opt/cni/bin")), (1, 1));
    let list = fs::read_to_string(host.paths["/etc/cni/net.d"].join("10-pods.conflist"));
    assert_eq!(list.unwrap(), LIST);
}
