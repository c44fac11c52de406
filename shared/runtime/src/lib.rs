//! What both daemons run on: SQLite, Redis, HTTP, and the process around them.

pub mod clock;
pub mod daemon;
pub mod http;
pub mod redis;
pub mod sqlite;
