use std::path::PathBuf;

use super::*;

const CNP: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                   metadata: {name: newer}\nspec:\n  tier: Admin\n  priority: 1\n\
                   \u{20} subject: {namespaces: {}}\n  egress:\n\
                   \u{20} - {action: Deny, to: [{serviceAccounts: {}}]}\n\
                   \u{20} - {action: Accept, to: [{domainNames: [example.com]}]}\n";

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn error(path: &Path) -> String {
    let failure = read(path, &PolicyArgs::default()).unwrap_err();
    assert_eq!(failure.code(), 2);
    failure.to_string()
}

fn said(yaml: &str) -> Vec<String> {
    let (_folder, path) = file("all.yaml", yaml.as_bytes());
    let store = Store::open(&path).unwrap();
    let index = store.index(&PolicyArgs::default().config());
    let empty = store.emptiness().into_iter();
    empty
        .chain(store.unread())
        .chain(left_out(&index))
        .collect()
}

#[test]
fn what_a_newer_api_says_in_a_cluster_policy_is_said_and_stops_nothing() {
    let said = said(CNP);
    assert_eq!(said.len(), 2, "{said:?}");
    let newer = "ClusterNetworkPolicy newer: spec.egress[0].to[0].serviceAccounts: ";
    assert!(said[0].starts_with(newer), "{said:?}");
    assert!(said[0].ends_with("the rule denies everything"), "{said:?}");
    let names = "ClusterNetworkPolicy newer: spec.egress[1].to[0].domainNames: \
                 domain names aren't resolved; this peer matches nothing";
    assert_eq!(said[1], names);
}

#[test]
fn pods_and_workloads_in_their_nodes_network_are_said() {
    let pod = |n: u8| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: bank}}\n\
             spec: {{nodeName: n, hostNetwork: true, containers: []}}\n\
             status: {{phase: Running, podIP: 172.16.0.{n}}}\n---\n"
        )
    };
    let proxy = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: proxy, namespace: bank}\n\
                 spec: {template: {spec: {hostNetwork: true, containers: []}}}\n---\n";
    let one = said(proxy);
    assert!(one[0].ends_with("are not judged: bank/proxy"), "{one:?}");
    let many = said(&((1..9).map(pod).collect::<String>() + proxy));
    let end = "bank/p1, bank/p2, bank/p3, bank/p4, bank/p5 and 4 more";
    assert!(many[0].ends_with(end), "{many:?}");
}

#[test]
fn labels_that_can_not_be_used_are_said() {
    let said = said(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {ringfence.dev/ingress: yes-please}}\n\
         spec: {nodeName: n, containers: []}\n",
    );
    assert!(
        said[0].starts_with("Pod default/p: ringfence.dev/ingress: "),
        "{said:?}"
    );
}

#[test]
fn an_empty_folder_and_one_of_which_nothing_is_read_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = |folder: &Path| Store::open(folder).unwrap().emptiness();
    let none = "no manifests found (files that end in .yaml, .yml or .json)";
    assert!(said(folder.path()).unwrap().ends_with(none));
    fs::write(folder.path().join("a.txt"), CNP).unwrap();
    assert!(said(folder.path()).unwrap().ends_with(none));
    fs::write(
        folder.path().join("a.yaml"),
        "kind: ConfigMap\napiVersion: v1\n",
    )
    .unwrap();
    assert!(
        said(folder.path())
            .unwrap()
            .ends_with("contains nothing that is read")
    );
    fs::write(folder.path().join("b.yaml"), CNP).unwrap();
    assert_eq!(said(folder.path()), None);
}

#[test]
fn a_single_file_is_read_whatever_it_is_called() {
    let (_folder, path) = file("bundle.txt", CNP.as_bytes());
    assert!(read(&path, &PolicyArgs::default()).is_ok());
    assert!(error(&path.with_file_name("gone.yaml")).contains("gone.yaml"));
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = path.clone();
    let writer = std::thread::spawn(move || fs::write(writer, CNP));
    assert!(read(&path, &PolicyArgs::default()).is_ok());
    writer.join().unwrap().unwrap();
}

#[test]
fn an_emptied_file_is_refused_as_an_agent_keeps_what_it_held() {
    for empty in ["", "\n \r\n", "\u{feff}"] {
        let (folder, path) = file("p.yaml", empty.as_bytes());
        fs::write(folder.path().join("other.yaml"), CNP).unwrap();
        for path in [folder.path(), &path] {
            let error = error(path);
            assert!(error.contains("p.yaml: empty, "), "{error}");
        }
    }
    let (_folder, path) = file("p.yaml", b"# nothing, and that is meant\n");
    assert!(read(&path, &PolicyArgs::default()).is_ok());
}

#[test]
fn what_is_no_utf_8_says_what_it_is() {
    let utf16: Vec<u8> = "\u{feff}kind: A\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let (_folder, path) = file("a.yaml", &utf16);
    let error = error(&path);
    assert!(
        error.ends_with(
            "a.yaml: not UTF-8 but UTF-16 or UTF-32, as written by PowerShell: save it as UTF-8"
        ),
        "{error}"
    );
}

#[test]
fn a_misspelt_kind_or_group_is_refused_with_its_place() {
    let policy = |api: &str, kind: &str| {
        let yaml = format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {{name: x}}\n\
             - apiVersion: {api}\n  kind: {kind}\n  metadata: {{name: p, namespace: bank}}\n  spec: {{podSelector: {{}}}}\n"
        );
        let (_folder, path) = file("a.yaml", yaml.as_bytes());
        error(&path)
    };
    let kind = policy("networking.k8s.io/v1", "NetworkPolcy");
    let end = "a.yaml: document 1, item 2: NetworkPolcy bank/p: kind: there is no NetworkPolcy in \
               networking.k8s.io/v1; NetworkPolicy is meant?";
    assert!(kind.ends_with(end), "{kind}");
    let group = policy("networkin.k8s.io/v1", "NetworkPolicy");
    let end = "NetworkPolicy bank/p: apiVersion: NetworkPolicy is of networking.k8s.io/v1, not of \
               \"networkin.k8s.io/v1\"";
    assert!(group.ends_with(end), "{group}");
    let unknown = said("apiVersion: networking.k8s.io/v1\nkind: NetPol\nmetadata: {name: p}\n");
    let line = "NetPol of networking.k8s.io/v1 default/p: not a kind that this version knows; it is left out";
    assert!(unknown.contains(&line.to_owned()), "{unknown:?}");
}

#[test]
fn a_templates_braces_are_refused_where_they_would_name_something() {
    let quoted = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: {app: \"{{ .Values.app }}\"}\n\
                  spec: {nodeName: n, containers: []}\n";
    let (_folder, path) = file("a.yaml", quoted.as_bytes());
    let error = error(&path);
    assert!(
        error.contains("Pod default/p: metadata.labels.app: {{ … }} is a template"),
        "{error}"
    );
    let other = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {a: \"{{ x }}\"}}\n\
                 spec: {nodeName: n, containers: [{args: [\"{{ .x }}\"]}]}\n";
    assert_eq!(said(other), [""; 0]);
}
