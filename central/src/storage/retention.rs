//! Forgetting what is no longer needed, in small batches, so that nobody's write waits for it. How long what is kept
//! stands in OPERATIONS.md, "Retention".

use std::collections::BTreeSet;

use protocol::ids::StoreId;
use protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension, params};

use crate::storage::idempotency;
use crate::storage::stores;

/// How long an acknowledged command and its answer are kept, ms: thirty days (L1).
pub const COMMANDS_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// How long a purchase that has ended, and is picked if it was confirmed, is kept, ms: 400 days.
const PURCHASES_MS: i64 = 400 * 24 * 60 * 60 * 1_000;
/// How long a reservation that has ended is kept, ms: as long as its store keeps it.
const RESERVATIONS_MS: i64 = COMMANDS_MS;
/// How long a transfer that has ended is kept, ms: 37 days, a week longer than by a state that is told one is announced again
/// ([`promises::transfers`](crate::promises::transfers)).
const TRANSFERS_MS: i64 = COMMANDS_MS + 7 * 24 * 60 * 60 * 1_000;
/// How long it is known which operations a state has named, ms: eight days, as long as a store knows them.
const OPERATIONS_MS: i64 = 8 * 24 * 60 * 60 * 1_000;
/// How long a dead letter is kept, ms: 90 days. The entry itself stays in the ledger.
const DEAD_LETTERS_MS: i64 = 90 * 24 * 60 * 60 * 1_000;
/// Rows of a table looked at in one transaction.
const BATCH: usize = 500;

const KEYS: &str = "delete from idempotency where key in (select key from idempotency where at < ?1 limit ?2)";
const OUTCOMES: &str = "select store_id, command_id, exists (select 1 from purchase \
     where purchase.attempt = outcome.command_id and (purchase.status = 'pending' \
     or purchase.status = 'confirmed' and purchase.picked_at is null)) from outcome where at < ?1 order by at limit ?2";
const REQUESTS: &str = "delete from request where number in (select number from request \
     where settled_at < ?1 and status <> 'pending' limit ?2)";
const PURCHASES: &str = "delete from purchase where number in (select number from purchase indexed by purchase_by_age \
     where settled_at is not null and (status <> 'confirmed' or picked_at is not null) and settled_at < ?1 \
     order by settled_at limit ?2)";
const RESERVATIONS: &str = "delete from reservation where number in (select number from reservation \
     indexed by reservation_by_age where settled_at < ?1 limit ?2)";
const TRANSFERS: &str = "delete from transfer where number in (select number from transfer \
     indexed by transfer_by_age where settled_at < ?1 limit ?2)";
const OPERATIONS: &str = "delete from named_operation where (stock, operation_id) in (select stock, operation_id \
     from named_operation indexed by named_operation_by_age where at < ?1 limit ?2) returning stock";
// As long ago it does not matter who was asked last.
const TURNS: &str = "delete from policy_turn where products in (select products from policy_turn \
     indexed by policy_turn_by_age where at < ?1 limit ?2)";
const DEAD_LETTERS: &str = "delete from dead_letter where id in (select id from \
     (select id, received_at from dead_letter order by id limit ?2) where received_at < ?1)";
// The oldest first: behind the first one that is too young there is none to forget.
const COMMANDS: &str = "delete from command where store_id = ?1 and (epoch, seq) in (select epoch, seq from \
     (select epoch, seq, created_at from command where store_id = ?1 and (epoch, seq) < (?2, ?3) \
     order by epoch, seq limit ?5) where created_at < ?4)";

/// One batch of each table. Says whether there may be more.
pub fn prune(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let mut more = prune_outcomes(connection, now)? | prune_operations(connection, now)?;
    for (sql, kept_ms) in [
        (KEYS, idempotency::RETENTION_MS),
        (REQUESTS, COMMANDS_MS),
        (PURCHASES, PURCHASES_MS),
        (RESERVATIONS, RESERVATIONS_MS),
        (TRANSFERS, TRANSFERS_MS),
        (TURNS, COMMANDS_MS),
        (DEAD_LETTERS, DEAD_LETTERS_MS),
    ] {
        more |= connection.prepare_cached(sql)?.execute(params![now.0 - kept_ms, BATCH])? == BATCH;
    }
    Ok(more)
}

