//! What is measured.

use ringfence_ebpf::packet::tcp;
use ringfence_tests::packets::{Frame, fixture};

use super::setup::{self, PEERS};

// How packets are varied, as `ebpf/src/bpf/bench.rs` has it.
const EACH_PORT: u32 = 1;
const EACH_PEER: u32 = 2;
const EACH_STALE: u32 = 4;

/// So many peers times 65,536 ports: no connection is opened twice while it lives.
const FEW_PEERS: u32 = 16;
/// The end of a variant's name in a setup of many rules.
pub(super) const MANY: &str = ", 100k rules";

/// An established packet at a hook that doesn't look at pending checksums.
pub(super) const UNCHECKED: &str = "no checksum check";

/// A datapath of its own.
pub(super) struct Setting {
    /// Rules, beside those of the packet table's pods.
    pub(super) rules: usize,
    /// Events per second and endpoint, which somebody reads.
    pub(super) events: u32,
}

/// One rule, many, and the agent's default of events.
pub(super) const SETTINGS: [Setting; 3] = [
    Setting {
        rules: 1,
        events: 0,
    },
    Setting {
        rules: setup::MANY_RULES,
        events: 0,
    },
    Setting {
        rules: 1,
        events: 100,
    },
];

/// What is run.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Program {
    Empty,
    Floor,
    FromPod,
    ToPod,
    /// One of the bench's own object, by its name.
    Own(&'static str),
}

/// One figure of the table.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) variant: String,
    pub(super) program: Program,
    pub(super) frame: Frame,
    /// How each packet differs from the one before.
    pub(super) vary: u32,
    /// How many peers it is varied over.
    pub(super) peers: u32,
    pub(super) passes: bool,
    /// Whether selector rules decide it, so that their number mustn't show.
    pub(super) by_rules: bool,
    /// The case that it is compared with, and what the ratio must not be above.
    pub(super) against: Option<(&'static str, Option<f64>)>,
    pub(super) samples: Vec<f64>,
}

impl Case {
    fn new(name: &'static str, program: Program, frame: &Frame) -> Self {
        Self {
            name,
            variant: String::new(),
            program,
            frame: frame.clone(),
            vary: 0,
            peers: PEERS,
            passes: true,
            by_rules: false,
            against: None,
            samples: Vec::new(),
        }
    }

    fn denied(self) -> Self {
        Self {
            passes: false,
            ..self
        }
    }

    fn by_rules(self) -> Self {
        Self {
            by_rules: true,
            ..self
        }
    }

    fn vary(self, vary: u32, peers: u32) -> Self {
        Self {
            vary,
            peers,
            ..self
        }
    }

    fn at(self, against: &'static str, target: impl Into<Option<f64>>) -> Self {
        Self {
            against: Some((against, target.into())),
            ..self
        }
    }
}

/// The cases of a setting, in the order in which they are run.
pub(super) fn all(setting: &Setting) -> Vec<Case> {
    let mut cases = Vec::new();
    for v4 in [true, false] {
        let family = if v4 { "v4" } else { "v6" };
        let end = match setting {
            Setting { events: 1.., .. } => ", events read",
            Setting { rules: 1, .. } => "",
            _ => MANY,
        };
        for (peers, of) in [("", one_peer(v4)), (", 10k peers", many_peers(v4))] {
            cases.extend(of.into_iter().map(|case| Case {
                variant: format!("{family}{peers}{end}"),
                ..case
            }));
        }
        if end.is_empty() {
            cases.extend(checksum_check(v4, family));
        }
    }
    cases
}

fn call(v4: bool, flags: u8) -> Frame {
    Frame::tcp(
        (fixture::address("caller", v4), 40_000),
        (setup::peer(v4, 0), 8080),
        flags,
    )
}

fn datagram(v4: bool, peer: std::net::IpAddr) -> Frame {
    Frame::udp((fixture::address("caller", v4), 40_001), (peer, 53))
}

/// One and the same packet, or one after the other of the same two ends.
fn one_peer(v4: bool) -> Vec<Case> {
    use Program::{Empty, Floor, FromPod, ToPod};
    let data = call(v4, tcp::ACK);
    let denied = datagram(v4, setup::stranger(v4));
    let outside = datagram(v4, fixture::address("stranger", v4));
    let anew = EACH_PORT | EACH_PEER;
    vec![
        Case::new("empty", Empty, &data),
        Case::new("floor", Floor, &data),
        Case::new("established", FromPod, &data)
            .by_rules()
            .at("floor", 1.3),
        Case::new("reply", ToPod, &data.reply())
            .by_rules()
            .at("floor", 1.3),
        Case::new("denied", FromPod, &denied)
            .denied()
            .by_rules()
            .at("empty", 5.0),
        Case::new("denied-cidr", FromPod, &outside)
            .denied()
            .at("empty", 7.0),
        Case::new("new", FromPod, &call(v4, tcp::SYN))
            .vary(anew, FEW_PEERS)
            .by_rules()
            .at("empty", 14.0),
        Case::new("stale", FromPod, &data)
            .vary(EACH_STALE, PEERS)
            .by_rules()
            .at("floor", None),
    ]
}

/// What the look at a pending checksum costs an established packet, which has none or is
/// taken for one that has: all by programs of one object.
fn checksum_check(v4: bool, family: &str) -> impl Iterator<Item = Case> {
    let data = call(v4, tcp::ACK);
    let cases = [
        (UNCHECKED, "from_pod_unchecked"),
        ("checksum check", "from_pod"),
        ("checksum check, pending", "from_pod_pending"),
    ];
    cases.into_iter().map(move |(name, program)| {
        let case = Case::new(name, Program::Own(program), &data);
        let case = Case {
            variant: family.to_owned(),
            ..case
        };
        if name == UNCHECKED {
            case
        } else {
            case.at(UNCHECKED, None)
        }
    })
}

/// Each packet with another one of 10,000 peers: most of what that costs is
/// memory that no cache holds, for one lookup as for more, so the floor is the
/// measure of all of them.
fn many_peers(v4: bool) -> Vec<Case> {
    use Program::{Empty, Floor, FromPod, ToPod};
    let data = call(v4, tcp::ACK);
    let denied = datagram(v4, setup::stranger(v4));
    let each = |case: Case| case.vary(EACH_PEER, PEERS);
    vec![
        Case::new("empty", Empty, &data),
        each(Case::new("floor", Floor, &data)),
        each(Case::new("established", FromPod, &data))
            .by_rules()
            .at("floor", 1.3),
        each(Case::new("reply", ToPod, &data.reply()))
            .by_rules()
            .at("floor", 1.3),
        each(Case::new("denied", FromPod, &denied))
            .denied()
            .by_rules()
            .at("floor", None),
        Case::new("new", FromPod, &call(v4, tcp::SYN))
            .vary(EACH_PORT | EACH_PEER, PEERS)
            .by_rules()
            .at("floor", None),
    ]
}
