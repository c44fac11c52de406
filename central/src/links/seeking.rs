//! Purchases whose store central chooses: which stores may be asked, and the next one once a store has refused (B6).
//!
//! **Guarantees.** The next store is asked only when the store before has said no, which the purchase's row says; the next
//! attempt, its command and what was refused are one transaction. A crash at any moment leaves the purchase with the one
//! store or with the other, and what still seeks is found again by index. One that finds no store ends, whether or not
//! Redis can be reached.

use std::time::Duration;

use protocol::domain::Lines;
use protocol::ids::{PurchaseId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::promise::policy::{ATTEMPTS_MAX, Candidate, Policy, order};
use protocol::time::Millis;
use runtime::redis::Keys;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::links::presence::{Presence, Reading};
use crate::links::publisher::Wakes;
use crate::links::redis_link::RedisLink;
use crate::links::waiting::Waiting;
use crate::promises::purchases::{ask_elsewhere, give_up};
use crate::storage::purchases::{self, Purchase};
use crate::storage::queries::offers;
use crate::storage::{Abort, Connection, Db, Error, JobResult, Weight, commands, stores};

/// How often is looked even when nothing was applied: Redis may be back, or a time is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Purchases that are read at once.
const AT_ONCE: usize = 100;

/// The stores that would sell all of these lines now, as far as is known, in the policy's order.
pub fn candidates(
    connection: &Connection,
    presence: &Presence,
    lines: &Lines,
    policy: Policy,
) -> JobResult<Vec<StoreId>> {
    let mut found = Vec::new();
    for offer in offers::of_lines(connection, lines, 0)? {
        if presence.judge_remembered(&offer.store).is_err() {
            continue;
        }
        let latency_ms = match policy {
            Policy::LowestLatency => commands::round_trip_ms(connection, &offer.store.id)?,
            Policy::HighestAvailable | Policy::RoundRobin => None,
        };
        found.push(Candidate { store: offer.store.id, left: offer.left, latency_ms });
    }
    let last = match policy {
        Policy::RoundRobin => purchases::last_turn(connection, lines)?,
        Policy::HighestAvailable | Policy::LowestLatency => None,
    };
    Ok(order(policy, found, last.as_ref()))
}

/// What is to be done about a purchase that seeks a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask the first of these that may be asked; if none may, give up.
    Ask(Vec<StoreId>),
    /// Look again later.
    Wait,
    /// Nobody is left, or the time is over.
    GiveUp,
}

/// What is to be done about a purchase that seeks a store, as far as is known.
pub fn next(connection: &Connection, presence: &Presence, purchase: &Purchase, now: Millis) -> JobResult<Next> {
    let over = if planted(Bug::NeverGivesUp) { Next::Wait } else { Next::GiveUp };
    let Some(choice) = &purchase.choice else { return Ok(over) };
    let Some(policy) = choice.policy else {
        return Ok(if now > choice.deadline { over } else { Next::Wait });
    };
    if now > purchase.expires_at || choice.refused.len() >= ATTEMPTS_MAX {
        return Ok(over);
    }
    if !presence.is_redis_reachable() || !presence.has_swept() {
        // Nobody can be told to be there or not.
        return Ok(Next::Wait);
    }
    let mut found = candidates(connection, presence, &purchase.lines, policy)?;
    found.retain(|store| choice.refused.iter().all(|refused| refused.store != *store));
    Ok(if found.is_empty() { over } else { Next::Ask(found) })
}

/// Asks a store, in the caller's transaction. `false`: the purchase no longer seeks one. Refused: by this look at its
/// heartbeat the store may get no purchase, or it has not enough any more.
pub fn ask(
    connection: &Connection,
    presence: &Presence,
    id: PurchaseId,
    store: &StoreId,
    reading: &Reading,
    now: Millis,
) -> Result<bool, Abort<()>> {
    let store = stores::find(connection, store)?.filter(|store| !store.retired);
    let Some(mut store) = store.filter(|store| presence.judge(store, reading).is_ok()) else {
        return Err(Abort::Refused(()));
    };
    if commands::is_full(connection, &store.id)? {
        return Err(Abort::Refused(()));
    }
    ask_elsewhere(connection, &mut store, id, now).map_err(|abort| match abort {
        Abort::Refused(_) => Abort::Refused(()),
        Abort::Database(error) => Abort::Database(error),
    })
}

/// Asks the next store, for whom the one before has refused.
pub struct Seeking {
    pub db: Db,
    pub redis: RedisLink,
    pub keys: Keys,
    pub presence: Presence,
    /// Hears of the new attempts.
    pub wakes: Wakes,
    /// Hears of purchases for which no store is left.
    pub waiting: Waiting,
}

