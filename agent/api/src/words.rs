//! Enums of words: closed lists of names on the wire, each open to words of newer agents.

/// Defines an enum whose variants are words on the wire. A word that isn't listed becomes `Other`.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        ///
        /// Compared, ordered and hashed by the word.
        #[derive(Clone, Debug)]
        pub enum $name {
            $($(#[$of])* $variant,)+
            /// A word that this version doesn't know, as the agent wrote it.
            Other(String),
        }

        impl $name {
            /// All words that this version knows, in the order of the variants.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let word = <String as serde::Deserialize>::deserialize(from)?;
                Ok(Self::from(word.as_str()))
            }
        }
    };
}

pub(crate) use words;

words! {
    /// The direction of a packet or connection, from the pod's point of view.
    Direction {
        /// To the pod.
        Ingress = "ingress",
        /// From the pod.
        Egress = "egress",
        /// A value of the kernel's programs that the agent doesn't know.
        Unknown = "unknown",
    }
}

words! {
    /// The protocol of a packet or connection.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// SCTP.
        Sctp = "sctp",
        /// ICMP and ICMPv6.
        Icmp = "icmp",
        /// Any other protocol, and packets that couldn't be parsed.
        Unlisted = "other",
    }
}

words! {
    /// Why a packet was denied.
    Reason {
        /// A policy isolates the pod in this direction, and no rule allows the packet.
        Policy = "policy",
        /// The pod is under quarantine.
        Quarantine = "quarantine",
        /// The pod sent a packet with a source address that it doesn't own.
        SpoofedAddress = "spoofed_address",
        /// The pod sent a frame with a source MAC that it doesn't own.
        SpoofedMac = "spoofed_mac",
        /// The pod sent ARP for an address or MAC that it doesn't own.
        SpoofedArp = "spoofed_arp",
        /// The pod sent a neighbour advertisement or solicitation for an address or MAC that isn't
        /// its own.
        SpoofedNeighbour = "spoofed_neighbour",
        /// The pod sent a message that only routers send.
        RouterMessage = "router_message",
        /// A header is truncated or contradicts itself.
        Malformed = "malformed",
        /// A fragment that can't be matched to an allowed first fragment.
        Fragment = "fragment",
        /// An IPv6 extension header, routing header or source route that can't be accounted for.
        ExtensionHeader = "extension_header",
        /// Neither IP nor ARP.
        NonIp = "non_ip",
        /// VLAN-tagged.
        Vlan = "vlan",
        /// The frame isn't addressed to the pod's MAC.
        NotAddressed = "not_addressed",
        /// The interface has no endpoint, or none yet.
        UnknownEndpoint = "unknown_endpoint",
        /// A node would decapsulate the packet.
        Tunnel = "tunnel",
        /// Sent to a Service's address that was never translated to a backend's.
        UnresolvedService = "unresolved_service",
        /// A pending checksum would overwrite bytes on which the verdict depends.
        ChecksumOffload = "checksum_offload",
        /// Received from outside this node with the source address of one of its endpoints.
        SpoofedFromOutside = "spoofed_from_outside",
        /// Sent by a pod to a loopback address.
        Loopback = "loopback",
        /// The packet has passed no ingress hook of this node.
        Unseen = "unseen",
        /// The pod has reached its limit of connections.
        ConnectionLimit = "connection_limit",
        /// A value of the kernel's programs that the agent doesn't know.
        Unknown = "unknown",
    }
}
