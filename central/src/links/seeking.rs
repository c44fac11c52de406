//! Purchases whose store central chooses: which stores may be asked, and the next one once a store has refused (B6).
//!
//! **Guarantees.** The next store is asked only when the store before has said no, which the purchase's row says; the next
//! attempt, its command and what was refused are one transaction. A crash at any moment leaves the purchase with the one
//! store or with the other, and what still seeks is found again by index. One that finds no store ends, whether or not
//! Redis can be reached, and no wall clock says when.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::{TryStreamExt, stream};
use protocol::domain::Lines;
use protocol::ids::{PurchaseId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::promise::policy::{ATTEMPTS_MAX, Candidate, Policy, order};
use protocol::time::Millis;
use runtime::clock::Ticks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::links::presence::{Presence, Reading};
use crate::links::publisher::Wakes;
use crate::links::redis_link::Heartbeats;
use crate::links::waiting::Waiting;
use crate::promises::purchases::{ask_elsewhere, give_up};
use crate::storage::purchases::{self, Purchase};
use crate::storage::queries::offers;
use crate::storage::{Abort, Connection, Db, Error, JobResult, Weight, commands, stores};

/// How often is looked even when nothing was applied: Redis may be back, or a time is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Purchases that are read at once.
const AT_ONCE: usize = 100;
/// Of these, so many are looked after at once, so that a rush on one product is not one wait for Redis and one for the disk
/// after the other: what they write shares commits. More would wait for the places that scans have.
const TOGETHER: usize = 8;
/// Who is absent may be about to come back for so long after all stores were looked at over a new connection: an agent that
/// has lost Redis tries again every 2 s at most, and central looks at all stores every 2 s; twice that.
const RETURN: Duration = Duration::from_secs(8);
/// How long is waited, ms, after central was set back, for word of the store that took the units of a purchase.
const FORGOTTEN_MS: i64 = 30_000;

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
    /// Ask the first of these that may be asked; if none may, nobody is left.
    Ask(Vec<StoreId>),
    /// Look again later.
    Wait,
    /// Nobody is left: give up, unless some may be about to come back.
    Nobody,
    /// The time is over, or no more may be asked.
    GiveUp,
}

/// How late it is for a purchase that seeks a store, by clocks that nobody sets at central.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Redis's clock; none: it was never read.
    pub redis_now: Option<Millis>,
    /// For how long this process has known that the purchase seeks a store, ms.
    pub sought_ms: i64,
}

impl Time {
    /// Whether its time to live is over, which began before the purchase sought a store.
    fn is_over(self, purchase: &Purchase, deadline: Millis) -> bool {
        let ttl_ms = purchase.expires_at.since(purchase.created_at);
        self.redis_now.is_some_and(|now| now > deadline) || self.sought_ms > ttl_ms
    }
}

/// What is to be done about a purchase that seeks a store, as far as is known.
pub fn next(connection: &Connection, presence: &Presence, purchase: &Purchase, time: Time) -> JobResult<Next> {
    let never = planted(Bug::NeverGivesUp);
    let over = if never { Next::Wait } else { Next::GiveUp };
    let Some(choice) = &purchase.choice else { return Ok(over) };
    let Some(policy) = choice.policy else {
        return Ok(if time.sought_ms > FORGOTTEN_MS { over } else { Next::Wait });
    };
    if time.is_over(purchase, choice.deadline) || choice.refused.len() >= ATTEMPTS_MAX {
        return Ok(over);
    }
    if !presence.is_redis_reachable() || !presence.has_swept() {
        // Nobody can be told to be there or not.
        return Ok(Next::Wait);
    }
    let mut found = candidates(connection, presence, &purchase.lines, policy)?;
    found.retain(|store| choice.refused.iter().all(|refused| refused.store != *store));
    let nobody = if never { Next::Wait } else { Next::Nobody };
    Ok(if found.is_empty() { nobody } else { Next::Ask(found) })
}

/// Asks a store, in the caller's transaction. `false`: the purchase no longer seeks one. Refused: by this look at its
/// heartbeat the store may get no purchase, or it has not enough any more: others that seek one may have chosen it, too.
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
    pub heartbeats: Heartbeats,
    pub presence: Presence,
    /// Hears of the new attempts.
    pub wakes: Wakes,
    /// Hears of purchases for which no store is left.
    pub waiting: Waiting,
    /// Measures for how long purchases seek a store.
    pub clock: Ticks,
}

