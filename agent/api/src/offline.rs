//! What `explain`, `matrix` and `callers` say with `-o json`: about manifests or a cluster, without
//! an agent.
//!
//! Ports are written as `TCP/8080`, `TCP/8080-8090`, `TCP` or `ICMP`.

mod callers;
mod explanation;
mod matrix;

pub use callers::{Caller, CallerKind, Callers, Egress, PolicyName, Through};
pub use explanation::{
    Allowing, Backend, Calls, ChangedCall, Effect, Explanation, Fix, Form, Isolation, Party,
    PartyKind, Side, Verdict, Via,
};
pub use matrix::{Difference, Edge, Matrix, Rows};
