//! Parsing of Ringfence's own labels.

use std::fmt;

use crate::{
    config::Config,
    model::{self, Protocol},
    selector::Labels,
};

/// How a label allowlist is applied, ordered from loose to tight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Off,
    Audit,
    Enforce,
}

impl Mode {
    fn parse(value: &str) -> Result<Self, ()> {
        match value {
            "off" => Ok(Self::Off),
            "audit" => Ok(Self::Audit),
            "enforce" => Ok(Self::Enforce),
            _ => Err(()),
        }
    }

    /// Returns the mode of a pod in its Namespace, and whose label decides it.
    ///
    /// A pod may tighten the mode; loosening it requires the Namespace's consent. A value that
    /// doesn't parse counts as the Namespace's mode if it has one, otherwise as `enforce`.
    pub(crate) fn of(
        config: &Config,
        key: &str,
        namespace: &Labels,
        pod: &Labels,
    ) -> (Self, Decider) {
        let above = namespace.get(key).map(|v| Self::parse(v));
        let below = pod.get(key).map(|v| Self::parse(v));
        let inherited = match above {
            None => Self::Off,
            Some(mode) => mode.unwrap_or(Self::Enforce),
        };
        let by_namespace = (inherited, Decider::Namespace);
        match below {
            None => by_namespace,
            Some(Err(())) if above.is_some() => by_namespace,
            Some(Err(())) => (Self::Enforce, Decider::Pod),
            Some(Ok(mode)) if mode >= inherited || overrides(config, namespace) => {
                (mode, Decider::Pod)
            }
            Some(Ok(_)) => by_namespace,
        }
    }

    /// Reports whether a label's value is a mode.
    pub(crate) fn is_valid(value: &str) -> bool {
        Self::parse(value).is_ok()
    }
}

/// The object whose label decided a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decider {
    Pod,
    Namespace,
}

fn overrides(config: &Config, namespace: &Labels) -> bool {
    let value = namespace.get(&config.key("pod-overrides"));
    value.is_some_and(|v| **v == *"allow")
}

/// Reports whether a label is present with the value `"true"`.
pub(crate) fn is_true(labels: &Labels, key: &str) -> bool {
    labels.get(key).is_some_and(|v| **v == *"true")
}

/// The target named by an egress label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// `None` means the pod's own namespace.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) what: What<'a>,
}

/// A service, or all services of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What<'a> {
    Service(&'a str),
    Type(&'a str),
}

impl<'a> Target<'a> {
    /// Parses a label key; returns `None` if it isn't an egress label.
    ///
    /// # Errors
    /// If the text in front of the prefix isn't a namespace name.
    pub(crate) fn parse(config: &Config, key: &'a str) -> Option<Result<Self, String>> {
        let (prefix, name) = key.split_once('/')?;
        let service = namespace_before(prefix, &config.egress_prefix);
        let group = namespace_before(prefix, &config.egress_groups_prefix);
        let (namespace, what) = match (service, group) {
            (Some(namespace), _) => (namespace, What::Service(name)),
            (_, Some(namespace)) => (namespace, What::Type(name)),
            _ => return None,
        };
        if namespace.is_some_and(|n| !model::is_dns_label(n)) {
            return Some(Err(format!("{prefix:?} doesn't start with a namespace")));
        }
        Some(Ok(Self { namespace, what }))
    }
}

fn namespace_before<'a>(prefix: &'a str, ours: &str) -> Option<Option<&'a str>> {
    match prefix.strip_suffix(ours)? {
        "" => Some(None),
        front => front.strip_suffix('.').map(Some),
    }
}

/// The value of an egress label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `"true"`: the ports that the service's pods declare.
    Declared,
    /// Ports joined by `_`; empty for `"false"`.
    List(Vec<PortRef>),
}

/// One port of an egress label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortRef {
    Number(Protocol, u16),
    /// A named port, for whichever protocol the destination declares it.
    Name(String),
}

impl Value {
    /// Parses a label value.
    ///
    /// # Errors
    /// Reports the part that isn't a port.
    pub(crate) fn parse(value: &str) -> Result<Self, String> {
        match value {
            "true" => return Ok(Self::Declared),
            "false" => return Ok(Self::List(Vec::new())),
            _ => {}
        }
        let parts = value.split('_').map(|part| {
            PortRef::parse(part).ok_or_else(|| format!("{part:?} in {value:?} is not a port"))
        });
        parts.collect::<Result<_, _>>().map(Self::List)
    }
}

