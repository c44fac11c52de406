//! What operators and the daemon itself do about the database: backup, restore, verify, retention, the
//! index of search.

pub mod expiry;
pub mod indexing;
pub mod maintenance;
pub mod restore;
pub mod telling;
pub mod tools;
pub mod verify;
