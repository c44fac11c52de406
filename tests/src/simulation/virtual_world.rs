//! The world of one seed: who is in it, what may happen next, and when all is well again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use protocol::ids::{ProductId, StoreId};
use runtime::redis::Keys;
use rusqlite::Connection;
use store_agent::ledger::state;
use store_agent::operations::resync;

use super::agent::{Agent, Progress, new_file};
use super::allotments::Allotting;
use super::carts::Carts;
use super::central::{Central, Consumed};
use super::clients::Clients;
use super::readers::Readers;
use super::rebuilding::Rebuilding;
use super::reconciling::Reconciling;
use super::redis::Redis;
use super::refusals::Refusal;
use super::traffic::{Look, Shelf};
use super::transfers::Sending;
use super::{BUDGETS, DENSE, Outcome, holds, humans};
use crate::Dice;
use crate::history::{History, judge};
use crate::judge::{Asked, BoundKeys, Known, Name, Occasion, Oracle, Place, Shop, Wish};

/// Virtual time at the beginning, ms: a day in 2026.
const START: i64 = 1_790_000_000_000;
const PASSED_ON: &str = "select count(*) from purchase where status = 'confirmed' and json_array_length(refused) > 0";
/// Taken in a state that was given up, and in the one that was chosen.
const TAKEN_AGAIN: &str = "select count(*) from (select 1 from event where type = 'purchase_confirmed' \
     group by store_id, operation_id having count(*) > 1)";
const RECEIVED_AS_ANNOUNCED: &str =
    "select count(*) from event where type = 'transfer_received' and operation_id like '%:announce:%'";
const RECONCILED: &str = "select count(*) from request where command_id like 'reconciliation-%' and status = 'done'";
const NOT_RECONCILED: &str =
    "select count(*) from request where command_id like 'reconciliation-%' and status = 'refused'";
/// How long healing may take from the end of the last fault, ms; traffic goes on until it has.
const HEAL_WITHIN_MS: i64 = 120_000;
/// So much longer for each entry that waits then, ms: with the smallest budget central writes one in a transaction.
const HEAL_AN_ENTRY_MS: i64 = 2_000;
/// How long what that traffic has begun may take, ms, once it has stopped.
const REST_WITHIN_MS: i64 = 60_000;
/// Steps of the calm in which there is as much traffic as in the storm.
const BUSY_CALM: u64 = 150;
/// Steps of the calm before anybody looks whether all is well.
const FIRST_LOOK: u64 = 750;

/// Everything there is.
pub(super) struct VirtualWorld {
    pub(super) dice: Dice,
    pub(super) now: i64,
    pub(super) keys: Keys,
    pub(super) redis: Redis,
    pub(super) stores: Vec<StoreId>,
    pub(super) products: Vec<ProductId>,
    /// All processes over stores' files; of one store there may be several.
    pub(super) agents: Vec<Agent>,
    pub(super) central: Central,
    /// Copies of files, to be set back to.
    pub(super) copies: Vec<Copy>,
    pub(super) looks: Vec<Look>,
    /// Counts that are yet to be entered.
    pub(super) shelves: Vec<Shelf>,
    pub(super) history: History,
    pub(super) oracle: Oracle,
    /// Stores whose file somebody has touched, or whose central was set back.
    pub(super) touched: BTreeSet<StoreId>,
    /// In which step a client was last told something of a purchase.
    pub(super) told_at: HashMap<String, u64>,
    /// Purchases whose store was retired after they were asked for.
    pub(super) voided: HashSet<String>,
    pub(super) step: u64,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) calm: bool,
    peace: bool,
    /// Which rare faults this seed may have: most have few, so that each is seen alone, too.
    pub(super) allowed: u64,
    /// This seed is about copies and clones, and restores of what was restored before.
    pub(super) has_many_copies: bool,
    pub(super) next_id: u64,
    pub(super) rebuilding: Rebuilding,
    pub(super) sending: Sending,
    pub(super) carts: Carts,
    pub(super) allotting: Allotting,
    pub(super) reconciling: Reconciling,
    pub(super) clients: Clients,
    pub(super) readers: Readers,
    trace: Option<Vec<String>>,
    seed: u64,
}

