//! The output of `ringfence matrix --diff`.

use ringfence_policy::matrix::{Difference, Edge};

use crate::output::table;

/// Formats one line for each caller and callee, opened calls first. Callers and callees that exist
/// on one side only are marked.
pub(super) fn text(found: &Difference) -> String {
    if found.opens.is_empty() && found.closes.is_empty() {
        let ports: Vec<String> = found.ports.iter().map(ToString::to_string).collect();
        return format!("Nothing opens or closes on {}.\n", ports.join(", "));
    }
    let marked = |name: &String| match (found.added.contains(name), found.removed.contains(name)) {
        (true, _) => format!("{name} (new)"),
        (_, true) => format!("{name} (gone)"),
        _ => name.clone(),
    };
    let row = |change: &str, edge: &Edge| {
        let ports: Vec<String> = edge.ports.iter().map(ToString::to_string).collect();
        vec![
            change.to_owned(),
            marked(&edge.from),
            marked(&edge.to),
            ports.join(","),
        ]
    };
    let opens = found.opens.iter().map(|edge| row("opens", edge));
    let closes = found.closes.iter().map(|edge| row("closes", edge));
    let rows = opens.chain(closes).collect();
    table(&["change", "source", "destination", "ports"], rows, &[])
}
