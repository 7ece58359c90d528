//! The datapath's rows as the API's types: the only place that converts them.

use ringfence_api::{Connection, DropSeries, Endpoint, Event, FoundBy};

use crate::datapath::{self, ConnectionRow, EndpointState, EventRecord};
use crate::runtime;

/// Converts an endpoint.
pub(super) fn endpoint(state: EndpointState) -> Endpoint {
    Endpoint {
        pod: state.pod.map(|pod| pod.to_string()),
        gone: state.gone,
        reason: state.reason.map(str::to_owned),
        workload: state.workload,
        id: state.id,
        slot: state.slot,
        ifindex: state.ifindex,
        interface: state.interface,
        addresses: state.addresses,
        found_by: found_by(state.found_by),
        ingress: state.ingress.into(),
        egress: state.egress.into(),
        attached: state.attached,
        foreign_filters: state.foreign_filters,
    }
}

fn found_by(by: runtime::FoundBy) -> FoundBy {
    match by {
        runtime::FoundBy::CniPlugin => FoundBy::CniPlugin,
        runtime::FoundBy::CniCache => FoundBy::CniCache,
        runtime::FoundBy::Cri => FoundBy::Cri,
        runtime::FoundBy::Pin => FoundBy::Pin,
        runtime::FoundBy::Claim => FoundBy::Claim,
    }
}

/// Converts a connection.
pub(super) fn connection(row: ConnectionRow) -> Connection {
    Connection {
        pod: row.pod,
        local: row.local,
        local_port: row.local_port,
        remote: row.remote,
        remote_port: row.remote_port,
        protocol: row.protocol.into(),
        peer: row.peer,
        opened: row.opened.into(),
        state: row.state.into(),
        picked_up: row.picked_up,
        age: row.age,
        idle: row.idle,
        packets: row.packets,
        bytes: row.bytes,
    }
}

/// Converts counters of drops.
pub(super) fn drops(series: datapath::DropSeries) -> DropSeries {
    DropSeries {
        source: series.source,
        destination: series.destination,
        direction: series.direction.into(),
        reason: series.reason.into(),
        protocol: series.protocol.into(),
        audited: series.audited,
        packets: series.packets,
        bytes: series.bytes,
    }
}

/// Converts an event.
pub(crate) fn event(record: EventRecord) -> Event {
    Event {
        time: record.time,
        source: record.source,
        destination: record.destination,
        source_address: record.source_address,
        destination_address: record.destination_address,
        source_port: record.source_port,
        destination_port: record.destination_port,
        protocol: record.protocol.into(),
        direction: record.direction.into(),
        reason: record.reason.into(),
        audited: record.audited,
        len: record.len,
        detail: record.detail,
    }
}

#[cfg(test)]
mod tests {
    use ringfence_api::{ConnectionState, Direction, Enforcement, Protocol, Reason};
    use ringfence_ebpf::abi;

    use super::*;

    #[test]
    fn the_api_knows_every_word_of_the_datapath() {
        for reason in abi::Reason::ALL {
            let word = Reason::from(reason.name());
            assert!(Reason::KNOWN.contains(&word), "{word}");
            assert!(!matches!(word, Reason::Other(_)), "{word}");
        }
        // And `unknown`.
        assert_eq!(Reason::KNOWN.len(), abi::Reason::ALL.len() + 1);
        for direction in [abi::Direction::Ingress, abi::Direction::Egress] {
            let word = Direction::from(direction.name());
            assert!(!matches!(word, Direction::Other(_)), "{word}");
        }
        let protocols = (0..=u8::MAX).filter_map(abi::Protocol::from_u8);
        let protocols: Vec<_> = protocols.map(|one| Protocol::from(one.name())).collect();
        assert!(
            !protocols
                .iter()
                .any(|one| matches!(one, Protocol::Other(_)))
        );
        assert_eq!(protocols.len(), Protocol::KNOWN.len());
    }

    #[test]
    fn the_words_of_a_row_are_variants_of_the_api() {
        for word in ["opening", "established", "half-closed", "closing"] {
            assert!(
                !matches!(ConnectionState::from(word), ConnectionState::Other(_)),
                "{word}"
            );
        }
        for word in ["open", "audit", "enforce", "quarantine", "closed"] {
            assert!(
                !matches!(Enforcement::from(word), Enforcement::Other(_)),
                "{word}"
            );
        }
    }

    #[test]
    fn a_source_of_identity_reads_as_the_name_that_records_have() {
        use runtime::FoundBy as Found;
        for by in [
            Found::CniPlugin,
            Found::CniCache,
            Found::Cri,
            Found::Pin,
            Found::Claim,
        ] {
            let name = serde_json::to_string(&by).unwrap();
            assert_eq!(serde_json::to_string(&found_by(by)).unwrap(), name);
        }
    }
}
