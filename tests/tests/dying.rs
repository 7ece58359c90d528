//! An agent dies after each of the writes of a change in turn: packets are judged by
//! the old tables or by the new ones, never by a mix, and the next agent puts the new
//! ones in force.
//!
//! `cargo xtask build-others` builds the agent that can be told where to die.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};

use ringfence_tests::agent::Shop;

/// More writes than the change needs.
const MOST: usize = 200;

/// The allowed callers of the server; everything else about the two states is the same.
const CALLERS: [&str; 2] = ["client", "rogue"];

fn rules(caller: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\n\
         kind: NetworkPolicy\n\
         metadata: {{ name: server, namespace: shop }}\n\
         spec:\n  \
           podSelector: {{ matchLabels: {{ app: server }} }}\n  \
           policyTypes: [Ingress]\n  \
           ingress:\n    \
             - from: [{{ podSelector: {{ matchLabels: {{ app: {caller} }} }} }}]\n      \
               ports: [{{ protocol: TCP, port: 8080 }}, {{ protocol: UDP, port: 5353 }}]\n"
    )
}

/// Returns which caller gets through to the server; no other may.
fn admitted(shop: &Shop) -> &'static str {
    let admitted = CALLERS.map(|caller| shop.calls(caller, "server", false).unwrap());
    match admitted {
        [true, false] => CALLERS[0],
        [false, true] => CALLERS[1],
        both => panic!("a mix of both policies: {CALLERS:?} are admitted: {both:?}"),
    }
}

/// Starts an agent that dies after this many writes, counted once the file exists.
fn mortal(shop: &Shop, writes: usize, with: &Path) -> Child {
    let mut log = File::options();
    let log = log.append(true).create(true);
    let log = log.open(shop.net.dir().join("mortal.log")).unwrap();
    let die = match writes {
        1 => "return".to_owned(),
        _ => format!("{}*off->return", writes - 1),
    };
    let mut command = shop.agent.command();
    command
        .env("RINGFENCE_DIE", die)
        .env("RINGFENCE_DIE_WITH", with)
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().unwrap()
}

/// Reports whether the agent puts the manifests in force without dying.
fn survives(shop: &Shop, agent: &mut Child) -> bool {
    for _ in 0..30 {
        let wait = ["status", "--wait", "shop/server", "--timeout", "1"];
        let is_in_force = shop.agent.run(&wait).unwrap().code == 0;
        if agent.try_wait().unwrap().is_some() {
            return false;
        }
        if is_in_force {
            return true;
        }
    }
    panic!("it neither dies nor gets there");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_dies_after_any_write_of_a_change_leaves_the_old_policy_or_the_new_one() {
    let pod = |name, number| ringfence_tests::agent::Manifest::pod(name, Shop::NODE, number);
    let mut shop = Shop::with([pod("server", 10), pod("client", 11), pod("rogue", 12)]).unwrap();
    let own = shop.agent.binary.clone();
    shop.agent.binary = own.with_file_name("ringfence-other-policy");
    let with = shop.net.dir().join("die");
    let (mut old, mut new) = (CALLERS[0], CALLERS[1]);
    shop.write("rules", &rules(old)).unwrap();
    let mut seen = [0, 0];
    for writes in 1..MOST {
        let mut agent = mortal(&shop, writes, &with);
        assert!(survives(&shop, &mut agent), "before the change");
        assert_eq!(admitted(&shop), old, "an agent after {} writes", writes - 1);
        File::create(&with).unwrap();
        shop.write("rules", &rules(new)).unwrap();
        let survived = survives(&shop, &mut agent);
        fs::remove_file(&with).unwrap();
        let left = admitted(&shop);
        eprintln!("after {writes} writes: {left}, from {old} to {new}");
        if survived {
            agent.kill().unwrap();
            agent.wait().unwrap();
            assert_eq!(left, new);
            assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
            return;
        }
        seen[usize::from(left == new)] += 1;
        // The next agent starts with the new policy, whatever state it finds.
        (old, new) = (new, old);
    }
    panic!("a change of {MOST} writes");
}
