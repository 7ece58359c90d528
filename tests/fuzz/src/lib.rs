//! What the fuzzer calls: each function takes any bytes and must not panic.
//!
//! Bad input is an error that names its object; a panic would leave the node
//! without an agent, and whoever may write a pod could cause one. `corpus/` has
//! the seeds, and every input that once made one of these fail.

// Compiled in, not depended on: of the agent only the reader of documents is
// wanted, and everything here is built a second time, with instrumentation.
#[allow(dead_code, unreachable_pub, clippy::unwrap_used)]
#[path = "../../../agent/src/manifests/document.rs"]
mod document;
mod packet;
#[allow(dead_code)]
#[path = "../../../agent/src/manifests/split.rs"]
mod split;

pub use packet::packet;

use ringfence_policy::config::Config;
use ringfence_policy::index::{Index, Scope};
use ringfence_policy::model::{Object, Parsed};
use ringfence_policy::ports::PortSpec;
use serde_json::{Map, Value, json};

/// Text as a manifest: documents, objects, tables.
pub fn yaml(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (items, _) = document::read(text);
    compile(items.into_iter().map(|item| item.value));
}

/// Lines as labels of pods, of their Namespace, or as ports on the command line.
///
/// The first letter of a line says which: `p` a pod's label, `n` a Namespace's,
/// `d` a port. Key and value are parted by the first `=`.
pub fn labels(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (mut pod, mut namespace) = (Map::new(), Map::new());
    for line in text.lines() {
        let rest = line.get(1..).unwrap_or_default();
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        match line.as_bytes().first() {
            Some(b'p') => drop(pod.insert(key.to_owned(), json!(value))),
            Some(b'n') => drop(namespace.insert(key.to_owned(), json!(value))),
            _ => port(rest),
        }
    }
    compile(shop(&pod, &namespace));
}

/// One object as JSON.
pub fn object(input: &[u8]) {
    if let Ok(value) = serde_json::from_slice(input) {
        compile([value]);
    }
}

/// What is read is written alike.
fn port(text: &str) {
    if let Ok(port) = text.parse::<PortSpec>() {
        assert_eq!(port.to_string().parse(), Ok(port), "{text:?}");
    }
}

fn compile(objects: impl IntoIterator<Item = Value>) {
    let mut index = Index::new(Config::default());
    for object in objects {
        match Object::from_value(object) {
            Ok(Parsed::Object(object)) => index.apply(*object),
            Ok(Parsed::Ignored) => {}
            Err(error) => drop(index.apply_closed(&error)),
        }
    }
    index.problems();
    index.compile(&Scope::Everything);
    index.compile(&Scope::Node("node-1".to_owned()));
}

/// A pod with the labels, in a Namespace with its labels, and one that is called.
fn shop(pod: &Map<String, Value>, namespace: &Map<String, Value>) -> [Value; 4] {
    let with = |name: &str, ip: &str, labels: &Map<String, Value>| {
        json!({
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"nodeName": "node-1", "containers": [{"ports": [
                {"name": "http", "containerPort": 8080},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}]},
            "status": {"phase": "Running", "podIP": ip},
        })
    };
    let mut callee = pod.clone();
    callee.insert("ringfence.dev/service".into(), json!("service.api.till"));
    callee.insert("ringfence.dev/ingress".into(), json!("enforce"));
    let elsewhere = json!({"kind": "Namespace", "metadata": {"name": "bank"}});
    [
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": namespace}}),
        elsewhere,
        with("caller", "10.0.0.1", pod),
        with("till", "10.0.0.2", &callee),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn feed(folder: &str, target: fn(&[u8])) {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = fs::read_dir(here.join(folder)).expect(folder);
        let mut count = 0;
        for file in files {
            let path = file.expect(folder).path();
            target(&fs::read(&path).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "{folder} is empty");
    }

    #[test]
    fn manifests_of_the_corpus_make_no_panic() {
        feed("corpus/yaml", super::yaml);
        feed("../../deploy/demo", super::yaml);
    }

    #[test]
    fn labels_of_the_corpus_make_no_panic() {
        feed("corpus/labels", super::labels);
    }

    #[test]
    fn objects_of_the_corpus_make_no_panic() {
        feed("corpus/object", super::object);
    }
}
