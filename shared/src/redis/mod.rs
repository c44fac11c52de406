//! The one module that speaks Redis: every key the system uses, and the steps of the link carried out.
//!
//! Nothing here keeps truth. Each call is one pipeline on one connection, and everything sent may be sent again. A call
//! that fails or times out says nothing about what Redis did: the caller drops the connection and starts over.

pub mod acl;
mod channel;
mod client;

pub use channel::{Channel, Delivery, Garbage, Received, decode_entry};
pub use client::{
    CONNECT_TIMEOUT, Options, RESPONSE_TIMEOUT, client, connect, connect_blocking, password_in, subscribe,
};

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::StoreId;
use crate::time::Millis;

/// Life of a heartbeat's key. Far beyond the age at which a store counts as stale, so that its age can still be told.
pub const BEAT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Number of bell channels.
const BELLS: u32 = 64;

/// Names of all keys, under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// `prefix` is `shelf` unless configured.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, store: impl fmt::Display, what: &str) -> String {
        format!("{}:{{{store}}}:{what}", self.prefix)
    }

    /// Stream of a store's events; written by the store alone.
    pub fn events(&self, store: &StoreId) -> String {
        self.of(store, "events")
    }

    /// Ack of the events; written by central alone.
    pub fn events_ack(&self, store: &StoreId) -> String {
        self.of(store, "events:ack")
    }

    /// Stream of commands to a store; written by central alone.
    pub fn commands(&self, store: &StoreId) -> String {
        self.of(store, "commands")
    }

    /// Ack of the commands; written by the store alone.
    pub fn commands_ack(&self, store: &StoreId) -> String {
        self.of(store, "commands:ack")
    }

    /// A store's [`Beat`]; written by the store alone.
    pub fn heartbeat(&self, store: &StoreId) -> String {
        self.of(store, "heartbeat")
    }

    /// Set of all store ids: how central discovers a store.
    pub fn stores(&self) -> String {
        format!("{}:stores", self.prefix)
    }

    /// Pub/sub channel of a store's bell; the message is the store's id: "look there". A hint that may be lost.
    pub fn bell(&self, store: &StoreId) -> String {
        let hash = blake3::hash(store.as_str().as_bytes());
        let number = u32::from(hash.as_bytes()[0]) % BELLS;
        format!("{}:bell:{number}", self.prefix)
    }

    /// Channel of a bell that means no store: central rings it to hear whether it still hears.
    pub fn own_bell(&self) -> String {
        format!("{}:bell:central", self.prefix)
    }

    /// Pattern of all bells.
    pub fn all_bells(&self) -> String {
        format!("{}:bell:*", self.prefix)
    }
}

/// What a heartbeat says. Its age is [`BEAT_LIFE`] less the key's remaining time: Redis's clock alone decides (P8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// Random number of the agent's process: two that alternate are two agents.
    pub process: u64,
    /// The ledger's epoch.
    pub epoch: u64,
    /// Its last entry.
    pub head: u64,
    /// Entries not acknowledged.
    pub backlog: u64,
    /// Age of the oldest of them, ms.
    pub oldest_unsent_ms: i64,
    /// Version of the agent.
    pub version: String,
    /// Life with which the key was set, ms.
    pub life_ms: i64,
}

/// Redis's clock, from the reply of `TIME`.
pub fn time(reply: (i64, i64)) -> Millis {
    Millis(reply.0.saturating_mul(1_000).saturating_add(reply.1 / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_the_protocol_says() {
        let keys = Keys::new("shelf");
        let store = StoreId::parse("store-1").expect("valid");
        assert_eq!(keys.events(&store), "shelf:{store-1}:events");
        assert_eq!(keys.commands_ack(&store), "shelf:{store-1}:commands:ack");
        assert!(keys.bell(&store).starts_with("shelf:bell:"));
        assert_eq!(keys.bell(&store), keys.bell(&store));
    }
}
