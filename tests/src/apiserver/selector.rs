//! Label selectors of lists: conditions of equality, all of which must hold.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One selector; without conditions it selects everything.
pub(super) struct Selector(Vec<Condition>);

enum Condition {
    Is(String, String),
    /// Also of objects that don't have the label.
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

#[derive(Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Selector {
    /// Reads `KEY=VALUE`, `KEY==VALUE`, `KEY!=VALUE`, `KEY` and `!KEY`, with commas
    /// between them; what a server says of anything else.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').filter(|_| !text.is_empty());
        words.map(condition).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it selects an object.
    pub(super) fn selects(&self, object: &[u8]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Ok(Labelled { metadata }) = serde_json::from_slice(object) else {
            return false;
        };
        let label = |key: &String| metadata.labels.get(key);
        self.0.iter().all(|condition| match condition {
            Condition::Is(key, value) => label(key) == Some(value),
            Condition::IsNot(key, value) => label(key) != Some(value),
            Condition::Has(key) => label(key).is_some(),
            Condition::HasNot(key) => label(key).is_none(),
        })
    }
}

fn condition(word: &str) -> Result<Condition, String> {
    let word = word.trim();
    let part = |text: &str, may_be_empty: bool| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let is_well = text.chars().all(fits) && (may_be_empty || !text.is_empty());
        let refused = || format!("unable to parse requirement: {word:?}");
        is_well.then(|| text.to_owned()).ok_or_else(refused)
    };
    let pair = |key: &str, value: &str| {
        Ok::<_, String>((part(key.trim(), false)?, part(value.trim(), true)?))
    };
    if let Some((key, value)) = word.split_once("!=") {
        return pair(key, value).map(|(key, value)| Condition::IsNot(key, value));
    }
    if let Some((key, value)) = word.split_once("==").or_else(|| word.split_once('=')) {
        return pair(key, value).map(|(key, value)| Condition::Is(key, value));
    }
    match word.strip_prefix('!') {
        Some(key) => part(key.trim(), false).map(Condition::HasNot),
        None => part(word, false).map(Condition::Has),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn selects(selector: &str, object: &str) -> bool {
        Selector::parse(selector)
            .unwrap()
            .selects(object.as_bytes())
    }

    #[test]
    fn every_condition_must_hold() {
        let object = r#"{"metadata":{"labels":{"app":"x","tier":"a"}}}"#;
        for selector in [
            "",
            "app=x",
            "app==x",
            "app=x,tier!=b",
            "app, !other",
            "other!=y",
        ] {
            assert!(selects(selector, object), "{selector}");
        }
        for selector in ["app=y", "app=x,tier!=a", "other", "!app", "other="] {
            assert!(!selects(selector, object), "{selector}");
        }
        assert!(!selects("app=x", r#"{"metadata":{}}"#));
    }

    #[test]
    fn what_is_no_condition_of_equality_is_refused() {
        for selector in ["app in (x,y)", "=x", "!", "app=x,", "a b"] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
    }
}
