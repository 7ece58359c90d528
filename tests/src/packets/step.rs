//! Rows and their steps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_ebpf::abi::{Direction, Protocol, Reason};

use super::fixture;
use super::frame::Frame;

/// What shall become of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It passes, uncounted.
    Pass,
    /// It is dropped and counted.
    Drop(Reason),
    /// It passes, and is counted as audited.
    Audit(Reason),
}

/// Where a frame came into the node, for packets on their way to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The node itself sends it.
    Node,
    /// It came in by some interface, untagged.
    Forwarded,
    /// Nothing shows by which interface it came, nor that a socket of this node sent
    /// it, as of what was forwarded and refragmented. A test run's packets always
    /// have a socket.
    Unproven,
    /// It came in by some interface, and no hook of this node saw it.
    Unseen,
    /// A pod of this node sent it, and its tag says so; `service` if its egress
    /// is still to be decided. Test runs can't set a tag.
    Pod {
        /// The sender.
        name: &'static str,
        /// Whether it went to a Service or a node address.
        service: bool,
    },
}

impl Source {
    /// Whether nothing at all shows where the frame came from.
    pub const fn is_unproven(self) -> bool {
        matches!(self, Self::Unproven | Self::Unseen)
    }
}

/// A drop counter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Series {
    /// Sender's workload.
    pub source: String,
    /// Receiver's workload.
    pub destination: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// A reason's name.
    pub reason: &'static str,
    /// A protocol's name.
    pub protocol: &'static str,
    /// Whether the packet passed.
    pub audited: bool,
}

/// One frame at one hook.
#[derive(Clone, Debug)]
pub struct Step {
    /// The hook: [`Direction::Egress`] is the one of what the pod sends.
    pub hook: Direction,
    /// The pod at whose interface that is; `None`: an interface of nobody's.
    pub pod: Option<&'static str>,
    /// Where the frame came in.
    pub source: Source,
    /// Whether the frame carries a VLAN tag beside its bytes, as every tag at tc.
    /// Test runs can't set one, and on the wire one starts in the bytes.
    pub vlan: bool,
    /// Where a checksum is still to be written when the frame leaves, in bytes from
    /// its start. Test runs can't set one; on the wire it takes a socket's own header.
    pub pending: Option<u32>,
    /// The frame.
    pub frame: Vec<u8>,
    /// What shall become of it.
    pub expected: Expected,
    /// Which end's policy says so, if not that of `pod`.
    pub decided: Direction,
    /// Counted as from and to.
    pub ends: (&'static str, &'static str),
    /// Counted as protocol.
    pub protocol: Protocol,
}

/// Where a row's frame comes out of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// At a pod.
    Pod(&'static str),
    /// Nowhere.
    Nowhere,
}

/// A description and its steps.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is the case, as a sentence.
    pub name: String,
    /// Frames one after the other.
    pub steps: Vec<Step>,
}

fn step(hook: Direction, pod: &'static str, frame: &Frame) -> Step {
    let own = fixture::find(pod).workload;
    let name = |ip: IpAddr| fixture::workload_of(ip);
    let ip = matches!(frame.ethertype, super::frame::IPV4 | super::frame::IPV6);
    Step {
        hook,
        pod: Some(pod),
        source: Source::Forwarded,
        vlan: false,
        pending: None,
        frame: frame.bytes(),
        expected: Expected::Pass,
        decided: hook,
        ends: match hook {
            Direction::Egress => (own, name(frame.destination)),
            Direction::Ingress => (name(frame.source), own),
        },
        protocol: Protocol::from_iana(if ip { frame.protocol } else { 0 }),
    }
}

/// A frame that a pod sends.
pub fn from_pod(pod: &'static str, frame: &Frame) -> Step {
    step(Direction::Egress, pod, frame)
}

/// A forwarded frame on its way to a pod.
pub fn to_pod(pod: &'static str, frame: &Frame) -> Step {
    step(Direction::Ingress, pod, frame)
}

impl Step {
    /// At an interface that isn't managed.
    pub fn unmanaged(self) -> Self {
        // Who that would be is looked up only for endpoints. Of the other node no pod range
        // is known.
        let vague = |name| match name {
            "outside" | "bank/far" => "outside",
            _ => "unknown",
        };
        Self {
            pod: None,
            ends: (vague(self.ends.0), vague(self.ends.1)),
            ..self
        }
    }

    /// Sent by the node itself.
    pub fn by_node(self) -> Self {
        Self {
            source: Source::Node,
            ends: ("node", self.ends.1),
            ..self
        }
    }

    /// Sent by a pod of this node and tagged.
    pub fn by_pod(self, name: &'static str, service: bool) -> Self {
        Self {
            source: Source::Pod { name, service },
            ends: (fixture::find(name).workload, self.ends.1),
            ..self
        }
    }

    /// With a VLAN tag beside its bytes.
    pub fn in_vlan(self) -> Self {
        Self { vlan: true, ..self }
    }

