//! What the store forgets, and when: acknowledged entries, outcomes and keys, purchases that are over, dead letters.
//!
//! **Guarantees.** A step takes rows of one kind, found by an index, and is bounded by their number and by their bytes, so
//! that no sale waits for long.

use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::sqlite::id_at;
use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::idempotency;

/// How long an entry is kept beyond its acknowledgement, and a command's answer, a purchase that is over and a dead letter
/// beyond their day, ms: thirty days (L1).
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// How long a transfer is kept that has left, or was received, ms: 37 days. Central announces none again that was begun more
/// than thirty days ago (B10), so what it announces is still known as received here.
const TRANSFERS_MS: i64 = RETENTION_MS + 7 * 24 * 60 * 60 * 1_000;
/// Rows that are forgotten in one step, at most.
const BATCH: usize = 200;
/// A step ends with the row that makes their texts so many bytes: each page of these is read. An entry's text has all of its
/// items, so they are bounded, too.
const BYTES: usize = 1 << 20;
/// Entries among which an old one is looked for, at most: a sale waits meanwhile.
const LOOKED_AT: usize = 10_000;
/// Dead letters kept, at most: somebody who sends nonsense must not fill the disk.
const LETTERS_MAX: i64 = 10_000;

// An answer that central may not have heard yet is kept, and so is that of a purchase whose units still wait. Neither is
// passed on the way to those that are not.
const OUTCOMES: &str = "select command_id, octet_length(body) from outcome where waits = 0 \
     and at < min(?1, coalesce((select recorded_at from ledger join meta on ledger.epoch = meta.epoch \
       and ledger.seq = meta.acked + 1), ?1)) \
     order by at limit ?2";
const KEYS: &str = "select key, octet_length(body) from idempotency where at < ?1 order by at limit ?2";
const KNOWN: &str = "select id, 0 from known_operation where at < ?1 order by at limit ?2";
const PURCHASES: &str = "select number, coalesce(octet_length(lines), 0) from purchase \
     where (status = 'cancelled' or picked_at is not null) and coalesce(picked_at, settled_at) < ?1 \
     order by coalesce(picked_at, settled_at) limit ?2";
const RESERVATIONS: &str = "select number, octet_length(lines) + coalesce(octet_length(confirmed_lines), 0) from reservation \
     where settled_at is not null and settled_at < ?1 order by settled_at limit ?2";
const TRANSFERS: &str = "select number, octet_length(body) from transfer \
     where settled_at is not null and settled_at < ?1 order by settled_at limit ?2";
const LETTERS: &str =
    "select id, octet_length(body) from dead_letter where received_at < ?1 order by received_at limit ?2";
const LETTERS_TOO_MANY: &str = "select id, octet_length(body) from dead_letter where id <= ?1 order by id limit ?2";
const LETTER: &str = "delete from dead_letter where id = ?1";
const OLDEST: &str = "select ledger.epoch, ledger.seq, recorded_at, \
     (ledger.epoch < meta.epoch and acked > 0) or (ledger.epoch = meta.epoch and ledger.seq < acked), octet_length(body) \
     from ledger cross join meta order by ledger.epoch, ledger.seq limit ?1";
const PASSED: &str = "delete from ledger where (epoch, seq) <= (?1, ?2)";
const PASSED_ITEMS: &str = "delete from ledger_item where (epoch, seq) <= (?1, ?2)";

/// What is forgotten in steps of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Entries,
    Outcomes,
    Keys,
    Known,
    Purchases,
    Reservations,
    Transfers,
    Letters,
    /// Dead letters beyond those that are kept, whatever their age.
    LettersTooMany,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Entries,
        Self::Outcomes,
        Self::Keys,
        Self::Known,
        Self::Purchases,
        Self::Reservations,
        Self::Transfers,
        Self::Letters,
        Self::LettersTooMany,
    ];
}