impl Seeking {
    /// Runs until told to stop; an error of the database ends it. `moved_on`: the view has, so some store may have refused.
    pub async fn run(self, mut moved_on: watch::Receiver<u64>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            moved_on.mark_unchanged();
            match self.round().await {
                // Everything can wait while there is too much else to write.
                Ok(()) | Err(Error::Busy) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // Its sender lives as long as this does.
                _ = moved_on.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// All that seek a store now, in the order asked.
    async fn round(&self) -> Result<(), Error> {
        let mut behind = 0;
        loop {
            let some = self.db.read(|connection| purchases::seeking(connection, behind, AT_ONCE)).await?;
            let Some(last) = some.last() else { return Ok(()) };
            behind = last.number;
            for purchase in &some {
                self.seek(purchase).await?;
            }
        }
    }

    async fn seek(&self, purchase: &Purchase) -> Result<(), Error> {
        let (presence, sought) = (self.presence.clone(), purchase.clone());
        let found = self.db.scan(move |connection| next(connection, &presence, &sought, runtime::clock::now()));
        let stores = match found.await? {
            Next::Ask(stores) => stores,
            Next::Wait => return Ok(()),
            Next::GiveUp => Vec::new(),
        };
        let deadline = purchase.choice.as_ref().map(|choice| choice.deadline);
        let weight = Weight::of_lines(purchase.lines.iter().len());
        for store in stores {
            // Redis does not answer: the purchase waits.
            let Some(reading) = self.redis.read_store(&self.keys, &store).await else { return Ok(()) };
            self.presence.note(&store, &reading);
            if deadline.is_some_and(|deadline| reading.redis_now > deadline) {
                break;
            }
            let (id, asked, presence) = (purchase.id, store.clone(), self.presence.clone());
            let job =
                move |connection: &Connection| ask(connection, &presence, id, &asked, &reading, runtime::clock::now());
            let (wakes, waiting) = (self.wakes.clone(), self.waiting.clone());
            if self
                .db
                .write_then(weight, job, move |asked| {
                    if *asked {
                        // It may have been confirmed with that.
                        waiting.settled(&[id.to_string()]);
                        wakes.wake(&store)
                    }
                })
                .await?
                .is_ok()
            {
                return Ok(());
            }
        }
        let (id, waiting) = (purchase.id, self.waiting.clone());
        let end = move |connection: &Connection| {
            give_up(connection, id, runtime::clock::now()).map_err(Abort::<()>::Database)
        };
        let told = move |ended: &bool| {
            if *ended {
                waiting.settled(&[id.to_string()])
            }
        };
        self.db.write_then(weight, end, told).await?.ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::purchases::{PurchaseRequest, begin};
    use crate::testing::{Agent, NOW, database, product, purchase_id};
    use protocol::domain::Quantity;
    use protocol::ids::OperationId;
    use protocol::promise::request::Status;
    use protocol::wire::{About, Became, Command, Outcome, Position};
    use runtime::redis::Heartbeat;

    /// Redis answers, and all of these have fresh heartbeats.
    fn present(agents: &[&Agent]) -> Presence {
        let presence = Presence::new(Duration::from_secs(50));
        presence.note_redis(true);
        presence.note_swept();
        for agent in agents {
            presence.note(&agent.id, &reading(agent));
        }
        presence
    }

    fn reading(agent: &Agent) -> Reading {
        let heartbeat = Heartbeat {
            process: 1,
            epoch: agent.head.epoch,
            head: agent.head.seq,
            backlog: 0,
            oldest_unsent_ms: 0,
            version: String::new(),
            life_ms: 60_000,
        };
        Reading { heartbeat: Some(heartbeat), age_ms: 0, redis_now: NOW }
    }

    fn sought(connection: &Connection, refused: &[&Agent]) -> Purchase {
        let [first, ..] = refused else { panic!("one has refused") };
        let ask = PurchaseRequest {
            id: purchase_id(1),
            lines: Lines::one(product("tea"), Quantity::try_from(4).expect("in range")),
            customer: None,
            about: About::default(),
            ttl_ms: 60_000,
            redis_now: NOW,
            policy: Some(Policy::HighestAvailable),
        };
        begin(connection, &mut first.store(connection), &ask, false, NOW).expect("begins");
        let mut purchase = purchases::find(connection, ask.id).expect("reads").expect("is there");
        if let Some(choice) = &mut purchase.choice {
            choice.seeking = true;
            choice.refused = refused.iter().map(|agent| attempt(&agent.id)).collect();
        }
        purchases::save_transition(connection, &purchase).expect("writes");
        purchase
    }

    fn attempt(store: &StoreId) -> purchases::Attempt {
        purchases::Attempt { store: store.clone(), code: "insufficient_stock".into(), at: NOW }
    }

    #[test]
    fn those_that_are_there_and_have_enough_are_asked_and_none_twice() {
        let connection = database();
        let agents = ["s1", "s2", "s3", "s4"].map(|id| Agent::settled(id, &connection));
        let [one, two, three, four] = &agents;
        let purchase = sought(&connection, &[one]);
        let next = |presence: &Presence, now| next(&connection, presence, &purchase, now).expect("reads");
        let stores = |agents: &[&Agent]| Next::Ask(agents.iter().map(|agent| agent.id.clone()).collect());
        assert_eq!(next(&present(&[one, two, four]), NOW), stores(&[two, four]), "s3 is away");
        assert_eq!(next(&present(&[one]), NOW), Next::GiveUp);
        assert_eq!(next(&present(&[one, three]), NOW.plus(60_001)), Next::GiveUp, "its time is over");

        let unknown = Presence::new(Duration::from_secs(50));
        assert_eq!(next(&unknown, NOW), Next::Wait, "after a start nobody knows who is there");
        assert_eq!(next(&unknown, NOW.plus(60_001)), Next::GiveUp);
        let lost = present(&[one, two]);
        lost.note_redis(false);
        assert_eq!(next(&lost, NOW), Next::Wait);

        two.buy_some(&connection, 2, 7);
        assert_eq!(next(&present(&[one, two, three]), NOW), stores(&[three]), "three are left at s2");
    }

    #[test]
    fn no_more_than_so_many_are_asked_and_none_once_central_was_set_back() {
        let connection = database();
        let agents: Vec<Agent> = (1..=7).map(|n| Agent::settled(&format!("s{n}"), &connection)).collect();
        let agents: Vec<&Agent> = agents.iter().collect();
        let mut purchase = sought(&connection, &agents[..ATTEMPTS_MAX]);
        let presence = present(&agents);
        let next = |purchase: &Purchase, now| next(&connection, &presence, purchase, now).expect("reads");
        assert_eq!(next(&purchase, NOW), Next::GiveUp);
        if let Some(choice) = &mut purchase.choice {
            choice.refused.truncate(1);
        }
        assert!(matches!(next(&purchase, NOW), Next::Ask(others) if others.len() == 6));
        if let Some(choice) = &mut purchase.choice {
            (choice.policy, choice.deadline) = (None, NOW.plus(9));
        }
        assert_eq!((next(&purchase, NOW.plus(9)), next(&purchase, NOW.plus(10))), (Next::Wait, Next::GiveUp));
    }

    #[test]
    fn a_store_is_asked_by_what_is_true_in_the_transaction() {
        let connection = database();
        let agents = ["s1", "s2"].map(|id| Agent::settled(id, &connection));
        let [one, two] = &agents;
        let purchase = sought(&connection, &[one]);
        let presence = present(&[one, two]);
        let asked = |reading: &Reading| ask(&connection, &presence, purchase.id, &two.id, reading, NOW);
        let silent = Reading { heartbeat: None, ..reading(two) };
        assert!(matches!(asked(&silent), Err(Abort::Refused(()))));
        let paused =
            |paused: bool| stores::set_online_sale(&connection, &mut two.store(&connection), !paused).expect("writes");
        paused(true);
        assert!(matches!(asked(&reading(two)), Err(Abort::Refused(()))));
        paused(false);
        assert!(matches!(asked(&reading(two)), Ok(true)));
        assert!(matches!(asked(&reading(two)), Ok(false)), "it has a store");
    }

    #[test]
    fn who_has_answered_soonest_of_late_is_asked_first() {
        let connection = database();
        let agents = ["s1", "s2", "s3"].map(|id| Agent::settled(id, &connection));
        let [one, two, three] = &agents;
        let measured = |agent: &Agent| commands::round_trip_ms(&connection, &agent.id).expect("reads");
        assert_eq!(measured(one), None);
        for (agent, trips) in [(one, vec![900, 8, 7, 9]), (two, vec![3; 25]), (three, vec![])] {
            for (number, trip) in trips.into_iter().enumerate() {
                let id = OperationId::parse(&format!("{}-{number}", agent.id)).expect("valid");
                let mut store = agent.store(&connection);
                commands::append(&connection, &mut store, &id, &Command::Resync, NOW).expect("writes");
                let outcome = Outcome { command: id.clone(), at: NOW, became: Became::Resynced };
                let position = Position { store: agent.id.clone(), at: agent.head.id() };
                commands::save_answer(&connection, &id, Status::Done, &outcome, Some(&position), NOW.plus(trip))
                    .expect("writes");
            }
        }
        assert_eq!((measured(one), measured(two), measured(three)), (Some(9), Some(3), None));
        let presence = present(&[one, two, three]);
        let found =
            candidates(&connection, &presence, &Lines::one(product("tea"), Quantity::ONE), Policy::LowestLatency)
                .expect("reads");
        assert_eq!(found, [two, one, three].map(|agent| agent.id.clone()), "of whom nothing is known comes last");
    }
}
