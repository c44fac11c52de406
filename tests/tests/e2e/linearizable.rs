//! What clients of one item are told fits one order of what they did, in which nobody who asks after an answer is before it
//! (linearizability): at the store, and at central for those who say with `minPosition` what they know to be done.
//!
//! Stateright's tester looks for that order. It is exhaustive, so histories are short: each round is one, and begins
//! with what the item is when nobody asks.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::{join, join_all};
use protocol::wire::Position;
use reqwest::Method;
use serde_json::{Value, json};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use tests::{Answer, Client, Daemon, Dice, World};

const SOON: Duration = Duration::from_secs(20);
const CLIENTS: usize = 4;
/// What each client asks in a round.
const ASKED: usize = 5;
const ROUNDS: u64 = 60;

/// An item as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    quantity: i64,
    version: i64,
}

#[derive(Debug, Clone)]
enum Ask {
    Sell(i64),
    Count { quantity: i64, expected: i64 },
    Read,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Is(Item),
    NotEnough,
    OtherVersion,
}

impl SequentialSpec for Item {
    type Op = Ask;
    type Ret = Told;

    fn invoke(&mut self, ask: &Ask) -> Told {
        match ask {
            Ask::Sell(units) if *units > self.quantity => return Told::NotEnough,
            Ask::Count { expected, .. } if *expected != self.version => return Told::OtherVersion,
            Ask::Sell(units) => *self = Self { quantity: self.quantity - units, version: self.version + 1 },
            Ask::Count { quantity, .. } => *self = Self { quantity: *quantity, version: self.version + 1 },
            Ask::Read => {}
        }
        Told::Is(*self)
    }
}

/// What everybody in a round has asked and been told.
struct Round {
    history: Mutex<LinearizabilityTester<usize, Item>>,
    /// The position of the latest write that was answered.
    latest: Mutex<Option<Position>>,
}

impl Round {
    fn new(begin: Item) -> Self {
        Self { history: Mutex::new(LinearizabilityTester::new(begin)), latest: Mutex::default() }
    }

    fn asks(&self, client: usize, ask: &Ask) {
        self.history.lock().expect("no thread panics").on_invoke(client, ask.clone()).expect("one thing at a time");
    }

    fn is_told(&self, client: usize, told: Told) {
        self.history.lock().expect("no thread panics").on_return(client, told).expect("it has asked");
    }

    /// Remembers the position of a write, before anybody else hears that it was answered.
    fn wrote(&self, answer: &Answer) {
        let Ok(position) = answer.header("shelf-position").parse::<Position>() else { return };
        let mut latest = self.latest.lock().expect("no thread panics");
        if latest.as_ref().is_none_or(|latest| latest.at < position.at) {
            *latest = Some(position);
        }
    }

    /// Where whoever reads at central finds all that was answered before.
    fn path(&self) -> String {
        let latest = self.latest.lock().expect("no thread panics");
        let least = latest.as_ref().map(|position| format!("?minPosition={position}")).unwrap_or_default();
        format!("/v1/inventory/s1/tea{least}")
    }
}

fn item(body: &Value) -> Item {
    let number = |name: &str| body[name].as_i64().unwrap_or_else(|| panic!("{name} in {body}"));
    Item { quantity: number("quantity"), version: number("version") }
}

fn told(answer: &Answer) -> Told {
    match (answer.status, answer.code()) {
        (200, _) => Told::Is(item(&answer.body)),
        (409, "insufficient_stock") => Told::NotEnough,
        (409, "version_conflict") => Told::OtherVersion,
        _ => panic!("{}: {}", answer.status, answer.body),
    }
}

/// Asks a few things, one after the other, until there is no answer: then nobody knows whether it was done.
async fn shop(round: &Round, number: usize, store: Client, central: Client, mut dice: Dice, mut known: Item) {
    for _ in 0..ASKED {
        let ask = match dice.below(10) {
            0..=3 => Ask::Sell(dice.between(1, 3)),
            4 | 5 => Ask::Count { quantity: dice.between(0, 12), expected: known.version },
            _ => Ask::Read,
        };
        let at_central = matches!(ask, Ask::Read) && dice.chance(500);
        round.asks(number, &ask);
        let answer = match &ask {
            Ask::Sell(units) => {
                let body = json!({"quantity": units});
                store.ask(Method::POST, "/v1/purchase/tea", &[], Some(&body)).await
            }
            Ask::Count { quantity, expected } => {
                let body = json!({"quantity": quantity, "expectedVersion": expected});
                store.ask(Method::PUT, "/v1/inventory/tea", &[], Some(&body)).await
            }
            Ask::Read if at_central => central.ask(Method::GET, &round.path(), &[("prefer", "wait=20")], None).await,
            Ask::Read => store.ask(Method::GET, "/v1/inventory/tea", &[], None).await,
        };
        // An agent that was killed says nothing of what its tills or central wait for.
        let Ok(answer) = answer else { return };
        if answer.code() == "not_caught_up" {
            return;
        }
        round.wrote(&answer);
        let told = told(&answer);
        if let Told::Is(item) = told {
            known = item;
        }
        round.is_told(number, told);
    }
}