/// Forgets some of a kind, those that are oldest first. Says whether there may be more.
pub fn prune(connection: &Connection, kind: Kind, now: Millis) -> rusqlite::Result<bool> {
    let since = Millis(now.0 - RETENTION_MS);
    match kind {
        Kind::Entries => prune_entries(connection, since),
        Kind::Outcomes => forget(connection, OUTCOMES, "delete from outcome where command_id = ?1", since.0),
        Kind::Keys => {
            let since = now.0 - idempotency::RETENTION_MS;
            forget(connection, KEYS, "delete from idempotency where key = ?1", since)
        }
        Kind::Known => {
            let since = now.0 - idempotency::KNOWN_MS;
            let before = connection.total_changes();
            let more = forget(connection, KNOWN, "delete from known_operation where id = ?1", since)?;
            if connection.total_changes() > before {
                idempotency::forgotten_before(connection, Millis(since))?;
            }
            Ok(more)
        }
        Kind::Purchases => forget(connection, PURCHASES, "delete from purchase where number = ?1", since.0),
        Kind::Reservations => forget(connection, RESERVATIONS, "delete from reservation where number = ?1", since.0),
        Kind::Transfers => {
            forget(connection, TRANSFERS, "delete from transfer where number = ?1", now.0 - TRANSFERS_MS)
        }
        Kind::Letters => forget(connection, LETTERS, LETTER, since.0),
        Kind::LettersTooMany => {
            let newest = "select coalesce(max(id), 0) from dead_letter";
            let newest: i64 = connection.prepare_cached(newest)?.query_row([], |row| row.get(0))?;
            forget(connection, LETTERS_TOO_MANY, LETTER, newest - LETTERS_MAX)
        }
    }
}

/// Deletes rows of those that are found up to `last`. Says whether there may be more.
fn forget(connection: &Connection, find: &str, delete: &str, last: i64) -> rusqlite::Result<bool> {
    let mut found = connection.prepare_cached(find)?;
    let found = found.query_map(params![last, BATCH], |row| Ok((row.get::<_, Value>(0)?, row.get(1)?)))?;
    let (taken, more) = step_of(found.collect::<rusqlite::Result<_>>()?);
    let mut delete = connection.prepare_cached(delete)?;
    for key in taken {
        delete.execute([key])?;
    }
    Ok(more)
}

/// Those of what was found that are forgotten in this step, and whether there may be more. Each has its bytes.
fn step_of<T>(found: Vec<(T, usize)>) -> (Vec<T>, bool) {
    let (all, mut bytes) = (found.len(), 0);
    let fits = |(_, more): &(T, usize)| {
        let fits = bytes < BYTES;
        bytes += more;
        fits
    };
    let taken: Vec<T> = found.into_iter().take_while(fits).map(|(row, _)| row).collect();
    let more = taken.len() < all || all == BATCH;
    (taken, more)
}

/// Forgets some of the oldest entries, recorded before a time, that lie below the acknowledged one, which always
/// stays, as do those of an earlier epoch until central has accepted the present one: they may have to prove something
/// ([`continues`](protocol::link::Log::continues)). Says whether there may be more. What is left has no holes: it begins at the first entry that is too young.
pub fn prune_entries(connection: &Connection, before: Millis) -> rusqlite::Result<bool> {
    let now = before.plus(RETENTION_MS);
    let mut oldest = connection.prepare_cached(OLDEST)?;
    let oldest = oldest
        .query_map([BATCH], |row| Ok(((id_at(row, 0)?, Millis(row.get(2)?), row.get::<_, bool>(3)?), row.get(4)?)))?;
    let (oldest, more) = step_of::<(EntryId, Millis, bool)>(oldest.collect::<rusqlite::Result<_>>()?);
    // Entries of the future hold nothing up once there are old ones behind them: then the clock was wrong that recorded
    // them. Until then it may be this clock that is: set back an hour, it must not forget the last hour.
    let passed: Vec<_> = oldest
        .iter()
        .take_while(|(_, at, acked)| (*acked || planted(Bug::PrunedBeyondAck)) && (*at < before || *at > now))
        .collect();
    let last_old = passed.iter().rfind(|(_, at, _)| *at < before).copied();
    let last = match (last_old, passed.last()) {
        (None, Some((place, ..)))
            if more && passed.len() == oldest.len() && is_old_behind(connection, *place, before)? =>
        {
            passed.last().copied()
        }
        (last_old, _) => last_old,
    };
    let Some((place, ..)) = last else { return Ok(false) };
    let newest = passed.iter().filter(|(id, ..)| id <= place).map(|(_, at, _)| at.plus(1)).max();
    idempotency::forgotten_before(connection, newest.unwrap_or(before))?;
    connection.prepare_cached(PASSED_ITEMS)?.execute(params![place.epoch.get(), place.seq.get()])?;
    let deleted = connection.prepare_cached(PASSED)?.execute(params![place.epoch.get(), place.seq.get()])?;
    Ok(more && deleted == oldest.len())
}

