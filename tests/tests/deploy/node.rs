//! The whole, as it would run on a node: the image's binary in a container that is
//! made as the manifests say, with the credentials of a service account.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use ringfence_tests::agent::{Manifest, Shop};
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::deployed::{
    Container, Host, Image, Prometheus, documents, kustomize, static_binary,
};

use crate::cluster;

/// For what takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets the client in, and nobody else.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: server, namespace: shop }
spec:
  podSelector: { matchLabels: { app: server } }
  ingress:
    - from: [ { podSelector: { matchLabels: { app: client } } } ]
";

#[test]
#[ignore = "needs root, runc, buildah, kubectl, Prometheus and the static binary: cargo xtask test"]
fn a_policy_applied_through_the_api_drops_traffic_and_the_drop_shows_under_both_services_names() {
    let names = [("server", 10), ("client", 11), ("rogue", 12)];
    let pods = names.map(|(name, number)| Manifest::pod(name, Shop::NODE, number));
    let mut shop = Shop::with(pods).unwrap();
    let server = cluster(&mut shop);
    let image = Image::build(shop.net.dir()).unwrap();
    let host = host(&shop, &server);
    let enforce = documents(&kustomize("overlays/enforce").unwrap()).unwrap();
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
    let dropped = "ringfence_dropped_packets_total{source_namespace=\"shop\",source=\"rogue\",\
                   destination_namespace=\"shop\",destination=\"server\",reason=\"policy\"} > 0";
    prometheus.wait_for(dropped, PATIENCE).unwrap();

    // A namespace that is mounted on the host later shows in the container.
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
    std::fs::create_dir(&run).unwrap();
    shared(&shop.net.netns_dir());
    let env = server.env().map(|(name, value)| (name.to_owned(), value));
    Host {
        paths: BTreeMap::from([
            ("/run/netns".to_owned(), shop.net.netns_dir()),
            ("/var/lib/cni/results".to_owned(), shop.net.cni_cache()),
            ("/sys/fs/bpf".to_owned(), dir.join("bpf")),
            ("/run/ringfence".to_owned(), run),
        ]),
        fields: BTreeMap::from([("spec.nodeName".to_owned(), Shop::NODE.to_owned())]),
        account,
        env: env.into(),
    }
}

/// Makes mounts below a folder propagate, as systemd does with all of a host's.
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

/// What `deploy/overlays/uninstall` does on each node.
fn uninstall(shop: &mut Shop, image: &Image, host: &Host, agent: Container) {
    drop(agent);
    assert!(
        !shop.calls("rogue", "server", false).unwrap(),
        "enforcement went with the agent"
    );
    let remove = documents(&kustomize("overlays/uninstall").unwrap()).unwrap();
    let container = Container::start(&mut shop.net, image, &remove, host).unwrap();
    let runtime = shop.net.child(container.pid).unwrap();
    let status = runtime.wait().unwrap();
    let said = shop.agent.log().unwrap();
    assert!(status.success() && said.contains("removed "), "{said}");
    assert!(
        shop.calls("rogue", "server", true).unwrap(),
        "something stayed behind: {said}"
    );
}
