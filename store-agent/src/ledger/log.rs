//! The ledger as the link's sender sees it: entries, hashes, what is not acknowledged.

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension, params};
use shared::hash::Hash;
use shared::link::{Cursor, Entry, EntryId};
use shared::sqlite::{DigestColumn, HashColumn};
use shared::time::Millis;

use crate::idempotency;

/// How long an entry and a command's answer are kept beyond their acknowledgement, ms: thirty days (L1).
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// Rows that are forgotten in one go, at most.
const BATCH: usize = 1_000;

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
        Ok(Self { connection, head: super::head(connection)?.cursor, failed: Cell::default() })
    }
}

impl shared::link::Log for Log<'_> {
    fn head(&self) -> Cursor {
        self.head
    }

    fn hash_at(&self, seq: u64) -> Option<Hash> {
        if seq == 0 {
            return Some(Hash::ZERO);
        }
        if seq >= self.head.seq {
            return (seq == self.head.seq).then_some(self.head.hash);
        }
        let found = self.connection.prepare_cached("select hash from ledger where epoch = ?1 and seq = ?2").and_then(
            |mut statement| {
                statement.query_row(params![self.head.epoch, seq], |row| row.get::<_, HashColumn>(0)).optional()
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

    fn content_at(&self, seq: u64) -> Option<Hash> {
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
pub fn entries(connection: &Connection, epoch: u64, from: u64, to: u64) -> rusqlite::Result<Vec<Entry>> {
    entries_within(connection, epoch, from, to, usize::MAX)
}

/// Entries `from` to `to` of an epoch, but no more than fit into so many bytes of body; one in any case.
pub fn entries_within(
    connection: &Connection,
    epoch: u64,
    from: u64,
    to: u64,
    bytes_max: usize,
) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "select seq, type, operation_id, body, digest, hash from ledger \
         where epoch = ?1 and seq between ?2 and ?3 order by seq",
    )?;
    let mut rows = statement.query(params![epoch, from, to])?;
    let (mut entries, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let entry = Entry {
            id: EntryId { epoch, seq: row.get(0)? },
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
    /// The last entry that it has.
    pub acked: u64,
    /// How many entries.
    pub entries: u64,
    /// When the oldest of them was recorded.
    pub oldest: Option<Millis>,
}

/// What central has not acknowledged of the present epoch. `known`: what the publisher knows to be acknowledged, which
/// the database learns of later.
pub fn backlog(connection: &Connection, known: Option<EntryId>) -> rusqlite::Result<Backlog> {
    let (epoch, seq, stored): (u64, u64, u64) = connection
        .prepare_cached("select epoch, seq, acked from meta")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let acked = known.filter(|known| known.epoch == epoch).map_or(stored, |known| known.seq);
    let oldest = connection
        .prepare_cached("select recorded_at from ledger where epoch = ?1 and seq = ?2")?
        .query_row(params![epoch, acked + 1], |row| row.get(0))
        .optional()?;
    Ok(Backlog { acked, entries: seq.saturating_sub(acked), oldest: oldest.map(Millis) })
}

/// Remembers how far central has acknowledged: what lies below may be pruned in time.
pub fn store_acked(connection: &Connection, epoch: u64, seq: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("update meta set acked = ?2 where epoch = ?1")?.execute(params![epoch, seq])?;
    Ok(())
}

/// Forgets some of what may be forgotten (L1): entries below the acknowledged one and older than the retention, answers
/// to commands as old, and callers' keys after a week. A batch of each, so that sales need not wait for long; says
/// whether there may be more.
pub fn prune(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let more = prune_entries(connection, Millis(now.0 - RETENTION_MS))?;
    // An answer that central may not have heard yet is kept, and so is that of a purchase whose units still wait.
    let outcomes = connection.execute(
        "delete from outcome where command_id in (select command_id from outcome where at < ?1 \
         and at < coalesce((select recorded_at from ledger join meta on ledger.epoch = meta.epoch \
           and ledger.seq = meta.acked + 1), ?1) \
         and not exists (select 1 from purchase where purchase.attempt = outcome.command_id \
           and purchase.status = 'confirmed' and purchase.picked_at is null) \
         order by at limit ?2)",
        params![now.0 - RETENTION_MS, BATCH],
    )?;
    let keys = connection.execute(
        "delete from idempotency where key in (select key from idempotency where at < ?1 order by at limit ?2)",
        params![now.0 - idempotency::RETENTION_MS, BATCH],
    )?;
    let known = connection.execute(
        "delete from known_operation where id in (select id from known_operation where at < ?1 order by at limit ?2)",
        params![now.0 - idempotency::KNOWN_MS, BATCH],
    )?;
    Ok(more || [outcomes, keys, known].contains(&BATCH))
}

/// Forgets a batch of the oldest entries, recorded before a time, that lie below the acknowledged one, which always
/// stays, as do those of an earlier epoch until central has accepted the present one: they may have to prove something
/// ([`continues`](shared::link::Log::continues)). Says whether there may be more. What is left has no holes: it begins at the first entry that is too young.
pub fn prune_entries(connection: &Connection, before: Millis) -> rusqlite::Result<bool> {
    let now = before.plus(RETENTION_MS);
    let oldest: Vec<(u64, u64, Millis, bool)> = connection
        .prepare_cached(
            "select ledger.epoch, ledger.seq, recorded_at, \
             (ledger.epoch < meta.epoch and acked > 0) or (ledger.epoch = meta.epoch and ledger.seq < acked) \
             from ledger, meta order by ledger.epoch, ledger.seq limit ?1",
        )?
        .query_map([BATCH], |row| Ok((row.get(0)?, row.get(1)?, Millis(row.get(2)?), row.get(3)?)))?
        .collect::<rusqlite::Result<_>>()?;
    // Entries of the future hold nothing up once there are old ones behind them: then the clock was wrong that recorded
    // them. Until then it may be this clock that is: set back an hour, it must not forget the last hour.
    let passed: Vec<_> = oldest.iter().take_while(|(.., at, acked)| *acked && (*at < before || *at > now)).collect();
    let last_old = passed.iter().rfind(|(.., at, _)| *at < before).copied();
    let last = match (last_old, passed.last()) {
        (None, Some((epoch, seq, ..))) if passed.len() == BATCH && is_old_behind(connection, *epoch, *seq, before)? => {
            passed.last().copied()
        }
        (last_old, _) => last_old,
    };
    let Some((epoch, seq, ..)) = last else { return Ok(false) };
    let deleted =
        connection.prepare_cached("delete from ledger where (epoch, seq) <= (?1, ?2)")?.execute(params![epoch, seq])?;
    Ok(deleted == BATCH)
}

/// Whether there is an old, acknowledged entry behind a place.
fn is_old_behind(connection: &Connection, epoch: u64, seq: u64, before: Millis) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "select exists (select 1 from ledger, meta where (ledger.epoch, ledger.seq) > (?1, ?2) \
             and recorded_at < ?3 \
             and (ledger.epoch < meta.epoch or (ledger.epoch = meta.epoch and ledger.seq < acked)))",
        )?
        .query_row(params![epoch, seq, before.0], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use shared::domain::{Guard, Operation};
    use shared::ids::{OperationId, ProductId, StoreId};
    use shared::link::Log as _;
    use shared::wire::About;

    use super::*;
    use crate::operations::{Request, perform};
    use crate::{ledger, ledger::SCHEMA};

    const NOW: Millis = Millis(1_700_000_000_000);

    /// A ledger of three entries for the opening and so many for one item.
    fn store(entries: i64) -> Connection {
        let connection = shared::sqlite::memory(SCHEMA).expect("opens");
        ledger::initialise(&connection, &StoreId::parse("s1").expect("valid"), NOW).expect("is new");
        for number in 0..entries {
            let operation = match number {
                0 => Operation::Create { name: "Tea".into(), quantity: 0, low_at: None },
                _ => Operation::Receive { quantity: 1 },
            };
            let request = Request {
                operation_id: OperationId::parse(&format!("o{number}")).expect("valid"),
                product: ProductId::parse("tea").expect("valid"),
                operation,
                guard: Guard::default(),
                about: About::default(),
                command: None,
                purchase: None,
            };
            perform(&connection, &request, NOW.plus(number)).expect("done");
        }
        connection
    }

    #[test]
    fn the_backlog_counts_from_what_is_known_to_be_acknowledged() {
        let connection = store(5);
        let head = ledger::head(&connection).expect("reads").cursor;
        let known = |epoch, seq| backlog(&connection, Some(EntryId { epoch, seq })).expect("reads");
        store_acked(&connection, head.epoch, 2).expect("writes");
        assert_eq!(backlog(&connection, None).expect("reads").entries, head.seq - 2);
        assert_eq!(known(head.epoch, head.seq), Backlog { acked: head.seq, entries: 0, oldest: None });
        assert_eq!(known(head.epoch, 1).entries, head.seq - 1, "central was set back");
        assert_eq!(known(head.epoch - 1, head.seq).entries, head.seq - 2, "of another epoch");
    }

    #[test]
    fn a_round_ends_by_bytes_but_has_one_entry_in_any_case() {
        let connection = store(5);
        let head = ledger::head(&connection).expect("reads").cursor;
        let all = entries(&connection, head.epoch, 2, head.seq).expect("reads");
        let within = |bytes| entries_within(&connection, head.epoch, 2, head.seq, bytes).expect("reads");
        assert_eq!(all.len() as u64, head.seq - 1);
        assert_eq!(within(0), all[..1]);
        assert_eq!(within(all[0].body.len() + all[1].body.len()), all[..2]);
        assert_eq!(within(all[0].body.len() + all[1].body.len() + 1), all[..2]);
        assert_eq!(within(1 << 20), all);
    }

    #[test]
    fn a_place_beyond_the_head_has_no_hash() {
        let connection = store(1);
        let log = Log::new(&connection).expect("reads");
        assert_eq!(log.hash_at(log.head.seq), Some(log.head.hash));
        assert_eq!(log.hash_at(log.head.seq + 1), None);
        assert_eq!(log.hash_at(u64::MAX), None);
        assert!(log.failed.take().is_none(), "it is no failure");
    }

    fn kept(connection: &Connection) -> Vec<u64> {
        let mut statement = connection.prepare("select seq from ledger order by epoch, seq").expect("prepares");
        statement.query_map([], |row| row.get(0)).expect("reads").collect::<rusqlite::Result<_>>().expect("reads")
    }

    #[test]
    fn pruning_goes_up_to_the_first_entry_that_is_young_or_not_acknowledged() {
        let connection = store(6);
        let head = ledger::head(&connection).expect("reads").cursor;
        let later = NOW.plus(1_000_000);
        assert!(!prune_entries(&connection, later).expect("prunes"));
        assert_eq!(kept(&connection)[0], 1, "nothing is acknowledged");
        store_acked(&connection, head.epoch, head.seq - 1).expect("writes");
        connection.execute("update ledger set recorded_at = ?1 where seq = 4", [later.0]).expect("writes");
        prune_entries(&connection, later).expect("prunes");
        assert_eq!(kept(&connection), (4..=head.seq).collect::<Vec<_>>(), "no holes");
        let wrong = later.plus(RETENTION_MS + 1);
        connection.execute("update ledger set recorded_at = ?1 where seq = 4", [wrong.0]).expect("writes");
        prune_entries(&connection, later).expect("prunes");
        assert_eq!(kept(&connection), [head.seq - 1, head.seq], "the acknowledged one stays");
    }

    #[test]
    fn a_clock_set_back_forgets_nothing() {
        let connection = store(2_500);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq).expect("writes");
        for back in [60 * 60 * 1_000, NOW.0] {
            assert!(!prune_entries(&connection, NOW.plus(-back - RETENTION_MS)).expect("prunes"));
            assert_eq!(kept(&connection)[0], 1);
        }
        // A clock that was a year ahead for more than a batch is found out by the entries behind.
        let ahead = NOW.plus(365 * 24 * 60 * 60 * 1_000);
        connection.execute("update ledger set recorded_at = ?1 where seq < 2000", [ahead.0]).expect("writes");
        assert!(prune_entries(&connection, NOW.plus(1_000_000)).expect("prunes"));
        assert_eq!(kept(&connection)[0], BATCH as u64 + 1);
    }

    #[test]
    fn pruning_goes_in_batches_and_forgets_outcomes_and_keys() {
        let connection = store(2_500);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq).expect("writes");
        for id in ["a", "b"] {
            connection.execute("insert into outcome values (?1, '{}', ?2)", params![id, NOW.0]).expect("writes");
            idempotency::remember_known(&connection, [id], NOW).expect("writes");
        }
        let later = NOW.plus(RETENTION_MS + 1_000_000);
        let mut batches = 1;
        while prune(&connection, later).expect("prunes") {
            batches += 1;
        }
        assert_eq!((kept(&connection), batches), (vec![head.seq], 3));
        let left = "select (select count(*) from outcome) + (select count(*) from known_operation)";
        assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)), Ok(0));
    }
}
