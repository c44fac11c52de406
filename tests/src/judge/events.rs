//! What a reader of central's events must get: each event that central has applied once and in its order, from behind the
//! cursor that he has stored, whatever happens to central meanwhile.

use rusqlite::{Connection, Row};
use serde_json::Value;

use super::book::Name;
use super::keys::Answer;
use super::oracle::{Oracle, Place};
use super::shop::{Broken, must};

/// An event in central's ledger.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    /// Its place in the chain.
    pub(super) number: i64,
    pub(super) store: Name,
    pub(super) place: Place,
    pub(super) kind: Name,
    pub(super) operation: Name,
}

/// Somebody who reads events.
#[derive(Debug, Default)]
pub struct Reader {
    /// The cursors that he was given, and up to which place in the chain he had read with each.
    cursors: Vec<(String, i64)>,
}

impl Reader {
    /// Behind which he goes on.
    pub fn cursor(&self) -> &str {
        self.cursors.last().map_or("0", |(cursor, _)| cursor)
    }

    fn place(&self) -> i64 {
        self.cursors.last().map_or(0, |(_, place)| *place)
    }

    /// He goes on behind an earlier cursor.
    pub fn go_back(&mut self, turn: u64) {
        let kept = turn as usize % (self.cursors.len() + 1);
        self.cursors.truncate(kept);
    }
}

impl Applied {
    fn is_told(&self, told: &Value) -> bool {
        let Self { number, store, place, kind, operation } = self;
        let kind = if &**kind == "opened" { "epoch_opened" } else { kind };
        told["chainSeq"] == *number
            && told["storeId"] == **store
            && told["position"] == format!("{store}:{}-{}", place.epoch, place.seq)
            && told["eventId"] == told["position"]
            && told["type"] == kind
            && told["operationId"] == **operation
    }
}

impl Oracle {
    /// A reader is given a page behind his cursor. Says how many events it has.
    pub fn reads(&self, reader: &mut Reader, store: Option<&str>, size: i64, answer: &Answer) -> Result<usize, Broken> {
        let place = reader.place();
        let behind = self.chain.iter().filter(|applied| applied.number > place);
        let mut of_it = behind.filter(|applied| store.is_none_or(|store| *applied.store == *store));
        let due: Vec<&Applied> = of_it.by_ref().take(size as usize).collect();
        let told = answer.body["items"].as_array().cloned().unwrap_or_default();
        let is_it = answer.status == 200
            && told.len() == due.len()
            && told.iter().zip(&due).all(|(told, applied)| applied.is_told(told));
        must(is_it, || format!("P6: behind {place} of the chain {due:?} must be read, and it is answered {answer:?}"))?;
        let cursor = answer.body["nextCursor"].as_str().unwrap_or_default().to_owned();
        let reached = due.last().map_or(place, |last| last.number);
        // Where there is nothing more it may lead behind what is of no concern to him.
        let next = of_it.next().map_or(i64::MAX, |next| next.number);
        let leads_to: i64 = cursor.parse().unwrap_or(-1);
        must((reached..next).contains(&leads_to), || {
            format!("P6: up to {reached} of the chain was read, {next} is next, and {cursor} shall lead on")
        })?;
        reader.cursors.push((cursor, leads_to));
        Ok(due.len())
    }

    /// Whether nothing is left for a reader.
    pub fn has_read_all(&self, reader: &Reader) -> bool {
        self.chain.last().is_none_or(|last| last.number <= reader.place())
    }

    /// Central was set back: its ledger is that of an older file, which may be a copy from before it was set back another time.
    pub(super) fn set_chain_back(&mut self, old: &Connection) -> rusqlite::Result<()> {
        let sql = "select epoch, seq, hash, chain_seq, store_id, type, operation_id from event order by chain_seq";
        let mut statement = old.prepare_cached(sql)?;
        let text = |row: &Row<'_>, column| Ok::<Name, rusqlite::Error>(row.get::<_, String>(column)?.into());
        let applied = statement.query_map([], |row| {
            let (place, number) = (Place::read(row, 0)?, row.get(3)?);
            Ok(Applied { number, store: text(row, 4)?, place, kind: text(row, 5)?, operation: text(row, 6)? })
        })?;
        self.chain = applied.collect::<rusqlite::Result<_>>()?;
        Ok(())
    }

    /// Who has read beyond the end of the chain goes on behind an earlier cursor. Says whether he had.
    pub fn set_reader_back(&self, reader: &mut Reader) -> bool {
        let (last, before) = (self.chain.last().map_or(0, |applied| applied.number), reader.cursors.len());
        reader.cursors.retain(|(_, place)| *place <= last);
        reader.cursors.len() < before
    }
}
