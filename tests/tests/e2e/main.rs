//! End to end: real processes, real Redis, real faults. One module a topic.

mod acl;
mod bad_input;
mod command_line;
mod compatibility;
mod events;
mod flush;
mod freshness;
mod hostile_redis;
mod idempotency;
mod items;
mod last_unit;
mod life;
mod link;
mod offline;
mod operations;
mod overload;
mod poison;
mod purchases;
mod replay;
mod reservations;
mod retire;
mod start;
mod stream;
mod stuck;
mod tls;
mod webhooks;
