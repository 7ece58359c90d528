//! Label selectors in canonical form.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::model::{LabelSelector, Operator};

/// Labels of a pod or a Namespace.
pub(crate) type Labels = BTreeMap<String, String>;

/// A selector as a set of conditions: equal selectors are equal values however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Selector(BTreeSet<Condition>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
struct Condition {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

impl Selector {
    /// One label with one value.
    pub(crate) fn equals(key: &str, value: &str) -> Self {
        Self(BTreeSet::from([Condition::equals(key, value)]))
    }

    /// Whether all conditions hold.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|c| c.holds(labels))
    }

    /// A label that every match carries, for looking selectors up instead of trying each.
    pub(crate) fn required(&self) -> Option<(&str, &str)> {
        let single = |c: &&Condition| c.operator == Operator::In && c.values.len() == 1;
        let condition = self.0.iter().find(single)?;
        Some((&condition.key, condition.values.first()?))
    }
}

impl Condition {
    fn equals(key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            operator: Operator::In,
            values: BTreeSet::from([value.to_owned()]),
        }
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl From<&LabelSelector> for Selector {
    fn from(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter();
        let labels = labels.map(|(k, v)| Condition::equals(k, v));
        let expressions = selector.match_expressions.iter().map(|r| Condition {
            key: r.key.clone(),
            operator: r.operator,
            values: r.values.iter().cloned().collect(),
        });
        Self(labels.chain(expressions).collect())
    }
}

impl From<&Labels> for Selector {
    fn from(labels: &Labels) -> Self {
        Self(
            labels
                .iter()
                .map(|(k, v)| Condition::equals(k, v))
                .collect(),
        )
    }
}
