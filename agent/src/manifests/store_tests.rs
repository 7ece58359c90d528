use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use ringfence_policy::index::Scope;
use ringfence_policy::tables::Tables;
use tempfile::TempDir;

use super::super::Feed;
use super::*;

/// A folder of manifests; files are read at once, however recent.
struct Folder {
    dir: TempDir,
    store: Store,
    /// An index that is fed every change, like the agent's.
    fed: RefCell<(Feed, Index)>,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut folder = Self {
            dir,
            store,
            fed: RefCell::new((Feed::default(), Index::new(Config::default()))),
        };
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes by rename, as editors and kubelets do, so that the inode changes.
    fn write(&mut self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
        self.read();
    }

    fn read(&mut self) {
        self.store.read(Duration::ZERO);
        self.tell();
    }

    fn tell(&self) {
        let (feed, index) = &mut *self.fed.borrow_mut();
        feed.tell(&self.store, index);
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
        self.read();
    }

    /// Compiles tables, and checks that a long-lived index and a new one give the same.
    fn tables(&self) -> Tables {
        self.tell();
        let scope = Scope::Node("n".into());
        let fresh = self.store.index(&Config::default());
        let tables = fresh.compile(&scope);
        let told = &self.fed.borrow().1;
        assert_eq!(told.compile(&scope), tables);
        assert_eq!(told.problems(), fresh.problems());
        tables
    }

    fn pods(&self) -> Vec<String> {
        self.tables()
            .endpoints
            .keys()
            .map(ToString::to_string)
            .collect()
    }

    /// Reports whether policy isolates `default/a` for ingress.
    fn isolated(&self) -> bool {
        let tables = self.tables();
        let pod = tables
            .endpoints
            .iter()
            .find(|(pod, _)| pod.name == "a")
            .unwrap();
        pod.1.flags & ringfence_ebpf::abi::EndpointRules::INGRESS_ISOLATED != 0
    }

    /// Returns the problems without the folder's own path.
    fn problems(&self) -> Vec<String> {
        let prefix = format!("{}/", self.dir.path().display());
        self.store
            .problems()
            .iter()
            .map(|p| p.to_string().replace(&prefix, ""))
            .collect()
    }
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: n, containers: []}}\nstatus: {{phase: Running, podIP: 10.0.0.1}}\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: p, namespace: default}}\nspec: {spec}\n"
    )
}

const CLOSED: &str = "{podSelector: {}, policyTypes: [Ingress]}";
const BAD_CIDR: &str = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}";

#[test]
fn documents_files_and_lists_are_read_together() {
    let list = "kind: List\napiVersion: v1\nitems:\n- {kind: Pod, apiVersion: v1, metadata: {name: c, namespace: x}, spec: {nodeName: n, containers: []}}\n";
    let folder = Folder::new(&[
        ("one.yaml", &format!("{}---\n{}", pod("a"), pod("b"))),
        ("list.yml", list),
        (
            "d.json",
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"d"},"spec":{"nodeName":"n","containers":[]}}"#,
        ),
    ]);
    assert_eq!(folder.problems(), [""; 0]);
    assert_eq!(
        folder.pods(),
        ["default/a", "default/b", "default/d", "x/c"]
    );
}

#[test]
fn an_error_names_file_document_object_and_field() {
    let folder = Folder::new(&[("p.yaml", &format!("{}---\n{}", pod("a"), policy(BAD_CIDR)))]);
    let [problem] = &folder.problems()[..] else {
        panic!("{:?}", folder.problems())
    };
    let start =
        "p.yaml: document 2: NetworkPolicy default/p: spec.ingress[0].from[0].ipBlock.cidr: ";
    assert!(problem.starts_with(start), "{problem}");
}

#[test]
fn an_error_in_a_list_names_its_item() {
    let list = "kind: PodList\napiVersion: v1\nitems:\n- {metadata: {name: a}}\n- {metadata: {name: b, labels: {x: true}}}\n";
    let folder = Folder::new(&[("l.yaml", list)]);
    let [problem] = &folder.problems()[..] else {
        panic!("{:?}", folder.problems())
    };
    assert!(
        problem.starts_with("l.yaml: document 1, item 2: Pod default/b: metadata.labels"),
        "{problem}"
    );
}

