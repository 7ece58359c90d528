//! Verdicts of compiled clusters: one test per rule of the specification.

mod clashes;
mod cluster;
mod cluster_peers;
mod corners;
mod corners_pods;
mod dns;
mod doors;
mod fallback;
mod follow;
mod hidden;
mod labels;
mod labels_shares;
mod netpol;
mod own;
mod own_node;
mod room;
mod services;
mod shares;
mod tables;
mod unknown;
mod unread;
