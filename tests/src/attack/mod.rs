//! An attacker's tools: frames with a pending checksum or in pieces, tunnelled
//! packets, forged errors, and the table that says what became of each attack.
//!
//! Nothing here knows the product: the lab in `tests/tests/attacks` tries the same
//! code with the firewall and without it.

mod checksum;
mod express;
mod inject;
mod machine;
mod packet;
mod table;

pub use checksum::{finished, steer};
pub use express::Express;
pub use inject::{Injector, VnetHeader};
pub use machine::Machine;
pub use packet::{ETHERNET, datagram, error_about, ip_header, pieces_v4, pieces_v6, vxlan};
pub use table::{Outcome, Row, table};
