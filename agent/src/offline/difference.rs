//! The output of `ringfence matrix --diff`.

use ringfence_policy::matrix::{Difference, Edge};

use crate::output::{Column, table};

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
    let opens = found.opens.iter().map(|edge| ("opens", edge));
    let closes = found.closes.iter().map(|edge| ("closes", edge));
    let rows: Vec<Row<'_>> = opens.chain(closes).collect();
    let columns = [
        Column::text("change", |(change, _): &Row<'_>| (*change).to_owned()),
        Column::text("source", |(_, edge): &Row<'_>| marked(&edge.from)),
        Column::text("destination", |(_, edge): &Row<'_>| marked(&edge.to)),
        Column::text("ports", |(_, edge): &Row<'_>| {
            let ports: Vec<String> = edge.ports.iter().map(ToString::to_string).collect();
            ports.join(",")
        }),
    ];
    table(&columns, &rows)
}

/// What happens to a call, and the call.
type Row<'e> = (&'static str, &'e Edge);
