//! A world to test in: real Redis, real daemons, real faults.
//!
//! A [`World`] starts what it is asked for on free ports in a directory of its own, and stops all of it when dropped.
//! When a test panics it prints the end of every log. Nothing here sleeps for a while and hopes: [`until`] waits for a
//! condition with a deadline and says what it saw last.

pub mod attack;
mod certificates;
pub mod chaos;
mod client;
pub mod data;
mod dice;
mod endpoint;
pub mod history;
pub mod judge;
mod port;
mod process;
mod record;
pub mod replay;
pub mod simulation;
mod till;
mod unknown;
mod world;

pub use certificates::Certificates;
pub use client::{Answer, Client};
pub use dice::Dice;
pub use endpoint::{Endpoint, Heard};
pub use process::Process;
pub use till::Till;
pub use unknown::{ask_unknown, command_head, record_unknown, rewrite_commands};
pub use world::{Builder, Daemon, World, binary};

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// Waits until `look` gives a value; panics with what it saw last when `within` is over.
pub async fn until<T, S: Debug>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => panic!("{what}: not within {within:?}; last seen: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(15)).await,
        }
    }
}
