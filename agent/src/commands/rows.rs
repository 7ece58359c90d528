//! The rows of listings, and the columns in which people see them.

use ringfence_api::{Connection, DropSeries, Endpoint, EndpointRow, OnNode, Whole};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::output::{Column, cell, cells};

/// One row of a listing.
pub(super) trait Row: Serialize + DeserializeOwned + 'static {
    /// The command that prints such rows.
    const COMMAND: &'static str;

    /// Returns the columns of the table.
    fn columns() -> Vec<Column<'static, Self>>;

    /// Returns what rows are sorted by, highest first.
    fn rank(&self) -> Option<u64> {
        None
    }
}

impl<T: Row> Row for OnNode<T> {
    const COMMAND: &'static str = T::COMMAND;

    fn columns() -> Vec<Column<'static, Self>> {
        let node = Column::text("node", |row: &Self| cell(&row.node));
        let columns = T::columns().into_iter();
        let columns = columns.map(|column| column.within(|row: &Self| &row.row));
        std::iter::once(node).chain(columns).collect()
    }

    fn rank(&self) -> Option<u64> {
        self.row.rank()
    }
}

/// What a column of endpoints shows of an interface.
type Show = fn(&Endpoint) -> String;

impl Row for EndpointRow {
    const COMMAND: &'static str = "endpoints";

    fn columns() -> Vec<Column<'static, Self>> {
        // A pod that isn't guarded has no interface.
        let endpoint = |name, show: Show| {
            Column::text(name, move |row: &Self| match row {
                Self::Endpoint(one) => show(&one.known),
                Self::NotGuarded(_) => cell(""),
            })
        };
        vec![
            Column::text("pod", |row: &Self| match row {
                Self::Endpoint(one) => maybe(one.known.pod.as_deref()),
                Self::NotGuarded(one) => cell(&one.known.pod),
            }),
            endpoint("workload", |one| cell(&one.workload)),
            endpoint("interface", |one| cell(&one.interface)),
            endpoint("addresses", |one| cells(&one.addresses)),
            endpoint("found_by", |one| cell(one.found_by.as_str())),
            endpoint("ingress", |one| cell(one.ingress.as_str())),
            endpoint("egress", |one| cell(one.egress.as_str())),
            Column::text("attached", |row: &Self| match row {
                Self::Endpoint(one) => one.known.attached.to_string(),
                Self::NotGuarded(one) => one.known.attached.to_string(),
            }),
            endpoint("foreign_filters", |one| cells(&one.foreign_filters)),
            Column::text("reason", |row: &Self| match row {
                Self::Endpoint(one) => maybe(one.known.reason.as_deref()),
                Self::NotGuarded(one) => cell(&one.known.reason),
            }),
        ]
    }
}

fn maybe(text: Option<&str>) -> String {
    cell(text.unwrap_or_default())
}

impl Row for Whole<Connection> {
    const COMMAND: &'static str = "connections";

    fn columns() -> Vec<Column<'static, Self>> {
        let columns: Vec<Column<'static, Connection>> = vec![
            Column::text("pod", |one: &Connection| cell(&one.pod)),
            Column::text("opened", |one: &Connection| cell(one.opened.as_str())),
            Column::text("protocol", |one: &Connection| cell(one.protocol.as_str())),
            Column::text("local", |one: &Connection| one.local.to_string()),
            Column::number("local_port", |one: &Connection| one.local_port.to_string()),
            Column::text("remote", |one: &Connection| one.remote.to_string()),
            Column::number("remote_port", |one: &Connection| {
                one.remote_port.to_string()
            }),
            Column::text("peer", |one: &Connection| cell(&one.peer)),
            Column::text("state", |one: &Connection| cell(one.state.as_str())),
            Column::number("packets", |one: &Connection| cells(&one.packets)),
            Column::number("bytes", |one: &Connection| cells(&one.bytes)),
            Column::number("age", |one: &Connection| one.age.to_string()),
            Column::number("idle", |one: &Connection| one.idle.to_string()),
        ];
        known(columns)
    }
}

impl Row for Whole<DropSeries> {
    const COMMAND: &'static str = "drops";

    fn columns() -> Vec<Column<'static, Self>> {
        let columns: Vec<Column<'static, DropSeries>> = vec![
            Column::text("source", |one: &DropSeries| cell(&one.source)),
            Column::text("destination", |one: &DropSeries| cell(&one.destination)),
            Column::text("direction", |one: &DropSeries| cell(one.direction.as_str())),
            Column::text("reason", |one: &DropSeries| cell(one.reason.as_str())),
            Column::text("protocol", |one: &DropSeries| cell(one.protocol.as_str())),
            Column::text("audited", |one: &DropSeries| one.audited.to_string()),
            Column::number("packets", |one: &DropSeries| one.packets.to_string()),
            Column::number("bytes", |one: &DropSeries| one.bytes.to_string()),
        ];
        known(columns)
    }

    /// The worst come first.
    fn rank(&self) -> Option<u64> {
        Some(self.known.packets)
    }
}

/// Returns columns of what this version knows of a row.
fn known<T: 'static>(columns: Vec<Column<'static, T>>) -> Vec<Column<'static, Whole<T>>> {
    let columns = columns.into_iter();
    columns
        .map(|column| column.within(|row: &Whole<T>| &row.known))
        .collect()
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