/// Whether there is an old, acknowledged entry among those that follow a place.
fn is_old_behind(connection: &Connection, place: EntryId, before: Millis) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "select exists (select 1 from (select epoch, seq, recorded_at from ledger \
               where (epoch, seq) > (?1, ?2) order by epoch, seq limit ?4) next cross join meta \
             where recorded_at < ?3 \
             and (next.epoch < meta.epoch or (next.epoch = meta.epoch and next.seq < acked)))",
        )?
        .query_row(params![place.epoch.get(), place.seq.get(), before.0, LOOKED_AT], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use protocol::domain::Lines;
    use protocol::wire::{Became, Outcome, PurchaseRef};

    use super::*;
    use crate::ledger::testing::{plan, steps};
    use crate::ledger::{self, store_acked};
    use crate::testing::{self, NOW};

    fn kept(connection: &Connection) -> Vec<u64> {
        let mut statement = connection.prepare("select seq from ledger order by epoch, seq").expect("prepares");
        statement.query_map([], |row| row.get(0)).expect("reads").collect::<rusqlite::Result<_>>().expect("reads")
    }

    fn prune_all(connection: &Connection, now: Millis) {
        for kind in Kind::ALL {
            while prune(connection, kind, now).expect("prunes") {}
        }
    }

    #[test]
    fn pruning_goes_up_to_the_first_entry_that_is_young_or_not_acknowledged() {
        let connection = testing::ledger(6);
        let head = ledger::head(&connection).expect("reads").cursor;
        let later = NOW.plus(1_000_000);
        assert!(!prune_entries(&connection, later).expect("prunes"));
        assert_eq!(kept(&connection)[0], 1, "nothing is acknowledged");
        store_acked(&connection, head.epoch, head.seq - 1).expect("writes");
        connection.execute("update ledger set recorded_at = ?1 where seq = 4", [later.0]).expect("writes");
        prune_entries(&connection, later).expect("prunes");
        assert_eq!(kept(&connection), (4..=head.seq.get()).collect::<Vec<_>>(), "no holes");
        let wrong = later.plus(RETENTION_MS + 1);
        connection.execute("update ledger set recorded_at = ?1 where seq = 4", [wrong.0]).expect("writes");
        prune_entries(&connection, later).expect("prunes");
        assert_eq!(kept(&connection), [head.seq.get() - 1, head.seq.get()], "the acknowledged one stays");
    }

    #[test]
    fn a_clock_set_back_forgets_nothing() {
        let connection = testing::ledger(2_500);
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
    fn an_old_entry_is_not_looked_for_in_all_of_the_ledger() {
        let connection = testing::ledger(11_200);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq).expect("writes");
        let recorded = |at: Millis, from: usize, to: usize| {
            let sql = "update ledger set recorded_at = ?1 where seq between ?2 and ?3";
            connection.execute(sql, params![at.0, from, to]).expect("writes");
        };
        let (last, later) = (BATCH + LOOKED_AT, NOW.plus(1_000_000));
        recorded(NOW.plus(365 * 24 * 60 * 60 * 1_000), 1, last);
        assert!(!prune_entries(&connection, later).expect("prunes"));
        recorded(NOW, last, last);
        assert!(prune_entries(&connection, later).expect("prunes"));
    }

    #[test]
    fn pruning_goes_in_batches_and_forgets_all_that_grows() {
        let connection = testing::ledger(2_500);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq).expect("writes");
        for id in ["a", "b"] {
            connection
                .execute("insert into outcome (command_id, body, at) values (?1, '{}', ?2)", params![id, NOW.0])
                .expect("writes");
            idempotency::remember_known(&connection, [id], NOW).expect("writes");
            let letter = "insert into dead_letter values (null, ?1, '', '', '', '', ?2)";
            connection.execute(letter, params![id, NOW.0]).expect("writes");
        }
        let later = NOW.plus(RETENTION_MS + 1_000_000);
        assert!(prune(&connection, Kind::Entries, later).expect("prunes"));
        assert_eq!(kept(&connection)[0], BATCH as u64 + 1);
        prune_all(&connection, later);
        assert_eq!(kept(&connection), [head.seq.get()]);
        let left = "select (select count(*) from outcome) + (select count(*) from known_operation) \
                    + (select count(*) from dead_letter)";
        assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)), Ok(0));
    }

    /// The outcome of an attempt to buy, and the purchase if its units have left.
    fn buy(connection: &Connection, number: u128, at: Millis) -> (Outcome, PurchaseRef) {
        let purchase = PurchaseRef {
            from_allotment: None,
            purchase_id: uuid::Uuid::from_u128(number).to_string().parse().expect("an id"),
            attempt: testing::operation(&format!("attempt-{number}")),
            lines: Lines::one(testing::product("tea"), testing::quantity(1)),
            reference: None,
            created_at: at,
            expires_at: at,
        };
        ledger::purchases::confirm(connection, &purchase, at).expect("writes");
        let became = Became::Confirmed { purchase: purchase.clone(), item: None, picked: false };
        let outcome = Outcome { command: purchase.attempt.clone(), at, became };
        ledger::outcomes::keep(connection, &outcome).expect("writes");
        (outcome, purchase)
    }

    fn outcomes(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("select command_id from outcome order by 1").expect("is valid");
        let ids = statement.query_map([], |row| row.get(0)).expect("runs");
        ids.collect::<rusqlite::Result<_>>().expect("reads")
    }

    #[test]
    fn an_outcome_is_kept_while_units_wait_and_until_central_may_have_heard_of_it() {
        let connection = testing::ledger(9);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq - 1).expect("writes");
        for number in 0..240 {
            let at = NOW.plus(i64::try_from(number * 7 % 240).expect("is small"));
            let (outcome, purchase) = buy(&connection, number, at);
            match number % 4 {
                0 => {}
                1 => {
                    ledger::purchases::pick(&connection, purchase.purchase_id, at).expect("writes");
                    ledger::outcomes::keep(&connection, &outcome.picked()).expect("writes");
                }
                2 => {
                    ledger::purchases::cancel(&connection, purchase.purchase_id, at).expect("writes");
                    let became = Became::Cancelled { purchase, item: None };
                    ledger::outcomes::keep(&connection, &Outcome { became, ..outcome }).expect("writes");
                }
                _ => {
                    // What its cancel was answered, which waits for nobody.
                    let command = testing::operation(&format!("cancel-{number}"));
                    ledger::outcomes::keep(&connection, &Outcome { command, ..outcome }).expect("writes");
                }
            }
        }
        // The oldest entry that central has not; what is younger it may have to hear again.
        connection
            .execute("update ledger set recorded_at = ?1 where seq = ?2", params![NOW.0 + 100, head.seq.get()])
            .expect("writes");
        let may_go = "select command_id from outcome where at < ?1 and at < ?2 and not exists (select 1 from purchase \
             where attempt = command_id and status = 'confirmed' and picked_at is null)";
        for (before, unheard) in [(NOW.plus(60), NOW.0 + 100), (NOW.plus(160), NOW.0 + 100)] {
            let mut statement = connection.prepare(may_go).expect("is valid");
            let going = statement.query_map([before.0, unheard], |row| row.get::<_, String>(0)).expect("runs");
            let going: Vec<String> = going.collect::<rusqlite::Result<_>>().expect("reads");
            assert!(going.len() > 20, "{}", going.len());
            let mut stay = outcomes(&connection);
            stay.retain(|id| !going.contains(id));
            prune(&connection, Kind::Outcomes, before.plus(RETENTION_MS)).expect("prunes");
            assert_eq!(outcomes(&connection), stay);
        }
    }

    #[test]
    fn outcomes_that_stay_are_not_looked_at() {
        let connection = testing::ledger(9);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq - 1).expect("writes");
        for number in 0..2_000 {
            let (outcome, _) = buy(&connection, number, NOW);
            // Central has not heard of these.
            let command = testing::operation(&format!("other-{number}"));
            let at = NOW.plus(1_000);
            ledger::outcomes::keep(&connection, &Outcome { command, at, ..outcome }).expect("writes");
        }
        let (outcome, _) = buy(&connection, 9_999, NOW);
        ledger::outcomes::keep(&connection, &outcome.picked()).expect("writes");
        connection.prepare_cached(OUTCOMES).expect("is valid").reset_status(rusqlite::StatementStatus::VmStep);
        prune(&connection, Kind::Outcomes, NOW.plus(RETENTION_MS + 1_000_000)).expect("prunes");
        assert_eq!(outcomes(&connection).len(), 4_000);
        let steps = steps(&connection, OUTCOMES);
        assert!((1..300).contains(&steps), "{steps} steps");
    }

    #[test]
    fn of_long_texts_a_step_forgets_few() {
        let connection = testing::ledger(6);
        let head = ledger::head(&connection).expect("reads").cursor;
        store_acked(&connection, head.epoch, head.seq).expect("writes");
        let long = "x".repeat(BYTES / 2);
        connection.execute("update ledger set body = ?1", [&long]).expect("writes");
        let keys = "insert into idempotency with recursive n(i) as (select 1 union all select i + 1 from n where i < 3) \
             select i, x'', '', ?1, 200, ?2, '' from n";
        connection.execute(keys, params![NOW.0, long]).expect("writes");
        let left = || {
            let keys = "select count(*) from idempotency";
            (connection.query_row(keys, [], |row| row.get::<_, i64>(0)).expect("reads"), kept(&connection)[0])
        };
        let later = NOW.plus(RETENTION_MS + 1_000_000);
        assert!(prune(&connection, Kind::Keys, later).expect("prunes"));
        assert_eq!(left(), (1, 1), "one kind, and of that half a step and another half");
        assert!(prune(&connection, Kind::Entries, later).expect("prunes"));
        assert_eq!(left(), (1, 3));
        prune_all(&connection, later);
        assert_eq!(left(), (0, head.seq.get()));
    }

    #[test]
    fn a_purchase_is_kept_until_it_is_over_and_a_month_beyond() {
        let connection = testing::ledger(1);
        let columns =
            "purchase_id, attempt, product_id, quantity, created_at, expires_at, settled_at, status, picked_at";
        let insert = format!("insert into purchase ({columns}) values (?1, ?1, 'tea', 1, ?2, ?2, ?2, ?3, ?4)");
        for (id, status, picked) in [
            ("waits", "confirmed", None),
            ("picked", "confirmed", Some(NOW.0)),
            ("picked late", "confirmed", Some(NOW.0 + 5)),
            ("cancelled", "cancelled", None),
        ] {
            connection.execute(&insert, params![id, NOW.0, status, picked]).expect("writes");
        }
        let left = || {
            let mut statement =
                connection.prepare("select purchase_id from purchase order by number").expect("is valid");
            let ids = statement.query_map([], |row| row.get::<_, String>(0)).expect("runs");
            ids.collect::<rusqlite::Result<Vec<_>>>().expect("reads")
        };
        prune_all(&connection, NOW.plus(RETENTION_MS));
        assert_eq!(left().len(), 4, "not a day too early");
        prune_all(&connection, NOW.plus(RETENTION_MS + 1));
        assert_eq!(left(), ["waits", "picked late"]);
    }

    #[test]
    fn a_transfer_is_kept_for_longer_than_central_may_announce_it_again() {
        let connection = testing::ledger(1);
        let insert = "insert into transfer (transfer_id, direction, status, body, settled_at) \
             values ('received', 'in', 'received', '{}', ?1), ('on its way', 'in', 'shipped', '{}', null)";
        connection.execute(insert, [NOW.0]).expect("writes");
        let left = || {
            let sql = "select count(*) from transfer";
            connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("reads")
        };
        prune_all(&connection, NOW.plus(RETENTION_MS + 6 * 24 * 60 * 60 * 1_000));
        assert_eq!(left(), 2);
        prune_all(&connection, NOW.plus(TRANSFERS_MS + 1));
        assert_eq!(left(), 1);
    }

    #[test]
    fn of_very_many_dead_letters_the_oldest_go_first_whatever_their_age() {
        let connection = testing::ledger(1);
        let letters = "insert into dead_letter with recursive n(i) as (select 1 union all select i + 1 from n \
             where i < ?1) select null, i, '', '', '', '', ?2 from n";
        connection.execute(letters, params![LETTERS_MAX + 1_500, NOW.0]).expect("writes");
        prune_all(&connection, NOW);
        let left = "select min(cast(entry_id as integer)), count(*) from dead_letter";
        let left = connection.query_row(left, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        assert_eq!(left, Ok((1_501, LETTERS_MAX)));
    }

    #[test]
    fn what_may_be_forgotten_is_found_by_index() {
        let connection = testing::ledger(1);
        for sql in [
            OUTCOMES,
            KEYS,
            KNOWN,
            PURCHASES,
            RESERVATIONS,
            TRANSFERS,
            LETTERS,
            LETTERS_TOO_MANY,
            OLDEST,
            PASSED,
            PASSED_ITEMS,
        ] {
            let plan = plan(&connection, sql);
            // The oldest entries are read in the order of the ledger itself, up to the limit; `meta` has one row.
            let may = |step: &&str| step.contains("USING") || *step == "SCAN meta" || sql == OLDEST;
            let reads_all: Vec<&str> = plan.lines().filter(|step| step.starts_with("SCAN") && !may(step)).collect();
            assert!(reads_all.is_empty() && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
