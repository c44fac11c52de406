//! First answers by the caller's key, kept in the transaction of the effect.

use protocol::hash::Hash;
use protocol::ids::OperationId;
use protocol::link::{EntryId, Epoch};
use protocol::time::Millis;
use protocol::wire::Position;
use rusqlite::{Connection, OptionalExtension, params};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// How long a key is remembered: seven days.
const RETENTION_DAYS: i64 = 7;
/// The same in ms.
pub const RETENTION_MS: i64 = RETENTION_DAYS * DAY_MS;
/// How long an operation of an earlier epoch stays known, ms: no key that is older can name it.
pub const KNOWN_MS: i64 = RETENTION_MS + DAY_MS;

/// A key and the request it came with.
#[derive(Debug, Clone)]
pub struct Key {
    pub key: String,
    /// Of method, path and body.
    pub fingerprint: [u8; 16],
    /// Method and path.
    pub route: String,
}

impl Key {
    /// The operation that a write under this key is if it is done now. The day is in it, because a key that is used
    /// again when it has been forgotten is another operation; so is the request, because after a restore that is all
    /// by which another one under the same key can be told.
    pub fn operation(&self, now: Millis) -> OperationId {
        self.operation_of(now.0.div_euclid(DAY_MS))
    }

    fn operation_of(&self, day: i64) -> OperationId {
        OperationId::from_key(&format!("{day} {}", Hash(self.fingerprint)), &self.key)
    }
}

/// What a write under this key was called, if it was done before a restore: with central's state its effect came back, but not
/// its answer.
pub fn known(connection: &Connection, key: &Key, now: Millis) -> rusqlite::Result<Option<OperationId>> {
    first_known(connection, now, |day| key.operation_of(day))
}

/// Whether one line of a batch was: a restore may have brought back some of its lines only.
pub fn is_line_known(connection: &Connection, key: &Key, line: usize, now: Millis) -> rusqlite::Result<bool> {
    Ok(first_known(connection, now, |day| OperationId::line(&key.operation_of(day), line))?.is_some())
}

/// Whether an operation was done before a restore, by its own name.
pub fn is_operation_known(connection: &Connection, operation: &OperationId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select exists (select 1 from known_operation where id = ?1)")?
        .query_row([operation.as_str()], |row| row.get(0))
}

fn first_known(
    connection: &Connection,
    now: Millis,
    named: impl Fn(i64) -> OperationId,
) -> rusqlite::Result<Option<OperationId>> {
    let any: bool =
        connection.prepare_cached("select exists (select 1 from known_operation)")?.query_row([], |row| row.get(0))?;
    if !any {
        return Ok(None);
    }
    let today = now.0.div_euclid(DAY_MS);
    // The newest: an older one may have been forgotten when the key came again. The clock of the machine that was lost may have
    // been ahead.
    for day in (today - RETENTION_DAYS..=today + 1).rev() {
        let operation = named(day);
        if is_operation_known(connection, &operation)? {
            return Ok(Some(operation));
        }
    }
    Ok(None)
}

/// An epoch ends, and the next one opens with what it has come to: its operations stay known. Those of the epochs before it
/// have been remembered by then, or are not in the state (L10).
pub fn remember_ended(connection: &Connection, epoch: Epoch, now: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert or ignore into known_operation (id, at) select operation_id, recorded_at from ledger \
             where epoch = ?1 and recorded_at > ?2 and product_id is not null",
        )?
        .execute(params![epoch.get(), now.0 - KNOWN_MS])?;
    forgotten_before(connection, Millis(now.0 - KNOWN_MS + 1))
}

/// A restore takes over a state, which has the operations that are `told`, and of those recorded since `named_since` no other
/// ones, though the log may have them: a human has given them up. Of those from before then it has what the log still has.
pub fn take_over<'a>(
    connection: &Connection,
    told: impl IntoIterator<Item = &'a str>,
    named_since: Option<Millis>,
    now: Millis,
) -> rusqlite::Result<()> {
    let before = named_since.map_or(i64::MAX, |since| since.0);
    connection.prepare_cached("delete from known_operation where at >= ?1")?.execute([before])?;
    connection
        .prepare_cached(
            "insert or ignore into known_operation (id, at) select operation_id, recorded_at from ledger \
             where recorded_at > ?1 and recorded_at < ?2 and product_id is not null",
        )?
        .execute(params![now.0 - KNOWN_MS, before])?;
    remember_known(connection, told, now)?;
    let since = named_since.unwrap_or(now);
    connection.prepare_cached("update meta set named_since = ?1")?.execute([since.0])?;
    Ok(())
}

