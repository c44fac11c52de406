//! Rebuilding the view from the ledger, store by store, beside the stock that is shown and while everything goes on.
//!
//! **Guarantees.** A step is one short transaction, and the database says how far it is: after a crash it goes on from
//! there. What was built takes the place of what is shown at once, in the transaction that has read the last entry, and
//! only if its digest is what the store itself said there. A store of which the ledger does not prove that is left as
//! it is, and named. No step waits for a store: whatever a store does meanwhile ends its turn or does not touch it.
//!
//! It begins with the state that was installed last: what lies before that has no effect any more (L7).

use protocol::ids::StoreId;
use protocol::link::{EntryId, Seq};
use protocol::planted::{Bug, planted};
use protocol::stock::{self, Effect};
use protocol::time::Millis;
use protocol::wire::{Event, SnapshotPage};
use runtime::sqlite::{in_savepoint, is_fatal};

use crate::storage::ledger;
use crate::storage::rebuild::{self, AtWork, Reason};
use crate::storage::stocks;
use crate::storage::stores::{self, Store};
use crate::storage::{Connection, JobResult};

/// Rows that an entry is worth: what it changes, and itself.
const ROWS_AN_ENTRY: usize = 2;

/// What a step has left to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// A store was left as it was, and why.
    pub left_out: Option<(StoreId, Reason)>,
    /// It was the last step.
    pub is_over: bool,
}

/// Where a store's turn stands after a step.
enum Turn {
    GoesOn(AtWork),
    Over,
    LeftOut(Reason),
}

/// Begins one, unless one runs already.
pub fn begin(connection: &Connection, now: Millis) -> JobResult<()> {
    if rebuild::is_running(connection)? { Ok(()) } else { rebuild::begin(connection, now) }
}

/// One step, of so many rows, in the caller's transaction.
pub fn step(connection: &Connection, rows: usize, now: Millis) -> JobResult<Stepped> {
    let mut stepped = Stepped::default();
    let Some(mut rebuild) = rebuild::find(connection)?.filter(|rebuild| rebuild.finished_at.is_none()) else {
        return Ok(stepped);
    };
    let (id, turn) = match rebuild.at_work.take() {
        Some(at_work) => (at_work.store.clone(), go_on(connection, at_work, rows, &mut rebuild.applied)?),
        None => match rebuild::next_store(connection, &rebuild.done_to)? {
            Some(id) => {
                let turn = begin_with(connection, &id)?;
                (id, turn)
            }
            None => {
                rebuild.finished_at = Some(now);
                rebuild::save(connection, &rebuild)?;
                stepped.is_over = true;
                return Ok(stepped);
            }
        },
    };
    match turn {
        Turn::GoesOn(at_work) => rebuild.at_work = Some(at_work),
        Turn::Over => rebuild.done_to = id.to_string(),
        Turn::LeftOut(reason) => {
            rebuild::leave_out(connection, &id, reason)?;
            rebuild.done_to = id.to_string();
            stepped.left_out = Some((id, reason));
        }
    }
    rebuild::save(connection, &rebuild)?;
    Ok(stepped)
}

fn begin_with(connection: &Connection, id: &StoreId) -> JobResult<Turn> {
    let shown = stores::find(connection, id)?.filter(|store| store.complete && store.base.seq != Seq::ZERO);
    // Nothing of it was ever shown, or a whole state has this moment come from the store itself.
    let Some(store) = shown.filter(|store| !store.installing) else { return Ok(Turn::Over) };
    if is_being_restored(&store) {
        return Ok(Turn::LeftOut(Reason::Restoring));
    }
    Ok(Turn::GoesOn(AtWork {
        store: store.id.clone(),
        stock: stocks::aside(connection, &store.id)?,
        staged: 0,
        digest: Default::default(),
        units: 0,
        base: store.base,
        seq: store.base.seq - 1,
    }))
}

/// An agent that is restored is told what is shown, over many reads (L10): that stands still until its epoch opens.
fn is_being_restored(store: &Store) -> bool {
    store.cursor.seq == Seq::ZERO
}

