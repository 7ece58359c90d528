//! Labels, and label selectors in canonical form.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{
    intern::{LabelSets, Pool, Text},
    model::{LabelSelector, Operator},
};

/// Labels of a pod, a Namespace or a Node, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Labels(Arc<[(Text, Text)]>);

impl Labels {
    /// Interns labels.
    pub(crate) fn new(
        texts: &mut Pool<str>,
        sets: &mut LabelSets,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        Self(sets.get(texts, labels))
    }

    /// Returns the address of the storage: equal labels from the same pools share it.
    pub(crate) fn place(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Returns the value of a label.
    pub(crate) fn get(&self, key: &str) -> Option<&Text> {
        let found = self.0.binary_search_by(|(k, _)| (**k).cmp(key));
        found.ok().map(|i| &self.0[i].1)
    }

    /// Returns keys and values, sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
}

/// A selector as a set of conditions. Equivalent selectors are equal values, however they were
/// written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Selector(Box<[Condition]>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
struct Condition {
    key: Text,
    operator: Operator,
    /// Sorted, without duplicates.
    values: Box<[Text]>,
}

impl Selector {
    /// Returns the canonical form of a selector, with its strings interned.
    pub(crate) fn new(texts: &mut Pool<str>, selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter();
        let mut all: Vec<Condition> = labels
            .map(|(k, v)| Condition {
                key: texts.get(k.as_str()),
                operator: Operator::In,
                values: [texts.get(v.as_str())].into(),
            })
            .collect();
        for requirement in &selector.match_expressions {
            let values = requirement.values.iter();
            let mut values: Vec<Text> = values.map(|v| texts.get(v.as_str())).collect();
            values.sort_unstable();
            values.dedup();
            all.push(Condition {
                key: texts.get(requirement.key.as_str()),
                operator: requirement.operator,
                values: values.into(),
            });
        }
        Self::of(all)
    }

    /// Returns a selector for exactly these label values.
    pub(crate) fn equal(labels: impl IntoIterator<Item = (Text, Text)>) -> Self {
        let condition = |(key, value): (Text, Text)| Condition {
            key,
            operator: Operator::In,
            values: [value].into(),
        };
        Self::of(labels.into_iter().map(condition).collect())
    }

    fn of(mut conditions: Vec<Condition>) -> Self {
        conditions.sort_unstable();
        conditions.dedup();
        Self(conditions.into())
    }

    /// Reports whether all conditions hold.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|c| c.holds(labels))
    }

    /// Reports whether a label that every match carries is missing. Compares pointers, not text,
    /// so the labels and the selector must come from the same pools.
    pub(crate) fn rules_out(&self, labels: &Labels) -> bool {
        let missing = |(key, value): (&Text, &Text)| {
            let mut labels = labels.iter();
            !labels.any(|(k, v)| Text::ptr_eq(k, key) && Text::ptr_eq(v, value))
        };
        self.required().any(missing)
    }

    /// Reports whether it selects everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys for which every match has one of the listed values.
    pub(crate) fn alternatives(&self) -> impl Iterator<Item = (&Text, &[Text])> {
        let listed = self.0.iter().filter(|c| c.operator == Operator::In);
        listed.map(|c| (&c.key, &*c.values))
    }

    /// Returns the labels that every match carries, used to look selectors up instead of trying
    /// each.
    pub(crate) fn required(&self) -> impl Iterator<Item = (&Text, &Text)> {
        let conditions = self.0.iter();
        conditions.filter_map(|c| match (c.operator, &*c.values) {
            (Operator::In, [value]) => Some((&c.key, value)),
            _ => None,
        })
    }
}

impl Condition {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |v: &Text| self.values.binary_search(v).is_ok();
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