/// The outcome of a purchase that is not settled, or not picked, is still needed: it is looked at again after the same
/// time.
fn prune_outcomes(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let old: Vec<(String, String, bool)> = connection
        .prepare_cached(OUTCOMES)?
        .query_map(params![now.0 - COMMANDS_MS, BATCH], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (store, command, is_needed) in &old {
        if *is_needed {
            connection
                .prepare_cached("update outcome set at = ?3 where store_id = ?1 and command_id = ?2")?
                .execute(params![store, command, now.0])?;
        } else {
            connection
                .prepare_cached("delete from outcome where store_id = ?1 and command_id = ?2")?
                .execute([store, command])?;
        }
    }
    Ok(old.len() == BATCH)
}

/// A state that has lost some of its names no longer has those of any time.
fn prune_operations(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let stocks: Vec<i64> = connection
        .prepare_cached(OPERATIONS)?
        .query_map(params![now.0 - OPERATIONS_MS, BATCH], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for stock in stocks.iter().collect::<BTreeSet<_>>() {
        connection.prepare_cached("update store set named_since = null where generation = ?1")?.execute([stock])?;
    }
    Ok(stocks.len() == BATCH)
}

/// One batch of a store's commands that were appended before a time and lie below the acknowledged one. That one always
/// stays: the next ack is judged by it. Says whether there may be more.
pub fn prune_commands_of(connection: &Connection, id: &StoreId, before: Millis) -> rusqlite::Result<bool> {
    let Some(store) = stores::find(connection, id)? else { return Ok(false) };
    let forgotten = connection.prepare_cached(COMMANDS)?.execute(params![
        id.as_str(),
        store.command_head.epoch.get(),
        store.command_acked.get(),
        before.0,
        BATCH,
    ])?;
    Ok(forgotten == BATCH)
}

/// Forgets all stores' acknowledged commands that were appended before a time.
pub fn prune_commands(connection: &Connection, before: Millis) -> rusqlite::Result<()> {
    for store in stores::all(connection)? {
        while prune_commands_of(connection, &store.id, before)? {}
    }
    Ok(())
}

/// Whether a store's oldest command was appended before a time: then there may be some to forget.
pub fn has_old_commands(connection: &Connection, id: &StoreId, before: Millis) -> rusqlite::Result<bool> {
    let oldest: Option<bool> = connection
        .prepare_cached("select created_at < ?2 from command where store_id = ?1 order by epoch, seq limit 1")?
        .query_row(params![id.as_str(), before.0], |row| row.get(0))
        .optional()?;
    Ok(oldest.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::purchases::cancel as ask_to_cancel;
    use crate::storage::purchases;
    use crate::testing::{Agent, NOW, database, plan};
    use protocol::domain::{Item, Rejection};
    use protocol::ids::OperationId;
    use protocol::promise::purchase::Status;
    use protocol::wire::{About, Event, Fact, Happened, ItemAfter, Subject};

    #[test]
    fn a_batch_reads_no_whole_table() {
        let connection = database();
        for sql in [KEYS, OUTCOMES, REQUESTS, COMMANDS, PURCHASES, RESERVATIONS, TRANSFERS, OPERATIONS] {
            let plan = plan(&connection, sql);
            for table in ["idempotency", "outcome", "request", "command", "purchase", "named_operation"] {
                assert!(!plan.contains(&format!("SCAN {table}")) && !plan.contains("TEMP"), "{sql}: {plan}");
            }
        }
    }

    #[test]
    fn a_batch_is_short_however_much_is_old() {
        let connection = database();
        let old = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2100) \
            insert into idempotency select 'key-' || i, x'00', 'r', ?1, 'purchase', 't' from n";
        connection.execute(old, [NOW.0]).expect("writes");
        let left =
            || connection.query_row("select count(*) from idempotency", [], |row| row.get::<_, i64>(0)).expect("reads");
        let later = NOW.plus(idempotency::RETENTION_MS + 1);
        let mut is_more = true;
        while is_more {
            let before = left();
            is_more = prune(&connection, later).expect("prunes");
            assert!(before - left() <= 1_000, "{before} to {}", left());
        }
        assert_eq!(left(), 0);
    }

    #[test]
    fn the_outcome_of_a_purchase_that_waits_for_its_cancel_is_kept() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let id = crate::testing::purchase_id(1);
        let purchase = || purchases::find(&connection, id).expect("reads").expect("is there");
        let mut store = agent.store(&connection);
        let cancel = OperationId::parse("cancel-1").expect("valid");
        ask_to_cancel(&connection, &mut store, &purchase(), cancel.clone(), &About::default(), NOW).expect("asks");
        // The store had confirmed it before it hears of the cancel, and is away for longer than outcomes are kept.
        let tea = crate::testing::product("tea");
        let item = ItemAfter::unchanged(tea.clone(), Item { version: 2, ..Item::default() });
        let what = Happened::PurchaseConfirmed { purchase: purchase().attempt_ref(), items: vec![item] };
        let confirmed = agent.entry(&Event::Fact(Fact { command: Some(attempt), ..Fact::new(what, NOW) }));
        agent.tell(&connection, &[confirmed]);
        assert_eq!(purchase().status, Status::Pending, "the cancel's answer ends it");
        let later = NOW.plus(COMMANDS_MS + 1);
        assert!(!prune(&connection, later).expect("prunes"));
        // An older version of the agent does not understand the cancel.
        let rejection = Rejection::UnsupportedByStore { entry: "1-2".into() };
        let what = Happened::CommandRefused { subject: Subject::Product(tea), rejection, items: Vec::new() };
        let refused = agent.entry(&Event::Fact(Fact { command: Some(cancel), ..Fact::new(what, NOW) }));
        agent.tell(&connection, &[refused]);
        assert_eq!(purchase().status, Status::Confirmed);
    }

    #[test]
    fn a_purchase_is_kept_until_it_has_ended_and_is_picked() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        for number in 1..=3 {
            agent.buy(&connection, number);
        }
        let end = |number: u128, sql: &str| {
            let sql = format!("update purchase set settled_at = {}, {sql} where purchase_id = ?1", NOW.0);
            connection.execute(&sql, [crate::testing::purchase_id(number).to_string()]).expect("writes");
        };
        end(1, "status = 'confirmed'");
        end(2, &format!("status = 'confirmed', picked_at = {}", NOW.0));
        connection
            .execute("insert into dead_letter values (null, 's1', '7-9', 'x', 'o', '{}', 'why', ?1)", [NOW.0])
            .expect("writes");
        let left = |table: &str| -> i64 {
            connection.query_row(&format!("select count(*) from {table}"), [], |row| row.get(0)).expect("reads")
        };
        prune(&connection, NOW.plus(DEAD_LETTERS_MS)).expect("prunes");
        assert_eq!((left("purchase"), left("dead_letter")), (3, 1));
        prune(&connection, NOW.plus(PURCHASES_MS + 1)).expect("prunes");
        assert_eq!((left("purchase"), left("dead_letter")), (2, 0));
    }

    #[test]
    fn commands_go_in_batches_up_to_the_acknowledged_one() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        for number in 0..10 {
            agent.buy(&connection, number);
        }
        let store = agent.store(&connection);
        let left =
            || connection.query_row("select count(*) from command", [], |row| row.get::<_, i64>(0)).expect("reads");
        assert_eq!(left(), 11);
        prune_commands(&connection, NOW.plus(1)).expect("prunes");
        assert_eq!(left(), 11, "nothing is acknowledged");
        stores::store_command_acked(
            &connection,
            &agent.id,
            protocol::link::EntryId { seq: 8.into(), ..store.command_head.id() },
        )
        .expect("writes");
        prune_commands(&connection, NOW).expect("prunes");
        assert_eq!(left(), 11, "all are young");
        prune_commands(&connection, NOW.plus(1)).expect("prunes");
        assert_eq!(left(), 4, "the acknowledged one stays");
        assert!(!prune(&connection, NOW).expect("prunes"));
    }
}
