//! The one module that speaks Redis: every key the system uses, and the steps of the link carried out.
//!
//! Nothing here keeps truth. Each call is one pipeline on one connection, and everything sent may be sent again. A call
//! that fails or times out says nothing about what Redis did: the caller drops the connection and starts over.

pub mod acl;
mod channel;
mod client;
mod size;

pub use channel::{Channel, Delivery, Garbage, Received, decode_entry};
pub use client::{
    CONNECT_TIMEOUT, Options, RESPONSE_TIMEOUT, client, connect, connect_blocking, password_in, subscribe,
};
pub use size::Size;

use std::fmt;
use std::time::Duration;

use ::redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, Value};
use serde::{Deserialize, Serialize};

use protocol::ids::StoreId;
use protocol::time::Millis;

/// Life of a heartbeat's key. Far beyond the age at which a store counts as stale, so that its age can still be told.
pub const BEAT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a [`Claim`]'s key: an agent that is gone claims nothing.
pub const CLAIM_LIFE: Duration = Duration::from_secs(15);
/// Bytes read of an ack, a heartbeat or a claim. None is longer: whatever else stands there is cut off, and then it is none.
const SHORT: usize = 4_096;
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

    /// The [`Claim`] of an agent that runs under this id and publishes nothing; written by such agents alone.
    pub fn claim(&self, store: &StoreId) -> String {
        self.of(store, "claim")
    }

    /// Set of all store ids: where central looks for new ones.
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

/// What an agent says of itself that publishes nothing and beats no heart: one that waits for central's first word, or
/// that has stopped itself (L6). Of several under one id the last to write is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Random number of the agent's process.
    pub process: u64,
    /// Its ledger's epoch.
    pub epoch: u64,
    /// `waiting`, or why it has stopped: `fenced`, `superseded`, `diverged`.
    pub why: String,
    /// Items that its database has.
    pub items: u64,
    /// Entries that central has not acknowledged.
    pub backlog: u64,
    /// For how long it has stood so, ms.
    pub for_ms: u64,
    /// Version of the agent.
    pub version: String,
}

impl Claim {
    /// Reads the reply to [`get_short`]. A value that is no claim is as good as none.
    pub fn of(reply: Value) -> Option<Self> {
        serde_json::from_str(&text_of(reply)?).ok()
    }
}

/// Reads a key whose value is short, and no more of it than such a value may have.
pub fn get_short(pipe: &mut Pipeline, key: &str) {
    pipe.cmd("GETRANGE").arg(key).arg(0).arg(SHORT - 1);
}

/// The reply to [`get_short`]: the text, if there is any.
pub fn text_of(reply: Value) -> Option<String> {
    Option::<String>::from_redis_value(reply).ok()?.filter(|text| !text.is_empty())
}

/// Whether an error that Redis answered is one of the whole server, rather than of the key that was asked for: another
/// connection, or some patience, is needed.
pub fn is_of_the_server(error: &RedisError) -> bool {
    let answered = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    let codes = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "NOAUTH", "BUSY", "OOM", "MISCONF", "NOREPLICAS"];
    !answered || error.code().is_some_and(|code| codes.contains(&code))
}

/// Redis's clock, from the reply of `TIME`.
pub fn time(reply: (i64, i64)) -> Millis {
    Millis(reply.0.saturating_mul(1_000).saturating_add(reply.1 / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_keys_error_is_not_the_servers() {
        let error = |code: &str| {
            let line = format!("-{code} because\r\n");
            match ::redis::parse_redis_value(line.as_bytes()).expect("a reply") {
                Value::ServerError(error) => RedisError::from(error),
                other => panic!("{other:?}"),
            }
        };
        for code in ["NOPERM", "WRONGTYPE", "MOVED", "ERR"] {
            assert!(!is_of_the_server(&error(code)), "{code}");
        }
        for code in ["LOADING", "OOM", "READONLY", "NOAUTH"] {
            assert!(is_of_the_server(&error(code)), "{code}");
        }
        assert!(is_of_the_server(&(ErrorKind::Io, "gone").into()));
    }

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
