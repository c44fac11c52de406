//! What central knows of a store: where its two links stand, and what operators decided.

use std::sync::LazyLock;

use protocol::ids::StoreId;
use protocol::link::{Commands, Cursor, EntryId, Epoch, Known, Past};
use protocol::time::Millis;
use protocol::wire::Position;
use rusqlite::{Connection, OptionalExtension, params};

use crate::storage::stocks;
use crate::storage::store::COLUMNS;
pub use crate::storage::store::{DigestState, Standing, Store};
use runtime::sqlite::{HashColumn, cursor_at, number_at, parsed};

/// Earlier epochs of a store that are kept, the newest; the ledger itself tells of all that central has applied.
const LINEAGE_MAX: usize = 1_000;

/// One store, if central has heard of it.
pub fn find(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<Store>> {
    static FIND: LazyLock<String> = LazyLock::new(|| format!("select {COLUMNS} from store where store_id = ?1"));
    connection.prepare_cached(&FIND)?.query_row([id.as_str()], Store::read).optional()
}

/// How far one store's events are applied, if central has heard of it.
pub fn cursor(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<Cursor>> {
    connection
        .prepare_cached("select epoch, seq, hash from store where store_id = ?1")?
        .query_row([id.as_str()], |row| cursor_at(row, 0))
        .optional()
}

/// Whether a store's view has reached a place.
pub fn has_reached(connection: &Connection, Position { store, at }: &Position) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "select exists (select 1 from store where store_id = ?1 and opening = 0 and (epoch, seq) >= (?2, ?3))",
        )?
        .query_row(params![store.as_str(), at.epoch.get(), at.seq.get()], |row| row.get(0))
}

/// All stores, by id.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store order by store_id"))?
        .query_map([], Store::read)?
        .collect()
}

/// Up to `limit` of the stores that are wanted, by id, behind `after`, without the first `offset`.
pub fn after(
    connection: &Connection,
    after: Option<&str>,
    offset: usize,
    limit: usize,
    wanted: impl Fn(&Store) -> bool,
) -> rusqlite::Result<Vec<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store where store_id > ?1 order by store_id"))?
        .query_map([after.unwrap_or("")], Store::read)?
        .filter(|store| store.as_ref().map_or(true, &wanted))
        .skip(offset)
        .take(limit)
        .collect()
}

/// Stores that have something left to do in [steps](crate::projection::steps).
pub fn with_steps(connection: &Connection) -> rusqlite::Result<Vec<StoreId>> {
    connection
        .prepare_cached("select store_id from store indexed by store_with_steps where steps = 1 order by store_id")?
        .query_map([], |row| parsed(row, 0))?
        .collect()
}

/// Stores that are in the chain, those with fewest units first; of equals the smallest id.
pub fn by_units(connection: &Connection) -> rusqlite::Result<Vec<StoreId>> {
    connection
        .prepare_cached("select store_id from store where not retired order by units, store_id")?
        .query_map([], |row| parsed(row, 0))?
        .collect()
}

/// Makes a store known: from now on it gets an ack, and its events are read.
pub fn discover(connection: &Connection, id: &StoreId, now: Millis) -> rusqlite::Result<()> {
    let is_new = connection
        .prepare_cached("insert or ignore into store (store_id, first_seen_at, steps) values (?1, ?2, 0)")?
        .execute(params![id.as_str(), now.0])?
        > 0;
    if is_new {
        let stock = stocks::first(connection, id)?;
        connection
            .prepare_cached("update store set stock = ?2, generation = ?2 where store_id = ?1")?
            .execute(params![id.as_str(), stock])?;
    }
    Ok(())
}

/// Stores of which no event was ever applied.
pub fn count_unopened(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("select count(*) from store where epoch = 0")?.query_row([], |row| row.get(0))
}

/// Forgets a store of which no event was ever applied, and that was told nothing: all that hangs on it is an empty stock. `false`: there is more.
pub fn forget(connection: &Connection, id: &StoreId) -> rusqlite::Result<bool> {
    let unopened = connection
        .prepare_cached(
            "select 1 from store where store_id = ?1 and epoch = 0 and command_epoch = 0 and command_seq = 0",
        )?
        .exists([id.as_str()])?;
    if unopened {
        connection.prepare_cached("delete from stock where store_id = ?1")?.execute([id.as_str()])?;
        connection.prepare_cached("delete from store where store_id = ?1")?.execute([id.as_str()])?;
    }
    Ok(unopened)
}