/// Applies what comes next of the store's ledger; with its last entry, what was built is shown. Counts the entries.
fn go_on(connection: &Connection, at_work: AtWork, rows: usize, applied: &mut u64) -> JobResult<Turn> {
    let Some(mut store) = stores::find(connection, &at_work.store)? else {
        // It was forgotten, and all its stocks with it.
        return Ok(Turn::Over);
    };
    // The store as it would be if this were what is shown.
    let AtWork { stock, staged, digest, units, .. } = at_work;
    let mut shadow = Store { stock, staged, digest, units, ..store.clone() };
    if store.base != at_work.base && !planted(Bug::RebuildMissesState) {
        // A whole state has come from the store itself meanwhile: that is as new as can be.
        drop_aside(connection, &mut store, &mut shadow)?;
        return Ok(Turn::Over);
    }
    if is_being_restored(&store) {
        drop_aside(connection, &mut store, &mut shadow)?;
        return Ok(Turn::LeftOut(Reason::Restoring));
    }
    let (mut seq, mut spent, mut is_proven) = (at_work.seq, 0, true);
    ledger::behind(connection, &store, seq, |at, kind, body| {
        is_proven = at == seq.next() && !(kind == "snapshot_page" && body.is_empty());
        if is_proven {
            let place = EntryId { seq: at, ..store.state.id() };
            spent += ROWS_AN_ENTRY + fold(connection, &mut shadow, place, kind, body)?;
            seq = at;
            *applied += 1;
        }
        Ok(is_proven && spent < rows)
    })?;
    if !is_proven || seq == at_work.seq && seq < store.state.seq {
        drop_aside(connection, &mut store, &mut shadow)?;
        return Ok(Turn::LeftOut(Reason::LedgerIncomplete));
    }
    if seq < store.state.seq && !planted(Bug::RebuildMissesNews) {
        let Store { stock, staged, digest, units, .. } = shadow;
        return Ok(Turn::GoesOn(AtWork { stock, staged, digest, units, seq, ..at_work }));
    }
    let said = ledger::digest_at(connection, &store.id, store.state.id())?;
    if said != Some(shadow.digest) && !planted(Bug::RebuildUnproven) {
        drop_aside(connection, &mut store, &mut shadow)?;
        return Ok(Turn::LeftOut(Reason::DigestDiffers));
    }
    stocks::give_up(connection, &mut shadow)?;
    stocks::show(connection, &mut store, &shadow)?;
    if planted(Bug::RebuildAgesHolds) {
        store.generation = store.stock;
    }
    store.save_events(connection)?;
    Ok(Turn::Over)
}

/// One entry, as when it came: what is not understood, or what the database refuses, has no effect (L11). Whether that
/// matters the digest says. Says how many rows it was, besides its own.
fn fold(connection: &Connection, shadow: &mut Store, at: EntryId, kind: &str, body: &str) -> JobResult<usize> {
    let Ok(event) = Event::decode(kind, body) else { return Ok(0) };
    let mut after = shadow.clone();
    match in_savepoint(connection, || apply(connection, &mut after, at, &event)) {
        Ok(rows) => {
            *shadow = after;
            Ok(rows)
        }
        Err(error) if is_fatal(&error) => Err(error),
        Err(_) => Ok(0),
    }
}

fn apply(connection: &Connection, shadow: &mut Store, at: EntryId, event: &Event) -> JobResult<usize> {
    match stock::effect(event) {
        Effect::Put(items) => {
            for after in items {
                stocks::put(connection, shadow, &after.product_id, &after.item)?;
            }
            Ok(items.len().saturating_sub(1) * ROWS_AN_ENTRY)
        }
        Effect::Stage(page) => {
            // The outcomes, reservations and transfers that came with it were taken in long ago.
            let page = SnapshotPage { items: page.items.clone(), ..SnapshotPage::default() };
            stocks::stage(connection, shadow, at, &page).map(|rows| usize::try_from(rows).unwrap_or(usize::MAX))
        }
        Effect::Install(end) => {
            stocks::switch(connection, shadow, at, end)?;
            stocks::hide(connection, shadow.stock).map(|()| 0)
        }
        Effect::None => Ok(0),
    }
}

/// What was built is not shown: it is removed in steps.
fn drop_aside(connection: &Connection, store: &mut Store, shadow: &mut Store) -> JobResult<()> {
    stocks::give_up(connection, shadow)?;
    stocks::discard(connection, shadow.stock, shadow.digest)?;
    store.steps = true;
    store.save_events(connection)
}

