//! End to end: real processes, real Redis, real faults. One module a topic.

mod acl;
mod bad_input;
mod compatibility;
mod events;
mod flush;
mod hostile_redis;
mod last_unit;
mod life;
mod link;
mod offline;
mod overload;
mod poison;
mod purchases;
mod replay;
mod retire;
mod start;
mod stuck;
mod tls;
