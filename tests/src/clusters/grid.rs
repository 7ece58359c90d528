//! Clusters of teams with three namespaces each, under many NetworkPolicies.
//!
//! A namespace holds ten applications, each as two Deployments of five pods.
//! The sizes give each kind of peer its number of matches: ten pods for an
//! application, three hundred for a team.

use serde_json::{Value, json};

use super::parts::{self, Deployment, Labels, PODS_PER_NODE, Placement, condition, equal};
use super::rules::{self, Ways};
use crate::random::Dice;

/// Its size.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    seed: u64,
    teams: usize,
    policies: usize,
}

pub(super) const DENSE: Grid = Grid {
    seed: 0xde,
    teams: 100,
    policies: 30_000,
};

pub(super) const HUGE: Grid = Grid {
    seed: 0x40,
    teams: 340,
    policies: 75_000,
};

pub(super) const WIDE: Grid = Grid {
    seed: 0x41,
    teams: 334,
    policies: 30_060,
};

const STAGES: [&str; 3] = ["prod", "staging", "dev"];
const TRACKS: [&str; 2] = ["stable", "canary"];
const TIERS: [&str; 3] = ["frontend", "backend", "data"];
const REPLICAS: usize = 5;
const APPS: [&str; 10] = [
    "web", "gateway", "cache", "accounts", "orders", "search", "ledger", "mailer", "worker",
    "reports",
];
/// Policies of a namespace that select one application each, three a pod.
const OWN: usize = 3 * APPS.len();

impl Grid {
    const fn spaces(self) -> usize {
        self.teams * STAGES.len()
    }

    const fn nodes(self) -> usize {
        self.pods() / PODS_PER_NODE
    }

    pub(super) const fn pods(self) -> usize {
        self.spaces() * APPS.len() * TRACKS.len() * REPLICAS
    }

    pub(super) fn objects(self) -> impl Iterator<Item = Value> {
        let spaces = (0..self.spaces()).map(move |space| {
            let labels = [("team", &*team(space)), ("env", stage(space))];
            parts::namespace(&name(space), &labels)
        });
        let deployments = (0..self.pods() / REPLICAS).map(move |n| self.deployment(n));
        let pods = deployments.enumerate().flat_map(move |(n, deployment)| {
            (0..REPLICAS).map(move |replica| {
                let number = n * REPLICAS + replica;
                let nodes = self.nodes();
                parts::pod(&deployment, Placement { number, nodes })
            })
        });
        spaces
            .chain((0..self.nodes()).map(parts::node))
            .chain(parts::dns())
            .chain(pods)
            .chain((0..self.policies).map(move |n| self.policy(n)))
    }

    /// Equal numbers choose equally, whatever was made before.
    fn dice(self, what: u64, number: usize) -> Dice {
        Dice::new(self.seed << 48 | what << 40 | number as u64)
    }

    fn deployment(self, number: usize) -> Deployment {
        let mut dice = self.dice(1, number);
        let track = TRACKS[number % TRACKS.len()];
        let number = number / TRACKS.len();
        let app = number % APPS.len();
        let space = number / APPS.len();
        let hash = parts::hash(&mut dice);
        Deployment {
            namespace: name(space),
            name: format!("{}-{track}", app_of(space, app)),
            labels: labels(&mut dice, space, app, track, &hash),
            hash,
            http: [8080, 8081, 9000][app % 3],
        }
    }

    fn policy(self, number: usize) -> Value {
        let mut dice = self.dice(2, number);
        let (space, own) = (number % self.spaces(), number / self.spaces());
        let spec = if own == OWN && dice.chance(60) {
            rules::default_deny(Ways::any(&mut dice))
        } else {
            let subject = subject(&mut dice, space, own);
            let ways = Ways::any(&mut dice);
            // A whole team in both directions would be too many.
            let wide = ways != Ways::Both;
            rules::spec(&mut dice, subject, ways, self.nodes(), |dice| {
                self.peers(dice, space, wide)
            })
        };
        parts::policy(&name(space), &format!("policy-{own}"), spec)
    }

