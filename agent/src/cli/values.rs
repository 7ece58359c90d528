//! Values of flags that are more than a word or a number.

use std::fmt;
use std::str::FromStr;

use ringfence_ebpf::packet::protocol;
use ringfence_policy::ports::PortSpec;

use crate::datapath::SEEN_MARK;

/// One bit of a packet's mark, as in `0x1000`, or 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenMark(pub u32);

impl Default for SeenMark {
    fn default() -> Self {
        Self(SEEN_MARK)
    }
}

impl fmt::Display for SeenMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for SeenMark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match number {
            Ok(bit) if bit.count_ones() <= 1 => Ok(Self(bit)),
            _ => Err("neither one bit, as in 0x1000, nor 0".to_owned()),
        }
    }
}

/// A UDP port, as in `UDP/8473`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelPort(pub u16);

impl FromStr for TunnelPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spec: Result<PortSpec, _> = text.parse();
        match spec {
            Ok(spec) if spec.protocol == protocol::UDP => Ok(Self(spec.port)),
            _ => Err("neither UDP/PORT nor a list of such".to_owned()),
        }
    }
}
