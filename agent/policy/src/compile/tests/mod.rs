//! Clusters in, verdicts out: one test per rule of the books.

mod labels;
mod netpol;
mod tables;
