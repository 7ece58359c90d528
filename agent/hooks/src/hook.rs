//! The hooks, and the file names of their pinned links.

use aya::programs::TcAttachType;

/// The programs that are attached, by their names in the BPF object.
pub const PROGRAMS: [&str; 7] = [
    "from_pod",
    "to_pod",
    "to_network",
    "to_network_l3",
    "from_network",
    "to_bridge",
    "from_bridge",
];

/// The hooks: two on a pod's host-side device, two on any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// tc ingress of the host-side device.
    FromPod,
    /// tc egress of the host-side device.
    ToPod,
    /// tc egress of any other device.
    ToNetwork,
    /// tc egress of any other device without link headers.
    ToNetworkL3,
    /// tc ingress of any other device that isn't a bridge.
    FromNetwork,
    /// tc egress of a bridge.
    ToBridge,
    /// tc ingress of a bridge.
    FromBridge,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 7] = [
        Self::FromPod,
        Self::ToPod,
        Self::ToNetwork,
        Self::ToNetworkL3,
        Self::FromNetwork,
        Self::ToBridge,
        Self::FromBridge,
    ];
    /// The hooks of a pod's host-side device.
    pub const POD: [Self; 2] = [Self::FromPod, Self::ToPod];

    /// Returns the name of the hook's program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromPod => PROGRAMS[0],
            Self::ToPod => PROGRAMS[1],
            Self::ToNetwork => PROGRAMS[2],
            Self::ToNetworkL3 => PROGRAMS[3],
            Self::FromNetwork => PROGRAMS[4],
            Self::ToBridge => PROGRAMS[5],
            Self::FromBridge => PROGRAMS[6],
        }
    }

    /// Returns the side of the device.
    pub const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod | Self::FromNetwork | Self::FromBridge => TcAttachType::Ingress,
            Self::ToPod | Self::ToNetwork | Self::ToNetworkL3 | Self::ToBridge => {
                TcAttachType::Egress
            }
        }
    }

    /// Returns the file name of the link's pin.
    pub fn file(self, ifindex: u32) -> String {
        format!("{ifindex}-{}", self.program())
    }

    /// Parses a pin's file name into its device and hook.
    pub fn parse(file: &str) -> Option<(u32, Self)> {
        let (ifindex, program) = file.split_once('-')?;
        Some((ifindex.parse().ok()?, Self::of_program(program)?))
    }

    /// Returns the hook of a program.
    pub fn of_program(program: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.program() == program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_found_again_by_its_file_name() {
        for hook in Hook::ALL {
            assert_eq!(Hook::parse(&hook.file(603)), Some((603, hook)));
        }
        assert_eq!(Hook::parse("603-else"), None);
        assert_eq!(Hook::parse("603-to_pod-new"), None);
        assert_eq!(Hook::parse("x-to_pod"), None);
    }
}