/// A copy of a file.
pub(super) struct Copy {
    /// Which store's; none: central's.
    pub(super) of: Option<StoreId>,
    pub(super) file: Connection,
    /// What clients' keys stand for in it.
    pub(super) bound: BoundKeys,
    /// Of central's: what it knows.
    pub(super) known: Known,
    /// Whether the log in it was cut.
    pub(super) pruned: bool,
    /// The step in which it was taken.
    pub(super) step: u64,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// On disk, and the process goes on.
    Done,
    /// The process died before it.
    Before,
    /// On disk, and the process died before it could tell.
    After,
}

/// Runs a transaction whose process may die at its commit.
pub(super) fn commit(
    file: &Connection,
    dice: &mut Dice,
    risk: u64,
    job: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>,
) -> Commit {
    let transaction = file.unchecked_transaction().expect("a transaction begins");
    job(&transaction).expect("SQLite in memory does not fail");
    if dice.chance(risk) {
        transaction.rollback().expect("a transaction is rolled back");
        return Commit::Before;
    }
    transaction.commit().expect("a transaction commits");
    if dice.chance(risk) { Commit::After } else { Commit::Done }
}

/// The same while the database refuses some rows, if it does. Says also how many entries were parked for it.
pub(super) fn commit_while(
    refusal: Option<&Refusal>,
    file: &Connection,
    dice: &mut Dice,
    risk: u64,
    job: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>,
) -> (Commit, u64) {
    let Some(refusal) = refusal else { return (commit(file, dice, risk, job), 0) };
    refusal.during(file, || commit(file, dice, risk, job))
}

/// What central knows of each of these stores.
pub(super) fn known(file: &Connection, stores: &[StoreId]) -> Vec<Option<central::storage::stores::Store>> {
    let find = |id| central::storage::stores::find(file, id).expect("the view can be read");
    stores.iter().map(find).collect()
}

impl VirtualWorld {
    pub(super) fn new(seed: u64, trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let keys = Keys::new("shelf");
        let stores: Vec<StoreId> =
            (0..1 + dice.below(3)).map(|n| StoreId::parse(&format!("s{n}")).expect("a valid id")).collect();
        let products = ["ale", "bun", "cod"].map(|name| ProductId::parse(name).expect("a valid id")).to_vec();
        let file = new_file(central::storage::database::SCHEMA);
        let budget = BUDGETS[dice.below(BUDGETS.len() as u64) as usize];
        let mut world = Self {
            now: START,
            redis: Redis::default(),
            central: Central::start(file, &keys, budget),
            agents: Vec::new(),
            copies: Vec::new(),
            looks: Vec::new(),
            shelves: Vec::new(),
            history: History::default(),
            oracle: Oracle::default(),
            touched: BTreeSet::new(),
            told_at: HashMap::new(),
            voided: HashSet::new(),
            step: 0,
            counts: BTreeMap::new(),
            calm: false,
            peace: true,
            allowed: dice.roll() & dice.roll() | if seed < DENSE { 0 } else { u64::MAX },
            has_many_copies: dice.chance(150) | (seed >= DENSE && seed.is_multiple_of(2)),
            next_id: 0,
            rebuilding: Rebuilding::new(seed),
            sending: Sending::new(seed),
            carts: Carts::new(seed),
            allotting: Allotting::new(seed),
            reconciling: Reconciling::new(seed),
            clients: Clients::new(seed),
            readers: Readers::new(seed),
            trace: trace.then(Vec::new),
            seed,
            stores,
            products,
            keys,
            dice,
        };
        for store in world.stores.clone() {
            let agent = world.new_agent(&store);
            world.agents.push(agent);
        }
        world
    }

