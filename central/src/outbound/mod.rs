//! What leaves the chain: its events, to whoever follows them.

pub mod addresses;
pub mod deliveries;
pub mod event;
pub mod feed;
pub mod sender;
pub mod webhooks;
