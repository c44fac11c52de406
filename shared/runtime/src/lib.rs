//! What both daemons run on: SQLite, Redis, HTTP, and the process around them.

#![warn(missing_docs)]

pub mod clock;
pub mod daemon;
pub mod http;
pub mod options;
pub mod redis;
pub mod search;
pub mod sqlite;