#[test]
fn a_file_that_is_not_text_or_not_yaml_is_named() {
    let folder = Folder::new(&[("bad.yaml", "kind: [\n"), ("empty.yaml", "")]);
    assert_eq!(folder.problems().len(), 1);
    assert!(
        folder.problems()[0].starts_with("bad.yaml: document 1: line "),
        "{:?}",
        folder.problems()
    );
    let folder = {
        let mut folder = Folder::new(&[]);
        fs::write(folder.path("b.yaml"), [0xff, 0xfe]).unwrap();
        folder.store.read(Duration::ZERO);
        folder
    };
    assert_eq!(folder.problems(), ["b.yaml: not UTF-8"]);
}

#[test]
fn at_start_any_error_is_refused_and_a_missing_folder_too() {
    let folder = Folder::new(&[("bad.yaml", "kind: [\n"), ("good.yaml", &pod("a"))]);
    let error = Store::open(folder.dir.path()).unwrap_err();
    assert_eq!(error.0.len(), 1);
    assert!(error.to_string().contains("bad.yaml"));
    assert!(Store::open(&folder.path("gone")).is_err());
}

#[test]
fn an_object_in_two_files_is_an_error_that_names_both_and_the_first_stays() {
    let mut folder = Folder::new(&[("b.yaml", &policy(CLOSED)), ("pod.yaml", &pod("a"))]);
    folder.write("a.yaml", &policy("{podSelector: {}, ingress: [{}]}"));
    let [problem] = &folder.problems()[..] else {
        panic!("{:?}", folder.problems())
    };
    assert!(
        problem.starts_with("a.yaml: document 1: NetworkPolicy default/p: also in "),
        "{problem}"
    );
    assert!(problem.ends_with("b.yaml"), "{problem}");
    let open = folder.store.index(&Config::default());
    folder.remove("b.yaml");
    assert_eq!(folder.problems(), [""; 0]);
    let taken_over = folder.store.index(&Config::default());
    assert_ne!(
        open.compile(&Scope::Node("n".into())),
        taken_over.compile(&Scope::Node("n".into())),
    );
}

#[test]
fn an_object_twice_in_one_file_is_an_error() {
    let folder = Folder::new(&[("a.yaml", &format!("{}---\n{}", pod("a"), pod("a")))]);
    assert_eq!(
        folder.problems(),
        ["a.yaml: document 2: Pod default/a: defined twice in this file, first in document 1"],
    );
}

#[test]
fn a_moved_object_is_no_duplicate() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a"))]);
    fs::rename(folder.path("a.yaml"), folder.path("b.yaml")).unwrap();
    assert!(folder.store.read(Duration::ZERO).changed);
    assert_eq!(
        (folder.problems(), folder.pods()),
        (vec![], vec!["default/a".into()])
    );
}

#[test]
fn an_object_that_stops_parsing_keeps_its_last_good_form() {
    let mut folder = Folder::new(&[("pod.yaml", &pod("a"))]);
    folder.write("p.yaml", &policy("{podSelector: {}, ingress: [{}]}"));
    let before = folder.tables();
    folder.write("p.yaml", &policy(BAD_CIDR));
    assert_eq!(folder.tables(), before);
    assert_eq!(folder.problems().len(), 1);
    folder.write("p.yaml", &policy(CLOSED));
    assert_ne!(folder.tables(), before);
    assert_eq!(folder.problems(), [""; 0]);
}

#[test]
fn an_object_whose_kind_is_misspelt_keeps_its_last_good_form() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a")), ("p.yaml", &policy(CLOSED))]);
    folder.write("p.yaml", &policy(CLOSED).replace("Policy", "Polcy"));
    assert!(folder.isolated());
    assert!(folder.problems()[0].ends_with("NetworkPolicy is meant?"));
}

#[test]
fn a_policy_that_never_parsed_is_installed_closed_and_stays_so() {
    let mut folder = Folder::new(&[("pod.yaml", &pod("a")), ("p.yaml", &policy(BAD_CIDR))]);
    assert!(folder.isolated());
    folder.write("p.yaml", "not: [yaml\n");
    assert!(folder.isolated());
    folder.write("p.yaml", "# nothing any more\n");
    assert!(!folder.isolated());
}

#[test]
fn a_file_that_is_no_yaml_any_more_loses_no_object() {
    let mut folder = Folder::new(&[("a.yaml", &format!("{}---\n{}", pod("a"), pod("b")))]);
    folder.write(
        "a.yaml",
        &format!("{}---\nkind: Pod\nmetadata: {{name: b\n", pod("a")),
    );
    assert_eq!(folder.pods(), ["default/a", "default/b"]);
    assert_eq!(folder.problems().len(), 1);
    folder.write("a.yaml", &pod("a"));
    assert_eq!(
        (folder.pods(), folder.problems().len()),
        (vec!["default/a".into()], 0)
    );
}