/// What the item is while nobody asks.
async fn at_rest(world: &World) -> Item {
    item(&world.store("s1").get("/v1/inventory/tea").await.expect(200))
}

/// Goes through one round. `killed_after`: the agent is killed in it.
async fn play(world: &mut World, seed: u64, killed_after: Option<Duration>) {
    let begin = at_rest(world).await;
    let round = Round::new(begin);
    let shoppers = join_all((0..CLIENTS).map(|number| {
        let dice = Dice::new(seed * CLIENTS as u64 + number as u64);
        shop(&round, number, world.store("s1"), world.central(), dice, begin)
    }));
    let agent = Daemon::Store("s1".into());
    match killed_after {
        None => drop(shoppers.await),
        Some(after) => {
            let kill = async {
                tokio::time::sleep(after).await;
                world.kill(&agent);
            };
            join(shoppers, kill).await;
            world.restart(&agent).await;
        }
    }
    let history = round.history.into_inner().expect("no thread panics");
    assert!(history.is_consistent(), "round {seed}, killed after {killed_after:?}: {history:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_clients_are_told_of_an_item_fits_one_order() {
    let mut world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 30})).await.expect(201);
    for round in 0..ROUNDS {
        world.converged(SOON).await;
        let killed_after = (round % 6 == 5).then(|| Duration::from_millis(round % 20));
        play(&mut world, round, killed_after).await;
    }
    // It can fail: central is asked by somebody who does not say what it has to know.
    world.converged(SOON).await;
    let begin = at_rest(&world).await;
    let (store, central, round) = (world.store("s1"), world.central(), Round::new(begin));
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    round.asks(0, &Ask::Count { quantity: 7, expected: begin.version });
    let counted = json!({"quantity": 7, "expectedVersion": begin.version});
    let counted = store.ask(Method::PUT, "/v1/inventory/tea", &[], Some(&counted)).await.expect("an answer");
    round.is_told(0, told(&counted));
    round.asks(1, &Ask::Read);
    let read = central.get("/v1/inventory/s1/tea").await;
    round.is_told(1, told(&read));
    assert!(!round.history.into_inner().expect("no thread panics").is_consistent(), "a stale read passes");
}

#[test]
fn what_fits_no_order_is_found() {
    let begin = Item { quantity: 10, version: 1 };
    let is = |quantity, version| Told::Is(Item { quantity, version });
    let consistent = |history: &dyn Fn(&Round)| {
        let round = Round::new(begin);
        history(&round);
        round.history.into_inner().expect("no thread panics").is_consistent()
    };
    let sale_then = |reads_late: bool, read: Told| {
        consistent(&move |round: &Round| {
            round.asks(0, &Ask::Sell(1));
            if reads_late {
                round.is_told(0, is(9, 2));
            }
            round.asks(1, &Ask::Read);
            round.is_told(1, read.clone());
            if !reads_late {
                round.is_told(0, is(9, 2));
            }
        })
    };
    assert!(sale_then(false, is(10, 1)) && sale_then(false, is(9, 2)) && sale_then(true, is(9, 2)));
    assert!(!sale_then(true, is(10, 1)), "a stale read");
    let two_sales = |first: Told, second: Told| {
        consistent(&move |round: &Round| {
            round.asks(0, &Ask::Sell(1));
            round.asks(1, &Ask::Sell(1));
            round.is_told(0, first.clone());
            round.is_told(1, second.clone());
        })
    };
    assert!(two_sales(is(8, 3), is(9, 2)));
    assert!(!two_sales(is(9, 2), is(9, 2)), "a sale is lost");
    let unanswered = consistent(&|round: &Round| {
        round.asks(0, &Ask::Sell(1));
        round.asks(1, &Ask::Read);
        round.is_told(1, is(9, 2));
        round.asks(1, &Ask::Read);
        round.is_told(1, is(10, 1));
    });
    assert!(!unanswered, "what was done is not undone");
}
