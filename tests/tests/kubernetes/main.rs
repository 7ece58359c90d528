//! The watches of the API server against a server that misbehaves: the known state
//! stays as it was, recovers by itself, and finally equals the result of a list from
//! scratch. Needs no root; the agent's part of this, under traffic, is in
//! `tests/tests/cluster`.
#![allow(clippy::unwrap_used)]

mod barrier;
mod faults;
mod first;
mod mirror;
mod objects;
mod outage;
mod proxies;
mod sequences;
mod silence;