#[cfg(test)]
mod tests {
    use protocol::wire::restore::Question;

    use super::*;
    use crate::operators::restore::question;
    use crate::operators::verify::verify;
    use crate::projection::steps;
    use crate::promises::stores::{adopt, retire};
    use crate::storage::rebuild::Rebuild;
    use crate::storage::{items, reservations, totals};
    use crate::testing::{Agent, NOW, database, held, product};

    /// So many rows a step: 500 as in production is more than these stores have.
    const FEW: usize = 20;

    fn rebuilt(connection: &Connection, mut between: impl FnMut(usize)) -> Rebuild {
        begin(connection, NOW).expect("begins");
        let mut taken = 0;
        while !step(connection, FEW, NOW.plus(5)).expect("can be done").is_over {
            taken += 1;
            assert!(taken < 10_000, "it comes to an end");
            between(taken);
        }
        rebuild::find(connection).expect("reads").expect("there was one")
    }

    fn left_out(connection: &Connection) -> Vec<(String, String)> {
        rebuild::left_out(connection, 9).expect("reads").0
    }

    fn stocks_kept(connection: &Connection) -> i64 {
        connection.query_row("select count(*) from stock", [], |row| row.get(0)).expect("reads")
    }

    /// Two stores: one with a history of sales and two states, one small.
    fn world() -> (Connection, [Agent; 2]) {
        let connection = database();
        let mut agents = [Agent::settled("s1", &connection), Agent::settled("s2", &connection)];
        agents[0].stock_up(300);
        let state = agents[0].state(Vec::new());
        agents[0].tell(&connection, &state);
        for _ in 0..5 {
            let sale = agents[0].sale();
            agents[0].tell(&connection, &[sale]);
        }
        agents.iter().for_each(|agent| agent.settle_in(&connection));
        (connection, agents)
    }

    #[test]
    fn a_store_of_which_nothing_was_ever_shown_is_passed_over() {
        let (connection, agents) = world();
        let shown = || agents.each_ref().map(|agent| agent.store(&connection).stock);
        let before = shown();
        // As an earlier version has left one whose first opening had not arrived in full.
        connection.execute("update store set complete = 0 where store_id = 's1'", []).expect("writes");
        rebuilt(&connection, |_| {});
        assert_eq!((shown()[0] == before[0], shown()[1] == before[1]), (true, false));
    }

    #[test]
    fn it_builds_what_is_shown_while_everything_goes_on() {
        let (connection, mut agents) = world();
        let before = agents.each_ref().map(|agent| agent.store(&connection));
        let quiet = rebuild::digest(&connection).expect("reads");
        let ended = rebuilt(&connection, |taken| {
            if taken == 3 {
                assert_eq!(rebuild::digest(&connection).expect("reads"), quiet);
            }
            if taken % 4 == 0 && taken < 30 {
                let sale = agents[0].sale();
                agents[0].tell(&connection, &[sale]);
                assert_eq!(items::of_store(&connection, &agents[0].id).expect("reads").len(), 301);
            }
        });
        assert_eq!((ended.finished_at, ended.at_work), (Some(NOW.plus(5)), None));
        assert!(ended.applied >= ended.total && ended.total > 5, "{} {}", ended.applied, ended.total);
        for (agent, before) in agents.iter().zip(before) {
            let after = agent.store(&connection);
            assert_ne!(after.stock, before.stock, "{}", agent.id);
            agent.settle_in(&connection);
        }
        assert_eq!((left_out(&connection), stocks_kept(&connection)), (Vec::new(), 2));
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
        assert_eq!(step(&connection, FEW, NOW).expect("reads"), Stepped::default(), "it is over");
        // What comes next goes on from there.
        let sale = agents[0].sale();
        agents[0].tell(&connection, &[sale]);
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
    }

    #[test]
    fn rows_that_changed_by_themselves_are_as_the_ledger_says_again() {
        let (connection, agents) = world();
        agents[0].damage(&connection, "p-00007");
        assert!(!verify(&connection).expect("reads").differences.is_empty());
        rebuilt(&connection, |_| {});
        agents[0].settle_in(&connection);
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
    }