    /// With a checksum that is still to be written so many bytes behind the frame's
    /// start.
    pub fn pending(self, at: u32) -> Self {
        Self {
            pending: Some(at),
            ..self
        }
    }

    /// Of a sender of whom nothing is shown.
    pub fn unproven(self) -> Self {
        Self {
            source: Source::Unproven,
            ..self
        }
    }

    /// Seen by no hook where it came in.
    pub fn unseen(self) -> Self {
        Self {
            source: Source::Unseen,
            ..self
        }
    }

    /// Decided by the egress of its sender.
    pub fn decided_by_sender(self) -> Self {
        Self {
            decided: Direction::Egress,
            ..self
        }
    }

    /// It passes.
    pub fn passes(self) -> Self {
        Self {
            expected: Expected::Pass,
            ..self
        }
    }

    /// It is dropped.
    pub fn drops(self, reason: Reason) -> Self {
        Self {
            expected: Expected::Drop(reason),
            ..self
        }
    }

    /// It is audited.
    pub fn audits(self, reason: Reason) -> Self {
        Self {
            expected: Expected::Audit(reason),
            ..self
        }
    }

    /// Counted as another protocol than the frame's builder says: what can't be
    /// parsed far enough has none.
    pub fn counted_as(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// The other end has no name: its address can't be read.
    pub fn nameless(self) -> Self {
        let ends = match self.hook {
            Direction::Egress => (self.ends.0, "outside"),
            Direction::Ingress => ("outside", self.ends.1),
        };
        Self { ends, ..self }
    }

    /// With the frame's bytes spoilt.
    pub fn spoilt(mut self, spoil: impl FnOnce(&mut Vec<u8>)) -> Self {
        spoil(&mut self.frame);
        self
    }

    /// The counter that rises.
    pub fn series(&self) -> Option<Series> {
        let (reason, audited) = match self.expected {
            Expected::Pass => return None,
            Expected::Drop(reason) => (reason, false),
            Expected::Audit(reason) => (reason, true),
        };
        Some(Series {
            source: self.ends.0.to_owned(),
            destination: self.ends.1.to_owned(),
            direction: self.decided.name(),
            reason: reason.name(),
            protocol: self.protocol.name(),
            audited,
        })
    }

    /// What every counter rises by, those that do.
    pub fn counted(&self) -> BTreeMap<Series, u64> {
        self.series()
            .into_iter()
            .map(|series| (series, 1))
            .collect()
    }

    /// Whether a test run can show it: that sets no tag, takes no more than a
    /// page, and wants a whole IP header where the EtherType promises one
    /// (`bpf_prog_test_run_skb`, Linux 6.18).
    pub fn fits_a_test_run(&self) -> bool {
        let least = match self.frame.get(12..14) {
            Some([0x08, 0x00]) => 14 + 20,
            Some([0x86, 0xdd]) => 14 + 40,
            _ => 15,
        };
        let unlike = matches!(self.source, Source::Pod { .. } | Source::Unproven);
        let unlike = unlike || self.vlan || self.pending.is_some();
        !unlike && (least..=3500).contains(&self.frame.len())
    }

    /// Whether a pod can send it as it is: a tag in the bytes becomes one in the
    /// packet's metadata on its way, and a frame has a link header at least.
    fn fits_the_wire(&self) -> bool {
        let tagged = matches!(self.frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
        let sent = self.hook == Direction::Egress && self.pod.is_some();
        sent && !tagged
            && !self.vlan
            && self.pending.is_none()
            && (15..=1514).contains(&self.frame.len())
    }
}

impl Row {
    /// Where the frame of the first step comes out, if a network of these pods
    /// shows the row as it stands: a pod sends the frame, and it is dropped
    /// there or decided once more at the pod that it is for.
    pub fn on_the_wire(&self) -> Option<Arrival> {
        let first = self.steps.first()?;
        if !first.fits_the_wire() {
            return None;
        }
        match (first.expected, self.steps.get(1)) {
            // What would come after it isn't sent.
            (Expected::Drop(_), _) => Some(Arrival::Nowhere),
            (Expected::Pass, Some(second)) if self.steps.len() == 2 => {
                let natural = second.hook == Direction::Ingress
                    && second.source == Source::Forwarded
                    && second.frame == first.frame;
                match (natural, second.expected) {
                    (true, Expected::Drop(_)) => Some(Arrival::Nowhere),
                    (true, _) => second.pod.map(Arrival::Pod),
                    _ => None,
                }
            }
            _ => None,
        }
    }
    /// The row under an agent that only audits: what is denied is audited, and
    /// there it ends, for what has been let in goes on from there.
    pub fn audited(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for step in self.steps.iter().cloned() {
            if let Expected::Drop(reason) = step.expected {
                steps.push(step.audits(reason));
                break;
            }
            steps.push(step);
        }
        steps
    }
}
