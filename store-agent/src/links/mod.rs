//! Loops beside the requests: the link to central over Redis.

pub mod connectivity;
pub mod publisher;
pub mod receiver;