    #[test]
    fn a_state_that_comes_meanwhile_counts_more() {
        let (connection, mut agents) = world();
        agents[0].stock_up(310);
        let state = agents[0].state(Vec::new());
        rebuilt(&connection, |taken| {
            if taken == 5 {
                agents[0].tell(&connection, &state);
            }
            if taken % 2 == 0 {
                steps::step(&connection, &agents[0].id, FEW, NOW).expect("can be done");
            }
        });
        agents.iter().for_each(|agent| agent.settle_in(&connection));
        assert_eq!(items::of_store(&connection, &agents[0].id).expect("reads").len(), 311);
        assert_eq!((left_out(&connection), stocks_kept(&connection)), (Vec::new(), 2));
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
    }

    #[test]
    fn a_store_that_the_ledger_does_not_prove_is_left_as_it_is() {
        let (connection, agents) = world();
        let before = agents.each_ref().map(|agent| agent.store(&connection).stock);
        connection
            .execute("update event set body = '' where type = 'snapshot_page' and store_id = 's1'", [])
            .expect("writes");
        connection
            .execute("update event set body = replace(body, '10', '11') where type = 'snapshot_page'", [])
            .expect("writes");
        rebuilt(&connection, |_| {});
        let expected = [("s1", Reason::LedgerIncomplete), ("s2", Reason::DigestDiffers)];
        let expected = expected.map(|(store, reason)| (store.to_owned(), reason.as_str().to_owned()));
        assert_eq!(left_out(&connection), expected);
        agents.iter().for_each(|agent| agent.settle_in(&connection));
        assert_eq!(agents.each_ref().map(|agent| agent.store(&connection).stock), before);
        assert_eq!(stocks_kept(&connection), 2, "what was built is gone");
    }

    #[test]
    fn an_entry_that_is_missing_ends_a_turn() {
        for missing in ["max", "min"] {
            let (connection, agents) = world();
            let which = format!("(select {missing}(seq) from event where store_id = 's1' and type = 'sold')");
            let lost = format!("update event set store_id = 's2', epoch = 1 where store_id = 's1' and seq = {which}");
            connection.execute(&lost, []).expect("writes");
            rebuilt(&connection, |_| {});
            let reason = Reason::LedgerIncomplete.as_str().to_owned();
            assert_eq!(left_out(&connection), [(agents[0].id.to_string(), reason)]);
        }
    }

    #[test]
    fn what_the_database_refuses_has_no_effect_and_the_rest_goes_on() {
        let (connection, agents) = world();
        let refused = "create temp trigger refusal before insert on main.item when new.product_id = 'tea' \
                       and new.store_id = 's1' begin select raise(abort, 'refused'); end";
        connection.execute_batch(refused).expect("a trigger is created");
        let before = agents.each_ref().map(|agent| agent.store(&connection).stock);
        rebuilt(&connection, |_| {});
        connection.execute_batch("drop trigger temp.refusal").expect("a trigger is dropped");
        assert_eq!(left_out(&connection), [("s1".to_owned(), Reason::DigestDiffers.as_str().to_owned())]);
        agents.iter().for_each(|agent| agent.settle_in(&connection));
        assert_eq!(agents[0].store(&connection).stock, before[0]);
        assert_ne!(agents[1].store(&connection).stock, before[1]);
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
    }

    #[test]
    fn what_the_database_refused_when_it_came_is_in_what_is_built_and_the_state_is_still_wanted() {
        let (connection, mut agents) = world();
        let refused = "create temp trigger refusal before update on main.item when new.product_id = 'tea' \
                       begin select raise(abort, 'refused'); end";
        connection.execute_batch(refused).expect("a trigger is created");
        let sale = agents[0].sale();
        agents[0].tell(&connection, &[sale]);
        connection.execute_batch("drop trigger temp.refusal").expect("a trigger is dropped");
        let tea =
            || items::find(&connection, &agents[0].id, &product("tea")).expect("reads").expect("is there").quantity;
        let before = tea();
        rebuilt(&connection, |_| {});
        assert_eq!((left_out(&connection), tea()), (Vec::new(), before - 1));
        assert!(agents[0].store(&connection).wants_resync(), "it may have said more than of items");
    }

