//! Splits text into documents and these into single objects, still untyped.

use serde_json::Value;

use super::split::{Piece, split, without_marks};

/// One object's value and its position in the file.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// The document's number, from 1.
    pub document: usize,
    /// The item's number in its List, from 1.
    pub item: Option<usize>,
    /// The object.
    pub value: Value,
}

/// A document that isn't YAML or contains no object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DocumentError {
    /// The document's number, from 1.
    pub document: usize,
    /// The item's number in its List, from 1.
    pub item: Option<usize>,
    /// What is wrong, with the line in the file if known.
    pub message: String,
}

/// Reads every object of a file; one bad document doesn't hide the others.
pub fn read(text: &str) -> (Vec<Item>, Vec<DocumentError>) {
    let mut items = Vec::new();
    let mut errors = Vec::new();
    for piece in split(&without_marks(text)) {
        match parse(&piece) {
            Ok(Value::Null) => {}
            Ok(value) => expand(piece.document, value, &mut items, &mut errors),
            Err(message) => {
                errors.push(DocumentError {
                    document: piece.document,
                    item: None,
                    message,
                });
            }
        }
    }
    (items, errors)
}

fn parse(piece: &Piece<'_>) -> Result<Value, String> {
    serde_saphyr::from_str_with_options(piece.text, options()).map_err(|error| {
        if let Some(line) = template(piece) {
            return format!("line {line}: {TEMPLATE}");
        }
        let bare = error.without_snippet();
        match error.location() {
            Some(location) if location.line() > 0 => {
                let line = piece.lines_before as u64 + location.line();
                format!("line {line}: {}", one_line(&bare.to_string()))
            }
            _ => one_line(&bare.to_string()),
        }
    })
}

/// The message about an unrendered template.
pub(super) const TEMPLATE: &str =
    "{{ … }} is a template, which isn't read: render it first, for example with `helm template`";

/// Returns the line in the file of a document's first template braces, ignoring comments.
fn template(piece: &Piece<'_>) -> Option<usize> {
    let is_template = |row: &str| row.contains("{{") && !row.trim_start().starts_with('#');
    let before = piece.text.lines().position(is_template)?;
    Some(piece.lines_before + before + 1)
}

/// Returns the first line of a message without the parser's own position, which counts from the
/// document's start; we report the line in the file.
fn one_line(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let cut = first.rfind(" at line ").unwrap_or(first.len());
    first[..cut].trim_end_matches([' ', ',', ':']).to_owned()
}

/// Limits that fit the output for a whole cluster (`kubectl get pods -A -o yaml` has some 200 nodes
/// per pod), but still make an alias bomb end in an error.
///
/// Only `true` and `false` are booleans, as in YAML 1.2: a node may be called `n`, and a `yes` in
/// place of a boolean is an error rather than a guess.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 100_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: 1 << 30,
        },
    }
}

/// Expands `kind: List` and every `XxxList` into their items.
fn expand(document: usize, value: Value, items: &mut Vec<Item>, errors: &mut Vec<DocumentError>) {
    let mut take = |item, read: Result<Value, String>| match read {
        Ok(value) => items.push(Item {
            document,
            item,
            value,
        }),
        Err(message) => errors.push(DocumentError {
            document,
            item,
            message,
        }),
    };
    match list(value) {
        Ok(Document::Object(value)) => take(None, Ok(value)),
        Ok(Document::List {
            kind,
            version,
            items,
        }) => {
            for (n, entry) in items.into_iter().enumerate() {
                take(Some(n + 1), complete(entry, &kind, version.as_ref()));
            }
        }
        Err(message) => take(None, Err(message)),
    }
}

enum Document {
    Object(Value),
    List {
        /// The kind of the items; empty if each item has its own.
        kind: String,
        version: Option<Value>,
        items: Vec<Value>,
    },
}

