//! What a restoring agent asks and what central answers (L10).

use serde::{Deserialize, Serialize};

use super::{Named, Outcome};
use crate::hash::Hash;
use crate::ids::ProductId;
use crate::link::{Cursor, EntryId};

/// Which entries of an epoch a log still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Span {
    /// The epoch.
    pub epoch: u64,
    /// First entry kept.
    pub first: u64,
    /// Last entry.
    pub last: u64,
}

/// A store's agent asks for a new epoch and for what central knows of its store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// The asker's own epoch; 0: its database is empty.
    pub epoch: u64,
    /// What its own log has: central tells which of it is known.
    pub log: Vec<Span>,
}

/// An entry that central's ledger has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownEntry {
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// Its chain hash.
    pub hash: Hash,
    /// Its operation's id.
    pub operation: String,
    /// The product it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
}

impl KnownEntry {
    /// Its place.
    pub fn id(&self) -> EntryId {
        EntryId { epoch: self.epoch, seq: self.seq }
    }
}

/// What central knows of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whose.
    pub store_id: String,
    /// The epoch given out: the restored ledger opens it.
    pub epoch: u64,
    /// The last cursor of each earlier epoch, central's own at the question included.
    pub lineage: Vec<Cursor>,
    /// Whether any opening ever arrived in full; if not there is no state.
    pub complete: bool,
    /// The cursor at which the state stands.
    pub state: Cursor,
    /// Lineage of the opening that the state grew from: what it covers came with that opening.
    pub covers: Vec<Cursor>,
    /// The stock there.
    pub items: Vec<Named>,
    /// Outcomes of commands within the retention.
    pub outcomes: Vec<Outcome>,
    /// Entries up to the state's cursor, within the retention or within the spans that were asked about.
    pub entries: Vec<KnownEntry>,
}
