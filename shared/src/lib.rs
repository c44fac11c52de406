//! The words and rules that a store's agent and central both speak.
//!
//! Without features this crate is pure: identifiers, the stock domain, the events and commands, and the rules of
//! the link between a store and central. None of it knows a clock, a socket or a database; those are arguments.
//! The features `sqlite`, `redis`, `http` and `daemon` add what both daemons need to carry it.

pub mod domain;
pub mod hash;
pub mod ids;
pub mod link;
pub mod planted;
pub mod retry;
pub mod time;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
