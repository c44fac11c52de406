//! What the store forgets, and when: acknowledged entries, outcomes and keys, purchases that are over, dead letters.
//! In steps of a bounded size, each found by an index, so that no sale waits for long.

use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::sqlite::id_at;
use rusqlite::{Connection, params};

use super::idempotency;

/// How long an entry is kept beyond its acknowledgement, and a command's answer, a purchase that is over and a dead letter
/// beyond their day, ms: thirty days (L1).
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// How long a transfer is kept that has left, or was received, ms: 37 days. Central announces none again that was begun more
/// than thirty days ago (B10), so what it announces is still known as received here.
const TRANSFERS_MS: i64 = RETENTION_MS + 7 * 24 * 60 * 60 * 1_000;
/// Rows that are forgotten in one go, at most.
const BATCH: usize = 1_000;
/// Entries among which an old one is looked for, at most: a sale waits meanwhile.
const LOOKED_AT: usize = 10_000;
/// Dead letters kept, at most: somebody who sends nonsense must not fill the disk.
const LETTERS_MAX: i64 = 10_000;

// An answer that central may not have heard yet is kept, and so is that of a purchase whose units still wait. Neither is
// passed on the way to those that are not.
const OUTCOMES: &str = "delete from outcome where command_id in (select command_id from outcome where waits = 0 \
     and at < min(?1, coalesce((select recorded_at from ledger join meta on ledger.epoch = meta.epoch \
       and ledger.seq = meta.acked + 1), ?1)) \
     order by at limit ?2)";
const KEYS: &str =
    "delete from idempotency where key in (select key from idempotency where at < ?1 order by at limit ?2)";
const KNOWN: &str =
    "delete from known_operation where id in (select id from known_operation where at < ?1 order by at limit ?2)";
const PURCHASES: &str = "delete from purchase where number in (select number from purchase \
     where (status = 'cancelled' or picked_at is not null) and coalesce(picked_at, settled_at) < ?1 \
     order by coalesce(picked_at, settled_at) limit ?2)";
const RESERVATIONS: &str = "delete from reservation where number in (select number from reservation \
     where settled_at is not null and settled_at < ?1 order by settled_at limit ?2)";
const TRANSFERS: &str = "delete from transfer where number in (select number from transfer \
     where settled_at is not null and settled_at < ?1 order by settled_at limit ?2)";
const LETTERS: &str = "delete from dead_letter where id in (select id from dead_letter where received_at < ?1 order by received_at limit ?2)";
const LETTERS_TOO_MANY: &str =
    "delete from dead_letter where id in (select id from dead_letter where id <= ?1 order by id limit ?2)";
const OLDEST: &str = "select ledger.epoch, ledger.seq, recorded_at, \
     (ledger.epoch < meta.epoch and acked > 0) or (ledger.epoch = meta.epoch and ledger.seq < acked) \
     from ledger cross join meta order by ledger.epoch, ledger.seq limit ?1";
const PASSED: &str = "delete from ledger where (epoch, seq) <= (?1, ?2)";
const PASSED_ITEMS: &str = "delete from ledger_item where (epoch, seq) <= (?1, ?2)";

/// Forgets a batch of each. Says whether there may be more.
pub fn prune(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let mut more = prune_entries(connection, Millis(now.0 - RETENTION_MS))?;
    for (sql, kept_ms) in [
        (OUTCOMES, RETENTION_MS),
        (KEYS, idempotency::RETENTION_MS),
        (KNOWN, idempotency::KNOWN_MS),
        (PURCHASES, RETENTION_MS),
        (RESERVATIONS, RETENTION_MS),
        (TRANSFERS, TRANSFERS_MS),
        (LETTERS, RETENTION_MS),
    ] {
        let forgotten = connection.prepare_cached(sql)?.execute(params![now.0 - kept_ms, BATCH])?;
        if sql == KNOWN && forgotten > 0 {
            idempotency::forgotten_before(connection, Millis(now.0 - kept_ms))?;
        }
        more |= forgotten == BATCH;
    }
    let newest: i64 =
        connection.prepare_cached("select coalesce(max(id), 0) from dead_letter")?.query_row([], |row| row.get(0))?;
    let too_many = connection.prepare_cached(LETTERS_TOO_MANY)?.execute(params![newest - LETTERS_MAX, BATCH])?;
    Ok(more || too_many == BATCH)
}

