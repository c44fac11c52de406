//! Central: the chain's view of its stores, and the online shop's way to their units.
//!
//! **Guarantees.** The view is each store's ledger applied once and in order; a purchase is confirmed only by the
//! store that took its units, and has one outcome; what was answered is on disk. Redis and every store may vanish at
//! any moment: that costs latency and nothing else.

pub mod config;
pub mod http;
pub mod links;
pub mod operators;
pub mod outbound;
pub mod projection;
pub mod promises;
pub mod run;
pub mod storage;
#[cfg(test)]
mod testing;
