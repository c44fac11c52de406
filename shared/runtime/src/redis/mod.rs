//! The one module that speaks Redis: every key the system uses, and the steps of the link carried out.
//!
//! Nothing here keeps truth. Each call is one pipeline on one connection, and everything sent may be sent again. A call
//! that fails or times out says nothing about what Redis did: the caller drops the connection and starts over.

pub mod acl;
mod bells;
mod channel;
mod client;
mod heartbeat;
mod registry;
mod round;
mod size;
mod stream;

/// What callers hold and hand on; commands are sent here alone.
pub use ::redis::aio::MultiplexedConnection;
pub use ::redis::{Client, ErrorKind, RedisError, RedisResult};
pub use bells::ring_for_oneself;
pub use channel::{Call, Channel, carry_out};
pub use client::{
    CONNECT_TIMEOUT, Options, RESPONSE_TIMEOUT, client, connect, connect_blocking, password_in, subscribe,
};
pub use heartbeat::{Claim, HEARTBEAT_LIFE, Heartbeat, Reading, has_heartbeat, leave, set_claim, set_heartbeat};
pub use registry::{Signs, announce, page_of_stores, signs, why_unreadable};
pub use round::{Asked, Range, StoreReading, acknowledge, read, read_stores, repeat_acks};
pub use size::Size;
pub use stream::{Delivery, Garbage, Received, decode_entry, first_entry, time, wait_for_entries};

use std::fmt;

use ::redis::{FromRedisValue, Pipeline, Value};

use protocol::ids::StoreId;

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

    /// A store's [`Heartbeat`]; written by the store alone.
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

/// Reads a key whose value is short, and no more of it than such a value may have.
fn get_short(pipe: &mut Pipeline, key: &str) {
    pipe.cmd("GETRANGE").arg(key).arg(0).arg(SHORT - 1);
}

/// The reply to [`get_short`]: the text, if there is any.
fn text_of(reply: Value) -> Option<String> {
    Option::<String>::from_redis_value(reply).ok()?.filter(|text| !text.is_empty())
}

/// Whether an error that Redis answered is one of the whole server, rather than of the key that was asked for: another
/// connection, or some patience, is needed.
pub fn is_of_the_server(error: &RedisError) -> bool {
    let answered = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    let codes = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "NOAUTH", "BUSY", "OOM", "MISCONF", "NOREPLICAS"];
    !answered || error.code().is_some_and(|code| codes.contains(&code))
}

/// Sorts the reply of one command. The outer error is one of the whole server; the inner one says what Redis refuses for
/// this key.
fn judged(reply: Value) -> RedisResult<Result<Value, RedisError>> {
    match reply {
        Value::ServerError(error) => {
            let error = RedisError::from(error);
            if is_of_the_server(&error) { Err(error) } else { Ok(Err(error)) }
        }
        reply => Ok(Ok(reply)),
    }
}

/// A reply that should be there.
fn expected(reply: Option<Value>) -> RedisResult<Value> {
    reply
        .ok_or_else(|| RedisError::from((ErrorKind::UnexpectedReturnType, "Redis has answered less than it was asked")))
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
