//! Describes objects that aren't read.

use std::collections::BTreeMap;

use super::file::Unread;
use ringfence_policy::model::ObjectKey;

/// Kinds beyond this number are only counted.
const MOST: usize = 20;

/// Returns one line for each kind of unread objects, given which objects are read.
pub(super) fn lines<'u>(
    all: impl Iterator<Item = &'u Unread>,
    is_there: impl Fn(&ObjectKey) -> bool,
) -> Vec<String> {
    let mut kinds: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    for one in all {
        let (kind, why, object) = match one {
            Unread::Kind(kind, object) => {
                let why =
                    "no pod template was found in it; if it creates pods, they are missing here";
                (kind.as_str(), why.to_owned(), object.clone())
            }
            Unread::Unknown(kind, object) => {
                let why = "not a kind that this version knows; it is left out";
                (kind.as_str(), why.to_owned(), object.clone())
            }
            Unread::Made(_, by) if is_there(by) => continue,
            Unread::Made(object, by) => {
                let why = format!(
                    "its pods belong to its {}, which isn't there; they are missing here",
                    by.kind
                );
                let ObjectKey {
                    kind,
                    namespace,
                    name,
                } = object;
                (kind.as_str(), why, format!("{namespace}/{name}"))
            }
        };
        kinds.entry((kind, why)).or_default().push(object);
    }
    let count = kinds.len();
    let mut lines: Vec<String> = kinds.into_iter().take(MOST).map(line).collect();
    if count > MOST {
        lines.push(format!("{} more kinds like these", count - MOST));
    }
    lines
}

fn line(((kind, why), mut objects): ((&str, String), Vec<String>)) -> String {
    objects.sort();
    let first = objects.first().map_or("", String::as_str);
    match objects.len() {
        1 => format!("{kind} {first}: {why}"),
        all => format!("{kind} {first} and {} more: {why}", all - 1),
    }
}
