//! Chaos with real processes: Redis, central and stores behind fault proxies, tills and buyers who record every answer,
//! and faults of every kind that DESIGN.md promises to outlive.
//!
//! [`play`] goes through one world: faults for a while, several at a time, each kind at least once; then they end,
//! everything must heal by itself within a minute, while traffic goes on (people restore only what has stopped itself for a
//! reason), and the judge compares what clients asked and were told with what the databases say. What happens, to whom and
//! in which order comes from the seed; when exactly it meets the traffic does not.

mod faults;
mod proxy;
mod report;
mod rig;
mod traffic;

pub use faults::Kind;
pub use proxy::{Proxy, Weather};
pub use report::{Log, Outcome, Row};

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::ids::StoreId;
use rusqlite::Connection;

use crate::Dice;
use crate::history::judge;
use faults::Plan;
use rig::Rig;
use traffic::{Crowd, Totals};

/// Faults at a time, at most.
const LANES: usize = 2;
/// How long healing may take.
const HEAL_WITHIN: Duration = Duration::from_secs(60);
/// How long what the last shoppers have begun may take.
const REST_WITHIN: Duration = Duration::from_secs(30);
/// How often a fault that could not happen is tried again.
const TRIES: u32 = 4;
/// Between two summaries.
const SUMMARY_EVERY: Duration = Duration::from_secs(5);
/// A suspect store is asked for its state at most once a minute, so no event that makes it suspect comes later than this
/// before the end.
const UNKNOWN_EVENTS_END: Duration = Duration::from_secs(30);

/// How one world goes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides what goes wrong, where and in which order.
    pub seed: u64,
    /// How many stores.
    pub stores: usize,
    /// How long faults go on, at least: each kind happens once.
    pub faults_for: Duration,
    /// Keep the files when a promise was broken.
    pub keep: bool,
    /// Only kinds of fault whose name contains this.
    pub only: String,
}

/// The faults to come.
struct Deck {
    kinds: Vec<Kind>,
    cards: VecDeque<(Plan, u32)>,
    dice: Dice,
    end: Instant,
    /// Every kind was dealt once.
    complete: bool,
}

impl Deck {
    fn new(rig: &Rig, outcome: &mut Outcome, options: &Options, dice: Dice) -> Self {
        let mut kinds = Vec::new();
        for kind in Kind::ALL {
            match kind.hindrance(rig) {
                Some(why) => drop(outcome.skipped.insert(*kind, why.to_owned())),
                None if !kind.name().contains(&options.only) => {
                    outcome.skipped.insert(*kind, "not asked for".to_owned());
                }
                None => kinds.push(*kind),
            }
        }
        let end = Instant::now() + options.faults_for;
        let mut deck = Self { kinds, cards: VecDeque::new(), dice, end, complete: false };
        deck.shuffle(rig);
        deck
    }

    fn shuffle(&mut self, rig: &Rig) {
        let first = !self.complete;
        let mut kinds = self.kinds.clone();
        for place in (1..kinds.len()).rev() {
            kinds.swap(place, self.dice.below(place as u64 + 1) as usize);
        }
        if first {
            // What takes a minute to heal comes in the first half, what needs an earlier copy in the second.
            let (half, last) = (kinds.len() / 2, kinds.len().saturating_sub(1));
            for place in 0..kinds.len() {
                let wrong = match kinds[place] {
                    Kind::UnknownEvent => place >= half,
                    Kind::OlderFile | Kind::CentralOlderCopy | Kind::RedisOlderCopy => place < half,
                    _ => false,
                };
                if wrong {
                    kinds.swap(place, last - place);
                }
            }
        }
        let dice = &mut self.dice;
        self.cards.extend(kinds.into_iter().map(|kind| (Plan::new(kind, rig, dice), 0)));
    }

    /// The next fault; none: it is over.
    fn next(&mut self, rig: &Rig) -> Option<(Plan, u32)> {
        loop {
            let now = Instant::now();
            if self.kinds.is_empty() || (self.complete && now >= self.end) {
                return None;
            }
            let Some(card) = self.cards.pop_front() else {
                self.complete = true;
                if now < self.end {
                    self.shuffle(rig);
                }
                continue;
            };
            if self.complete && card.0.kind == Kind::UnknownEvent && now + UNKNOWN_EVENTS_END > self.end {
                continue;
            }
            return Some(card);
        }
    }
}

