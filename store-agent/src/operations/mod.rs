//! What is done to the stock: operations of tills and staff, central's commands, purchases.

pub mod commands;
pub mod purchases;
pub mod till;
