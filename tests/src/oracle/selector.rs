//! Kubernetes label selectors.

use serde_json::Value;

use super::object::{Labels, list, string, text};

/// Whether a selector matches labels; an empty one matches all.
pub(crate) fn selects(selector: &Value, labels: &Labels<'_>) -> bool {
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let mut equal = wanted
        .into_iter()
        .flatten()
        .map(|(key, value)| labels.get(key.as_str()).copied() == string(value));
    equal.all(|yes| yes)
        && list(selector, "/matchExpressions")
            .iter()
            .all(|expression| holds(expression, labels))
}

fn holds(expression: &Value, labels: &Labels<'_>) -> bool {
    let value = labels.get(text(expression, "/key"));
    let listed = value.is_some_and(|value| {
        list(expression, "/values")
            .iter()
            .any(|v| v.as_str() == Some(value))
    });
    match text(expression, "/operator") {
        "In" => listed,
        // Corner 14: these two match where the key is absent.
        "NotIn" => !listed,
        "DoesNotExist" => value.is_none(),
        "Exists" => value.is_some(),
        other => unreachable!("operator {other} is refused before it is asked"),
    }
}