/// Goes through one world. An error is one of this program or this machine, not of what is tested.
pub async fn play(options: &Options) -> anyhow::Result<Outcome> {
    let log = Log::default();
    let mut dice = Dice::new(options.seed);
    let victim = dice.below(options.stores as u64) as usize;
    let rig = Arc::new(Rig::start(options.stores, victim, log).await.context("the world does not start")?);
    log.say(&format!(
        "seed {}: {} stores, central, Redis; {} has the bad luck with files; {}",
        options.seed,
        options.stores,
        rig.stores[victim].name,
        rig.dir().display()
    ));
    let crowd = Crowd::start(&rig, dice.roll()).await?;
    let outcome = Mutex::new(Outcome::default());
    let supervisor = tokio::spawn({
        let rig = rig.clone();
        async move { rig.supervise().await }
    });
    let copies = tokio::spawn({
        let rig = rig.clone();
        async move { faults::take_copies(&rig).await }
    });
    let summary = tokio::spawn(summarise(rig.clone(), log));

    let deck = Deck::new(&rig, &mut outcome.lock().expect("no thread panics"), options, Dice::new(dice.roll()));
    let deck = Mutex::new(deck);
    futures_util::future::join_all((0..LANES).map(|_| lane(&rig, &deck, &outcome, log))).await;
    copies.abort();
    // A copy may be in the middle of a file; what is written of it is not used.
    let _ = copies.await;
    faults::end_faults(&rig).await?;
    let calm = Instant::now();
    log.say("the faults are over");
    // A livelock shows only under traffic: it goes on until all is well.
    if let Err(seen) = heal(&rig, calm).await {
        rig.violation(format!("P6: not healed within {HEAL_WITHIN:?}: {seen}"));
    }
    let healed_in = calm.elapsed();
    log.say(&format!("healed after {:.1} s, with traffic going on", healed_in.as_secs_f64()));
    crowd.leave().await?;
    // What the last shoppers have begun.
    if let Err(error) = rig.wait("at rest", REST_WITHIN, async || rig.has_converged().await).await {
        rig.violation(format!("P6: {error:#}"));
    }
    supervisor.abort();
    summary.abort();
    let _ = tokio::join!(supervisor, summary);
    say_totals(&rig, log);

    for daemon in rig.daemons() {
        rig.terminate(daemon, &mut *daemon.hold().await).await;
    }
    if let Some(process) = rig.redis.slot.lock().await.process.take() {
        process.kill();
    }
    find_panics(&rig)?;
    let rig = Arc::into_inner(rig).context("nobody else has the world any more")?;
    let mut outcome = outcome.into_inner().expect("no thread panics");
    finish(&rig, &mut outcome, healed_in)?;
    if options.keep && !outcome.violations.is_empty() {
        log.say(&format!("the files are kept in {}", rig.keep().display()));
    }
    Ok(outcome)
}

/// One fault after another.
async fn lane(rig: &Arc<Rig>, deck: &Mutex<Deck>, outcome: &Mutex<Outcome>, log: Log) {
    loop {
        let next = deck.lock().expect("no thread panics").next(rig);
        let Some((plan, tries)) = next else { return };
        let totals = || rig.records.lock().expect("no thread panics").totals;
        let (kind, before, began) = (plan.kind, totals(), Instant::now());
        let violations = rig.records.lock().expect("no thread panics").history.violations.len();
        match faults::inflict(rig, plan.clone()).await {
            Ok(what) => {
                let took = began.elapsed().as_secs_f64();
                log.say(&format!("{}: {what} ({took:.1} s)", kind.name()));
                let broken = rig.records.lock().expect("no thread panics").history.violations.len() > violations;
                outcome.lock().expect("no thread panics").count(kind, &before, &totals(), broken);
            }
            Err(error) if tries + 1 < TRIES => {
                log.say(&format!("{}: later, {error:#}", kind.name()));
                let mut deck = deck.lock().expect("no thread panics");
                // Something else first: what is in the way may be gone then.
                let place = deck.cards.len().min(3);
                deck.cards.insert(place, (plan, tries + 1));
            }
            Err(error) => rig.violation(format!("{}: {error:#}", kind.name())),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Waits until all is well, and lets people do their part.
async fn heal(rig: &Rig, calm: Instant) -> Result<(), String> {
    let mut heads: Option<Vec<(u64, u64)>> = None;
    loop {
        let seen = if let Some(heads) = &heads {
            rig.has_reached(heads).await
        } else {
            match rig.heads().await {
                Ok(known) => {
                    heads = Some(known);
                    continue;
                }
                Err(seen) => Err(seen),
            }
        };
        match seen {
            Ok(()) => return Ok(()),
            Err(seen) if calm.elapsed() > HEAL_WITHIN => return Err(seen),
            Err(_) => {}
        }
        if let Err(error) = faults::look_after(rig).await {
            rig.violation(format!("a restore failed: {error:#}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn summarise(rig: Arc<Rig>, log: Log) {
    let mut ticks = tokio::time::interval(SUMMARY_EVERY);
    loop {
        ticks.tick().await;
        say_totals(&rig, log);
    }
}

fn say_totals(rig: &Rig, log: Log) {
    let records = rig.records.lock().expect("no thread panics");
    let Totals { operations, repeated, unanswered, refused, purchases, confirmed, turned_away, copies } =
        records.totals;
    let mut latencies = records.latencies.clone();
    latencies.sort_unstable();
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0);
    log.say(&format!(
        "--- {operations} operations ({repeated} only when repeated, {unanswered} unanswered, {refused} refused; p99 of \
         the rest {p99} ms), {purchases} purchases ({confirmed} confirmed, {turned_away} turned away), {} daemons ended \
         by themselves, {copies} copies",
        records.exits
    ));
}

/// No part of a daemon may panic, whatever happens to it.
fn find_panics(rig: &Rig) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(rig.dir())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            for line in text.lines().filter(|line| line.contains("panicked")).take(3) {
                let name = path.file_name().unwrap_or_default().display().to_string();
                rig.violation(format!("P9: {name}: {line}"));
            }
        }
    }
    Ok(())
}

/// The judge's word, over the files.
fn finish(rig: &Rig, outcome: &mut Outcome, healed_in: Duration) -> anyhow::Result<()> {
    let records = rig.records.lock().expect("no thread panics");
    let central = faults::read(&rig.central.database)?;
    let files = rig.stores.iter().map(|daemon| faults::read(&daemon.database)).collect::<Result<Vec<_>, _>>()?;
    let stores: Vec<(StoreId, &Connection)> = rig.ids.iter().cloned().zip(&files).collect();
    let recorded = faults::operations(&rig.central.database, "select operation_id from event")?;
    outcome.violations = judge(&records.to_history(&recorded), &central, &stores)?;
    outcome.operations = records.totals.operations;
    outcome.unanswered = records.totals.unanswered;
    outcome.purchases = records.totals.purchases;
    outcome.healed_in = healed_in;
    outcome.waits.clone_from(&records.waits);
    outcome.waits.sort_unstable();
    outcome.violations.extend(outcome.overdue());
    Ok(())
}
