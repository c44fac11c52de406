//! The ledger as the link's sender sees it: entries, hashes, what is not acknowledged.

use std::cell::Cell;

use protocol::hash::Hash;
use protocol::link::{Cursor, Entry, EntryId, Epoch, Seq};
use protocol::time::Millis;
use runtime::sqlite::{DigestColumn, HashColumn, id_at, number_at};
use rusqlite::{Connection, OptionalExtension, params};

/// The present epoch of the ledger.
pub struct Log<'a> {
    /// Where it is.
    pub connection: &'a Connection,
    /// Its head, read once: what is committed later is for the next step.
    pub head: Cursor,
    /// The first read that failed: an entry that cannot be read must not pass for one that is gone.
    pub failed: Cell<Option<rusqlite::Error>>,
}

impl<'a> Log<'a> {
    /// The log as it is now.
    pub fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self { connection, head: super::head::head(connection)?.cursor, failed: Cell::default() })
    }
}

impl protocol::link::Log for Log<'_> {
    fn head(&self) -> Cursor {
        self.head
    }

    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        if seq == Seq::ZERO {
            return Some(Hash::ZERO);
        }
        if seq >= self.head.seq {
            return (seq == self.head.seq).then_some(self.head.hash);
        }
        let found = self.connection.prepare_cached("select hash from ledger where epoch = ?1 and seq = ?2").and_then(
            |mut statement| {
                statement
                    .query_row(params![self.head.epoch.get(), seq.get()], |row| row.get::<_, HashColumn>(0))
                    .optional()
            },
        );
        match found {
            Ok(hash) => hash.map(|hash| hash.0),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }

    fn content_at(&self, seq: Seq) -> Option<Hash> {
        if seq > self.head.seq {
            return None;
        }
        match entries(self.connection, self.head.epoch, seq, seq) {
            Ok(found) => found.first().map(Entry::content),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }

    fn continues(&self, receiver: &Cursor) -> bool {
        super::epoch::continues(self.connection, self.head.epoch, receiver).unwrap_or_else(|error| {
            self.failed.set(Some(error));
            false
        })
    }
}

/// Entries `from` to `to` of an epoch.
pub fn entries(connection: &Connection, epoch: Epoch, from: Seq, to: Seq) -> rusqlite::Result<Vec<Entry>> {
    entries_within(connection, epoch, from, to, usize::MAX)
}

/// Types of the entries behind one, so many at most, and the last of them.
pub fn types_behind(connection: &Connection, place: EntryId, most: usize) -> rusqlite::Result<(EntryId, Vec<String>)> {
    let mut statement = connection.prepare_cached(
        "select epoch, seq, type from ledger where (epoch, seq) > (?1, ?2) order by epoch, seq limit ?3",
    )?;
    let mut rows = statement.query(params![place.epoch.get(), place.seq.get(), most])?;
    let (mut last, mut types) = (place, Vec::new());
    while let Some(row) = rows.next()? {
        last = id_at(row, 0)?;
        types.push(row.get(2)?);
    }
    Ok((last, types))
}

/// Entries `from` to `to` of an epoch, but no more than fit into so many bytes of body; one in any case.
pub fn entries_within(
    connection: &Connection,
    epoch: Epoch,
    from: Seq,
    to: Seq,
    bytes_max: usize,
) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "select seq, type, operation_id, body, digest, hash from ledger \
         where epoch = ?1 and seq between ?2 and ?3 order by seq",
    )?;
    let mut rows = statement.query(params![epoch.get(), from.get(), to.get()])?;
    let (mut entries, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let entry = Entry {
            id: EntryId { epoch, seq: number_at(row, 0)? },
            kind: row.get(1)?,
            operation: row.get(2)?,
            body: row.get(3)?,
            digest: Some(row.get::<_, DigestColumn>(4)?.0),
            hash: row.get::<_, HashColumn>(5)?.0,
        };
        bytes = bytes.saturating_add(entry.body.len());
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// What central has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// The last entry of all.
    pub head: EntryId,
    /// The last entry that it has.
    pub acked: Seq,
    /// How many entries.
    pub entries: u64,
    /// When the oldest of them was recorded.
    pub oldest: Option<Millis>,
}

/// What central has not acknowledged of the present epoch. `known`: what the publisher knows to be acknowledged, which
/// the database learns of later.
pub fn backlog(connection: &Connection, known: Option<EntryId>) -> rusqlite::Result<Backlog> {
    connection
        .prepare_cached(
            "select place.epoch, place.seq, place.acked, ledger.recorded_at \
             from (select epoch, seq, case epoch when ?1 then ?2 else acked end as acked from meta) as place \
             left join ledger on ledger.epoch = place.epoch and ledger.seq = place.acked + 1",
        )?
        .query_row(params![known.map(|known| known.epoch.get()), known.map(|known| known.seq.get())], |row| {
            let (head, acked) = (id_at(row, 0)?, number_at(row, 2)?);
            let oldest: Option<i64> = row.get(3)?;
            Ok(Backlog { head, acked, entries: head.seq - acked, oldest: oldest.map(Millis) })
        })
}