const OTHER_CASE: &str =
    "select store_id from store where store_id = ?1 collate nocase and store_id <> ?1 and retired = 0 limit 1";

/// A known store whose id differs in case only, and that is not retired.
pub fn other_case(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<StoreId>> {
    connection.prepare_cached(OTHER_CASE)?.query_row([id.as_str()], |row| parsed(row, 0)).optional()
}

/// From each epoch of the ledger to the next: a step for an epoch, not for an entry.
const EPOCHS: &str = "with recursive known (epoch) as (\
     select min(epoch) from event where store_id = ?1 union all \
     select (select min(event.epoch) from event where event.store_id = ?1 and event.epoch > known.epoch) from known \
     where known.epoch is not null) \
     select epoch from known where epoch is not null union select epoch from lineage where store_id = ?1";

/// What L7 needs to judge an opening.
pub fn known(connection: &Connection, store: &Store) -> rusqlite::Result<Known> {
    let mut epochs: Vec<Epoch> = connection
        .prepare_cached(EPOCHS)?
        .query_map([store.id.as_str()], |row| number_at(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    epochs.push(store.cursor.epoch);
    Ok(Known { cursor: store.cursor, epochs, adopt: store.adopt })
}

/// The last cursor of each earlier epoch.
pub fn lineage(connection: &Connection, id: &StoreId) -> rusqlite::Result<Vec<Cursor>> {
    connection
        .prepare_cached("select epoch, seq, hash from lineage where store_id = ?1 order by epoch")?
        .query_map([id.as_str()], |row| cursor_at(row, 0))?
        .collect()
}

/// A cursor at which an epoch was left.
pub fn add_to_lineage(connection: &Connection, id: &StoreId, past: &Cursor) -> rusqlite::Result<()> {
    connection
        .prepare_cached("insert or replace into lineage (store_id, epoch, seq, hash) values (?1, ?2, ?3, ?4)")?
        .execute(params![id.as_str(), past.epoch.get(), past.seq.get(), HashColumn(past.hash)])?;
    Ok(())
}

/// Forgets all behind this cursor: the opening that said so has not arrived in full, and never will.
pub fn cut_lineage(connection: &Connection, id: &StoreId, end: &Cursor) -> rusqlite::Result<()> {
    connection
        .prepare_cached("delete from lineage where store_id = ?1 and epoch >= ?2")?
        .execute(params![id.as_str(), end.epoch.get()])?;
    if end.epoch == Epoch::NONE { Ok(()) } else { add_to_lineage(connection, id, end) }
}

/// Replaces the lineage by that of an accepted opening, as far as it is kept.
pub fn set_lineage(connection: &Connection, id: &StoreId, lineage: &[Past]) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from lineage where store_id = ?1")?.execute([id.as_str()])?;
    let mut newest_first: Vec<&Past> = lineage.iter().collect();
    newest_first.sort_by_key(|past| std::cmp::Reverse(past.end.epoch));
    newest_first.into_iter().take(LINEAGE_MAX).try_for_each(|past| add_to_lineage(connection, id, &past.end))
}

/// Everything that the store is known to have recorded was applied by then.
pub fn note_as_of(connection: &Connection, id: &StoreId, at: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update store set as_of = ?2 where store_id = ?1")?
        .execute(params![id.as_str(), at.0])?;
    Ok(())
}

/// An operator pauses a store's online sale, or lets it go on.
pub fn set_online_sale(connection: &Connection, store: &mut Store, on: bool) -> rusqlite::Result<()> {
    store.online_sale = on;
    connection
        .prepare_cached("update store set online_sale = ?2 where store_id = ?1")?
        .execute(params![store.id.as_str(), on])?;
    Ok(())
}

/// Takes a store out of the chain. A word that lets an epoch open no longer counts.
pub fn take_out(connection: &Connection, store: &mut Store) -> rusqlite::Result<()> {
    (store.retired, store.adopt, store.steps) = (true, None, true);
    connection
        .prepare_cached("update store set retired = 1, adopt = null, steps = 1 where store_id = ?1")?
        .execute([store.id.as_str()])?;
    Ok(())
}

/// Puts a store in the chain again, if it was not; the word that let it has had its effect.
pub fn readmit(connection: &Connection, store: &mut Store) -> rusqlite::Result<()> {
    store.steps |= store.retired;
    (store.retired, store.adopt) = (false, None);
    connection
        .prepare_cached("update store set steps = steps or retired, retired = 0, adopt = null where store_id = ?1")?
        .execute([store.id.as_str()])?;
    Ok(())
}

/// An operator lets an epoch open that would be refused; `None`: that word no longer counts.
pub fn set_adopt(connection: &Connection, store: &mut Store, epoch: Option<Epoch>) -> rusqlite::Result<()> {
    store.adopt = epoch;
    connection
        .prepare_cached("update store set adopt = ?2 where store_id = ?1")?
        .execute(params![store.id.as_str(), epoch.map(Epoch::get)])?;
    Ok(())
}

/// An epoch is no longer refused, if it was.
pub fn lift_fence(connection: &Connection, store: &mut Store, epoch: Epoch) -> rusqlite::Result<()> {
    if store.fenced == epoch {
        store.fenced = Epoch::NONE;
    }
    connection
        .prepare_cached("update store set fenced = 0 where store_id = ?1 and fenced = ?2")?
        .execute(params![store.id.as_str(), epoch.get()])?;
    Ok(())
}

/// The view is not what the store has: its whole state is wanted.
pub fn mark_different(connection: &Connection, store: &mut Store) -> rusqlite::Result<()> {
    store.want_state();
    connection
        .prepare_cached("update store set digest_state = ?2, suspect = 1 where store_id = ?1")?
        .execute([store.id.as_str(), DigestState::Different.as_str()])?;
    Ok(())
}

/// When a resync was last asked for; `None`: the next one need not wait.
pub fn set_resync_at(connection: &Connection, store: &mut Store, at: Option<Millis>) -> rusqlite::Result<()> {
    store.resync_at = at;
    connection
        .prepare_cached("update store set resync_at = ?2 where store_id = ?1")?
        .execute(params![store.id.as_str(), at.map(|at| at.0)])?;
    Ok(())
}

/// Nothing is left to be done in [steps](crate::projection::steps).
pub fn steps_done(connection: &Connection, id: &StoreId) -> rusqlite::Result<()> {
    connection.prepare_cached("update store set steps = 0 where store_id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// Remembers how far the store has acknowledged its commands: what lies below may be pruned in time.
pub fn store_command_acked(connection: &Connection, id: &StoreId, at: EntryId<Commands>) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "update store set command_acked = ?3 where store_id = ?1 and command_epoch = ?2 and command_acked <> ?3",
        )?
        .execute(params![id.as_str(), at.epoch.get(), at.seq.get()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::stores::{adopt as let_in, retire as end_all};
    use crate::storage::{commands, purchases};
    use crate::testing::{Agent, NOW, database, plan, purchase_id};
    use protocol::domain::Rejection;
    use protocol::promise::{purchase, request};

    fn retire(connection: &Connection, agent: &Agent) -> Vec<String> {
        end_all(connection, &mut agent.store(connection), NOW).expect("retires")
    }

    fn adopt(connection: &Connection, agent: &Agent, epoch: u32) -> bool {
        let_in(connection, &mut agent.store(connection), epoch.into(), NOW).expect("can be judged")
    }

    fn commands_of(connection: &Connection, store: &Store) -> Vec<String> {
        let head = store.command_head;
        let entries = commands::entries(connection, &store.id, head.epoch, 1.into(), head.seq).expect("can be read");
        entries.into_iter().map(|entry| entry.kind).collect()
    }

    #[test]
    fn a_view_has_reached_what_is_applied_unless_an_epoch_opens() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let reached = |at: Cursor| {
            has_reached(&connection, &Position { store: StoreId::parse("s1").expect("valid"), at: at.id() })
                .expect("reads")
        };
        let (before, sale) = (agent.head, agent.sale());
        let after = agent.head;
        assert_eq!((reached(before), reached(after)), (true, false));
        agent.tell(&connection, &[sale]);
        assert!(reached(before) && reached(after));
        assert!(!reached(Cursor { epoch: 9.into(), seq: 1.into(), ..after }), "a later epoch");
        let opening = agent.open(9, &[after]);
        agent.tell(&connection, &opening[..1]);
        assert!(!reached(after));
        assert!(
            !has_reached(&connection, &Position { store: StoreId::parse("s2").expect("valid"), at: before.id() })
                .expect("reads")
        );
    }

    #[test]
    fn retiring_ends_what_is_open_and_no_store_hears_of_it_again() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let ended = retire(&connection, &agent);
        assert!(ended.contains(&attempt.to_string()) && ended.contains(&purchase_id(1).to_string()), "{ended:?}");
        let request = commands::find(&connection, attempt.as_str()).expect("can be read").expect("is there");
        assert_eq!(request.status, request::Status::Refused);
        assert_eq!(
            request.outcome.as_ref().and_then(|outcome| outcome.became.rejection()),
            Some(&Rejection::StoreRetired)
        );
        let purchase = purchases::find(&connection, purchase_id(1)).expect("can be read").expect("is there");
        assert_eq!((purchase.status, purchase.code.as_deref()), (purchase::Status::Cancelled, Some("store_retired")));
        assert_eq!(commands_of(&connection, &agent.store(&connection)), ["opened"], "the purchase left the log");

        let before = agent.store(&connection).command_head.epoch;
        assert!(!adopt(&connection, &agent, 8), "nobody claims that");
        assert!(adopt(&connection, &agent, 7));
        let store = agent.store(&connection);
        assert!(!store.retired && store.ack().fenced == Epoch::NONE);
        assert!(store.command_head.epoch > before && store.is_settling(), "it answers before it sells");
        assert_eq!(commands_of(&connection, &store), ["opened", "cancel"], "whatever it took for us it gives back");
        agent.get_ready(&connection);
        assert!(!agent.store(&connection).is_settling());
    }

    #[test]
    fn a_retired_store_comes_back_by_an_operators_word_alone() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        retire(&connection, &agent);
        let lineage = [agent.head];
        let opening = agent.open(9, &lineage);
        assert!(agent.tell(&connection, &opening).stuck.is_some(), "its lineage alone is not enough");
        let store = agent.store(&connection);
        assert!(store.retired);
        assert_eq!(
            (store.ack().fenced, store.claims()),
            (7.into(), vec![7.into(), 9.into()]),
            "the old epoch stays fenced"
        );
        assert!(adopt(&connection, &agent, 9));
        assert!(agent.store(&connection).retired, "until it opens");
        assert!(agent.tell(&connection, &opening).stuck.is_none());
        let store = agent.store(&connection);
        assert_eq!((store.retired, store.ack().fenced, store.cursor.epoch), (false, Epoch::NONE, 9.into()));
        assert_eq!(
            crate::operators::verify::verify(&connection).expect("can be read").differences,
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_store_retired_before_it_was_ever_seen_can_be_adopted() {
        let connection = database();
        let mut agent = Agent::new("s1");
        discover(&connection, &agent.id, NOW).expect("is known");
        retire(&connection, &agent);
        assert_eq!(agent.store(&connection).claims(), [Epoch::NONE]);
        assert!(adopt(&connection, &agent, 0), "a restore of its machine is refused until then");
        assert!(!agent.store(&connection).retired);
        retire(&connection, &agent);
        let opening = agent.open(7, &[]);
        assert!(agent.tell(&connection, &opening).stuck.is_some());
        assert_eq!(agent.store(&connection).ack().fenced, 7.into(), "it is told");
        assert!(!adopt(&connection, &agent, 0), "now it has an epoch");
        assert!(adopt(&connection, &agent, 7));
        assert!(agent.tell(&connection, &opening).stuck.is_none());
        assert!(!agent.store(&connection).retired);
    }

    #[test]
    fn only_a_store_that_has_sent_nothing_is_forgotten() {
        let connection = database();
        let (opened, nobody, retired) = (Agent::settled("s1", &connection), Agent::new("s2"), Agent::new("s3"));
        for agent in [&nobody, &retired] {
            discover(&connection, &agent.id, NOW).expect("is known");
        }
        retire(&connection, &retired);
        assert_eq!(count_unopened(&connection).expect("reads"), 2);
        assert!(!forget(&connection, &opened.id).expect("can be judged"));
        for agent in [&nobody, &retired] {
            assert!(forget(&connection, &agent.id).expect("is forgotten"));
            assert!(!forget(&connection, &agent.id).expect("can be judged"), "it is no store any more");
            discover(&connection, &agent.id, NOW).expect("comes again");
        }
        assert_eq!(all(&connection).expect("reads").len(), 3);
    }

    #[test]
    fn what_operators_decide_and_what_events_say_do_not_overwrite_each_other() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        // The event side has read the row, and the operators write before it saves.
        let mut seen = agent.store(&connection);
        let mut shown = agent.store(&connection);
        set_online_sale(&connection, &mut shown, false).expect("writes");
        take_out(&connection, &mut shown).expect("writes");
        set_adopt(&connection, &mut shown, Some(9.into())).expect("writes");
        set_resync_at(&connection, &mut shown, Some(NOW)).expect("writes");
        (seen.steps, seen.fenced, seen.ready_epoch) = (false, 8.into(), 5.into());
        seen.save_events(&connection).expect("writes");
        let store = agent.store(&connection);
        assert!(!store.online_sale && store.retired && store.steps, "they stand");
        assert_eq!(
            (store.adopt, store.resync_at, store.fenced, store.ready_epoch),
            (Some(9.into()), Some(NOW), 8.into(), 5.into())
        );

        // Operators have read the row, and entries are applied before they write.
        readmit(&connection, &mut shown).expect("writes");
        let mut shown = agent.store(&connection);
        let sale = agent.sale();
        agent.tell(&connection, &[sale]);
        set_online_sale(&connection, &mut shown, true).expect("writes");
        take_out(&connection, &mut shown).expect("writes");
        lift_fence(&connection, &mut shown, 3.into()).expect("writes");
        mark_different(&connection, &mut shown).expect("writes");
        let store = agent.store(&connection);
        assert_eq!((store.cursor, store.state), (agent.head, agent.head), "what was applied stands");
        assert_ne!(store.digest, shown.digest, "and so does its digest");
        assert_eq!(store.fenced, 8.into(), "another epoch's fence stays");
        lift_fence(&connection, &mut shown, 8.into()).expect("writes");
        assert_eq!(agent.store(&connection).fenced, Epoch::NONE);
    }

    #[test]
    fn pages_of_stores_begin_behind_a_store() {
        let connection = database();
        for id in ["a", "b", "c", "d"] {
            discover(&connection, &Agent::new(id).id, NOW).expect("is known");
        }
        let page = |behind, offset, limit, except: &str| -> Vec<String> {
            let found = after(&connection, behind, offset, limit, |store| store.id.as_str() != except);
            found.expect("reads").iter().map(|store| store.id.to_string()).collect()
        };
        assert_eq!(page(None, 0, 2, ""), ["a", "b"]);
        assert_eq!(page(Some("b"), 0, 9, ""), ["c", "d"]);
        assert_eq!(page(None, 1, 2, "b"), ["c", "d"]);
    }

    #[test]
    fn the_epochs_of_a_ledger_are_found_without_reading_it() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let lineage = [agent.head];
        let opening = agent.open(9, &lineage);
        agent.tell(&connection, &opening);
        let mut epochs = known(&connection, &agent.store(&connection)).expect("reads").epochs;
        epochs.dedup();
        assert_eq!(epochs, [7.into(), 9.into()]);
        let nobody = Agent::new("s2");
        discover(&connection, &nobody.id, NOW).expect("is known");
        assert_eq!(known(&connection, &nobody.store(&connection)).expect("reads").epochs, [Epoch::NONE]);
        for sql in [EPOCHS, OTHER_CASE, crate::storage::items::OTHER_CASE] {
            let plan = plan(&connection, sql);
            for table in ["event", "store", "item", "lineage"] {
                assert!(!plan.contains(&format!("SCAN {table}")), "{sql}: {plan}");
            }
        }
        assert_eq!(other_case(&connection, &StoreId::parse("S1").expect("valid")).expect("reads"), Some(agent.id));
    }

    #[test]
    fn a_word_given_before_the_store_was_retired_no_longer_counts() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let stranger = agent.open(9, &[]);
        assert!(agent.tell(&connection, &stranger).stuck.is_some());
        assert!(adopt(&connection, &agent, 9));
        retire(&connection, &agent);
        assert!(agent.tell(&connection, &stranger).stuck.is_some());
        assert!(agent.store(&connection).retired);
    }
}