/// Operations recorded before this may be in the state and not be known any more.
pub(super) fn forgotten_before(connection: &Connection, at: Millis) -> rusqlite::Result<()> {
    connection.prepare_cached("update meta set named_since = max(named_since, ?1)")?.execute([at.0])?;
    Ok(())
}

/// Since when [`known_behind`] has every operation of earlier epochs that is in the state.
pub fn named_since(connection: &Connection, now: Millis) -> rusqlite::Result<Millis> {
    let since: i64 = connection.prepare_cached("select named_since from meta")?.query_row([], |row| row.get(0))?;
    Ok(Millis(since.max(now.0 - KNOWN_MS + 1)))
}

/// Those that are known of earlier epochs, by id behind one, at most so many; and behind which one there may be more.
pub fn known_behind(
    connection: &Connection,
    operation: &str,
    most: usize,
    now: Millis,
) -> rusqlite::Result<(Vec<OperationId>, Option<String>)> {
    let ids: Vec<String> = connection
        .prepare_cached("select id from known_operation where id > ?1 and at > ?2 order by id limit ?3")?
        .query_map(params![operation, now.0 - KNOWN_MS, most], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let last = ids.last().filter(|_| ids.len() == most).cloned();
    // Central tells ids as it has heard them, and what is none here is no operation of a key.
    Ok((ids.iter().filter_map(|id| OperationId::parse(id).ok()).collect(), last))
}

/// Keeps the ids of operations whose effects a restore takes in.
pub fn remember_known<'a>(
    connection: &Connection,
    ids: impl IntoIterator<Item = &'a str>,
    now: Millis,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("insert or replace into known_operation (id, at) values (?1, ?2)")?;
    for id in ids {
        insert.execute(params![id, now.0])?;
    }
    Ok(())
}

/// Operations are no longer known.
pub fn forget_known<'a>(connection: &Connection, ids: impl IntoIterator<Item = &'a str>) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("delete from known_operation where id = ?1")?;
    for id in ids {
        delete.execute([id])?;
    }
    Ok(())
}

/// Forgets the keys whose answers name a place behind this one.
pub fn forget_behind(connection: &Connection, place: EntryId) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("select key, position from idempotency")?;
    let mut rows = statement.query([])?;
    let mut behind: Vec<String> = Vec::new();
    while let Some(row) = rows.next()? {
        let answered: Option<Position> = row.get_ref(1)?.as_str()?.parse().ok();
        if answered.is_none_or(|answered| answered.at > place) {
            behind.push(row.get(0)?);
        }
    }
    let mut delete = connection.prepare_cached("delete from idempotency where key = ?1")?;
    for key in behind {
        delete.execute([key])?;
    }
    Ok(())
}

/// Forgets all operations of before a restore.
pub fn clear_known(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("delete from known_operation", [])?;
    Ok(())
}

/// The first answer.
#[derive(Debug, Clone)]
pub struct Record {
    /// Of method, path and body.
    pub fingerprint: Vec<u8>,
    /// Method and path, for people.
    pub route: String,
    pub at: Millis,
    pub status: u16,
    pub body: String,
    pub position: String,
}

/// What is known of a key.
pub fn find(connection: &Connection, key: &str) -> rusqlite::Result<Option<Record>> {
    connection
        .prepare_cached("select fingerprint, route, at, status, body, position from idempotency where key = ?1")?
        .query_row([key], |row| {
            Ok(Record {
                fingerprint: row.get(0)?,
                route: row.get(1)?,
                at: Millis(row.get(2)?),
                status: row.get(3)?,
                body: row.get(4)?,
                position: row.get(5)?,
            })
        })
        .optional()
}

