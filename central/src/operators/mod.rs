//! What operators and the daemon itself do about the database: backup, restore, verify, retention, Redis users.

pub mod acl;
pub mod maintenance;
pub mod restore;
pub mod steps;
pub mod tools;
pub mod verify;