/// Forgets a batch of the oldest entries, recorded before a time, that lie below the acknowledged one, which always
/// stays, as do those of an earlier epoch until central has accepted the present one: they may have to prove something
/// ([`continues`](protocol::link::Log::continues)). Says whether there may be more. What is left has no holes: it begins at the first entry that is too young.
pub fn prune_entries(connection: &Connection, before: Millis) -> rusqlite::Result<bool> {
    let now = before.plus(RETENTION_MS);
    let oldest: Vec<(EntryId, Millis, bool)> = connection
        .prepare_cached(OLDEST)?
        .query_map([BATCH], |row| Ok((id_at(row, 0)?, Millis(row.get(2)?), row.get(3)?)))?
        .collect::<rusqlite::Result<_>>()?;
    // Entries of the future hold nothing up once there are old ones behind them: then the clock was wrong that recorded
    // them. Until then it may be this clock that is: set back an hour, it must not forget the last hour.
    let passed: Vec<_> = oldest
        .iter()
        .take_while(|(_, at, acked)| (*acked || planted(Bug::PrunedBeyondAck)) && (*at < before || *at > now))
        .collect();
    let last_old = passed.iter().rfind(|(_, at, _)| *at < before).copied();
    let last = match (last_old, passed.last()) {
        (None, Some((place, ..))) if passed.len() == BATCH && is_old_behind(connection, *place, before)? => {
            passed.last().copied()
        }
        (last_old, _) => last_old,
    };
    let Some((place, ..)) = last else { return Ok(false) };
    let newest = passed.iter().filter(|(id, ..)| id <= place).map(|(_, at, _)| at.plus(1)).max();
    idempotency::forgotten_before(connection, newest.unwrap_or(before))?;
    connection.prepare_cached(PASSED_ITEMS)?.execute(params![place.epoch.get(), place.seq.get()])?;
    let deleted = connection.prepare_cached(PASSED)?.execute(params![place.epoch.get(), place.seq.get()])?;
    Ok(deleted == BATCH)
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
        let mut batches = 1;
        while prune(&connection, later).expect("prunes") {
            batches += 1;
        }
        assert_eq!((kept(&connection), batches), (vec![head.seq.get()], 3));
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
            prune(&connection, before.plus(RETENTION_MS)).expect("prunes");
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
        prune(&connection, NOW.plus(RETENTION_MS + 1_000_000)).expect("prunes");
        assert_eq!(outcomes(&connection).len(), 4_000);
        let steps = steps(&connection, OUTCOMES);
        assert!((1..300).contains(&steps), "{steps} steps");
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
        prune(&connection, NOW.plus(RETENTION_MS)).expect("prunes");
        assert_eq!(left().len(), 4, "not a day too early");
        prune(&connection, NOW.plus(RETENTION_MS + 1)).expect("prunes");
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
        prune(&connection, NOW.plus(RETENTION_MS + 6 * 24 * 60 * 60 * 1_000)).expect("prunes");
        assert_eq!(left(), 2);
        prune(&connection, NOW.plus(TRANSFERS_MS + 1)).expect("prunes");
        assert_eq!(left(), 1);
    }

    #[test]
    fn of_very_many_dead_letters_the_oldest_go_first_whatever_their_age() {
        let connection = testing::ledger(1);
        let letters = "insert into dead_letter with recursive n(i) as (select 1 union all select i + 1 from n \
             where i < ?1) select null, i, '', '', '', '', ?2 from n";
        connection.execute(letters, params![LETTERS_MAX + 1_500, NOW.0]).expect("writes");
        while prune(&connection, NOW).expect("prunes") {}
        let left = "select min(cast(entry_id as integer)), count(*) from dead_letter";
        let left = connection.query_row(left, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        assert_eq!(left, Ok((1_501, LETTERS_MAX)));
    }

    #[test]
    fn what_may_be_forgotten_is_found_by_index() {
        let connection = testing::ledger(1);
        for sql in [OUTCOMES, KEYS, KNOWN, PURCHASES, LETTERS, LETTERS_TOO_MANY, OLDEST, PASSED] {
            let plan = plan(&connection, sql);
            // The oldest entries are read in the order of the ledger itself, up to the limit; `meta` has one row.
            let may = |step: &&str| step.contains("USING") || *step == "SCAN meta" || sql == OLDEST;
            let reads_all: Vec<&str> = plan.lines().filter(|step| step.starts_with("SCAN") && !may(step)).collect();
            assert!(reads_all.is_empty() && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