    fn peers(self, dice: &mut Dice, space: usize, wide: bool) -> Vec<Value> {
        let mut peers = match wide && dice.chance(6) {
            true => {
                let team = team(dice.below(self.spaces()));
                vec![json!({"namespaceSelector": equal([("team", &team)])})]
            }
            false => vec![self.peer(dice, space)],
        };
        if dice.chance(45) {
            peers.push(self.peer(dice, space));
        }
        peers
    }

    /// Ten to 120 pods.
    fn peer(self, dice: &mut Dice, space: usize) -> Value {
        let (app, tier) = (dice.below(APPS.len()), dice.pick(&TIERS));
        let other = dice.below(self.spaces());
        let third = (other + 1) % self.spaces();
        match dice.below(20) {
            0..5 => json!({"podSelector": equal([("app", &app_of(space, app))])}),
            5..8 => json!({"podSelector": equal([("tier", tier)])}),
            8..12 => json!({
                "namespaceSelector": equal([("kubernetes.io/metadata.name", &name(other))]),
                "podSelector": equal([("app", &app_of(other, app))]),
            }),
            12..14 => json!({
                "namespaceSelector": equal([("team", &team(other))]),
                "podSelector": condition("tier", "In", &[tier]),
            }),
            14 => {
                let names = [&*name(other), &*name(third)];
                json!({
                    "namespaceSelector": condition("kubernetes.io/metadata.name", "In", &names),
                    "podSelector": equal([("track", "stable")]),
                })
            }
            15 => json!({"podSelector": {}}),
            16 => {
                let apps = [&*app_of(space, app), &*app_of(space, (app + 3) % 10)];
                json!({"podSelector": condition("app", "NotIn", &apps)})
            }
            17 => json!({
                "namespaceSelector": equal([("team", &team(other)), ("env", stage(other))]),
                "podSelector": condition("tier", "NotIn", &[tier]),
            }),
            _ => json!({"podSelector": {"matchExpressions": [
                {"key": "tier", "operator": "Exists"},
                {"key": "track", "operator": "NotIn", "values": ["canary"]},
                {"key": "legacy", "operator": "DoesNotExist"},
            ]}}),
        }
    }
}

/// The first policies of a namespace select its applications in turn.
fn subject(dice: &mut Dice, space: usize, own: usize) -> Value {
    let app = app_of(space, own % APPS.len());
    if own < OWN {
        return equal([("app", &app)]);
    }
    match dice.below(6) {
        0..3 => equal([("app", &app)]),
        3 => equal([("app", &app), ("track", dice.pick(&TRACKS))]),
        4 => condition("app", "In", &[&app, &app_of(space, (own + 1) % APPS.len())]),
        _ => equal([("tier", dice.pick(&TIERS))]),
    }
}

fn labels(dice: &mut Dice, space: usize, app: usize, track: &str, hash: &str) -> Labels {
    let version = format!("v{}", dice.between(1, 6));
    let mut labels = parts::labels([
        ("app", &app_of(space, app)),
        ("team", &team(space)),
        ("tier", TIERS[app % TIERS.len()]),
        ("track", track),
        ("version", &version),
        ("pod-template-hash", hash),
    ]);
    if dice.chance(50) {
        labels.insert("app.kubernetes.io/managed-by".into(), json!("helm"));
    }
    if dice.chance(30) {
        let centre = format!("cc-{}", dice.below(40));
        labels.insert("cost-centre".into(), json!(centre));
    }
    labels
}

fn team(space: usize) -> String {
    format!("team-{}", space / STAGES.len())
}

fn stage(space: usize) -> &'static str {
    STAGES[space % STAGES.len()]
}

fn name(space: usize) -> String {
    format!("{}-{}", team(space), stage(space))
}

/// A team's applications are called alike in all its namespaces.
fn app_of(space: usize, app: usize) -> String {
    format!("{}-{}", team(space), APPS[app])
}
