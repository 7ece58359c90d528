//! Writes JSON values as conventional YAML.

use serde_json::Value;

/// Words that YAML doesn't read as text.
const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// Writes block style with an indent of two spaces and lists at the depth of their key; ends in a
/// newline.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                indent(depth, out);
                out.push_str(&text(key));
                out.push(':');
                member(value, depth, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, out);
                out.push('-');
                entry(item, depth, out);
            }
        }
        flat => {
            indent(depth, out);
            out.push_str(&scalar(flat));
            out.push('\n');
        }
    }
}

fn member(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        flat => {
            out.push(' ');
            out.push_str(&scalar(flat));
            out.push('\n');
        }
    }
}

/// Writes a list item, starting on the line of its dash.
fn entry(item: &Value, depth: usize, out: &mut String) {
    let mut inner = String::new();
    block(item, depth + 1, &mut inner);
    out.push(' ');
    out.push_str(inner.trim_start());
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => text(s),
        other => other.to_string(),
    }
}

/// Writes plain text if no parser could read it as anything else, otherwise JSON, which YAML
/// includes.
fn text(s: &str) -> String {
    let letter = s.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let word = WORDS.contains(&s.to_ascii_lowercase().as_str());
    if letter && s.chars().all(plain) && !word {
        return s.to_owned();
    }
    Value::from(s).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let value = serde_json::json!({
            "metadata": {"labels": {"a.b/c": "true", "d": "80", "e": null, "f": "x: y", "": ""}},
            "spec": {
                "ingress": [
                    {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "::/0"}}], "ports": [{"port": 80}]},
                    {},
                ],
                "types": ["Ingress", "no"], "nested": [[1, 2], [], "- z"], "none": [],
            },
        });
        let text = write(&value);
        let read: Value = serde_yaml_ng::from_str(&text).expect(&text);
        assert_eq!(read, value, "{text}");
    }
}
