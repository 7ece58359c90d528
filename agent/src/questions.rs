//! Questions for the next pass, which only the engine can answer because it holds the objects.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ringfence_api::PolicyInForce;
use tokio::sync::oneshot;

use crate::kubernetes::Kind;

/// A policy's name: `NAMESPACE/NAME`, or only the name of a ClusterNetworkPolicy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyName {
    /// Empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, _)) if !is_name(namespace) => return Err(SHAPE.into()),
            Some((namespace, name)) => (namespace, name),
            None => ("", text),
        };
        match is_name(name) {
            true => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            false => Err(SHAPE.into()),
        }
    }
}

const SHAPE: &str = "expected NAMESPACE/NAME of a NetworkPolicy or NAME of a ClusterNetworkPolicy, \
                     in characters of Kubernetes' names (a-z, 0-9, - and .)";

/// Reports whether the text is a valid object name (a DNS subdomain, RFC 1123).
fn is_name(text: &str) -> bool {
    let known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(known)
}

impl PolicyName {
    /// Returns the name as written on the command line and in requests.
    pub fn written(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }

    /// Returns the policy's kind.
    pub fn kind(&self) -> Kind {
        match self.namespace.as_str() {
            "" => Kind::ClusterNetworkPolicy,
            _ => Kind::NetworkPolicy,
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.written())
    }
}

/// One question.
#[derive(Debug)]
pub struct Question {
    /// The policy.
    pub policy: PolicyName,
    /// Receives the answer.
    pub answer: oneshot::Sender<PolicyInForce>,
}

/// Questions that wait for a pass to start.
#[derive(Debug, Default)]
pub struct Questions(Mutex<Vec<Question>>);

impl Questions {
    /// Adds a question; the caller must request a pass as well.
    pub fn ask(&self, policy: PolicyName) -> oneshot::Receiver<PolicyInForce> {
        let (answer, answered) = oneshot::channel();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Drops questions whose callers are gone.
        all.retain(|question| !question.answer.is_closed());
        all.push(Question { policy, answer });
        answered
    }

    /// Takes all questions asked so far, for a pass that starts now.
    pub fn take(&self) -> Vec<Question> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_named_with_its_namespace_or_without_one() {
        let name: PolicyName = "bank/ledger.v2".parse().unwrap();
        assert_eq!(name.to_string(), "NetworkPolicy bank/ledger.v2");
        let name: PolicyName = "lockdown".parse().unwrap();
        assert_eq!(name.to_string(), "ClusterNetworkPolicy lockdown");
        for bad in [
            "", "/", "a/", "/b", "a/b/c", "a b", "Bank/x", "a/b?c", "a/b&c",
        ] {
            assert!(bad.parse::<PolicyName>().is_err(), "{bad}");
        }
    }
}
