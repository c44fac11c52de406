//! A store's agent: the truth about one store's stock, and its link to central.
//!
//! **Guarantees.** A sale never waits for the network. What was answered is on disk and reaches central. A command
//! of central takes effect once. An agent whose database is not the one that central follows stops publishing, and
//! goes on selling.

pub mod config;
pub mod http;
pub mod ledger;
pub mod links;
pub mod operations;
pub mod operators;
pub mod run;
#[cfg(test)]
mod testing;
