//! Clusters in, verdicts out: one test per rule of the books.

mod clashes;
mod cluster;
mod cluster_peers;
mod corners;
mod corners_pods;
mod dns;
mod fallback;
mod follow;
mod hidden;
mod labels;
mod labels_shares;
mod netpol;
mod own;
mod room;
mod services;
mod shares;
mod tables;
mod unread;