/// Remembers how far central has acknowledged: what lies below may be pruned in time.
pub fn store_acked(connection: &Connection, epoch: Epoch, seq: Seq) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update meta set acked = ?2 where epoch = ?1 and acked <> ?2")?
        .execute(params![epoch.get(), seq.get()])?;
    Ok(())
}

/// Whether an entry is kept.
pub fn is_kept(connection: &Connection, at: EntryId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select 1 from ledger where epoch = ?1 and seq = ?2")?
        .exists(params![at.epoch.get(), at.seq.get()])
}

#[cfg(test)]
mod tests {
    use protocol::link::Log as _;

    use super::*;
    use crate::ledger;
    use crate::testing;

    #[test]
    fn the_backlog_counts_from_what_is_known_to_be_acknowledged() {
        let connection = testing::ledger(5);
        let head = ledger::head(&connection).expect("reads").cursor;
        let known = |epoch: Epoch, seq: Seq| backlog(&connection, Some(EntryId { epoch, seq })).expect("reads");
        store_acked(&connection, head.epoch, 2.into()).expect("writes");
        assert_eq!(backlog(&connection, None).expect("reads").entries, head.seq - Seq::from(2));
        assert_eq!(known(head.epoch, head.seq), Backlog { head: head.id(), acked: head.seq, entries: 0, oldest: None });
        assert_eq!(known(head.epoch, Seq::FIRST).entries, head.seq - Seq::FIRST, "central was set back");
        assert_eq!(known(1.into(), head.seq).entries, head.seq - Seq::from(2), "of another epoch");
    }

    #[test]
    fn what_is_stored_already_is_not_written_again() {
        let connection = testing::ledger(2);
        let head = ledger::head(&connection).expect("reads").cursor;
        let changes = |writes: &dyn Fn()| {
            let before = connection.total_changes();
            writes();
            connection.total_changes() - before
        };
        let acked = || store_acked(&connection, head.epoch, 1.into()).expect("writes");
        assert_eq!((changes(&acked), changes(&acked)), (1, 0));
        let rule = protocol::domain::allotment::Rule { percent: 7, minimum: 3 };
        let set = || ledger::allotment::set_rule(&connection, &rule).expect("writes");
        assert_eq!((changes(&set), changes(&set)), (1, 0));
        assert_eq!(ledger::allotment::rule(&connection).expect("reads"), rule);
    }

    #[test]
    fn an_earlier_epoch_continues_what_it_contains_unless_the_present_one_says_so() {
        let connection = testing::ledger(5);
        let log = Log::new(&connection).expect("reads");
        let at = |seq: u32| Cursor { seq: seq.into(), hash: log.hash_at(seq.into()).expect("is kept"), ..log.head() };
        let continues = |place: &Cursor| Log::new(&connection).expect("reads").continues(place);
        let (third, fourth) = (at(3), at(4));
        assert!(!continues(&third), "it has not ended");
        ledger::open_epoch(&connection, None, testing::NOW).expect("opens");
        assert!(continues(&third) && continues(&fourth));
        assert!(!continues(&Cursor { hash: fourth.hash, ..third }), "another life's");
        ledger::open_epoch(&connection, Some(third), testing::NOW).expect("opens");
        assert!(!continues(&third), "central has refused that");
        assert!(continues(&fourth));
    }

    #[test]
    fn a_round_ends_by_bytes_but_has_one_entry_in_any_case() {
        let connection = testing::ledger(5);
        let head = ledger::head(&connection).expect("reads").cursor;
        let all = entries(&connection, head.epoch, 2.into(), head.seq).expect("reads");
        let within = |bytes| entries_within(&connection, head.epoch, 2.into(), head.seq, bytes).expect("reads");
        assert_eq!(all.len() as u64, head.seq - Seq::FIRST);
        assert_eq!(within(0), all[..1]);
        assert_eq!(within(all[0].body.len() + all[1].body.len()), all[..2]);
        assert_eq!(within(all[0].body.len() + all[1].body.len() + 1), all[..2]);
        assert_eq!(within(1 << 20), all);
    }

    #[test]
    fn a_place_beyond_the_head_has_no_hash() {
        let connection = testing::ledger(1);
        let log = Log::new(&connection).expect("reads");
        assert_eq!(log.hash_at(log.head.seq), Some(log.head.hash));
        assert_eq!(log.hash_at(log.head.seq.next()), None);
        assert!(log.failed.take().is_none(), "it is no failure");
    }
}