impl PortRef {
    fn parse(part: &str) -> Option<Self> {
        let (protocol, digits) = match part.split_once('-') {
            Some(("udp", rest)) if is_digits(rest) => (Protocol::Udp, rest),
            Some(("sctp", rest)) if is_digits(rest) => (Protocol::Sctp, rest),
            _ => (Protocol::Tcp, part),
        };
        if is_digits(digits) {
            let number = digits.parse().ok().filter(|n| *n > 0)?;
            return Some(Self::Number(protocol, number));
        }
        model::is_port_name(part).then(|| Self::Name(part.to_owned()))
    }
}

fn is_digits(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(Protocol::Tcp, n) => write!(f, "{n}"),
            Self::Number(Protocol::Udp, n) => write!(f, "udp-{n}"),
            Self::Number(Protocol::Sctp, n) => write!(f, "sctp-{n}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intern::{LabelSets, Pool};

    fn mode(namespace: &[(&str, &str)], pod: &[(&str, &str)]) -> Mode {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            let own = |(k, v): &(&str, &str)| (format!("ringfence.dev/{k}"), (*v).to_owned());
            let pairs = pairs.iter().map(own).collect();
            Labels::new(&mut Pool::default(), &mut LabelSets::default(), &pairs)
        };
        let config = Config::default();
        Mode::of(
            &config,
            "ringfence.dev/ingress",
            &labels(namespace),
            &labels(pod),
        )
        .0
    }

    #[test]
    fn no_mode_label_means_off() {
        assert_eq!(mode(&[], &[]), Mode::Off);
    }

    #[test]
    fn a_pod_may_tighten_its_namespaces_mode_but_not_loosen_it() {
        assert_eq!(
            mode(&[("ingress", "audit")], &[("ingress", "enforce")]),
            Mode::Enforce
        );
        assert_eq!(
            mode(&[("ingress", "off")], &[("ingress", "audit")]),
            Mode::Audit
        );
        assert_eq!(
            mode(&[("ingress", "enforce")], &[("ingress", "audit")]),
            Mode::Enforce
        );
        assert_eq!(
            mode(&[("ingress", "audit")], &[("ingress", "off")]),
            Mode::Audit
        );
    }

    #[test]
    fn loosening_takes_the_namespaces_consent() {
        let namespace = [("ingress", "enforce"), ("pod-overrides", "allow")];
        assert_eq!(mode(&namespace, &[("ingress", "off")]), Mode::Off);
        let namespace = [("ingress", "enforce"), ("pod-overrides", "yes")];
        assert_eq!(mode(&namespace, &[("ingress", "off")]), Mode::Enforce);
    }

    #[test]
    fn a_mode_that_does_not_parse_is_the_namespaces_else_enforce() {
        assert_eq!(
            mode(&[("ingress", "audit")], &[("ingress", "on")]),
            Mode::Audit
        );
        assert_eq!(mode(&[("ingress", "off")], &[("ingress", "on")]), Mode::Off);
        assert_eq!(mode(&[], &[("ingress", "on")]), Mode::Enforce);
        assert_eq!(mode(&[("ingress", "on")], &[]), Mode::Enforce);
        assert_eq!(
            mode(&[("ingress", "on")], &[("ingress", "on")]),
            Mode::Enforce
        );
    }

    #[test]
    fn values_are_true_or_ports_joined_by_underscores() {
        assert_eq!(Value::parse("true"), Ok(Value::Declared));
        let ports = vec![
            PortRef::Number(Protocol::Tcp, 8080),
            PortRef::Number(Protocol::Udp, 53),
            PortRef::Number(Protocol::Sctp, 1),
            PortRef::Name("grpc".into()),
        ];
        assert_eq!(
            Value::parse("8080_udp-53_sctp-1_grpc"),
            Ok(Value::List(ports))
        );
        for bad in [
            "",
            "0",
            "65536",
            "8080_",
            "udp-0",
            "udp-70000",
            "TRUE",
            "a--b",
            "8080,9090",
        ] {
            assert!(Value::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn egress_keys_name_a_namespace_only_in_front_of_the_prefix() {
        let config = Config::default();
        let parse = |key| Target::parse(&config, key);
        let target = |namespace, what| Some(Ok(Target { namespace, what }));
        assert_eq!(
            parse("egress.ringfence.dev/a"),
            target(None, What::Service("a"))
        );
        let other = target(Some("bank"), What::Service("service.a"));
        assert_eq!(parse("bank.egress.ringfence.dev/service.a"), other);
        let group = target(Some("bank"), What::Type("api"));
        assert_eq!(parse("bank.egress-groups.ringfence.dev/api"), group);
        assert!(matches!(parse("a.b.egress.ringfence.dev/x"), Some(Err(_))));
        assert_eq!(parse("xegress.ringfence.dev/x"), None);
        assert_eq!(parse("ringfence.dev/egress"), None);
    }
}