#[test]
fn a_removed_file_takes_its_objects_along_but_a_removed_folder_does_not() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a")), ("b.yaml", &pod("b"))]);
    folder.remove("b.yaml");
    assert_eq!(folder.pods(), ["default/a"]);
    assert!(folder.store.is_connected());
    let aside = folder.dir.path().with_extension("aside");
    fs::rename(folder.dir.path(), &aside).unwrap();
    assert!(folder.store.read(Duration::ZERO).changed);
    assert_eq!(folder.pods(), ["default/a"]);
    assert!(!folder.store.is_connected());
    assert_eq!(folder.store.problems().len(), 1);
    fs::rename(&aside, folder.dir.path()).unwrap();
}

#[test]
fn a_file_that_was_written_just_now_is_left_to_settle() {
    let mut folder = Folder::new(&[]);
    fs::write(folder.path("a.yaml"), pod("a")).unwrap();
    let refresh = folder.store.read(Duration::from_secs(60));
    assert_eq!(
        refresh,
        Refresh {
            changed: false,
            unsettled: true
        }
    );
    assert_eq!(folder.pods(), [""; 0]);
    let refresh = folder.store.read(Duration::ZERO);
    assert_eq!(
        refresh,
        Refresh {
            changed: true,
            unsettled: false
        }
    );
    assert_eq!(folder.pods(), ["default/a"]);
}

#[test]
fn nothing_changed_is_told_as_such() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a")), ("bad.yaml", "kind: [\n")]);
    let refresh = folder.store.read(Duration::ZERO);
    assert_eq!(
        refresh,
        Refresh {
            changed: false,
            unsettled: false
        }
    );
}

#[test]
fn an_emptied_file_keeps_its_objects_and_is_told_until_it_says_something() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a")), ("p.yaml", &policy(CLOSED))]);
    for empty in ["", "\n \n"] {
        // In place, as the shell's `>` does.
        fs::write(folder.path("p.yaml"), empty).unwrap();
        assert!(folder.store.read(Duration::ZERO).changed);
        assert!(folder.isolated());
        assert_eq!(
            folder.problems(),
            ["p.yaml: empty: its objects stay in force; delete the file to remove them"]
        );
    }
    folder.write(
        "p.yaml",
        &policy("{podSelector: {}, policyTypes: [Egress]}"),
    );
    assert!(!folder.isolated());
    assert_eq!(folder.problems(), [""; 0]);
    folder.write("p.yaml", "# nothing any more\n");
    folder.write("p.yaml", "");
    assert_eq!(folder.problems(), [""; 0]);
}

#[test]
fn an_emptied_file_stays_closed_where_its_policy_never_parsed() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a")), ("p.yaml", &policy(BAD_CIDR))]);
    folder.write("p.yaml", "");
    assert!(folder.isolated());
    folder.remove("p.yaml");
    assert!(!folder.isolated());
}

#[test]
fn a_file_that_is_gone_for_a_moment_loses_nothing() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a")), ("p.yaml", &policy(CLOSED))]);
    let settle = Duration::from_secs(60);
    fs::rename(folder.path("p.yaml"), folder.path("aside")).unwrap();
    for _ in 0..2 {
        assert!(folder.store.read(settle).unsettled);
        assert!(folder.isolated());
    }
    fs::rename(folder.path("aside"), folder.path("p.yaml")).unwrap();
    folder.store.read(Duration::ZERO);
    assert!(folder.isolated());
    folder.remove("p.yaml");
    assert!(!folder.isolated());
}

#[test]
fn a_moved_file_is_no_duplicate_of_itself_while_its_old_name_settles() {
    let mut folder = Folder::new(&[("a.yaml", &pod("a"))]);
    fs::rename(folder.path("a.yaml"), folder.path("b.yaml")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let refresh = folder.store.read(Duration::from_millis(45));
    assert!(refresh.unsettled && refresh.changed);
    assert_eq!(
        (folder.problems(), folder.pods()),
        (vec![], vec!["default/a".into()])
    );
    std::thread::sleep(Duration::from_millis(50));
    assert!(!folder.store.read(Duration::from_millis(45)).unsettled);
    assert_eq!(
        (folder.problems(), folder.pods()),
        (vec![], vec!["default/a".into()])
    );
}
