//! Tests that views return what was stored in them.

use super::*;

/// A connection in which all integers differ.
const CONNECTION: Connection = Connection {
    last_seen: 1,
    opened: 2,
    packets: [3, 4],
    bytes: [5, 6],
    epoch: 7,
    peer: 8,
    opened_by: 9,
    state: 10,
    flags: 11,
    minute: 12,
    numbers: [14, 15],
    timeout: 13,
};

/// Returns a value's fields as text, without the name of its type.
fn fields(value: &impl core::fmt::Debug) -> String {
    let shown = format!("{value:?}");
    let (_, fields) = shown.split_once(' ').expect("a struct");
    fields.to_owned()
}

#[test]
fn a_connection_is_set_and_copied_with_all_that_it_holds() {
    let (one, other) = (SharedConnection::default(), SharedConnection::default());
    one.set(&CONNECTION);
    other.copy(&one);
    assert_eq!(fields(&one), fields(&CONNECTION));
    assert_eq!(fields(&other), fields(&CONNECTION));
}

#[test]
fn a_key_is_the_one_that_it_was_set_to() {
    let (held, none) = (SharedKey::default(), ConnectionKey::EMPTY);
    let key = ConnectionKey {
        local: Addr::from_words([1, 2, 3, 4]),
        remote: Addr::from_words([5, 6, 7, 8]),
        endpoint: 9,
        local_port: 10,
        remote_port: 11,
        protocol: 12,
    };
    assert!(held.is(&none) && !held.is(&key));
    held.set(&key);
    assert!(held.is(&key) && !held.is(&none));
}

#[test]
fn an_integer_that_several_cpus_write_is_always_one_that_was_written() {
    const WRITTEN: [u64; 2] = [0, u64::MAX];
    let shared = Shared::new(WRITTEN[0]);
    std::thread::scope(|scope| {
        for value in WRITTEN {
            let shared = &shared;
            scope.spawn(move || {
                for _ in 0..10_000 {
                    shared.set(value);
                    assert!(WRITTEN.contains(&shared.get()));
                }
            });
        }
    });
}
