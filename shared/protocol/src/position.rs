//! Places: of an entry in its log, and of an event in a store's ledger as clients see it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Invalid, StoreId};

/// The place of an entry: `<epoch>-<seq>`, which is also its id in the Redis stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// One life of a log.
    pub epoch: u64,
    /// Gapless from 1 within the epoch.
    pub seq: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid("an entry's id is <epoch>-<seq>".into());
        let (epoch, seq) = text.split_once('-').ok_or_else(invalid)?;
        Ok(Self { epoch: number(epoch).ok_or_else(invalid)?, seq: number(seq).ok_or_else(invalid)? })
    }
}

/// Greatest epoch and sequence number: far beyond any real one, and with room to count on from in 64 signed bits.
pub const NUMBER_MAX: u64 = 1 << 62;

pub(crate) fn number(text: &str) -> Option<u64> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| *number <= NUMBER_MAX)
}

/// A place in one store's ledger, as clients see it: `<storeId>:<epoch>-<seq>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    /// Whose ledger.
    pub store: StoreId,
    /// Where.
    pub at: EntryId,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.store, self.at)
    }
}

impl FromStr for Position {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (store, at) =
            text.split_once(':').ok_or_else(|| Invalid("a position is <storeId>:<epoch>-<seq>".into()))?;
        Ok(Self { store: store.parse()?, at: at.parse()? })
    }
}

impl TryFrom<String> for Position {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}
