//! What a restoring agent asks and what central answers (L10).

use serde::{Deserialize, Serialize};

use super::{Named, Outcome};
use crate::domain::reservation::Reservation;
use crate::domain::transfer::Transfer;
use crate::hash::Hash;
use crate::ids::{OperationId, ProductId};
use crate::link::{Cursor, EntryId, Epoch, Seq};
use crate::time::Millis;

/// Which entries of an epoch a log still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Span {
    /// The epoch.
    pub epoch: Epoch,
    /// First entry kept.
    pub first: Seq,
    /// Last entry.
    pub last: Seq,
}

/// A store's agent asks for a new epoch and for what central knows of its store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// The asker's own epoch; 0: its database is empty.
    pub epoch: Epoch,
    /// What its own log has: central tells which of it is known.
    pub log: Vec<Span>,
}

/// An entry that central's ledger has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownEntry {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub seq: Seq,
    /// Its chain hash.
    pub hash: Hash,
    /// Its operation's id.
    pub operation: String,
    /// The product it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
    /// The others, if it is about several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<ProductId>,
    /// A human has chosen a state without it: its operation has not happened, as far as the state is concerned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

impl KnownEntry {
    /// Its place.
    pub fn id(&self) -> EntryId {
        EntryId { epoch: self.epoch, seq: self.seq }
    }
}

/// What central knows of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose.
    pub store_id: String,
    /// The epoch given out: the restored ledger opens it.
    pub epoch: Epoch,
    /// The last cursor of each earlier epoch, central's own at the question included.
    pub lineage: Vec<Cursor>,
    /// Whether any opening ever arrived in full; if not there is no state.
    pub complete: bool,
    /// The cursor at which the state stands.
    pub state: Cursor,
    /// Lineage of the opening that the state grew from: what it covers came with that opening.
    pub covers: Vec<Cursor>,
    /// Of what was recorded since then every operation that is in the state is told. `None`: of no time that can be said.
    pub named_since: Option<Millis>,
    /// The stock there.
    pub items: Vec<Named>,
    /// Outcomes of commands within the retention.
    pub outcomes: Vec<Outcome>,
    /// Reservations that are open, or ended within the retention.
    pub reservations: Vec<Reservation>,
    /// Transfers from and to the store, as it is to know them.
    pub transfers: Vec<Transfer>,
    /// Operations that came with the state and may stand in no entry that central has.
    pub operations: Vec<OperationId>,
    /// Entries up to the state's cursor, within the retention or within the spans that were asked about.
    pub entries: Vec<KnownEntry>,
}

impl Answer {
    /// The operations that are in the state, as far as that is told.
    pub fn done(&self) -> impl Iterator<Item = &str> {
        let of_entries = self.entries.iter().filter(|entry| !entry.given_up).map(|entry| entry.operation.as_str());
        of_entries.chain(self.operations.iter().map(OperationId::as_str))
    }
}

/// What the answer begins with; the members are those of [`Answer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "said at `Answer`")]
pub struct Header {
    pub store_id: String,
    pub epoch: Epoch,
    pub lineage: Vec<Cursor>,
    pub complete: bool,
    pub state: Cursor,
    pub covers: Vec<Cursor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_since: Option<Millis>,
}

/// What the lines before the last one had, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Items.
    pub items: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// Reservations.
    #[serde(default)]
    pub reservations: u64,
    /// Transfers.
    #[serde(default)]
    pub transfers: u64,
    /// Operations.
    #[serde(default)]
    pub operations: u64,
    /// Entries.
    pub entries: u64,
}

/// One line of the answer, which has no bound as a whole: a header, then parts, then an end. Without the end it is worth
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// The first.
    Header(Header),
    /// Some items.
    Items(Vec<Named>),
    /// Some outcomes.
    Outcomes(Vec<Outcome>),
    /// Some reservations.
    Reservations(Vec<Reservation>),
    /// Some transfers.
    Transfers(Vec<Transfer>),
    /// Some operations.
    Operations(Vec<OperationId>),
    /// Some entries.
    Entries(Vec<KnownEntry>),
    /// The last.
    End(Counts),
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A line is not what it should be.
    #[error("a line of the answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It broke off.
    #[error("the answer is not complete")]
    Incomplete,
}

