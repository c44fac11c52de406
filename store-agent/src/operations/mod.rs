//! What is done to the stock: operations of tills and staff, central's commands, purchases. Each loads what it touches,
//! decides, which is pure, and saves what was decided.

mod allotment;
pub mod batch;
pub mod commands;
pub mod effect;
pub mod purchases;
pub mod reservations;
pub mod resync;
pub mod till;
pub mod transfers;
