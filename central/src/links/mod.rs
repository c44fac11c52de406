//! Loops beside the requests: what comes from and goes to stores over Redis.

pub mod consumer;
pub mod presence;
pub mod publisher;
pub mod redis_link;
pub mod seeking;
pub mod waiting;
