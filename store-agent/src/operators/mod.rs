//! What operators and the daemon itself do about the database: backup, restore, verify, retention.

pub mod expiry;
pub mod maintenance;
pub mod restore;
pub mod tools;
pub mod verify;