    /// A new machine for a store: an empty database and a process.
    pub(super) fn new_agent(&mut self, store: &StoreId) -> Agent {
        let file = new_file(store_agent::ledger::SCHEMA);
        let clock = protocol::time::Millis(self.now);
        store_agent::ledger::initialise(&file, store, clock).expect("a new database is this store's");
        self.give_rule(store, &file);
        let process = self.dice.roll();
        let mut agent = Agent::start(store, file, &self.keys, process);
        let looked = self.oracle.look(store.as_str(), &agent.file, &mut agent.noted, Occasion::Beginning, None);
        looked.expect("a ledger can be read");
        agent
    }

    /// The judge looks at what a transaction has left in an agent's file. `begins`: what a restore opens with.
    pub(super) fn look_at(&mut self, number: usize, occasion: Occasion<'_>, begins: Option<Rc<Shop>>) {
        let agent = &mut self.agents[number];
        let looked = self.oracle.look(agent.store.as_str(), &agent.file, &mut agent.noted, occasion, begins);
        looked.expect("a ledger can be read");
    }

    /// What the judge has worked out of an agent's file.
    pub(super) fn shop(&self, number: usize) -> Rc<Shop> {
        self.oracle.shop(self.agents[number].store.as_str(), self.agents[number].noted)
    }

    /// Of a count of an earlier shelf: what the judge knows to have moved since. `ends`: so many reservations end just before
    /// it, of which each is told in a place of its own.
    pub(super) fn moved(&self, number: usize, asked: &Asked, ends: usize) -> Option<i64> {
        let agent = &self.agents[number];
        let Place { epoch, seq, .. } = agent.noted;
        if let Wish::Count { at: Some((of, at)), .. } = asked.wish
            && of == epoch
            && (seq + 1..=seq + ends as u64).contains(&at)
        {
            return Some(0);
        }
        self.oracle.moved(agent.store.as_str(), &agent.file, agent.noted, asked).expect("a ledger can be read")
    }

    /// What it has worked out of central's view of a store.
    pub(super) fn view(&self, store: &StoreId) -> Rc<Shop> {
        let place = Place::of_view(&self.central.file, store.as_str()).expect("the view can be read");
        self.oracle.shop(store.as_str(), place)
    }

    /// A client has seen a purchase's status.
    pub(super) fn saw(&mut self, purchase: &str, status: &str) {
        self.told_at.insert(purchase.to_owned(), self.step);
        self.history.saw(purchase, status);
    }

    fn is_broken(&self) -> bool {
        !self.oracle.violations.is_empty() || !self.history.violations.is_empty()
    }

    /// Now and then a database refuses a product, in seeds that have drawn that.
    fn refusal(&mut self, of: fn(&str) -> Refusal, chance: u64) -> Option<Refusal> {
        let refuses = self.allowed & (1 << 18) != 0 && !self.calm && self.dice.chance(chance);
        self.dice.pick(&self.products).filter(|_| refuses).map(|product| of(product.as_str()))
    }

