//! The attack lab: hostile pods, neighbours and outsiders against the real agent.
//!
//! Every attack runs on a routed and on a bridged node: first without a firewall, which
//! proves that the attack works there, then with the agent attached by tcx links and as
//! clsact filters. Each test prints its attacks as a table. The table also has rows for
//! honest senders that use the same means; their traffic must arrive.
#![allow(clippy::unwrap_used)]

mod again;
mod attack;
mod bounce;
mod checksums;
mod errors;
mod express;
mod lab;
mod link;
mod nested;
mod nodes;
mod own;
mod past;
mod shared;
mod sources;
mod starving;
mod trains;
mod tunnels;
mod wire;

use attack::{Attack, attempt};

/// All attacks, by the test that runs them.
const ALL: &[(&str, &[Attack])] = &[
    ("checksums", checksums::ATTACKS),
    ("trains", trains::ATTACKS),
    ("own", own::ATTACKS),
    ("sources", sources::ATTACKS),
    ("shared", shared::ATTACKS),
    ("errors", errors::ATTACKS),
    ("tunnels", tunnels::ATTACKS),
    ("nodes", nodes::ATTACKS),
    ("starving", starving::ATTACKS),
    ("link", link::ATTACKS),
    ("past", past::ATTACKS),
    ("nested", nested::ATTACKS),
    ("bounce", bounce::ATTACKS),
    ("again", again::ATTACKS),
    ("express", express::ATTACKS),
    ("wire", wire::ATTACKS),
];

#[test]
fn every_attack_has_a_name_of_its_own() {
    let mut names: Vec<&str> = ALL
        .iter()
        .flat_map(|(_, attacks)| *attacks)
        .map(|a| a.name)
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_checksum_that_is_still_to_be_written_changes_nothing_that_was_judged() {
    let attacks = [checksums::ATTACKS, trains::ATTACKS].concat();
    attempt(&attacks, checksums::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_outsider_passes_as_the_node_and_the_node_reaches_its_pods() {
    attempt(own::ATTACKS, own::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nobody_outside_speaks_for_a_pod_of_the_node() {
    attempt(sources::ATTACKS, |_| Ok(()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn on_a_shared_bridge_no_link_local_or_group_address_leads_around_egress() {
    attempt(shared::ATTACKS, |_| Ok(()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn only_who_could_have_seen_a_packet_reports_an_error_about_it() {
    attempt(errors::ATTACKS, |_| Ok(()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_pod_reaches_a_tunnel_of_its_node_whatever_the_port() {
    attempt(tunnels::ATTACKS, tunnels::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_address_of_the_node_is_the_nodes_and_a_service_takes_no_others() {
    attempt(nodes::ATTACKS, nodes::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whoever_fills_the_tables_of_connections_silences_nobody_else() {
    attempt(starving::ATTACKS, |_| Ok(()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_says_nothing_on_its_link_but_what_it_is_asked_for() {
    attempt(link::ATTACKS, |_| Ok(()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_gets_packets_past_its_hook_reaches_nobody_but_its_node() {
    attempt(past::ATTACKS, past::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_a_pod_makes_behind_its_interface_speaks_with_its_addresses_alone() {
    let attacks = [nested::ATTACKS, express::ATTACKS, bounce::ATTACKS].concat();
    attempt(&attacks, nested::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whoever_sends_from_another_node_passes_as_nobody_of_this_one() {
    attempt(wire::ATTACKS, wire::prepare);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_node_takes_out_and_puts_back_in_stays_whose_it_was_or_is_closed() {
    attempt(again::ATTACKS, again::prepare);
}
