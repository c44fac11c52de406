//! A store's agent: the truth about one store's stock, and its link to central.
//!
//! **Guarantees.** A sale never waits for the network. What was answered is on disk and reaches central. A command
//! of central takes effect once. An agent whose database is not the one that central follows stops publishing, and
//! goes on selling.

pub mod commands;
pub mod config;
pub mod connectivity;
pub mod http;
pub mod idempotency;
pub mod ledger;
pub mod maintenance;
pub mod operations;
pub mod publisher;
pub mod purchases;
pub mod receiver;
pub mod restore;
pub mod run;
#[cfg(test)]
mod testing;
pub mod tools;
pub mod verify;
