//! Clients allowed to reach the agent's own pages: address blocks, and pods selected by labels.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::{
    model::{self, LabelSelector, Operator, Requirement},
    select::{self, NameError},
};

/// One kind of client, written `10.0.0.0/8`, `fd00::7` or `NAMESPACE/SELECTOR`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Clients {
    /// Addresses.
    Block(IpNet),
    /// The pods of a Namespace that a selector selects. There is no way to write "in any
    /// Namespace": anyone able to label pods in a Namespace of their own could then become a
    /// client.
    Pods {
        /// The Namespace.
        namespace: String,
        /// Selector for its pods; an empty one selects all.
        selector: LabelSelector,
    },
}

/// The reason a text names no clients.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientsError {
    /// The text matches neither form.
    #[error(
        "neither an IP, a CIDR nor NAMESPACE/SELECTOR, as in 10.0.0.0/8 or \
         monitoring/app=prometheus"
    )]
    Neither,
    /// The text begins like a block but isn't one.
    #[error("it begins with an address, and is no CIDR: a prefix length is missing or too long")]
    NotABlock,
    /// A block of IPv4 addresses in IPv6 form.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The part before the slash isn't a valid Namespace name.
    #[error("{0:?} can't be a Namespace's name; NAMESPACE/SELECTOR names one")]
    Namespace(String),
    /// There is nothing after the slash or between two commas.
    #[error("a condition is missing; NAMESPACE/* selects all pods of a Namespace")]
    NoCondition,
    /// The key or value isn't valid for a label.
    #[error("{0}; a condition is KEY=VALUE, KEY!=VALUE, KEY or !KEY")]
    Condition(String),
}

impl Clients {
    /// Reports whether an address is in the block; always `false` for [`Self::Pods`].
    pub fn covers(&self, address: IpAddr) -> bool {
        match self {
            Self::Block(net) => net.contains(&address),
            Self::Pods { .. } => false,
        }
    }
}

impl FromStr for Clients {
    type Err = ClientsError;

    fn from_str(text: &str) -> Result<Self, ClientsError> {
        if let Some(net) = select::addresses(text)? {
            return Ok(Self::Block(net));
        }
        let (namespace, rest) = text.split_once('/').ok_or(ClientsError::Neither)?;
        if namespace.parse::<IpAddr>().is_ok() {
            return Err(ClientsError::NotABlock);
        }
        if !model::is_dns_label(namespace) {
            return Err(ClientsError::Namespace(namespace.to_owned()));
        }
        let selector = selector(rest)?;
        if let Err((_, message)) = model::check_selector(&selector) {
            return Err(ClientsError::Condition(message));
        }
        Ok(Self::Pods {
            namespace: namespace.to_owned(),
            selector,
        })
    }
}

/// Parses conditions in the syntax of kubectl's `-l`, except set-based ones.
fn selector(text: &str) -> Result<LabelSelector, ClientsError> {
    let mut selector = LabelSelector::default();
    if text == "*" {
        return Ok(selector);
    }
    for condition in text.split(',') {
        let requirement = requirement(condition)?;
        selector.match_expressions.push(requirement);
    }
    Ok(selector)
}

fn requirement(text: &str) -> Result<Requirement, ClientsError> {
    let (key, operator, value) = if let Some(key) = text.strip_prefix('!') {
        (key, Operator::DoesNotExist, None)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Operator::NotIn, Some(value))
    } else if let Some((key, value)) = text.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        (key, Operator::In, Some(value))
    } else {
        (text, Operator::Exists, None)
    };
    if key.is_empty() {
        return Err(ClientsError::NoCondition);
    }
    Ok(Requirement {
        key: key.to_owned(),
        operator,
        values: value.map(str::to_owned).into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{index, pod};

    fn parse(text: &str) -> Clients {
        text.parse().expect(text)
    }

    fn fault(text: &str) -> String {
        let error = text.parse::<Clients>().expect_err(text);
        error.to_string()
    }

    #[test]
    fn blocks_cover_addresses_of_their_own_family() {
        let covers = |block: &str, ip: &str| parse(block).covers(ip.parse().expect(ip));
        assert!(covers("10.0.0.0/8", "10.1.2.3"));
        assert!(covers("10.0.0.7/8", "10.1.2.3"), "bits of the host");
        assert!(covers("fd00::/8", "fd00::1"));
        assert!(covers("192.0.2.1", "192.0.2.1"));
        assert!(!covers("192.0.2.1", "192.0.2.2"));
        assert!(!covers("::/0", "10.1.2.3"));
        assert!(!covers("0.0.0.0/0", "fd00::1"));
        assert!(!covers("a/*", "10.1.2.3"));
    }

    #[test]
    fn a_selector_has_the_conditions_that_kubectl_knows() {
        let labels = json!({"app.kubernetes.io/name": "p", "tier": "back"});
        let index = index([pod("monitoring/p", "10.0.0.1", labels)]);
        let selects = |text: &str| {
            let Clients::Pods {
                namespace,
                selector,
            } = parse(text)
            else {
                panic!("{text} is no selector");
            };
            !index.selected_addresses(&namespace, &selector).is_empty()
        };
        for text in [
            "monitoring/*",
            "monitoring/app.kubernetes.io/name=p",
            "monitoring/app.kubernetes.io/name==p,tier=back",
            "monitoring/tier",
            "monitoring/!absent",
            "monitoring/tier!=front,other!=x",
        ] {
            assert!(selects(text), "{text}");
        }
        for text in [
            "monitor/*",
            "monitoring/app.kubernetes.io/name=q",
            "monitoring/tier=back,absent",
            "monitoring/!tier",
            "monitoring/tier!=back",
            "monitoring/tier=",
        ] {
            assert!(!selects(text), "{text}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused_with_the_reason() {
        for (text, word) in [
            ("", "neither"),
            ("prometheus", "neither"),
            ("10.0.0.0/33", "prefix length"),
            ("10.0.0.0/", "prefix length"),
            ("fd00::/129", "prefix length"),
            ("::ffff:10.0.0.0/104", "IPv4"),
            ("*/app=p", "Namespace's name"),
            ("Monitoring/app=p", "Namespace's name"),
            ("/app=p", "Namespace's name"),
            ("10.0.0/8", "Namespace's name"),
            ("monitoring/", "condition is missing"),
            ("monitoring/a=b,", "condition is missing"),
            ("monitoring/=b", "condition is missing"),
            ("monitoring/a b", "not a label key"),
            ("monitoring/a in (b,c)", "not a label key"),
            ("monitoring/a=b c", "not a label value"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(word), "{text}: {fault}");
        }
    }
}