fn list(mut value: Value) -> Result<Document, String> {
    let Value::Object(fields) = &mut value else {
        return Err(NO_OBJECT.into());
    };
    let kind = fields
        .get("kind")
        .and_then(Value::as_str)
        .ok_or(NO_KIND)?
        .to_owned();
    let Some(item_kind) = kind.strip_suffix("List") else {
        return Ok(Document::Object(value));
    };
    let items = match fields.remove("items") {
        Some(Value::Array(items)) => items,
        // `kubectl get` prints an empty list of a kind as null.
        Some(Value::Null) => Vec::new(),
        // A kind of its own whose name merely ends in List.
        None if !item_kind.is_empty() => return Ok(Document::Object(value)),
        _ => return Err(format!("{kind}: items: not a list")),
    };
    Ok(Document::List {
        kind: item_kind.to_owned(),
        version: fields.remove("apiVersion"),
        items,
    })
}

const NO_OBJECT: &str = "not a Kubernetes object: a mapping with apiVersion, kind and metadata";
const NO_KIND: &str = "kind: missing, so this isn't a Kubernetes object";

/// Fills in the kind and version from a typed list, whose items need not repeat them.
fn complete(mut entry: Value, kind: &str, version: Option<&Value>) -> Result<Value, String> {
    let Value::Object(fields) = &mut entry else {
        return Err(NO_OBJECT.into());
    };
    if fields.get("kind").and_then(Value::as_str) == Some("List") {
        return Err("a List inside a List; kubectl doesn't print that".into());
    }
    if !fields.contains_key("kind") {
        if kind.is_empty() {
            return Err(NO_KIND.into());
        }
        fields.insert("kind".into(), kind.into());
        if let Some(version) = version
            && !fields.contains_key("apiVersion")
        {
            fields.insert("apiVersion".into(), version.clone());
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(usize, Option<usize>, String)> {
        let (items, errors) = read(text);
        assert_eq!(errors, []);
        let kind = |item: &Item| item.value["kind"].as_str().unwrap().to_owned();
        items
            .iter()
            .map(|i| (i.document, i.item, kind(i)))
            .collect()
    }

    #[test]
    fn documents_are_numbered_as_a_person_counts_them() {
        let text = "# licence\n---\nkind: A\n---\n# nothing here\n--- # third\nkind: B\n---\n";
        assert_eq!(kinds(text), [(1, None, "A".into()), (3, None, "B".into())]);
        assert_eq!(
            kinds("kind: A\n---\nkind: B"),
            [(1, None, "A".into()), (2, None, "B".into())]
        );
    }

    #[test]
    fn a_marker_line_with_content_starts_a_document() {
        assert_eq!(kinds("--- {kind: A}\n--- {kind: B}\n").len(), 2);
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_are_read() {
        assert_eq!(kinds("\u{feff}kind: A\r\n---\r\nkind: B\r\n").len(), 2);
    }

    #[test]
    fn a_list_stands_for_its_items() {
        let text = "kind: List\nitems:\n- kind: A\n- kind: B\n---\nkind: PodList\napiVersion: v1\nitems:\n- metadata: {}\n";
        let expected = [
            (1, Some(1), "A".into()),
            (1, Some(2), "B".into()),
            (2, Some(1), "Pod".into()),
        ];
        assert_eq!(kinds(text), expected);
        assert_eq!(read(text).0[2].value["apiVersion"], "v1");
    }

    #[test]
    fn a_list_in_a_list_is_an_error_and_a_kind_merely_called_list_is_none() {
        let (items, errors) = read("kind: List\nitems:\n- kind: List\n  items: []\n");
        assert_eq!((items.len(), errors.len()), (0, 1));
        assert_eq!(kinds("kind: AllowList\nspec: {}\n").len(), 1);
    }

    #[test]
    fn a_stream_of_json_objects_is_a_document_each() {
        let text = "{\"kind\": \"A\"}\n{\"kind\": \"B\", \"n\": {\"m\": [1]}}{\"kind\":\n\"C\"}\n---\nkind: D\n";
        let expected = [
            (1, None, "A".into()),
            (2, None, "B".into()),
            (3, None, "C".into()),
            (4, None, "D".into()),
        ];
        assert_eq!(kinds(text), expected);
        let list = "{\"kind\": \"List\", \"items\": [{\"kind\": \"A\"}]}\n{\"kind\": \"B\"}\n";
        assert_eq!(kinds(list).len(), 2);
    }

    #[test]
    fn what_is_wrong_in_a_stream_names_its_document_and_line() {
        let (items, errors) =
            read("{\"kind\": \"A\"}\n{\"kind\": \"B\",\n \"kind\": \"C\"}\n{\"kind\": \"D\"}");
        assert_eq!(items.len(), 2);
        assert_eq!(errors[0].document, 2);
        assert!(errors[0].message.starts_with("line 3: "), "{errors:?}");
        let (items, errors) = read("{\"kind\": \"A\"}\n{\"kind\": \"B\"\n");
        assert_eq!((items.len(), errors.len()), (1, 1));
        assert_eq!(errors[0].document, 2);
    }

    #[test]
    fn a_byte_order_mark_at_any_line_s_beginning_is_passed_over() {
        for text in [
            "kind: A\n---\n\u{feff}kind: B\n",
            "kind: A\n\u{feff}---\nkind: B\n",
            "\u{feff}\u{feff}kind: A\r\n\u{feff}---\r\n\u{feff}kind: B\r\n",
            "\u{feff}{\"kind\": \"A\"}\n\u{feff}{\"kind\": \"B\"}\n",
        ] {
            assert_eq!(kinds(text).len(), 2, "{text:?}");
        }
        let (items, errors) = read("kind: A\n\u{feff}kind: B\n");
        assert_eq!((items.len(), errors.len()), (0, 1));
    }

    #[test]
    fn a_template_is_named_with_its_line() {
        for text in [
            "kind: A\nmetadata:\n  name: {{ .Release.Name }}\n",
            "# {{ comment }}\nkind: A\n{{- if .Values.x }}\nspec: {}\n{{- end }}\n",
            "kind: A\nlabels:\n  {{- include \"labels\" . | nindent 4 }}\n",
        ] {
            let (items, errors) = read(text);
            assert_eq!(items, [], "{text}");
            let message = format!("line 3: {TEMPLATE}");
            assert_eq!(errors[0].message, message, "{text}");
        }
    }

    #[test]
    fn json_with_tabs_is_read() {
        assert_eq!(
            kinds("{\n\t\"kind\": \"A\",\n\t\"metadata\": {\n\t\t\"name\": \"x\"\n\t}\n}\n").len(),
            1
        );
    }

    #[test]
    fn a_bad_document_names_its_line_and_hides_no_other() {
        let (items, errors) = read("kind: A\n---\nkind: B\nspec: [1, 2\n---\nkind: C\n");
        assert_eq!(items.len(), 2);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].document, 2);
        assert!(
            errors[0].message.starts_with("line "),
            "{}",
            errors[0].message
        );
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        let (items, errors) = read("kind: A\nspec:\n  ingress: []\n  ingress: [{}]\n");
        assert_eq!(items, []);
        assert!(
            errors[0].message.contains("line 4"),
            "{}",
            errors[0].message
        );
        assert!(
            errors[0].message.contains("ingress"),
            "{}",
            errors[0].message
        );
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in [
            "- a\n",
            "just words\n",
            "metadata: {name: a}\n",
            "kind: List\nitems: 3\n",
        ] {
            let (items, errors) = read(text);
            assert_eq!((items.len(), errors.len()), (0, 1), "{text}");
        }
        let (_, errors) = read("kind: List\nitems:\n- kind: A\n- 7\n");
        assert_eq!((errors[0].document, errors[0].item), (1, Some(2)));
    }

    #[test]
    fn a_label_written_true_stays_text_only_if_quoted() {
        let (items, _) = read("kind: A\nquoted: \"true\"\nbare: true\n");
        assert_eq!(items[0].value["quoted"], "true");
        assert_eq!(items[0].value["bare"], true);
    }

    #[test]
    fn a_name_that_older_yaml_takes_for_a_boolean_stays_a_name() {
        let (items, _) = read("kind: A\nnames: [y, n, yes, no, on, off]\n");
        assert_eq!(
            items[0].value["names"],
            serde_json::json!(["y", "n", "yes", "no", "on", "off"])
        );
    }
}
