//! A single attack, and the loop that runs all attacks of a kind.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::panic::resume_unwind;
use std::thread;

use anyhow::Result;
use ringfence_tests::attack::{Outcome, Row, table};

use crate::lab::{Lab, Layout};

/// Runs the attack and returns its outcome.
pub(crate) type Run = fn(&mut Lab, bool) -> Result<Outcome>;

/// An attack: what it does, where it runs and the expected outcome.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    /// A unique description of the attack.
    pub(crate) name: &'static str,
    run: Run,
    layouts: &'static [Layout],
    families: &'static [bool],
    /// The expected outcome without and with a firewall. Without one, `None` accepts
    /// whatever the kernel does.
    expected: [Option<Outcome>; 2],
    /// The drop reasons of which one must be counted, if any.
    reasons: &'static [&'static str],
    /// A kind of device that the attack needs and that not every kernel has.
    kind: Option<&'static str>,
}

impl Attack {
    /// An attack on all layouts and over both families that arrives without the
    /// firewall and is stopped by it.
    pub(crate) const fn new(name: &'static str, run: Run) -> Self {
        Self {
            name,
            run,
            layouts: &Layout::ALL,
            families: &[true, false],
            expected: [Some(Outcome::Arrives), Some(Outcome::Stopped)],
            reasons: &[],
            kind: None,
        }
    }

    /// The traffic of an honest sender: it arrives with and without the firewall.
    pub(crate) const fn honest(name: &'static str, run: Run) -> Self {
        let expected = [Some(Outcome::Arrives); 2];
        Self {
            expected,
            ..Self::new(name, run)
        }
    }

    /// An attack that this kernel stops by itself and an older one may not: there is no control.
    pub(crate) const fn futile(name: &'static str, run: Run) -> Self {
        let expected = [None, Some(Outcome::Stopped)];
        Self {
            expected,
            ..Self::new(name, run)
        }
    }

    /// Restricts the attack to a shared bridge.
    pub(crate) const fn on_a_bridge(self) -> Self {
        Self {
            layouts: &[Layout::Bridge],
            ..self
        }
    }

    /// Restricts the attack to a routed node.
    pub(crate) const fn routed(self) -> Self {
        Self {
            layouts: &[Layout::Routed],
            ..self
        }
    }

    /// Restricts the attack to IPv4.
    pub(crate) const fn v4(self) -> Self {
        Self {
            families: &[true],
            ..self
        }
    }

    /// Restricts the attack to IPv6.
    pub(crate) const fn v6(self) -> Self {
        Self {
            families: &[false],
            ..self
        }
    }

    /// Requires that one of these reasons is counted.
    pub(crate) const fn counted_as(self, reasons: &'static [&'static str]) -> Self {
        Self { reasons, ..self }
    }

    /// Skips the attack, and says so in its row, unless the kernel has this kind of device.
    pub(crate) const fn with_kind(self, kind: &'static str) -> Self {
        Self {
            kind: Some(kind),
            ..self
        }
    }

    /// Runs the attack once over each family. `counted` holds all drops up to now.
    fn tried(&self, lab: &mut Lab, counted: &mut Reasons) -> Vec<Row> {
        if !self.layouts.contains(&lab.layout) {
            return Vec::new();
        }
        let families = self.families.iter();
        families
            .map(|&v4| self.tried_over(lab, v4, counted))
            .collect()
    }

    fn tried_over(&self, lab: &mut Lab, v4: bool, before: &mut Reasons) -> Row {
        let guarded = lab.is_guarded();
        let expected = self.expected[usize::from(guarded)];
        lab.expects(expected.unwrap_or(Outcome::Stopped));
        if let Some(kind) = self.kind.filter(|kind| !lab.has_kind(kind)) {
            return self.row(lab, v4, format!("not tried: no {kind} here"), true);
        }
        let outcome = (self.run)(lab, v4);
        let after = reasons(lab);
        let counted = counted(before, &after);
        *before = after;
        let wanted = if guarded { self.reasons } else { &[] };
        let named = wanted.is_empty() || wanted.iter().any(|one| counted.contains(*one));
        let (seen, holds) = match outcome {
            Ok(outcome) => (
                outcome.to_string(),
                expected.is_none_or(|one| one == outcome) && named,
            ),
            Err(error) => (format!("failed: {error:#}"), false),
        };
        let counted = counted.into_iter().collect::<Vec<_>>().join(", ");
        let seen = match counted.is_empty() {
            true => seen,
            false => format!("{seen} ({counted})"),
        };
        self.row(lab, v4, seen, holds)
    }

    fn row(&self, lab: &Lab, v4: bool, seen: String, holds: bool) -> Row {
        Row {
            attack: self.name,
            place: [
                lab.layout.name(),
                lab.firewall(),
                if v4 { "IPv4" } else { "IPv6" },
            ],
            expected: self.expected[usize::from(lab.is_guarded())],
            seen,
            holds,
        }
    }
}

/// Packets dropped so far, by reason.
type Reasons = BTreeMap<String, u64>;

/// Returns the drops counted by the agents; empty if none runs.
fn reasons(lab: &Lab) -> Reasons {
    let mut all = BTreeMap::new();
    if lab.is_guarded() {
        let agents = lab.other.iter().map(|other| &other.agent);
        for agent in agents.chain([&lab.agent]) {
            for ([_, _, _, reason, _], packets) in agent.drops().unwrap() {
                *all.entry(reason).or_default() += packets;
            }
        }
    }
    all
}

/// Returns the reasons whose counters rose between two readings.
fn counted(before: &Reasons, after: &Reasons) -> BTreeSet<String> {
    let more = |(reason, n): &(&String, &u64)| before.get(*reason).is_none_or(|had| had < n);
    after
        .iter()
        .filter(more)
        .map(|(reason, _)| reason.clone())
        .collect()
}

/// Runs attacks on every layout without and with the firewall, prints the table and
/// fails if any outcome differs from the expected one.
#[track_caller]
pub(crate) fn attempt(attacks: &[Attack], prepare: fn(&mut Lab) -> Result<()>) {
    let tried = Layout::ALL
        .into_iter()
        .filter(|layout| attacks.iter().any(|attack| attack.layouts.contains(layout)));
    // Each layout has its own node and mostly waits for packets that must not arrive.
    let mut rows: Vec<Row> = thread::scope(|scope| {
        let on = |layout| scope.spawn(move || attempt_on(layout, attacks, prepare));
        let threads: Vec<_> = tried.map(on).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        let rows = joined.map(|rows| rows.unwrap_or_else(|panic| resume_unwind(panic)));
        rows.flatten().collect()
    });
    // Written directly, because `print!` is captured: the table is the result of the run.
    let shown = format!("\n{}", table(&rows));
    std::io::stdout().write_all(shown.as_bytes()).unwrap();
    rows.retain(|row| !row.holds);
    assert!(rows.is_empty(), "not as expected:\n{}", table(&rows));
}

fn attempt_on(layout: Layout, attacks: &[Attack], prepare: fn(&mut Lab) -> Result<()>) -> Vec<Row> {
    let mut lab = Lab::open(layout).unwrap();
    prepare(&mut lab).unwrap();
    let mut rows = Vec::new();
    for way in ["none", "tcx", "clsact"] {
        if way != "none" {
            lab.guard(way).unwrap();
        }
        let mut counted = reasons(&lab);
        let tried = attacks
            .iter()
            .flat_map(|attack| attack.tried(&mut lab, &mut counted));
        rows.extend(tried);
        if lab.is_guarded() {
            lab.unguard().unwrap();
        }
    }
    rows
}
