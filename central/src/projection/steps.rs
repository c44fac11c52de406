//! What is left to be done after a store's state has changed as a whole, in steps of bounded size beside everything else:
//! outcomes that came with it are settled, the chain's totals moved, rows that are no longer shown removed, and the bodies
//! of pages forgotten that a later state has replaced.
//!
//! **Guarantees.** A step is one short transaction, and the database says what is left: after a crash it goes on from
//! there. Nobody waits for the last step, but entries of the same store for its outcomes.

use protocol::ids::StoreId;
use protocol::time::Millis;

use crate::projection::install::{ROWS_AN_OUTCOME, install};
use crate::projection::touched::Saved;
use crate::storage::ledger;
use crate::storage::stocks;
use crate::storage::stores;
use crate::storage::totals;
use crate::storage::{Connection, JobResult};

/// Rows of one step.
pub const ROWS: usize = 500;
/// Pages forgotten in a step of so many rows: a page is as long as the items on it.
const ROWS_A_PAGE: usize = 25;

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// What was settled, and which other stores were asked for something.
    pub saved: Saved,
    /// Whether commands were appended, which are to be sent.
    pub has_commands: bool,
}

/// One step for a store, of so many rows, in the caller's transaction.
pub fn step(connection: &Connection, id: &StoreId, rows: usize, now: Millis) -> JobResult<Stepped> {
    let mut stepped = Stepped::default();
    let Some(mut store) = stores::find(connection, id)? else { return Ok(stepped) };
    let before = store.command_head;
    if store.installing {
        let outcomes = (rows as u64 / ROWS_AN_OUTCOME).max(1);
        install(connection, &mut store, outcomes, now, &mut stepped.saved)?;
        store.save_events(connection)?;
    } else if !(totals::step(connection, &store, rows)?
        || stocks::remove_step(connection, id, rows)?
        || ledger::forget_pages(connection, &store, (rows / ROWS_A_PAGE).max(1))?)
    {
        stores::steps_done(connection, id)?;
    }
    stepped.has_commands = store.command_head != before;
    Ok(stepped)
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Item, Rejection};
    use protocol::promise::purchase::Status;
    use protocol::wire::{Became, Event, Outcome, Subject};
    use runtime::redis::Received;
    use runtime::sqlite::Abort;

    use super::*;
    use crate::operators::verify::verify;
    use crate::projection::rebuild;
    use crate::projection::view::{self, Budget};
    use crate::promises::stores::{adopt, retire};
    use crate::storage::stores::{DigestState, Store};
    use crate::storage::{commands, items, purchases};
    use crate::testing::{Agent, NOW, database, plan, product};

    /// Rows that one transaction may change: the budget counts an entry as two, and its own row, item and total make three;
    /// one more page may have been begun.
    const ROWS_MAX: u64 = 2 * Budget::FULL;

    /// Runs transactions of one store until there is nothing left; says how many rows the greatest one has changed.
    struct Meter<'a> {
        connection: &'a Connection,
        greatest: u64,
        transactions: u64,
    }

    impl<'a> Meter<'a> {
        fn new(connection: &'a Connection) -> Self {
            Self { connection, greatest: 0, transactions: 0 }
        }

        fn run<T>(&mut self, job: impl FnOnce(&Connection) -> T) -> T {
            let before = self.connection.total_changes();
            let result = job(self.connection);
            self.greatest = self.greatest.max(self.connection.total_changes() - before);
            self.transactions += 1;
            result
        }

        fn tell(&mut self, agent: &Agent, mut batch: &[Received]) {
            while !batch.is_empty() {
                let mut budget = Budget::new(Budget::FULL);
                let applied = self.run(|connection| view::receive(connection, &agent.id, batch, NOW, &mut budget));
                let applied = applied.expect("can be applied");
                assert!(applied.more || applied.entries as usize == batch.len(), "{applied:?}");
                batch = &batch[applied.entries as usize..];
            }
        }

        fn steps(&mut self, agent: &Agent) {
            while agent.store(self.connection).steps {
                self.run(|connection| step(connection, &agent.id, ROWS, NOW)).expect("can be done");
            }
        }

        fn change(&mut self, agent: &Agent, change: impl FnOnce(&Connection, &mut Store)) {
            self.run(|connection| {
                let mut store = agent.store(connection);
                change(connection, &mut store);
            });
        }
    }

    fn total(connection: &Connection, product: &str) -> (i64, i64) {
        connection
            .query_row("select quantity, stores from product where product_id = ?1", [product], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap_or_default()
    }

    fn differences(connection: &Connection) -> Vec<String> {
        verify(connection).expect("can be read").differences
    }

    #[test]
    fn no_transaction_grows_with_the_store() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let mut meter = Meter::new(&connection);
        agent.stock_up(20_000);
        agent.operations = (0..5_000).map(|number| outcome_of(number).command).collect();
        let state = agent.state((0..5_000).map(outcome_of).collect());
        meter.tell(&agent, &state);
        meter.steps(&agent);
        assert_eq!(total(&connection, "p-19999"), (7, 1));
        let lineage = [agent.head];
        let opening = agent.open(9, &lineage);
        meter.tell(&agent, &opening);
        meter.steps(&agent);
        meter.change(&agent, |connection, store| drop(retire(connection, store, NOW).expect("retires")));
        meter.steps(&agent);
        assert_eq!(total(&connection, "p-19999"), (0, 0));
        meter.change(&agent, |connection, store| assert!(adopt(connection, store, 9.into(), NOW).expect("adopts")));
        meter.steps(&agent);
        assert_eq!(total(&connection, "p-19999"), (7, 1));
        let asked = protocol::wire::restore::Question { epoch: 9.into(), log: Vec::new() };
        meter
            .run(|connection| crate::operators::restore::question(connection, &agent.id, &asked, NOW))
            .expect("answers");
        assert!(meter.greatest <= ROWS_MAX, "{} rows in one of {} transactions", meter.greatest, meter.transactions);
        assert!(meter.transactions > 80, "{}", meter.transactions);
        assert_eq!(differences(&connection), [""; 0]);
        assert!(plan(&connection, ledger::PAGES).contains("event_page"));
    }

    fn outcome_of(number: usize) -> Outcome {
        Outcome {
            command: format!("command-{number:05}").parse().expect("valid"),
            at: NOW,
            became: Became::Refused {
                subject: Subject::Product(product("tea")),
                rejection: Rejection::AlreadyPicked,
                item: None,
            },
        }
    }

    #[test]
    fn a_total_is_the_old_one_or_the_new_one_at_each_moment() {
        let connection = database();
        let mut other = Agent::settled("s2", &connection);
        other.stock_up(60);
        let state = other.state(Vec::new());
        other.tell(&connection, &state);
        other.settle_in(&connection);
        let mut agent = Agent::settled("s1", &connection);
        agent.stock_up(40);
        let state = agent.state(Vec::new());
        agent.tell(&connection, &state);
        agent.settle_in(&connection);
        assert_eq!((total(&connection, "tea"), total(&connection, "p-00001")), ((20, 2), (8, 2)));
        // It loses one product, gets others, and goes on selling while totals are moved.
        agent.lose("p-00001");
        agent.stock_up(50);
        agent.lose("p-00007");
        let state = agent.state(Vec::new());
        agent.tell(&connection, &state);
        let mut steps = 0;
        while agent.store(&connection).steps {
            step(&connection, &agent.id, 3, NOW).expect("can be done");
            steps += 1;
            if steps % 4 == 0 {
                let sale = agent.sale();
                agent.tell(&connection, &[sale]);
            }
            assert_eq!(differences(&connection), [""; 0]);
            assert!([(5, 1), (10, 2)].contains(&total(&connection, "p-00007")));
            assert!([(3, 1), (6, 2)].contains(&total(&connection, "p-00045")));
            assert_eq!(total(&connection, "p-00003").1, 2);
        }
        assert!(steps > 20);
        assert_eq!(total(&connection, "p-00007"), (5, 1));
        assert_eq!(total(&connection, "p-00045"), (6, 2));
        let left: i64 = connection.query_row("select count(*) from stock", [], |row| row.get(0)).expect("reads");
        assert_eq!(left, 2, "the old one is gone");
    }

    #[test]
    fn replacing_retiring_and_taking_back_may_interrupt_each_other() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        agent.stock_up(40);
        let mut dice = 7_u64;
        for round in 0..120 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (dice >> 33) % 3 {
                0 => {
                    let state = agent.state(Vec::new());
                    agent.tell(&connection, &state);
                }
                1 => Meter::new(&connection).change(&agent, |connection, store| {
                    if store.retired {
                        assert!(adopt(connection, store, 7.into(), NOW).expect("adopts"));
                    } else {
                        retire(connection, store, NOW).expect("retires");
                    }
                }),
                _ => {
                    let sale = agent.sale();
                    agent.tell(&connection, &[sale]);
                    agent.stock_up(1);
                }
            }
            for _ in 0..(dice >> 40) % 9 {
                step(&connection, &agent.id, 4, NOW).expect("can be done");
            }
            let found: Vec<String> =
                differences(&connection).into_iter().filter(|text| !text.starts_with("store s1: tea")).collect();
            assert_eq!(found, [""; 0], "round {round}");
        }
        let retired = agent.store(&connection).retired;
        agent.settle_in(&connection);
        assert_eq!(total(&connection, "p-00030").1, i64::from(!retired));
    }

    #[test]
    fn entries_wait_for_the_outcomes_that_came_with_the_state() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let purchase = purchases::find(&connection, crate::testing::purchase_id(1)).expect("reads").expect("is");
        let item = Item { version: 2, ..Item::default() };
        let became = Became::Confirmed { purchase: purchase.attempt_ref(), item: Some(item), picked: false };
        let confirmed = Outcome { command: attempt, at: NOW, became };
        let mut batch = agent.state((0..5).map(outcome_of).chain([confirmed]).collect());
        batch.push(agent.sale());
        let status = || {
            let found = purchases::find(&connection, crate::testing::purchase_id(1));
            found.expect("reads").expect("is there").status
        };
        let (mut calls, mut installing) = (0, false);
        let mut left = batch.as_slice();
        while !left.is_empty() {
            // Room for one outcome and the sale behind it: not the budget makes the sale wait.
            let mut budget = Budget::new(if installing { ROWS_AN_OUTCOME + 2 } else { 2 });
            let applied = view::receive(&connection, &agent.id, left, NOW, &mut budget).expect("can be applied");
            left = &left[applied.entries as usize..];
            calls += 1;
            installing = agent.store(&connection).installing;
            assert!(!installing || left.len() == 1, "the sale waits");
            let confirmed = status() == Status::Confirmed;
            assert!(confirmed || !left.is_empty(), "before the sale is applied");
            assert!(!confirmed || left.len() <= 1, "not before the state is shown");
            if installing && calls % 2 == 0 {
                let asked = protocol::wire::restore::Question { epoch: 7.into(), log: Vec::new() };
                let refused = crate::operators::restore::question(&connection, &agent.id, &asked, NOW);
                assert!(matches!(refused, Err(Abort::Refused(crate::operators::restore::Refusal::Installing))));
                step(&connection, &agent.id, 1, NOW).expect("can be done");
            }
        }
        assert!(calls > 5, "{calls}");
        let settled = purchases::find(&connection, crate::testing::purchase_id(1)).expect("reads").expect("is");
        let sale = agent.head.seq;
        assert_eq!(settled.position.map(|position| position.at.seq), Some(sale - 1), "where the state ended");
    }

    #[test]
    fn rows_that_changed_by_themselves_do_not_leave_the_totals_wrong() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        connection.execute("update item set quantity = quantity + 1", []).expect("writes");
        let stock = view::unsound(&connection, &agent.id).expect("reads").expect("shows");
        assert!(view::distrust(&connection, &agent.id, stock, NOW).expect("writes"), "it is asked");
        let state = agent.state(Vec::new());
        agent.tell(&connection, &state);
        agent.settle_in(&connection);
        assert_eq!(total(&connection, "tea"), (10, 1));
        assert!(!view::distrust(&connection, &agent.id, stock, NOW).expect("reads"), "that stock is no longer shown");
        assert_eq!(differences(&connection), [""; 0]);
    }

    #[test]
    fn pages_of_replaced_states_are_forgotten_and_the_rest_still_proves_the_view() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        agent.stock_up(700);
        for _ in 0..3 {
            let sale = agent.sale();
            let mut batch = agent.state(Vec::new());
            batch.insert(0, sale);
            agent.tell(&connection, &batch);
            agent.settle_in(&connection);
        }
        let sale = agent.sale();
        agent.tell(&connection, &[sale]);
        let report = verify(&connection).expect("can be read");
        assert_eq!((report.forgotten_pages, report.differences), (1 + 2 * 4, Vec::new()));
        let kept = "select count(*) from event where type = 'snapshot_page' and body <> ''";
        let kept: i64 = connection.query_row(kept, [], |row| row.get(0)).expect("reads");
        assert_eq!(kept, 4);
        let store = agent.store(&connection);
        let replayed = crate::projection::replay::state(&connection, &store).expect("reads").stock;
        assert_eq!(replayed.into_iter().collect::<Vec<_>>(), items::of_store(&connection, &agent.id).expect("reads"));
    }

    #[test]
    fn only_a_difference_asks_for_the_whole_state() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let unknown = agent.unknown();
        agent.tell(&connection, &[unknown]);
        let is_asked = || commands::is_resync_asked(&connection, &agent.id).expect("reads");
        let store = agent.store(&connection);
        assert!(store.suspect && store.digest_state == DigestState::Equal);
        assert!(!is_asked());
        assert!(!view::repeat_resync(&connection, &agent.id, NOW).expect("reads"), "nor later");
        let ready = agent.store(&connection).ready_epoch;
        let later = agent.entry(&Event::Ready { command_epoch: ready });
        agent.tell(&connection, &[later]);
        assert!(!agent.store(&connection).suspect, "it has changed no stock");
        agent.stock_up(1);
        let unknown = agent.unknown();
        agent.tell(&connection, &[unknown]);
        let store = agent.store(&connection);
        assert!(store.suspect && store.digest_state == DigestState::Different);
        assert!(commands::is_resync_asked(&connection, &agent.id).expect("reads"));
    }

    #[test]
    fn an_idle_store_that_differs_is_asked_again_after_a_minute() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let mut store = agent.store(&connection);
        stores::mark_different(&connection, &mut store).expect("writes");
        stores::set_resync_at(&connection, &mut store, Some(NOW)).expect("writes");
        assert!(!view::repeat_resync(&connection, &agent.id, NOW.plus(59_000)).expect("reads"));
        assert!(view::repeat_resync(&connection, &agent.id, NOW.plus(60_000)).expect("reads"));
        assert!(
            !view::repeat_resync(&connection, &agent.id, NOW.plus(120_000)).expect("reads"),
            "it has yet to answer"
        );
    }

    /// `STEPS_STORES=100 STEPS_ITEMS=10000 cargo test --release -p central how_long -- --nocapture` measures the longest
    /// transaction of each kind with a file on disk; by default it is only seen to work.
    #[test]
    fn how_long_the_longest_transaction_takes() {
        let setting = |name: &str, or: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
        let (stores, items) = (setting("STEPS_STORES", 2), setting("STEPS_ITEMS", 1_000));
        let directory = tempfile::tempdir().expect("a directory");
        let (connection, _lock) =
            runtime::sqlite::open(&directory.path().join("central.db"), crate::storage::database::SCHEMA)
                .expect("opens");
        let mut longest: std::collections::BTreeMap<&str, (u128, u64, u128)> = Default::default();
        let mut timed = |kind: &'static str, job: &mut dyn FnMut(&Connection)| {
            let started = std::time::Instant::now();
            let transaction = connection.unchecked_transaction().expect("begins");
            job(&transaction);
            transaction.commit().expect("commits");
            let took = started.elapsed().as_micros();
            let (most, count, sum) = longest.entry(kind).or_default();
            (*most, *count, *sum) = ((*most).max(took), *count + 1, *sum + took);
        };
        type Timed<'a> = &'a mut dyn FnMut(&'static str, &mut dyn FnMut(&Connection));
        let steps = |timed: Timed<'_>, agent: &Agent| {
            while agent.store(&connection).steps {
                timed("step", &mut |connection| {
                    step(connection, &agent.id, ROWS, NOW).expect("can be done");
                });
            }
        };
        let mut agents: Vec<Agent> = (0..stores).map(|number| Agent::new(&format!("s{number}"))).collect();
        for (kind, epoch) in [("fresh central", 7), ("opening", 9), ("resync", 0)] {
            for agent in &mut agents {
                agent.stock_up(items);
                let lineage =
                    if agent.head != protocol::link::Cursor::default() { vec![agent.head] } else { Vec::new() };
                let batch = if epoch > 0 { agent.open(epoch, &lineage) } else { agent.state(Vec::new()) };
                let mut left = batch.as_slice();
                while !left.is_empty() {
                    timed(kind, &mut |connection| {
                        let mut budget = Budget::new(Budget::FULL);
                        let applied = view::receive(connection, &agent.id, left, NOW, &mut budget).expect("applies");
                        left = &left[applied.entries as usize..];
                    });
                }
                steps(&mut timed, agent);
            }
        }
        let begin = |connection: &Connection| rebuild::begin(connection, NOW).expect("begins");
        timed("rebuild begun", &mut |connection| begin(connection));
        let mut is_over = false;
        while !is_over {
            timed("rebuild", &mut |connection| {
                is_over = rebuild::step(connection, ROWS, NOW).expect("can be done").is_over;
            });
        }
        agents.iter().for_each(|agent| steps(&mut timed, agent));
        for agent in &agents {
            let mut change = |kind, change: &dyn Fn(&Connection, &mut Store)| {
                timed(kind, &mut |connection| {
                    let mut store = agent.store(connection);
                    change(connection, &mut store);
                });
                steps(&mut timed, agent);
            };
            change("retire", &|connection, store| drop(retire(connection, store, NOW).expect("retires")));
            change("adopt", &|connection, store| assert!(adopt(connection, store, 9.into(), NOW).expect("adopts")));
            timed("restore's question", &mut |connection| {
                let asked = protocol::wire::restore::Question { epoch: 9.into(), log: Vec::new() };
                crate::operators::restore::question(connection, &agent.id, &asked, NOW).expect("answers");
            });
        }
        totals::begin_recount(&connection).expect("writes");
        while totals::is_recounting(&connection).expect("reads") {
            timed("recount", &mut |connection| {
                totals::recount_step(connection, ROWS).expect("can be done");
            });
        }
        for (kind, (most, count, sum)) in &longest {
            println!(
                "{kind:<20} longest {:>8.1} ms of {count:>6}, {:>7.1} s in all",
                *most as f64 / 1e3,
                *sum as f64 / 1e6
            );
        }
        assert_eq!(totals::differences(&connection).expect("reads"), []);
    }
}
