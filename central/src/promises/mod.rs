//! What central has promised: purchases, and commands to stores.

pub mod commands;
pub mod purchases;
