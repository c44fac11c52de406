//! The database: what is kept, and how it is read and written.

pub mod database;
pub mod idempotency;
pub mod items;
pub mod outcomes;
pub mod stocks;
pub mod stores;
pub mod totals;