    /// A name that no other has.
    pub(super) fn name(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        let now = self.now - START;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>8} ms  {}", text()));
        }
    }

    /// The chance of a crash at each commit, in a thousand.
    pub(super) fn risk(&self) -> u64 {
        if self.calm || self.peace { 0 } else { 12 }
    }

    pub(super) fn play(mut self) -> Outcome {
        let steps = 500 + self.dice.below(700);
        let faults = 5 + self.dice.below(35);
        // Most worlds have had time to meet before anything goes wrong.
        let peace = if self.dice.chance(700) { 250 } else { 0 };
        for step in 0..peace + steps {
            if self.is_broken() {
                return self.finish(true);
            }
            self.step += 1;
            self.now += self.dice.between(0, 60);
            self.peace = step < peace;
            self.rebuild(true);
            self.send_units();
            self.set_units_aside();
            self.take_stock();
            self.serve(true, true);
            self.read_events();
            if self.peace {
                if self.dice.chance(60) {
                    self.traffic()
                } else {
                    self.work()
                }
                continue;
            }
            match self.dice.below(1_000) {
                0..=199 => self.traffic(),
                dice if dice < 200 + faults => self.fault(),
                _ => self.work(),
            }
        }
        self.calm = true;
        self.say(|| "--- calm".into());
        self.end_faults();
        let (mut until, mut healed) = (self.patience(), false);
        let (mut step, falls_silent) = (0, self.dice.chance(300));
        while self.now < until {
            if self.is_broken() {
                return self.finish(true);
            }
            self.step += 1;
            step += 1;
            self.now += self.dice.between(0, 60);
            // A livelock is invisible to whoever falls silent first, and a sleeper to whoever never does. Where central writes an
            // entry at a time it must not be asked for as many, or no look finds all of it at rest.
            let is_slow = self.central.budget == BUDGETS[0];
            let asks = !healed && (step < BUSY_CALM || !falls_silent && (!is_slow || step % 4 == 0));
            self.rebuild(step < BUSY_CALM);
            if asks {
                self.send_units();
                self.set_units_aside();
                self.take_stock();
            }
            self.serve(step < BUSY_CALM, asks);
            self.read_events();
            if asks && self.dice.chance(if step < BUSY_CALM { 200 } else { 15 }) {
                self.traffic();
            } else {
                self.work();
            }
            if step == FIRST_LOOK && self.dice.chance(150) {
                // The last thing that goes wrong finds everybody nearly idle.
                if self.dice.chance(300) {
                    self.usurp()
                } else {
                    self.set_back()
                }
                until = self.patience();
            }
            if step > FIRST_LOOK && step % 20 == 0 && self.has_healed() {
                if healed {
                    return self.finish(true);
                }
                healed = true;
                until = self.now + REST_WITHIN_MS;
            }
            if step > FIRST_LOOK && step % 400 == 0 {
                humans::look_after(&mut self);
            }
        }
        self.finish(false)
    }

    /// Until when all must have healed if the faults end now. A command that waits is an entry to come: its answer.
    fn patience(&self) -> i64 {
        let waits = |agent: &Agent| {
            let head = store_agent::ledger::head(&agent.file).expect("a ledger has a head").cursor;
            let seen = central::storage::stores::find(&self.central.file, &agent.store).expect("the view can be read");
            let seen = seen.filter(|seen| seen.cursor.epoch == head.epoch).map_or(0, |seen| seen.cursor.seq.get());
            let asked = central::storage::commands::unanswered(&self.central.file, &agent.store);
            let asked = asked.expect("the view can be read").len() as i64;
            head.seq.get().saturating_sub(seen) as i64 + asked
        };
        self.now + HEAL_WITHIN_MS + HEAL_AN_ENTRY_MS * self.agents.iter().map(waits).sum::<i64>()
    }

    /// One step of someone's work.
    fn work(&mut self) {
        if let Some(call) = self.redis.late.front().cloned()
            && self.dice.chance(60)
        {
            self.redis.late.pop_front();
            self.count("late command of a dead connection");
            self.say(|| format!("late: {call:?}"));
            self.redis.call(&call, self.now);
            return;
        }
        match self.dice.below(10) {
            0..=2 => self.work_agent(true),
            3..=4 => self.work_agent(false),
            5..=8 => self.work_consumer(),
            _ => self.work_commands(),
        }
    }

    /// One step of the whole state that central has asked for.
    fn tell_state(&mut self, number: usize) {
        let (clock, risk) = (self.agents[number].clock(self.now), self.risk());
        let most = 1 + self.dice.below(3) as usize;
        let mut more = false;
        let end = commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
            more = resync::step(connection, most, clock)?;
            Ok(())
        });
        self.count(if more { "parts of a state told" } else { "states told" });
        self.look_at(number, Occasion::State, None);
        self.after_commit(number, end);
    }

    fn work_agent(&mut self, publishes: bool) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        let (now, risk) = (self.now, self.risk());
        let agent = &mut self.agents[number];
        let is_asked = !publishes && agent.runs && state::is_asked(&agent.file).expect("a ledger can be read");
        if is_asked && self.dice.chance(500) {
            self.tell_state(number);
            return;
        }
        let agent = &mut self.agents[number];
        if !agent.runs || !agent.network {
            if !agent.runs && super::faults::is_open(agent) && self.dice.chance(300) {
                agent.runs = true;
                agent.process = self.dice.roll();
            }
            return;
        }
        if !publishes {
            let mut end = Commit::Done;
            let again = if self.dice.chance(100) { 1 + self.dice.below(3) } else { 0 };
            let busy = !self.calm && self.dice.chance(20);
            let refusal = self.refusal(Refusal::of_taking, 200);
            let (agent, dice) = (&mut self.agents[number], &mut self.dice);
            let mut refused = 0;
            let moved = agent.execute(&mut self.redis, now, again, busy, |file, job| {
                (end, refused) = commit_while(refusal.as_ref(), file, dice, risk, job);
                end == Commit::Done
            });
            if refused > 0 {
                self.count("command refused by a store's database");
            }
            if moved {
                let (name, redis_now) = (self.agents[number].store.clone(), self.agents[number].time_asked);
                self.say(|| format!("{name}/{number} executes"));
                let refuses = refusal.as_ref().map(Refusal::product);
                self.look_at(number, Occasion::Commands { redis_now, refuses }, None);
            }
            self.after_commit(number, end);
            return;
        }
        let stopped_before = agent.stopped();
        let head = store_agent::ledger::head(&agent.file).expect("a ledger has a head").cursor;
        let full = agent.uplink.publisher().is_window_full(head.seq);
        let (mut end, dice) = (Commit::Done, &mut self.dice);
        let progress = agent.publish(&mut self.redis, now, |file, job| {
            end = commit(file, dice, risk, job);
            end == Commit::Done
        });
        let stopped = agent.stopped();
        if full {
            self.count("window full");
        }
        if let (None, Some(why)) = (stopped_before, stopped) {
            self.count(match why {
                protocol::link::Stopped::Fenced => "agent stopped: fenced",
                protocol::link::Stopped::Superseded => "agent stopped: superseded",
                protocol::link::Stopped::Diverged => "agent stopped: diverged",
            });
            self.say(|| format!("agent {number} stops: {why:?}"));
        }
        match progress {
            Progress::Idle | Progress::Moved => {}
            Progress::StartedOver => self.count("stream started over"),
            Progress::Full => self.count("round cut short by its bytes"),
            Progress::Stored(place) => self.say(|| format!("agent {number} is acknowledged up to {place}")),
            Progress::Opened(proven) => {
                self.count(match proven {
                    None => "epoch opened because the log was pruned",
                    Some(_) => "epoch opened with a proof",
                });
                if !self.agents[number].pruned {
                    let store = &self.agents[number].store;
                    self.oracle.break_(format!("P6: {store} opens an epoch, and its log was never cut"));
                }
                self.touched.insert(self.agents[number].store.clone());
                let shop = self.shop(number);
                self.oracle.carry(&shop);
                self.look_at(number, Occasion::Opening, None);
                self.say(|| format!("agent {number} opens an epoch"));
            }
        }
        self.after_commit(number, end);
    }

    /// The agent's process may have died at a commit.
    pub(super) fn after_commit(&mut self, number: usize, end: Commit) {
        let what = match end {
            Commit::Done => return,
            Commit::Before => "agent killed before a commit",
            Commit::After => "agent killed after a commit",
        };
        self.count(what);
        self.say(|| format!("agent {number}: {what}"));
        let late = self.dice.chance(500);
        self.agents[number].crash(late, &mut self.redis);
    }

    /// As [`Self::after_commit`], for central.
    pub(super) fn after_central_commit(&mut self, end: Commit) {
        self.oracle.look_at_central(&self.central.file).expect("the view can be read");
        let what = match end {
            Commit::Done => return,
            Commit::Before => "central killed before a commit",
            Commit::After => "central killed after a commit",
        };
        self.count(what);
        self.say(|| what.into());
        let late = self.dice.chance(500);
        self.central.crash(late, &mut self.redis);
    }

    /// Whether central's process runs and reaches Redis; a dead one is started again now and then.
    fn central_works(&mut self) -> bool {
        if !self.central.runs && self.dice.chance(300) {
            self.central.runs = true;
        }
        self.central.runs && self.central.network
    }

    fn work_consumer(&mut self) {
        if !self.central_works() {
            return;
        }
        let Some(store) = self.dice.pick(&self.stores).cloned() else { return };
        let (now, risk) = (self.now, self.risk());
        if self.dice.chance(200) {
            return self.work_steps(&store);
        }
        if self.dice.chance(100) {
            return self.seek();
        }
        let sweeps = self.dice.chance(250);
        let again = if self.dice.chance(100) { 1 + self.dice.below(3) } else { 0 };
        let busy = !self.calm && self.dice.chance(20);
        let due: Vec<StoreId> = self.stores.iter().filter(|_| self.dice.chance(800)).cloned().collect();
        if again > 0 {
            self.count("entries delivered twice");
        }
        let of = [Refusal::of_item, Refusal::of_answer, Refusal::of_hold][self.dice.below(3) as usize];
        let is_state = self.is_installing();
        let refusal = self.refusal(of, if is_state { 500 } else { 200 });
        let (mut end, mut refused, dice) = (Commit::Done, 0, &mut self.dice);
        let (stores, mut before) = (&self.stores, Vec::new());
        let mut commits = |file: &Connection, job: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>| {
            before = known(file, stores);
            (end, refused) = commit_while(refusal.as_ref(), file, dice, risk, job);
            end == Commit::Done
        };
        if sweeps {
            self.central.sweep(&store, &self.redis, now, &mut commits);
        }
        let consumed = if sweeps {
            Consumed::Moved
        } else {
            self.central.consume(due, &mut self.redis, now, again, busy, &mut commits)
        };
        if refused > 0 {
            self.count("entry refused by central's database");
            self.oracle.refuse(&self.central.file).expect("the view can be read");
        }
        match consumed {
            Consumed::Moved => {}
            Consumed::Apart => self.count("stream read apart"),
            Consumed::Together => self.count("events of several stores in one transaction"),
            Consumed::Busy => self.count("central's writer busy"),
        }
        let after = if before.is_empty() { Vec::new() } else { known(&self.central.file, &self.stores) };
        for (before, after) in before.into_iter().zip(after) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            if let (true, Some(refusal)) = (before.installing, &refusal) {
                self.oracle.known.refuse(after.id.as_str(), refusal.product());
            }
            if before.installing && before.cursor == after.cursor && !sweeps {
                self.count("entries waited for a state's outcomes");
            }
            if before.cursor != after.cursor {
                self.say(|| format!("central applies {} up to {}", after.id, after.cursor.id()));
            }
            if before.fenced != after.fenced && after.fenced != protocol::number::Epoch::NONE {
                self.say(|| format!("central refuses {}'s epoch {}", after.id, after.fenced));
            }
            if before.resync_at != after.resync_at {
                self.count("resync");
            }
        }
        self.after_central_commit(end);
    }

    /// Whether central has a state of which the outcomes are still to be settled.
    fn is_installing(&self) -> bool {
        let file = &self.central.file;
        let with_steps = central::storage::stores::with_steps(file).expect("the view can be read");
        known(file, &with_steps).iter().flatten().any(|store| store.installing)
    }

    fn work_steps(&mut self, store: &StoreId) {
        let (now, risk) = (self.now, self.risk());
        let (mut end, dice) = (Commit::Done, &mut self.dice);
        let recounts = central::storage::totals::is_recounting(&self.central.file).expect("the view can be read");
        self.central.step(store, now, |file, job| {
            end = commit(file, dice, risk, job);
            end == Commit::Done
        });
        if recounts {
            self.count("totals summed anew");
        }
        if end != Commit::Done {
            self.count("central killed between steps");
        }
        self.after_central_commit(end);
    }

    fn work_commands(&mut self) {
        if !self.central_works() {
            return;
        }
        let (now, risk) = (self.now, self.risk());
        let most = 1 + self.dice.below(3) as usize;
        let (mut end, dice) = (Commit::Done, &mut self.dice);
        let begun = self.central.publish(&mut self.redis, now, most, |file, job| {
            end = commit(file, dice, risk, job);
            end == Commit::Done
        });
        if begun > 1 {
            self.count("commands of several stores in one batch");
        }
        self.after_central_commit(end);
    }

    /// For people: where everybody stands.
    fn what_is_open(&self) -> String {
        let agents = self.agents.iter().map(|agent| {
            let head = store_agent::ledger::head(&agent.file).expect("a ledger has a head").cursor.id();
            format!("agent of {} at {head}, runs {}, {:?}", agent.store, agent.runs, agent.uplink)
        });
        let stores =
            central::storage::stores::all(&self.central.file).expect("the view can be read").into_iter().map(|store| {
                let stopped = self.central.is_stopped(&store.id);
                format!(
                    "{} at {}, retired {}, fenced {}, suspect {}, settling {}, commands at {} stopped {stopped}",
                    store.id,
                    store.cursor.id(),
                    store.retired,
                    store.fenced,
                    store.suspect,
                    store.is_settling(),
                    store.command_head.id()
                )
            });
        agents.chain(stores).collect::<Vec<_>>().join("; ")
    }

    /// The end of a trace: what is in the streams, and central's ledger.
    fn tell_ledgers(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        trace.extend(self.redis.contents());
        let sql = "select store_id, epoch, seq, type, operation_id, coalesce(product_id, ''), delta from event \
                   order by store_id, epoch, seq";
        let mut statement = self.central.file.prepare(sql).expect("the view can be read");
        let mut rows = statement.query([]).expect("the view can be read");
        while let Some(row) = rows.next().expect("the view can be read") {
            let line = || -> rusqlite::Result<String> {
                let text = |column| row.get::<_, String>(column);
                let (epoch, seq, delta): (u64, u64, i64) = (row.get(1)?, row.get(2)?, row.get(6)?);
                Ok(format!("ledger of {} {epoch}-{seq} {} {} {} {delta:+}", text(0)?, text(3)?, text(4)?, text(5)?))
            };
            trace.push(line().expect("an entry can be read"));
        }
    }

    /// Of each store one agent is in service, and central's view is its stock; no stream is unreadable.
    fn has_healed(&mut self) -> bool {
        let stores = self.stores.clone();
        self.redis.foreign.is_empty()
            && stores.iter().all(|store| {
                let mut of_store = self.agents.iter().filter(|agent| agent.store == *store);
                let (Some(agent), None) = (of_store.next(), of_store.next()) else { return false };
                let head = store_agent::ledger::head(&agent.file).expect("a ledger has a head");
                let Some(seen) =
                    central::storage::stores::find(&self.central.file, store).expect("the view can be read")
                else {
                    return false;
                };
                let open: i64 = self
                    .central
                    .file
                    .query_row(
                        "select (select count(*) from request where store_id = ?1 and status = 'pending') \
                     + (select count(*) from purchase where store_id = ?1 and status = 'pending')",
                        [store.as_str()],
                        |row| row.get(0),
                    )
                    .expect("the view can be read");
                // Fewer units are to be set aside: central is to say that they are not sold.
                let lowered: i64 = agent
                    .file
                    .query_row("select count(*) from item where allotment_wanted is not null", [], |row| row.get(0))
                    .expect("stock can be read");
                let rows =
                    central::storage::items::digest(&self.central.file, seen.stock).expect("the view can be read");
                seen.cursor == head.cursor
                    && seen.digest == head.digest
                    && rows == head.digest
                    && !seen.wants_resync()
                    && !seen.steps
                    && !central::storage::totals::is_recounting(&self.central.file).expect("the view can be read")
                    && !central::storage::rebuild::is_running(&self.central.file).expect("the view can be read")
                    && !seen.retired
                    && !seen.is_settling()
                    && open == 0
                    && lowered == 0
            })
    }

    fn finish(mut self, healed: bool) -> Outcome {
        let mut violations = Vec::new();
        if !healed {
            violations.push(format!("P6: not healed in time: {}", self.what_is_open()));
        }
        self.read_all_events();
        self.tell_ledgers();
        if !self.is_broken() {
            let stores: Vec<(StoreId, &Connection)> =
                self.agents.iter().map(|agent| (agent.store.clone(), &agent.file)).collect();
            violations.extend(judge(&self.history, &self.central.file, &stores).expect("databases can be read"));
            violations.extend(holds::compare(&self.central.file, &stores));
            let stores: Vec<(Name, &Connection)> =
                self.agents.iter().map(|agent| (agent.store.as_str().into(), &agent.file)).collect();
            let history = &self.history;
            let forgotten =
                |purchase: &str| history.purchases.get(purchase).is_some_and(|bought| bought.may_be_forgotten);
            let voided = |purchase: &str| self.voided.contains(purchase);
            self.oracle.conclude(&self.central.file, &stores, &voided, &forgotten).expect("databases can be read");
        } else {
            violations.extend(self.history.violations.iter().cloned());
        }
        violations.append(&mut self.oracle.violations);
        for (what, sql) in [
            ("purchases confirmed", "select count(*) from purchase where status = 'confirmed'"),
            (
                "purchases of several products confirmed",
                "select count(*) from purchase where status = 'confirmed' and lines is not null",
            ),
            (
                "purchases of several products rejected",
                "select count(*) from purchase where status = 'rejected' and lines is not null",
            ),
            (
                "purchases of several products cancelled",
                "select count(*) from purchase where status = 'cancelled' and lines is not null",
            ),
            ("purchases rejected", "select count(*) from purchase where status = 'rejected'"),
            ("purchases expired", "select count(*) from purchase where status = 'expired'"),
            ("purchases cancelled", "select count(*) from purchase where status = 'cancelled'"),
            ("purchases confirmed by a later store", PASSED_ON),
            ("purchases taken again out of a chosen state", TAKEN_AGAIN),
            ("units asked back", "select count(*) from request where command_id like '%:back:%'"),
            ("shortage", "select count(*) from event where type = 'shortage' and delta > 0"),
            ("holds ended for want of units", "select count(*) from event where type = 'shortage' and delta = 0"),
            ("reconciliations done", RECONCILED),
            ("reconciliations refused", NOT_RECONCILED),
            ("units released", "select count(*) from request where type = 'release' and status = 'done'"),
            ("transfers shipped", "select count(*) from transfer where status = 'shipped'"),
            ("transfers received", "select count(*) from transfer where status = 'received'"),
            ("transfers rejected", "select count(*) from transfer where status = 'rejected'"),
            ("transfers received as they were announced", RECEIVED_AS_ANNOUNCED),
            ("holds expired", "select count(*) from reservation where status = 'expired'"),
        ] {
            let count: u64 = self.central.file.query_row(sql, [], |row| row.get(0)).expect("the view can be read");
            *self.counts.entry(what).or_default() += count;
        }
        let mut trace = self.trace.take().unwrap_or_default();
        trace.extend(violations.iter().map(|text| format!("seed {}: {text}", self.seed)));
        Outcome { violations, counts: self.counts, trace }
    }
}
