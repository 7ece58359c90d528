//! Label allowlists, label by label.

use serde_json::Value;

use super::object::{annotations, declared_ports, labels, list, name, named_port, namespace, text};
use super::{Case, Opinion, Oracle};

/// In the order of tightness.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Off,
    Audit,
    Enforce,
}

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "audit" => Some(Self::Audit),
            "enforce" => Some(Self::Enforce),
            _ => None,
        }
    }
}

impl Oracle<'_> {
    /// The mode of a pod: its own label may tighten its Namespace's, and
    /// loosen it only where the Namespace lets it.
    fn mode(&self, pod: &Value, key: &str) -> Mode {
        let space = self.namespace_labels(namespace(pod));
        let given = space.get(key);
        let given = given.map(|text| Mode::parse(text).unwrap_or(Mode::Enforce));
        let Some(text) = labels(pod).get(key).copied() else {
            return given.unwrap_or(Mode::Off);
        };
        match Mode::parse(text) {
            None => given.unwrap_or(Mode::Enforce),
            Some(own) if space.get("ringfence.dev/pod-overrides") == Some(&"allow") => own,
            Some(own) => own.max(given.unwrap_or(Mode::Off)),
        }
    }

    /// The callee's side: closed to all but admitted callers.
    pub(super) fn ingress_labels(&self, case: &Case<'_>) -> Option<Opinion> {
        let mode = self.mode(case.pod, "ringfence.dev/ingress");
        (mode != Mode::Off).then(|| Opinion {
            staged: mode == Mode::Audit,
            isolates: true,
            allows: self.admits(case),
        })
    }

    fn admits(&self, case: &Case<'_>) -> bool {
        let callee = case.pod;
        let open_to = |who: &str| {
            let key = format!("callers.ringfence.dev/{who}");
            let here = labels(callee).get(key.as_str()) == Some(&"true");
            let space = self.namespace_labels(namespace(callee));
            here || space.get(key.as_str()) == Some(&"true")
        };
        let as_caller = case.peer_pod.is_some_and(|caller| {
            let space = namespace(caller);
            let welcome = space == namespace(callee) || open_to(space) || open_to("any_namespace");
            welcome && self.lists(caller, callee, case)
        });
        as_caller
            || (self.is_outside(case.peer) && open_to("outside_cluster"))
            || (self.is_other_node(case.peer) && open_to("all_nodes"))
    }

    /// The caller's side. Its labels grant whatever its own mode is, off
    /// included; the mode isolates, and leaves DNS open.
    pub(super) fn egress_labels(&self, case: &Case<'_>) -> [Opinion; 2] {
        let mode = self.mode(case.pod, "ringfence.dev/egress");
        let listed = case
            .peer_pod
            .is_some_and(|callee| self.lists(case.pod, callee, case));
        [
            Opinion {
                staged: false,
                isolates: false,
                allows: listed,
            },
            Opinion {
                staged: mode == Mode::Audit,
                isolates: mode != Mode::Off,
                allows: mode != Mode::Off && self.is_dns(case),
            },
        ]
    }

    /// Whether a label of the caller lists the callee with the packet's port.
    fn lists(&self, caller: &Value, callee: &Value, case: &Case<'_>) -> bool {
        labels(caller).iter().any(|(key, value)| {
            let Some((prefix, listed)) = key.split_once('/') else {
                return false;
            };
            let by_service = space_of(prefix, "egress.ringfence.dev", caller);
            let by_type = space_of(prefix, "egress-groups.ringfence.dev", caller);
            let home = Some(namespace(callee));
            let called = (by_service == home && service(callee) == listed)
                || (by_type == home && service_type(callee) == Some(listed));
            called && self.value_allows(value, callee, case)
        })
    }

    fn value_allows(&self, value: &str, callee: &Value, case: &Case<'_>) -> bool {
        if value == "true" {
            let ports = self.service_ports(callee);
            return ports.is_empty() || ports.contains(&(case.protocol, case.port));
        }
        let Some(items) = value.split('_').map(parse_item).collect::<Option<Vec<_>>>() else {
            return false;
        };
        items.iter().any(|item| match item {
            Item::Number(protocol, port) => (*protocol, *port) == (case.protocol, case.port),
            Item::Name(wanted) => named_port(callee, wanted, case.protocol) == Some(case.port),
        })
    }

    /// The ports that all pods of the callee's service declare, together.
    fn service_ports(&self, callee: &Value) -> Vec<(u8, u16)> {
        self.living_pods()
            .filter(|p| namespace(p) == namespace(callee) && service(p) == service(callee))
            .flat_map(declared_ports)
            .map(|(_, protocol, port)| (protocol, port))
            .collect()
    }
}

/// The namespace that a key's prefix speaks of: `NAMESPACE.BASE`, or the
/// caller's own for `BASE` alone.
fn space_of<'a>(prefix: &'a str, base: &str, caller: &'a Value) -> Option<&'a str> {
    match prefix.strip_suffix(base)? {
        "" => Some(namespace(caller)),
        front => front.strip_suffix('.').filter(|ns| !ns.contains('.')),
    }
}

/// One part of a label's value.
enum Item<'a> {
    Number(u8, u16),
    Name(&'a str),
}

fn parse_item(item: &str) -> Option<Item<'_>> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    for (protocol, front) in [(6, ""), (17, "udp-"), (132, "sctp-")] {
        let number = item.strip_prefix(front).filter(|rest| digits(rest));
        if let Some(number) = number {
            let port = number.parse().ok().filter(|port| *port != 0)?;
            return Some(Item::Number(protocol, port));
        }
    }
    is_port_name(item).then_some(Item::Name(item))
}

/// RFC 6335, as the API server checks a container port's name.
fn is_port_name(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=15).contains(&text.len())
        && text.bytes().all(legal)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// The service that a pod belongs to.
pub(super) fn service(pod: &Value) -> &str {
    let labels = labels(pod);
    for key in ["ringfence.dev/service", "app.kubernetes.io/name", "app"] {
        if let Some(found) = labels.get(key) {
            return found;
        }
    }
    // A kubelet's own pod isn't called like its node.
    let own = || {
        let mirrors = annotations(pod).contains_key("kubernetes.io/config.mirror");
        let node = text(pod, "/spec/nodeName");
        let short = name(pod)
            .strip_suffix(node)
            .and_then(|n| n.strip_suffix('-'));
        short
            .filter(|n| mirrors && !n.is_empty())
            .unwrap_or(name(pod))
    };
    let owner = list(pod, "/metadata/ownerReferences").first();
    match owner.map(|owner| (text(owner, "/kind"), text(owner, "/name"))) {
        None | Some(("Node", _)) => own(),
        // Eight digits, from 2015 on, as minutes.
        Some(("Job", job)) => match job.rsplit_once('-') {
            Some((cron, minute))
                if ("24000000"..="42000000").contains(&minute)
                    && minute.len() == 8
                    && minute.parse::<u64>().is_ok() =>
            {
                cron
            }
            _ => job,
        },
        Some(("ReplicaSet", set)) => set
            .rsplit_once('-')
            .map_or(set, |(deployment, _)| deployment),
        Some((_, owner)) => owner,
    }
}

/// The type of a pod's service: its label, else the second word of
/// `service.TYPE.NAME`.
fn service_type(pod: &Value) -> Option<&str> {
    if let Some(given) = labels(pod).get("ringfence.dev/service-type") {
        return Some(given);
    }
    let mut words = service(pod).split('.');
    (words.next() == Some("service"))
        .then(|| words.next())
        .flatten()
}
