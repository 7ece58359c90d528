//! Contents that prefer the same id.

use ringfence_ebpf::{
    abi::{Direction, PortSet},
    verdict::Policy,
};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::{Compiler, ids::FEW},
    diff::Change,
    index::Scope,
    tables::Tables,
    testing::{ask, index, netpol, object, pod},
};

/// Masks ids to two bits; those of blocks lie above the bits for whole protocols.
const TWO_BITS: u32 = 3 | 3 << 4;

const NUMBERS: std::ops::Range<u16> = 1..9;

/// Returns pods `b/s1`, `b/s2` …, each of which admits the `b/c1` … of its number, on a port of its
/// own.
fn objects() -> Vec<Value> {
    let mut all = Vec::new();
    for n in NUMBERS {
        let label = |what: &str| json!({what: n.to_string()});
        let ip = |net: u16| format!("10.0.{net}.{n}");
        all.push(pod(&format!("b/s{n}"), &ip(0), label("s")));
        all.push(pod(&format!("b/c{n}"), &ip(1), label("c")));
        let from = json!([{"podSelector": {"matchLabels": label("c")}}]);
        let rule = json!({"from": from, "ports": [{"port": 1000 * n}, {"port": 7}]});
        let spec = json!({"podSelector": {"matchLabels": label("s")}, "ingress": [rule]});
        all.push(netpol(&format!("b/n{n}"), spec));
    }
    all
}

fn compile(objects: &[Value]) -> Tables {
    index(objects.to_vec()).compile(&Scope::Everything)
}

fn answers(tables: &Tables) -> Vec<Policy> {
    let pairs = NUMBERS.flat_map(|s| NUMBERS.map(move |c| (s, c)));
    let asked = pairs.flat_map(|(s, c)| [1000 * s, 1000 * c, 7].map(|port| (s, c, port)));
    let one = |(s, c, port)| {
        let (pod, peer) = (format!("b/s{s}"), format!("10.0.1.{c}"));
        ask(
            tables,
            &pod,
            Direction::Ingress,
            &peer,
            &format!("TCP/{port}"),
        )
    };
    asked.map(one).collect()
}

/// Runs a closure with few ids, and restores the mask afterwards.
fn with_few<T>(run: impl FnOnce() -> T) -> T {
    FEW.set(TWO_BITS);
    let result = run();
    FEW.set(u32::MAX);
    result
}

#[test]
fn clashing_contents_get_ids_of_their_own_and_the_verdicts_are_the_same() {
    let plain = compile(&objects());
    let few = with_few(|| compile(&objects()));
    assert_ne!(plain, few);
    assert_eq!(answers(&plain), answers(&few));
    let sets: std::collections::BTreeSet<u32> = few
        .rules
        .values()
        .map(|grant| grant.enforced & PortSet::BLOCKS)
        .collect();
    assert_eq!(sets.len(), NUMBERS.len());
}

#[test]
fn clashing_contents_are_numbered_alike_in_any_order() {
    let mut backwards = objects();
    backwards.reverse();
    let (forward, backward) = with_few(|| (compile(&objects()), compile(&backwards)));
    assert_eq!(forward, backward);
}

#[test]
fn following_changes_through_clashes_ends_where_compiling_from_scratch_does() {
    with_few(|| {
        let all = objects();
        let mut index = index(Vec::new());
        let mut compiler = Compiler::new(Scope::Everything);
        for count in 1..=all.len() {
            index.apply(object(all[count - 1].clone()));
            let before = compiler.tables().clone();
            let change = compiler.update(&mut index);
            let whole = compile(&all[..count]);
            assert_eq!(*compiler.tables(), whole, "{count} objects");
            let needed = Change::between(&before, &whole);
            assert!(change.raised.is_superset(&needed.raised));
        }
        for count in (0..all.len()).rev() {
            let gone = object(all[count].clone());
            index.delete(&ObjectKey::new(gone.kind(), "b", &gone.meta().name));
            compiler.update(&mut index);
            assert_eq!(*compiler.tables(), compile(&all[..count]), "{count} left");
        }
    });
}

#[test]
fn a_compiler_that_another_looked_after_starts_from_scratch() {
    let all = objects();
    let mut index = index(all[..6].to_vec());
    let mut first = Compiler::new(Scope::Everything);
    let mut second = Compiler::new(Scope::Everything);
    first.update(&mut index);
    index.apply(object(all[6].clone()));
    second.update(&mut index);
    index.apply(object(all[7].clone()));
    first.update(&mut index);
    assert_eq!(*first.tables(), compile(&all[..8]));
    let mut copy = index.clone();
    copy.delete(&ObjectKey::new(Kind::Pod, "b", "s1"));
    first.update(&mut copy);
    assert_eq!(*first.tables(), copy.compile(&Scope::Everything));
    second.update(&mut index);
    assert_eq!(*second.tables(), compile(&all[..8]));
}