impl Seeking {
    /// Runs until told to stop; an error of the database ends it. `moved_on`: the view has, so some store may have what a
    /// purchase seeks.
    pub async fn run(self, mut moved_on: watch::Receiver<u64>, stop: CancellationToken) -> anyhow::Result<()> {
        let (mut since, begins) = (HashMap::new(), self.wakes.seeking());
        loop {
            moved_on.mark_unchanged();
            match self.round(&mut since).await {
                // Everything can wait while there is too much else to write.
                Ok(()) | Err(Error::Busy) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = begins.notified() => {}
                // Its sender lives as long as this does.
                _ = moved_on.changed(), if !since.is_empty() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// All that seek a store now, some at once; who was asked for first comes first. `since`: when each was first seen to.
    async fn round(&self, since: &mut HashMap<PurchaseId, i64>) -> Result<(), Error> {
        let (mut behind, mut all) = (0, HashSet::new());
        loop {
            let some = self.db.read(|connection| purchases::seeking(connection, behind, AT_ONCE)).await?;
            let Some(last) = some.last() else { break };
            behind = last.number;
            let now = self.clock.ms();
            let sought = some.iter().map(|purchase| {
                all.insert(purchase.id);
                Ok((purchase, now - *since.entry(purchase.id).or_insert(now)))
            });
            let sought: Vec<Result<_, Error>> = sought.collect();
            let look = |(purchase, sought_ms)| self.seek(purchase, sought_ms);
            stream::iter(sought).try_for_each_concurrent(TOGETHER, look).await?;
        }
        since.retain(|id, _| all.contains(id));
        Ok(())
    }

    async fn seek(&self, purchase: &Purchase, sought_ms: i64) -> Result<(), Error> {
        let (presence, sought) = (self.presence.clone(), purchase.clone());
        let time = Time { redis_now: presence.redis_now(), sought_ms };
        let stores = match self.db.scan(move |connection| next(connection, &presence, &sought, time)).await? {
            Next::Ask(stores) => stores,
            Next::Nobody => Vec::new(),
            Next::Wait => return Ok(()),
            Next::GiveUp => return self.end(purchase).await,
        };
        let deadline = purchase.choice.as_ref().map(|choice| choice.deadline);
        for store in stores {
            let Some(reading) = self.heartbeats.read(&store).await else {
                // Redis does not answer: the purchase waits. The next one that does may be empty.
                self.presence.note_unheard();
                return Ok(());
            };
            self.presence.note(&store, &reading);
            if deadline.is_some_and(|deadline| reading.redis_now > deadline) {
                return self.end(purchase).await;
            }
            let (id, asked, presence) = (purchase.id, store.clone(), self.presence.clone());
            let job =
                move |connection: &Connection| ask(connection, &presence, id, &asked, &reading, runtime::clock::now());
            let (wakes, waiting) = (self.wakes.clone(), self.waiting.clone());
            if self
                .db
                .write_then(weight(purchase), job, move |asked| {
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
        if self.presence.has_heard_all_for(RETURN) { self.end(purchase).await } else { Ok(()) }
    }

    /// No store is left.
    async fn end(&self, purchase: &Purchase) -> Result<(), Error> {
        let (id, waiting) = (purchase.id, self.waiting.clone());
        let end = move |connection: &Connection| {
            give_up(connection, id, runtime::clock::now()).map_err(Abort::<()>::Database)
        };
        let told = move |ended: &bool| {
            if *ended {
                waiting.settled(&[id.to_string()])
            }
        };
        self.db.write_then(weight(purchase), end, told).await?.ok();
        Ok(())
    }
}

/// One of many lines waits for its place: were it refused one, the round would end, and with it what others seek.
fn weight(purchase: &Purchase) -> Weight {
    match Weight::of_lines(purchase.lines.iter().len()) {
        Weight::Light => Weight::Light,
        Weight::Heavy | Weight::Background => Weight::Background,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::promises::purchases::{PurchaseRequest, begin};
    use crate::storage::files;
    use crate::testing::{Agent, NOW, database, product, purchase_id};
    use protocol::domain::Quantity;
    use protocol::ids::OperationId;
    use protocol::promise::purchase;
    use protocol::promise::request::Status;
    use protocol::wire::{About, Became, Command, Outcome, Position};
    use runtime::redis::Heartbeat;
    use tokio::sync::Barrier;

    /// Its time has only begun.
    const EARLY: Time = Time { redis_now: Some(NOW), sought_ms: 0 };

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
        let next = |presence: &Presence, time| next(&connection, presence, &purchase, time).expect("reads");
        let stores = |agents: &[&Agent]| Next::Ask(agents.iter().map(|agent| agent.id.clone()).collect());
        assert_eq!(next(&present(&[one, two, four]), EARLY), stores(&[two, four]), "s3 is away");
        assert_eq!(next(&present(&[one]), EARLY), Next::Nobody);

        let unknown = Presence::new(Duration::from_secs(50));
        assert_eq!(next(&unknown, EARLY), Next::Wait, "after a start nobody knows who is there");
        let lost = present(&[one, two]);
        lost.note_redis(false);
        assert_eq!(next(&lost, EARLY), Next::Wait);

        two.buy_some(&connection, 2, 7);
        assert_eq!(next(&present(&[one, two, three]), EARLY), stores(&[three]), "three are left at s2");
    }

    #[test]
    fn its_time_is_over_by_the_clock_of_redis_or_once_it_has_sought_for_as_long() {
        let connection = database();
        let agents = ["s1", "s2"].map(|id| Agent::settled(id, &connection));
        let [one, two] = &agents;
        let purchase = sought(&connection, &[one]);
        let lost = present(&[one, two]);
        lost.note_redis(false);
        for (presence, before) in [(present(&[one, two]), Next::Ask(vec![two.id.clone()])), (lost, Next::Wait)] {
            let next = |redis_ms: Option<i64>, sought_ms| {
                let time = Time { redis_now: redis_ms.map(|ms| NOW.plus(ms)), sought_ms };
                next(&connection, &presence, &purchase, time).expect("reads")
            };
            assert_eq!((next(Some(60_000), 60_000), next(None, 60_000)), (before.clone(), before));
            assert_eq!((next(Some(60_001), 0), next(None, 60_001)), (Next::GiveUp, Next::GiveUp));
            assert_eq!(next(Some(-3_600_000), 60_001), Next::GiveUp, "Redis's clock was set back");
        }
    }

    #[test]
    fn no_more_than_so_many_are_asked_and_none_once_central_was_set_back() {
        let connection = database();
        let agents: Vec<Agent> = (1..=7).map(|n| Agent::settled(&format!("s{n}"), &connection)).collect();
        let agents: Vec<&Agent> = agents.iter().collect();
        let mut purchase = sought(&connection, &agents[..ATTEMPTS_MAX]);
        let presence = present(&agents);
        let next = |purchase: &Purchase, time| next(&connection, &presence, purchase, time).expect("reads");
        assert_eq!(next(&purchase, EARLY), Next::GiveUp);
        if let Some(choice) = &mut purchase.choice {
            choice.refused.truncate(1);
        }
        assert!(matches!(next(&purchase, EARLY), Next::Ask(others) if others.len() == 6));
        if let Some(choice) = &mut purchase.choice {
            choice.policy = None;
        }
        // Redis's clock says nothing of when central was set back.
        let after = |sought_ms| Time { redis_now: Some(NOW.plus(90_000)), sought_ms };
        assert_eq!(next(&purchase, after(FORGOTTEN_MS)), Next::Wait);
        assert_eq!(next(&purchase, after(FORGOTTEN_MS + 1)), Next::GiveUp);
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

    /// A central of stores with ten units of tea each, where so many buyers want four and s1 has refused all of them.
    async fn rush(stores: &'static [&'static str], buyers: u128) -> (tempfile::TempDir, Db, Presence) {
        let dir = tempfile::tempdir().expect("a directory");
        let db = files::open(&dir.path().join("central.db")).expect("opens").links;
        let begin = move |connection: &Connection| {
            let agents: Vec<Agent> = stores.iter().map(|id| Agent::settled(id, connection)).collect();
            let first = sought(connection, &[&agents[0]]);
            for id in (2..=buyers).map(purchase_id) {
                let attempt = OperationId::attempt_at(&id, &first.store);
                purchases::insert(connection, &Purchase { id, attempt, ..first.clone() })?;
            }
            Ok::<_, Abort<()>>(agents)
        };
        let agents = db.write(begin).await.expect("writes").expect("begins");
        let agents: Vec<&Agent> = agents.iter().collect();
        (dir, db, present(&agents))
    }

    fn seeking(db: &Db, presence: &Presence, heartbeats: Heartbeats) -> Seeking {
        let (wakes, waiting) = (Wakes::default(), Waiting::default());
        Seeking { db: db.clone(), heartbeats, presence: presence.clone(), wakes, waiting, clock: Ticks::start() }
    }

    /// A heartbeat of any store: all are in the same epoch.
    fn any() -> Reading {
        let mut agent = Agent::new("s1");
        agent.open(7, &[]);
        reading(&agent)
    }

    /// There is none.
    fn none() -> Reading {
        Reading { redis_now: NOW, ..Reading::default() }
    }

    async fn look(seeking: &Seeking) {
        let mut since = HashMap::new();
        let round = tokio::time::timeout(Duration::from_secs(20), seeking.round(&mut since));
        round.await.expect("in time").expect("reads and writes");
    }

    /// How many have this status at each store.
    async fn became(db: &Db, status: purchase::Status, is_seeking: bool) -> BTreeMap<String, usize> {
        let all = move |connection: &Connection| {
            let all = (1..=20).filter_map(|number| purchases::find(connection, purchase_id(number)).transpose());
            all.collect::<JobResult<Vec<_>>>()
        };
        let mut became = BTreeMap::new();
        for purchase in db.scan(all).await.expect("reads") {
            if (purchase.status, purchase.life().seeking) == (status, is_seeking) {
                *became.entry(purchase.store.to_string()).or_default() += 1;
            }
        }
        became
    }

    fn at(stores: &[(&str, usize)]) -> BTreeMap<String, usize> {
        stores.iter().map(|(store, count)| ((*store).to_owned(), *count)).collect()
    }

    #[tokio::test]
    async fn several_are_looked_after_at_once_and_no_unit_is_promised_twice() {
        let (_dir, db, presence) = rush(&["s1", "s2", "s3"], TOGETHER as u128).await;
        presence.note_heard_all(RETURN);
        // Nobody is asked before all have looked, so that all have chosen the same store.
        let (first, looks) = (Arc::new(Barrier::new(TOGETHER)), Arc::new(AtomicUsize::new(0)));
        let heartbeats = Heartbeats::new(move |_| {
            let (first, look) = (first.clone(), looks.fetch_add(1, Ordering::SeqCst));
            async move {
                if look < TOGETHER {
                    first.wait().await;
                }
                Some(any())
            }
        });
        look(&seeking(&db, &presence, heartbeats)).await;
        assert_eq!(became(&db, purchase::Status::Pending, false).await, at(&[("s2", 2), ("s3", 2)]));
        assert_eq!(became(&db, purchase::Status::Rejected, false).await, at(&[("s1", TOGETHER - 4)]));
    }

    #[tokio::test]
    async fn after_a_loss_of_redis_the_absent_have_time_to_come_back() {
        let (_dir, db, presence) = rush(&["s1", "s2"], 1).await;
        let answer =
            |heartbeat: bool| Heartbeats::new(move |_| async move { Some(if heartbeat { any() } else { none() }) });
        let sought = async || became(&db, purchase::Status::Pending, true).await == at(&[("s1", 1)]);
        // It was there before; Redis is empty. Once it is known to be away there is nobody to look for.
        presence.note_heard_all(Duration::ZERO);
        for _ in 0..2 {
            look(&seeking(&db, &presence, answer(false))).await;
            assert!(sought().await);
        }
        presence.note(&StoreId::parse("s2").expect("valid"), &any());
        look(&seeking(&db, &presence, answer(true))).await;
        assert_eq!(became(&db, purchase::Status::Pending, false).await, at(&[("s2", 1)]));

        for is_known in [false, true] {
            let (_dir, db, presence) = rush(&["s1", "s2"], 1).await;
            presence.note_heard_all(RETURN);
            if is_known {
                presence.note(&StoreId::parse("s2").expect("valid"), &Reading::default());
            }
            look(&seeking(&db, &presence, answer(false))).await;
            assert_eq!(became(&db, purchase::Status::Rejected, false).await, at(&[("s1", 1)]), "{is_known}");
        }
    }

    #[tokio::test]
    async fn a_redis_that_does_not_answer_may_have_lost_who_was_heard() {
        let (_dir, db, presence) = rush(&["s1", "s2"], 1).await;
        presence.note_heard_all(RETURN);
        let silent = Heartbeats::new(|_| async { None });
        look(&seeking(&db, &presence, silent)).await;
        look(&seeking(&db, &presence, Heartbeats::new(|_| async { Some(none()) }))).await;
        assert_eq!(became(&db, purchase::Status::Pending, true).await, at(&[("s1", 1)]));
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