/// Keeps the first answer.
pub fn bind(
    connection: &Connection,
    key: &Key,
    status: u16,
    body: &str,
    position: &str,
    now: Millis,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into idempotency (key, fingerprint, route, at, status, body, position) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![key.key, key.fingerprint.as_slice(), key.route, now.0, status, body, position])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::domain::Operation;

    use super::*;
    use crate::ledger::{self, SCHEMA};
    use crate::testing;

    fn key(key: &str, fingerprint: u8) -> Key {
        Key { key: key.into(), fingerprint: [fingerprint; 16], route: String::new() }
    }

    fn all_known(connection: &Connection, now: Millis) -> Vec<String> {
        let (mut all, mut behind) = (Vec::new(), Some(String::new()));
        while let Some(operation) = behind {
            let (known, last) = known_behind(connection, &operation, 1, now).expect("reads");
            all.extend(known.iter().map(OperationId::to_string));
            behind = last;
        }
        all
    }

    #[test]
    fn an_operation_is_known_for_as_long_as_its_key_and_the_key_names_another_one_then() {
        let connection = runtime::sqlite::memory(SCHEMA).expect("opens");
        let first = Millis(1_700_000_000_000);
        let id = key("k", 1).operation(first);
        remember_known(&connection, [id.as_str()], first).expect("writes");
        let known = |key: Key, at| known(&connection, &key, at).expect("reads");
        for later in [0, DAY_MS, RETENTION_MS] {
            assert_eq!(known(key("k", 1), first.plus(later)).as_ref(), Some(&id), "{later}");
        }
        assert_eq!(known(key("k", 1), first.plus(KNOWN_MS)), None);
        assert!(
            known(key("k", 1), first.plus(-DAY_MS)).is_some(),
            "by a clock that is a day behind the lost machine's"
        );
        assert_ne!(key("k", 1).operation(first.plus(RETENTION_MS)), id);
        let again = key("k", 1).operation(first.plus(RETENTION_MS));
        remember_known(&connection, [again.as_str()], first).expect("writes");
        assert_eq!(known(key("k", 1), first.plus(RETENTION_MS)), Some(again), "of two the newer one");
        assert_eq!(known(key("k", 2), first), None, "another request");
        assert_eq!(known(key("l", 1), first), None, "another key");
    }

    #[test]
    fn operations_of_earlier_epochs_are_known_for_as_long_as_a_key_can_name_them() {
        let connection = testing::store(&[("tea", 5)]);
        let sell = |id: &str, at| {
            testing::act(&connection, id, "tea", Operation::Sell { quantity: testing::quantity(1) }, at);
        };
        let now = testing::NOW.plus(KNOWN_MS + 5);
        sell("old", testing::NOW.plus(5));
        sell("young", testing::NOW.plus(6));
        ledger::open_epoch(&connection, None, now).expect("opens");
        sell("present", now);
        assert_eq!(all_known(&connection, now), ["young"]);
        assert_eq!(all_known(&connection, now.plus(1)), [""; 0]);
        let since = |now| named_since(&connection, now).expect("reads");
        assert_eq!((since(now), since(now.plus(1))), (testing::NOW.plus(6), testing::NOW.plus(7)));
        assert_eq!(since(now.plus(-DAY_MS)), testing::NOW.plus(6), "whatever the clock says now");
    }

    #[test]
    fn a_state_that_is_taken_over_has_what_is_told_and_of_before_that_what_the_log_has() {
        let connection = testing::store(&[]);
        let at = |ms| testing::NOW.plus(ms);
        let create = |id: &str, at| {
            let new = Operation::Create { name: "Tea".into(), quantity: 1, low_at: None };
            testing::act(&connection, id, id, new, at);
        };
        create("old", at(1));
        create("young", at(5));
        for (since, known) in [(None, "old told young"), (Some(at(5)), "old told"), (Some(at(1)), "told")] {
            clear_known(&connection).expect("writes");
            remember_known(&connection, ["young"], at(6)).expect("writes");
            take_over(&connection, ["told"], since, at(9)).expect("writes");
            assert_eq!(all_known(&connection, at(9)).join(" "), known, "{since:?}");
            assert_eq!(named_since(&connection, at(9)).expect("reads"), since.unwrap_or(at(9)));
        }
    }

    #[test]
    fn what_is_pruned_may_be_in_the_state_and_is_not_named() {
        let connection = testing::ledger(6);
        let since = || named_since(&connection, testing::NOW).expect("reads");
        let head = ledger::head(&connection).expect("reads").cursor;
        ledger::store_acked(&connection, head.epoch, head.seq - 1).expect("writes");
        let before = since();
        ledger::prune_entries(&connection, testing::NOW).expect("prunes");
        assert_eq!(since(), before, "nothing is old enough");
        ledger::prune_entries(&connection, testing::NOW.plus(5)).expect("prunes");
        assert_eq!(
            since(),
            testing::NOW.plus(4),
            "that of the last but one, and the last one is acknowledged and stays"
        );
        remember_known(&connection, ["a"], testing::NOW.plus(7)).expect("writes");
        ledger::prune(&connection, ledger::Kind::Known, testing::NOW.plus(8 + KNOWN_MS)).expect("prunes");
        assert_eq!(since(), testing::NOW.plus(8));
    }
}