/// An answer of which some lines have been read.
#[derive(Debug, Default)]
pub struct AnswerReader {
    header: Option<Header>,
    items: Vec<Named>,
    outcomes: Vec<Outcome>,
    reservations: Vec<Reservation>,
    transfers: Vec<Transfer>,
    operations: Vec<OperationId>,
    entries: Vec<KnownEntry>,
    end: Option<Counts>,
}

impl AnswerReader {
    /// The next line, without the line feed.
    pub fn read_line(&mut self, line: &[u8]) -> Result<(), Unusable> {
        let line: Line = serde_json::from_slice(line)?;
        if self.end.is_some() || self.header.is_some() == matches!(line, Line::Header(_)) {
            return Err(Unusable::Incomplete);
        }
        match line {
            Line::Header(header) => self.header = Some(header),
            Line::Items(items) => self.items.extend(items),
            Line::Outcomes(outcomes) => self.outcomes.extend(outcomes),
            Line::Reservations(reservations) => self.reservations.extend(reservations),
            Line::Transfers(transfers) => self.transfers.extend(transfers),
            Line::Operations(operations) => self.operations.extend(operations),
            Line::Entries(entries) => self.entries.extend(entries),
            Line::End(counts) => self.end = Some(counts),
        }
        Ok(())
    }

    /// The answer, if all of it was read.
    pub fn finish(self) -> Result<Answer, Unusable> {
        let Self { header, items, outcomes, reservations, transfers, operations, entries, end } = self;
        let (Some(header), Some(end)) = (header, end) else { return Err(Unusable::Incomplete) };
        let read = Counts {
            items: items.len() as u64,
            outcomes: outcomes.len() as u64,
            reservations: reservations.len() as u64,
            transfers: transfers.len() as u64,
            operations: operations.len() as u64,
            entries: entries.len() as u64,
        };
        if end != read {
            return Err(Unusable::Incomplete);
        }
        let Header { store_id, epoch, lineage, complete, state, covers, named_since } = header;
        Ok(Answer {
            store_id,
            epoch,
            lineage,
            complete,
            state,
            covers,
            named_since,
            items,
            outcomes,
            reservations,
            transfers,
            operations,
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[Line]) -> Result<Answer, Unusable> {
        let mut reader = AnswerReader::default();
        for line in lines {
            reader.read_line(&serde_json::to_vec(line).expect("serialises"))?;
        }
        reader.finish()
    }

    #[test]
    fn an_answer_that_broke_off_is_none() {
        let entry = KnownEntry {
            epoch: 7.into(),
            seq: 1.into(),
            hash: Hash::ZERO,
            operation: "a".into(),
            product_id: None,
            also: Vec::new(),
            given_up: false,
        };
        let header = Header { store_id: "s1".into(), epoch: 9.into(), ..Header::default() };
        let end = Line::End(Counts { entries: 2, operations: 1, ..Counts::default() });
        let entries = || Line::Entries(vec![entry.clone()]);
        let named = || Line::Operations(vec![OperationId::parse("b").expect("valid")]);
        let head = || Line::Header(header.clone());
        let whole = [head(), named(), entries(), entries(), end.clone()];
        let answer = read(&whole).expect("is complete");
        assert_eq!((answer.epoch, answer.entries), (9.into(), vec![entry.clone(), entry.clone()]));
        assert_eq!(answer.operations, [OperationId::parse("b").expect("valid")]);
        for broken in [
            &whole[..4],
            &whole[1..],
            &[head(), named(), entries(), end.clone()],
            &[head(), entries(), entries(), end.clone()],
            &[head(), head(), named(), entries(), entries(), end.clone()],
            &[head(), named(), entries(), entries(), end.clone(), entries()],
        ] {
            assert!(read(broken).is_err(), "{broken:?}");
        }
    }
}
