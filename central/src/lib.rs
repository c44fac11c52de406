//! Central: the chain's view of its stores, and the online shop's way to their units.
//!
//! **Guarantees.** The view is each store's ledger applied once and in order; a purchase is confirmed only by the
//! store that took its units, and has one outcome; what was answered is on disk. Redis and every store may vanish at
//! any moment: that costs latency and nothing else.

pub mod acl;
pub mod commands;
pub mod config;
pub mod consumer;
pub mod database;
pub mod http;
pub mod idempotency;
pub mod items;
pub mod maintenance;
pub mod outcomes;
pub mod presence;
pub mod publisher;
pub mod purchases;
pub mod redis_link;
pub mod replay;
pub mod restore;
pub mod run;
pub mod settle;
pub mod steps;
pub mod stocks;
pub mod stores;
#[cfg(test)]
mod testing;
pub mod tools;
pub mod totals;
pub mod verify;
pub mod view;
pub mod waiting;
