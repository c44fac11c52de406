//! Places: of an entry in its log, and of an event in a store's ledger as clients see it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Invalid, StoreId};
use crate::number::{Epoch, Events, Link, Seq};

/// The place of an entry: `<epoch>-<seq>`, which is also its id in the Redis stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId<L = Events> {
    /// One life of a log.
    pub epoch: Epoch<L>,
    /// Gapless from 1 within the epoch.
    pub seq: Seq,
}

impl<L> fmt::Display for EntryId<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl<L: Link> FromStr for EntryId<L> {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid("must be <epoch>-<seq>, such as 5-17".into());
        let (epoch, seq) = text.split_once('-').ok_or_else(invalid)?;
        Ok(Self { epoch: epoch.parse().map_err(|_| invalid())?, seq: seq.parse().map_err(|_| invalid())? })
    }
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
            text.split_once(':').ok_or_else(|| Invalid("must be a position, such as store-1:5-17".into()))?;
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
