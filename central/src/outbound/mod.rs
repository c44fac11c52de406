//! What leaves the chain: its events, to whoever follows them.

pub mod event;
