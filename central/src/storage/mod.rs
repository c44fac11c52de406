//! The database: what is kept, and how it is read and written. No floor above names the engine or holds a statement:
//! those write jobs, which call functions that are named after what they mean.

pub mod allotments;
pub mod commands;
#[cfg(test)]
mod conformance;
pub mod database;
pub mod files;
pub mod idempotency;
pub mod items;
pub mod ledger;
pub mod operations;
pub mod outcomes;
pub mod purchases;
pub mod queries;
pub mod rebuild;
pub mod reconciliations;
pub mod reservations;
pub mod retention;
pub mod stocks;
pub mod store;
pub mod stores;
pub mod totals;
pub mod transfers;
pub mod webhooks;

pub use runtime::sqlite::{Abort, Connection, Db, Error, JobError, JobResult, Weight, labels};
