//! What central has promised: purchases, and what it asks of stores. What becomes of a promise is decided by
//! [`protocol::promise`], which knows neither database nor clock; here it is loaded before, and saved after.

pub mod allotments;
pub mod commands;
pub mod purchases;
pub mod reconciliations;
pub mod reservations;
pub mod stores;
pub mod transfers;
