//! The rows, by what they are about.

mod detours;
mod extensions;
mod fragments;
mod icmp;
mod link;
mod neighbours;
mod offload;
mod older;
mod onlink;
mod parser;
mod places;
mod policy;
mod quoted;
mod services;
mod spoofing;
mod tcp;
mod truncation;

use std::net::IpAddr;

use super::fixture;
use super::step::{Row, Step};

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut table = Table {
        rows: Vec::new(),
        port: 20_000,
    };
    policy::rows(&mut table);
    tcp::rows(&mut table);
    older::rows(&mut table);
    icmp::rows(&mut table);
    quoted::rows(&mut table);
    fragments::rows(&mut table);
    parser::rows(&mut table);
    extensions::rows(&mut table);
    truncation::rows(&mut table);
    link::rows(&mut table);
    neighbours::rows(&mut table);
    spoofing::rows(&mut table);
    places::rows(&mut table);
    services::rows(&mut table);
    offload::rows(&mut table);
    onlink::rows(&mut table);
    detours::rows(&mut table);
    table.rows
}

/// The rows so far, and the next port of nobody's.
struct Table {
    rows: Vec<Row>,
    port: u16,
}

impl Table {
    fn row(&mut self, name: impl Into<String>, steps: impl Into<Vec<Step>>) {
        self.rows.push(Row {
            name: name.into(),
            steps: steps.into(),
        });
    }

    /// A port that no other row uses; also an ICMP identifier.
    fn port(&mut self) -> u16 {
        self.port += 1;
        self.port
    }

    /// A row for each family; `steps` is given a way to addresses, and a port.
    fn both(&mut self, name: &str, steps: impl Fn(Family, u16) -> Vec<Step>) {
        for family in [Family { v4: true }, Family { v4: false }] {
            let port = self.port();
            self.row(format!("{name} ({})", family.name()), steps(family, port));
        }
    }
}

/// One family.
#[derive(Clone, Copy)]
struct Family {
    v4: bool,
}

const V4: Family = Family { v4: true };
const V6: Family = Family { v4: false };

impl Family {
    const fn name(self) -> &'static str {
        if self.v4 { "IPv4" } else { "IPv6" }
    }

    /// An address of this family.
    fn of(self, name: &str) -> IpAddr {
        fixture::address(name, self.v4)
    }
}

/// TCP flags by their letters.
mod flag {
    pub(super) const FIN: u8 = 1;
    pub(super) const SYN: u8 = 2;
    pub(super) const RST: u8 = 4;
    pub(super) const ACK: u8 = 16;
}
