//! The question of a restore (L10): a store's agent asks for a new epoch, and for what central knows of its store.
//!
//! **Guarantees.** After the question nothing of an older epoch is applied any more, whatever is still on the way;
//! whoever else runs under the store's id is superseded; of several who ask only the last gets in. The answer is one
//! consistent state with the cursor at which it stands.

use rusqlite::{Connection, params, params_from_iter};
use shared::hash::Hash;
use shared::ids::StoreId;
use shared::link::Cursor;
use shared::sqlite::{HashColumn, parsed};
use shared::time::Millis;
use shared::wire::restore::{Answer, KnownEntry, Question};
use shared::wire::{Event, Named};

use crate::stores::{self, Store};
use crate::{commands, items, outcomes, replay, view};

/// How far back entries are told even if the asker has nothing there, ms: the store's own retention.
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// Gives out an epoch and tells the state, in the caller's transaction. A store that is not known yet gets a row.
pub fn question(connection: &Connection, id: &StoreId, asked: &Question, now: Millis) -> rusqlite::Result<Answer> {
    stores::discover(connection, id, now)?;
    let mut store = stores::find(connection, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    if store.cursor.epoch > 0 {
        stores::add_to_lineage(connection, id, &store.cursor)?;
    }
    let wall = u64::try_from(now.0).unwrap_or(1);
    let epoch = wall.max(store.cursor.epoch + 1).max(asked.epoch.saturating_add(1));
    let answer = Answer {
        store_id: id.to_string(),
        epoch,
        lineage: stores::lineage(connection, id)?,
        complete: store.complete,
        state: store.state,
        covers: covers(connection, &store)?,
        items: state(connection, &store)?,
        outcomes: outcomes::of_store(connection, id)?,
        entries: entries(connection, &store, asked, now)?,
    };
    store.cursor = Cursor { epoch, seq: 0, hash: Hash::ZERO };
    store.fenced = 0;
    store.adopt = None;
    store.opening = false;
    connection.prepare_cached("delete from page where store_id = ?1")?.execute([id.as_str()])?;
    store.save(connection)?;
    Ok(answer)
}

/// `central restore` (L8): this database is an older copy. Every store gets a new command epoch, so that whatever the lost
/// one had sent and this one does not know is never taken for this one's. `acked`: the command epoch that a store has last
/// acknowledged, 0 if that is not known.
pub fn reopen(
    connection: &Connection,
    mut acked: impl FnMut(&StoreId) -> u64,
    now: Millis,
) -> rusqlite::Result<Vec<StoreId>> {
    let mut reopened = Vec::new();
    for store in stores::all(connection)?.into_iter().filter(|store| store.cursor.epoch > 0) {
        commands::reopen(connection, &store.id, acked(&store.id), now)?;
        reopened.push(store.id);
    }
    Ok(reopened)
}

/// The stock at the state's cursor. A view that is not what the store said there was damaged, or there is an entry that
/// was not understood: then the ledger tells.
fn state(connection: &Connection, store: &Store) -> rusqlite::Result<Vec<Named>> {
    let mut stock = items::of_store(connection, &store.id)?;
    let said = view::said(connection, store)?.unwrap_or(store.digest);
    if view::digest(&stock) != said {
        tracing::warn!(store = %store.id, "the view is not what the store said: the state comes from the ledger");
        stock = replay::stock(connection, store)?.into_iter().collect();
    }
    Ok(stock.into_iter().map(|(product_id, item)| Named { product_id, item }).collect())
}

/// Lineage of the opening that the view grew from.
fn covers(connection: &Connection, store: &Store) -> rusqlite::Result<Vec<Cursor>> {
    if !store.complete {
        return Ok(Vec::new());
    }
    let body: String = connection
        .prepare_cached("select body from event where store_id = ?1 and epoch = ?2 and seq = 1")?
        .query_row(params![store.id.as_str(), store.state.epoch], |row| row.get(0))?;
    Ok(match Event::decode(shared::link::OPENED, &body) {
        Ok(Event::Opened { lineage }) => lineage.into_iter().map(|past| past.end).collect(),
        _ => Vec::new(),
    })
}

/// Entries up to the state's cursor: all within the retention, and older ones that the asker has itself.
fn entries(connection: &Connection, store: &Store, asked: &Question, now: Millis) -> rusqlite::Result<Vec<KnownEntry>> {
    if !store.complete {
        return Ok(Vec::new());
    }
    let mut wanted = "received_at >= ?4".to_owned();
    let mut numbers: Vec<rusqlite::types::Value> = Vec::new();
    for span in asked.log.iter().take(100) {
        let first = numbers.len() + 5;
        wanted.push_str(&format!(" or (epoch = ?{first} and seq between ?{} and ?{})", first + 1, first + 2));
        for number in [span.epoch, span.first, span.last] {
            numbers.push(i64::try_from(number).unwrap_or(i64::MAX).into());
        }
    }
    let sql = format!(
        "select epoch, seq, hash, operation_id, product_id from event \
         where store_id = ?1 and (epoch, seq) <= (?2, ?3) and ({wanted}) order by epoch, seq"
    );
    let fixed = [
        store.id.as_str().to_owned().into(),
        i64::try_from(store.state.epoch).unwrap_or(i64::MAX).into(),
        i64::try_from(store.state.seq).unwrap_or(i64::MAX).into(),
        (now.0 - RETENTION_MS).into(),
    ];
    connection
        .prepare(&sql)?
        .query_map(params_from_iter(fixed.into_iter().chain(numbers)), |row| {
            Ok(KnownEntry {
                epoch: row.get(0)?,
                seq: row.get(1)?,
                hash: row.get::<_, HashColumn>(2)?.0,
                operation: row.get(3)?,
                product_id: if row.get_ref(4)?.as_str_or_null()?.is_some() { Some(parsed(row, 4)?) } else { None },
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database};

    #[test]
    fn a_store_that_is_ready_for_more_than_this_database_knows_gets_a_greater_epoch() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let beyond = agent.store(&connection).command_head.epoch + 3_600_000;
        let ready = agent.entry(&Event::Ready { command_epoch: beyond });
        agent.tell(&connection, &[ready]);
        let store = agent.store(&connection);
        assert!(store.command_head.epoch > beyond && store.is_settling());
        agent.get_ready(&connection);
        assert!(!agent.store(&connection).is_settling());
    }

    #[test]
    fn after_the_question_nothing_of_an_older_epoch_is_applied() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let at = agent.store(&connection).cursor;
        let asked = Question { epoch: at.epoch, log: Vec::new() };
        let first = question(&connection, &agent.id, &asked, NOW).expect("answers");
        assert_eq!((first.state, first.lineage.last()), (at, Some(&at)));
        let on_its_way = agent.entry(&Event::Ready { command_epoch: 1 });
        agent.tell(&connection, &[on_its_way]);
        let given = Cursor { epoch: first.epoch, ..Cursor::default() };
        assert_eq!(agent.store(&connection).cursor, given);
        // Of two that ask only the last gets in.
        let second = question(&connection, &agent.id, &asked, NOW).expect("answers");
        let late = agent.open(first.epoch, &first.lineage);
        agent.tell(&connection, &late);
        assert_eq!(agent.store(&connection).cursor, Cursor { epoch: second.epoch, ..Cursor::default() });
        let opening = agent.open(second.epoch, &second.lineage);
        agent.tell(&connection, &opening);
        assert_eq!(agent.store(&connection).cursor, agent.head);
    }
}
