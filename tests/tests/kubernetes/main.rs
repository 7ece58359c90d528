//! The watches of the API server against one that misbehaves: what is known stays
//! as it was, comes right again by itself, and is in the end what a list from
//! scratch gives. Needs no root; the agent's part of this, under traffic, is in
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
