//! The words and rules that a store's agent and central both speak.
//!
//! Identifiers, the stock domain, events and commands, and the rules of the link between a store and central. None of it
//! knows a clock, a socket or a database; those are arguments.

#![warn(missing_docs)]

pub mod domain;
pub mod hash;
pub mod ids;
pub mod link;
pub mod number;
pub mod planted;
pub mod position;
pub mod promise;
pub mod restore;
pub mod retry;
pub mod stock;
pub mod time;
pub mod wire;