    #[test]
    fn an_opening_that_arrives_does_not_hold_it_up() {
        let (connection, mut agents) = world();
        let lineage = [agents[0].head];
        let opening = agents[0].open(9, &lineage);
        let (last, but_last) = opening.split_last().expect("it has an end");
        agents[0].tell(&connection, but_last);
        let before = agents[0].store(&connection).stock;
        rebuilt(&connection, |_| {});
        let store = agents[0].store(&connection);
        assert!(store.opening && store.staged != 0 && store.stock != before, "what is shown is rebuilt");
        assert_eq!(left_out(&connection), []);
        agents[0].tell(&connection, std::slice::from_ref(last));
        agents.iter().for_each(|agent| agent.settle_in(&connection));
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
        assert_eq!(stocks_kept(&connection), 2);
    }

    #[test]
    fn a_store_stands_still_while_it_is_restored() {
        for asked_after in [0, 1, 3] {
            let (connection, agents) = world();
            let before = agents[0].store(&connection).stock;
            let ask = || {
                let asked = Question { epoch: 7.into(), log: Vec::new() };
                question(&connection, &agents[0].id, &asked, NOW).expect("answers");
            };
            if asked_after == 0 {
                ask();
            }
            rebuilt(&connection, |taken| {
                if taken == asked_after {
                    ask();
                }
            });
            agents.iter().for_each(|agent| agent.settle_in(&connection));
            assert_eq!(left_out(&connection), [("s1".to_owned(), Reason::Restoring.as_str().to_owned())]);
            assert_eq!((agents[0].store(&connection).stock, stocks_kept(&connection)), (before, 2));
        }
    }

    #[test]
    fn retiring_and_taking_back_may_come_between() {
        let (connection, agents) = world();
        let mut is_retired = false;
        rebuilt(&connection, |taken| {
            if taken % 5 == 0 && taken < 40 {
                let mut store = agents[0].store(&connection);
                if is_retired {
                    assert!(adopt(&connection, &mut store, 7.into(), NOW).expect("adopts"));
                } else {
                    retire(&connection, &mut store, NOW).expect("retires");
                }
                is_retired = !is_retired;
            }
            steps::step(&connection, &agents[0].id, 3, NOW).expect("can be done");
            assert_eq!(totals::differences(&connection).expect("reads"), []);
        });
        agents.iter().for_each(|agent| agent.settle_in(&connection));
        assert_eq!(left_out(&connection), []);
        assert_eq!(verify(&connection).expect("reads").differences, [""; 0]);
    }

    #[test]
    fn reservations_stay_those_of_the_state_that_was_installed_last() {
        let (connection, mut agents) = world();
        let (held, reserved) = held();
        let reserved = agents[0].entry(&reserved);
        agents[0].tell(&connection, &[reserved]);
        rebuilt(&connection, |_| {});
        let store = agents[0].store(&connection);
        assert_ne!(store.stock, store.generation);
        let told = reservations::behind(&connection, &store.id, store.generation, 0, 9).expect("reads");
        assert_eq!(
            told.into_iter().filter_map(|(_, said)| said).collect::<Vec<_>>(),
            [held],
            "a restore is told of it"
        );
        // A state that does not name it ends it.
        let state = agents[0].state(Vec::new());
        agents[0].tell(&connection, &state);
        agents[0].settle_in(&connection);
        let store = agents[0].store(&connection);
        assert_eq!(reservations::open_of_older_stock(&connection, &store.id, i64::MAX, 9).expect("reads"), []);
    }

    #[test]
    fn one_runs_at_a_time() {
        let (connection, _) = world();
        begin(&connection, NOW).expect("begins");
        step(&connection, FEW, NOW).expect("can be done");
        let before = rebuild::find(&connection).expect("reads");
        begin(&connection, NOW.plus(1)).expect("is asked");
        assert_eq!(rebuild::find(&connection).expect("reads"), before);
    }

    #[test]
    fn no_step_grows_with_the_store() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        agent.stock_up(5_000);
        let state = agent.state(Vec::new());
        agent.tell(&connection, &state);
        agent.settle_in(&connection);
        begin(&connection, NOW).expect("begins");
        let (mut greatest, mut before) = (0, connection.total_changes());
        while !step(&connection, steps::ROWS, NOW).expect("can be done").is_over {
            let now = connection.total_changes();
            (greatest, before) = (u64::max(greatest, now - before), now);
        }
        // A page more may have been begun.
        assert!(greatest <= steps::ROWS as u64 + 220, "{greatest}");
        assert_ne!(agent.store(&connection).stock, 0);
    }
}
