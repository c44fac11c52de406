//! Who is there (P8, L13): heartbeats as last read from Redis. Only Redis's clock decides how old one is.

use protocol::planted::{Bug, planted};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use protocol::ids::StoreId;
use protocol::link::{EntryId, Epoch};
use protocol::time::Millis;
use runtime::redis::{Claim, Heartbeat};

use crate::storage::stores::{Standing, Store};

pub use runtime::redis::Reading;

/// Two process numbers that each came back after the other, within this time, are two agents.
const ALTERNATION: Duration = Duration::from_secs(120);
/// A store that announces entries of which nothing has come for so long gets no purchase: it would not execute it.
const STANDSTILL: Duration = Duration::from_secs(10);
/// After a heartbeat was waited for in vain nobody else waits for one, unless Redis is heard again, for so long: by then the
/// consumer knows that it is silent.
const IN_VAIN: Duration = Duration::from_secs(2);
/// One of two agents that was not heard for so long is gone: also an idle agent sends a heartbeat every 10 s.
const SILENCE: Duration = Duration::from_secs(15);

/// Why a store gets no remote purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Its heartbeat is too old, or it said good-bye.
    Offline,
    /// Its heartbeat was never seen.
    NeverSeen,
    /// What central knows of it is not up to date yet.
    CatchingUp,
    /// An operator paused it.
    Paused,
    /// Its agent was refused: a copy, a clone, or one that was replaced.
    Fenced,
    /// Its stream or commands cannot be followed.
    Quarantined,
    /// Redis cannot be reached, so nothing is known.
    Redis,
    /// Central has not looked yet.
    Starting,
}

impl Unavailable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::NeverSeen => "never_seen",
            Self::CatchingUp => "catching_up",
            Self::Paused => "paused",
            Self::Fenced => "fenced",
            Self::Quarantined => "quarantined",
            Self::Redis => "redis",
            Self::Starting => "starting",
        }
    }

    /// In words, for a shop.
    pub fn words(self) -> &'static str {
        match self {
            Self::Offline => "the store is not there: it has left, or was not heard of for too long",
            Self::NeverSeen => "the store has never been heard of",
            Self::CatchingUp => "what is known of the store's stock is not up to date yet",
            Self::Paused => "the store's online sale is paused",
            Self::Fenced | Self::Quarantined => "the store's agent has to be looked after first",
            Self::Redis => "the stores cannot be reached at present",
            Self::Starting => "central has just started and has not heard of its stores yet",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Known {
    heartbeat: Option<Heartbeat>,
    /// When the heartbeat was set, by this process's monotonic clock.
    heartbeat_at: Option<Instant>,
    /// Its key was not there at the last reading: it left in good order, or Redis was wiped.
    gone: bool,
    /// The process before the present one, and when it was last seen.
    other_process: Option<(u64, Instant)>,
    two_agents: bool,
    /// Since when something is known to exist that is not applied.
    lagging_since: Option<Instant>,
    /// Where it has stood, and since when, with more announced.
    standing: Option<(EntryId, Instant)>,
    /// Why its stream cannot be followed.
    stuck: Option<(String, Instant)>,
    quarantined: Option<String>,
    /// Its command sender has stopped itself.
    commands_stopped: bool,
    /// What Redis refuses central for this store, and in which words.
    refused: BTreeMap<Access, String>,
    /// What an agent that publishes nothing says of itself, and since when it does not.
    claim: Option<(Claim, Option<Instant>)>,
    /// Central's time of the last heartbeat, or of the last entries, of which everything was applied.
    current_at: Millis,
    /// A head that a heartbeat announced and that is not reached yet, and the time of that heartbeat.
    owed: Option<(Millis, EntryId)>,
}

impl Known {
    fn stands_still(&self) -> bool {
        self.standing.is_some_and(|(_, since)| since.elapsed() > STANDSTILL)
    }

    /// One that goes on sends a heartbeat before its claim has gone.
    fn claim(&self) -> Option<&Claim> {
        let (claim, since) = self.claim.as_ref()?;
        let same = self.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.process == claim.process);
        (!same || self.heartbeat_at <= *since).then_some(claim)
    }

    fn grounds(&self) -> Grounds {
        let refused = |access| self.refused.contains_key(&access);
        let there = self.heartbeat.as_ref().zip(self.heartbeat_at).filter(|_| !self.gone);
        Grounds {
            was_heard: self.heartbeat.is_some(),
            last: there.map(|(heartbeat, at)| (heartbeat.epoch, age_ms(at))),
            is_broken: self.quarantined.is_some()
                || self.commands_stopped
                || refused(Access::Ack)
                || refused(Access::Commands),
            stands_still: self.stands_still(),
            is_claimed: self.claim().is_some(),
        }
    }
}

/// What a store is judged by, of all that is known of its presence.
#[derive(Debug, Clone, Copy, Default)]
struct Grounds {
    /// Some heartbeat of it was seen.
    was_heard: bool,
    /// Epoch and age in ms of its last heartbeat, if that counts.
    last: Option<(Epoch, i64)>,
    /// Its link is broken in one direction at least.
    is_broken: bool,
    stands_still: bool,
    /// An agent runs under its id and publishes nothing.
    is_claimed: bool,
}

/// What central does with one of a store's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reads its heartbeat.
    Heartbeat,
    /// Writes the ack of its events.
    Ack,
    /// Sends commands and reads their ack.
    Commands,
}

impl Access {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "reading its heartbeat",
            Self::Ack => "acknowledging its events",
            Self::Commands => "sending it commands",
        }
    }
}

/// What is known of all stores' presence; lives in memory only. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    stores: Arc<RwLock<HashMap<StoreId, Known>>>,
    health: Arc<RwLock<Health>>,
    max_age: Duration,
    /// Whether a store may be away while central sells what it has set aside.
    sells_offline: bool,
}

#[derive(Debug, Default, Clone)]
struct Health {
    redis_since: Option<Instant>,
    lost_at: Option<Instant>,
    /// A heartbeat was waited for in vain, and nothing was read since.
    silent_at: Option<Instant>,
    swept: bool,
    /// Since when all known stores have been looked at over the present connection.
    heard_since: Option<Instant>,
    /// Redis's clock as last read, and when that was.
    redis_clock: Option<(Millis, Instant)>,
}

/// What operators see of a store's presence.
#[derive(Debug, Clone, Default)]
pub struct PresenceReport {
    /// The last heartbeat seen.
    pub heartbeat: Option<Heartbeat>,
    /// Its age now, ms.
    pub heartbeat_age_ms: Option<i64>,
    /// Its key is gone: it counts no longer, however young it is.
    pub gone: bool,
    /// Age of the oldest entry known to exist and not applied, ms; 0: none.
    pub lag_ms: i64,
    /// More is announced than is applied, and for some time nothing was.
    pub stands_still: bool,
    /// Two agents send heartbeats under one id.
    pub two_agents: bool,
    /// Why its stream has stood still, and for how long, ms.
    pub stuck: Option<(String, i64)>,
    /// Why its link is broken.
    pub quarantined: Option<String>,
    /// Central's command sender for it has stopped.
    pub commands_stopped: bool,
    /// What Redis refuses central for this store, and in which words.
    pub refused: BTreeMap<Access, String>,
    /// What an agent says of itself that runs under this id and publishes nothing.
    pub claim: Option<Claim>,
    /// Central's time of the last heartbeat, or of the last entries, of which everything was applied.
    pub current_at: Millis,
}

impl Presence {
    /// Nothing seen yet. A heartbeat older than `max_age` counts as stale.
    pub fn new(max_age: Duration) -> Self {
        Self { stores: Arc::default(), health: Arc::default(), max_age, sells_offline: false }
    }

    /// What a store has set aside is sold even if nothing was heard of it for too long.
    #[must_use]
    pub fn selling_offline(self, sells_offline: bool) -> Self {
        Self { sells_offline, ..self }
    }

    /// Redis was asked for a heartbeat and did not answer in time.
    pub fn note_silent(&self) {
        self.health.write().silent_at = Some(Instant::now());
    }

    /// Whether to wait for a heartbeat would be in vain.
    pub fn is_silent(&self) -> bool {
        self.health.read().silent_at.is_some_and(|at| at.elapsed() < IN_VAIN)
    }

    /// Remembers a reading.
    pub fn note(&self, store: &StoreId, reading: &Reading) {
        if self.is_silent() {
            self.health.write().silent_at = None;
        }
        // What Redis refused came without its clock.
        if reading.redis_now > Millis(0) {
            self.health.write().redis_clock = Some((reading.redis_now, Instant::now()));
        }
        let mut stores = self.stores.write();
        let known = stores.entry(store.clone()).or_default();
        let Some(heartbeat) = &reading.heartbeat else {
            // The last heartbeat stays, to tell its age.
            known.gone = true;
            return;
        };
        if let Some(last) = &known.heartbeat
            && last.process != heartbeat.process
        {
            let other = known.other_process.filter(|(_, at)| at.elapsed() < ALTERNATION);
            known.two_agents = other.is_some_and(|(process, _)| process == heartbeat.process);
            known.other_process = Some((last.process, Instant::now()));
        }
        known.heartbeat_at = Instant::now().checked_sub(Duration::from_millis(reading.age_ms.unsigned_abs()));
        known.heartbeat = Some(heartbeat.clone());
        known.gone = false;
    }

    /// Remembers how far a store's events are applied after a reading of its stream and heartbeat. `came`: something of
    /// the stream was applied now; `all`: nothing of it was left behind. Returns whether the view is current: all that
    /// the heartbeat announces is applied, too.
    pub fn note_applied(
        &self,
        store: &StoreId,
        applied: EntryId,
        reading: &Reading,
        at: Millis,
        came: bool,
        all: bool,
    ) -> bool {
        // A heartbeat says nothing of what has happened since. Who is silent gets older by each reading.
        let told_at = at.plus(reading.age_ms.saturating_neg());
        let reached = |place: EntryId| place.epoch == applied.epoch && place.seq <= applied.seq;
        let head = reading.heartbeat.as_ref().map(|heartbeat| EntryId { epoch: heartbeat.epoch, seq: heartbeat.head });
        let mut stores = self.stores.write();
        let known = stores.entry(store.clone()).or_default();
        let is_behind = head.is_some_and(|head| !reached(head));
        known.standing = is_behind
            .then(|| known.standing.filter(|(place, _)| *place == applied).unwrap_or((applied, Instant::now())));
        // Under steady sales there is always something newer: what an earlier heartbeat announced counts for its own time.
        if let Some((asked_at, place)) = known.owed
            && (reached(place) || place.epoch < applied.epoch)
        {
            if reached(place) {
                known.current_at = known.current_at.max(asked_at);
            }
            (known.owed, known.lagging_since) = (None, None);
        }
        if all && head.is_none_or(reached) {
            (known.owed, known.lagging_since) = (None, None);
            if head.is_some() {
                // What comes from a store with a heartbeat was published a moment ago; else nobody can tell when.
                let is_alive = reading.age_ms <= i64::try_from(self.max_age.as_millis()).unwrap_or(i64::MAX);
                known.current_at = known.current_at.max(if came && is_alive { at } else { told_at });
            }
            return head.is_some();
        }
        let mut age_ms = 0;
        if let (Some(head), Some(heartbeat)) = (head.filter(|head| !reached(*head)), &reading.heartbeat) {
            known.owed.get_or_insert((told_at, head));
            age_ms = heartbeat.oldest_unsent_ms.saturating_add(reading.age_ms).max(0).unsigned_abs();
        }
        let now = Instant::now();
        known.lagging_since.get_or_insert(now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now));
        false
    }

    /// Remembers why a store's stream stands still, or that it does not. Says whether the reason is new.
    pub fn note_stuck(&self, store: &StoreId, why: Option<String>) -> bool {
        let mut stores = self.stores.write();
        let known = stores.entry(store.clone()).or_default();
        let news = why.is_some() && why.as_ref() != known.stuck.as_ref().map(|(why, _)| why);
        known.stuck = why.map(|why| {
            let since = known.stuck.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            (why, since)
        });
        news
    }

    /// Remembers that a store's link is broken, or whole again. Says whether that is new.
    pub fn note_quarantined(&self, store: &StoreId, why: Option<String>) -> bool {
        let mut stores = self.stores.write();
        let known = stores.entry(store.clone()).or_default();
        let news = known.quarantined.is_some() != why.is_some();
        known.quarantined = why;
        news
    }

    /// Remembers that Redis refuses something for a store, or that it does not. Says whether a refusal is new.
    pub fn note_access(&self, store: &StoreId, access: Access, refused: Option<String>) -> bool {
        let mut stores = self.stores.write();
        let known = stores.entry(store.clone()).or_default();
        match refused {
            Some(why) => known.refused.insert(access, why).is_none(),
            None => {
                known.refused.remove(&access);
                false
            }
        }
    }

    /// Remembers what an agent says of itself that publishes nothing, or that there is none.
    pub fn note_claim(&self, store: &StoreId, claim: Option<Claim>) {
        let mut stores = self.stores.write();
        let known = stores.entry(store.clone()).or_default();
        if known.claim.as_ref().map(|(claim, _)| claim) != claim.as_ref() {
            known.claim = claim.map(|claim| {
                let since = Instant::now().checked_sub(Duration::from_millis(claim.for_ms));
                (claim, since)
            });
        }
    }

    /// Forgets everything of ids that are no stores.
    pub fn retain(&self, known: &HashSet<StoreId>) {
        self.stores.write().retain(|id, _| known.contains(id));
    }

    /// Remembers whether central's command sender for a store has stopped itself.
    pub fn note_commands_stopped(&self, store: &StoreId, stopped: bool) {
        self.stores.write().entry(store.clone()).or_default().commands_stopped = stopped;
    }

    /// Redis answered, or it did not. Says whether that is new.
    pub fn note_redis(&self, reachable: bool) -> bool {
        let mut health = self.health.write();
        let is_first = health.redis_since.is_none() && health.lost_at.is_none();
        let news = is_first || reachable != health.redis_since.is_some();
        if reachable {
            health.redis_since.get_or_insert_with(Instant::now);
            health.lost_at = None;
        } else {
            (health.redis_since, health.heard_since) = (None, None);
            health.lost_at.get_or_insert_with(Instant::now);
        }
        news
    }

    /// All known stores have been looked at over the present connection.
    pub fn note_swept(&self) {
        let mut health = self.health.write();
        health.swept = true;
        health.heard_since.get_or_insert_with(Instant::now);
    }

    /// A connection is new, or one was lost: this Redis may not have the heartbeats that the one before had.
    pub fn note_unheard(&self) {
        self.health.write().heard_since = None;
    }

    /// Whether all known stores have been looked at over the present connection, and so long ago.
    pub fn has_heard_all_for(&self, long: Duration) -> bool {
        self.health.read().heard_since.is_some_and(|since| since.elapsed() >= long)
    }

    /// Redis's clock, as far as this process's monotonic one tells since it was last read.
    pub fn redis_now(&self) -> Option<Millis> {
        self.health.read().redis_clock.map(|(read, at)| read.plus(age_ms(at)))
    }

    /// Whether Redis answered the last call.
    pub fn is_redis_reachable(&self) -> bool {
        self.health.read().redis_since.is_some()
    }

    /// How long Redis has not answered.
    pub fn redis_lost_for(&self) -> Option<Duration> {
        self.health.read().lost_at.map(|at| at.elapsed())
    }

    /// Whether all known stores have been looked at once since the start.
    pub fn has_swept(&self) -> bool {
        self.health.read().swept
    }

    /// What is known of one store's presence.
    pub fn report(&self, store: &StoreId) -> PresenceReport {
        let stores = self.stores.read();
        let Some(known) = stores.get(store) else { return PresenceReport::default() };
        PresenceReport {
            heartbeat: known.heartbeat.clone(),
            heartbeat_age_ms: known.heartbeat_at.map(age_ms),
            gone: known.gone,
            lag_ms: known.lagging_since.map_or(0, age_ms),
            stands_still: known.stands_still(),
            two_agents: known.two_agents && known.other_process.is_some_and(|(_, at)| at.elapsed() < SILENCE),
            stuck: known.stuck.as_ref().map(|(why, since)| (why.clone(), age_ms(*since))),
            quarantined: known.quarantined.clone(),
            commands_stopped: known.commands_stopped,
            refused: known.refused.clone(),
            claim: known.claim().cloned(),
            current_at: known.current_at,
        }
    }

    /// Age of the oldest entry known to exist and not applied, ms; 0: none.
    pub fn lag_ms(&self, store: &StoreId) -> i64 {
        self.stores.read().get(store).and_then(|known| known.lagging_since).map_or(0, age_ms)
    }

    /// Central's time of the last heartbeat, or of the last entries, of which everything was applied.
    pub fn current_at(&self, store: &StoreId) -> Millis {
        self.stores.read().get(store).map_or(Millis::default(), |known| known.current_at)
    }

    /// May the store get a purchase, as far as can be told without asking Redis again? For reads.
    pub fn judge_remembered(&self, store: &Store) -> Result<(), Unavailable> {
        self.judge_shown(&store.standing())
    }

    /// The same.
    pub fn judge_shown(&self, store: &Standing) -> Result<(), Unavailable> {
        if !self.is_redis_reachable() {
            return Err(if self.has_swept() { Unavailable::Redis } else { Unavailable::Starting });
        }
        let grounds = self.grounds(&store.id);
        self.judge_heard(store, &grounds, grounds.last)
    }

    fn grounds(&self, store: &StoreId) -> Grounds {
        self.stores.read().get(store).map_or_else(Grounds::default, Known::grounds)
    }

    /// May the store get a purchase, given a fresh reading? `true`: it may not be asked for anything, but what it has set
    /// aside may be sold (B11). That its heartbeat is old is all that is forgiven.
    pub fn judge_sale(&self, store: &Store, reading: &Reading) -> Result<bool, Unavailable> {
        match self.judge(store, reading) {
            Ok(()) => Ok(false),
            Err(Unavailable::Offline) if self.sells_offline => {
                let grounds = self.grounds(&store.id);
                // One that left in good order, or whose agent runs and publishes nothing, may be another one when it is back.
                let late = reading.heartbeat.as_ref().filter(|_| !grounds.is_claimed);
                let late = late.ok_or(Unavailable::Offline)?;
                self.judge_whole(&store.standing(), &grounds, late.epoch).map(|()| true)
            }
            Err(why) => Err(why),
        }
    }

    /// May the store get a purchase, given a fresh reading (P8, L13)?
    pub fn judge(&self, store: &Store, reading: &Reading) -> Result<(), Unavailable> {
        let heard = reading.heartbeat.as_ref().map(|heartbeat| (heartbeat.epoch, reading.age_ms));
        self.judge_heard(&store.standing(), &self.grounds(&store.id), heard)
    }

    /// `heard`: epoch and age in ms of its heartbeat.
    fn judge_heard(&self, store: &Standing, grounds: &Grounds, heard: Option<(Epoch, i64)>) -> Result<(), Unavailable> {
        let Some((epoch, age_ms)) = heard else {
            let ever = grounds.was_heard || store.epoch != Epoch::NONE;
            return Err(if ever { Unavailable::Offline } else { Unavailable::NeverSeen });
        };
        let is_old = age_ms > i64::try_from(self.max_age.as_millis()).unwrap_or(i64::MAX);
        if is_old && !planted(Bug::StaleHeartbeatAccepted) {
            return Err(Unavailable::Offline);
        }
        self.judge_whole(store, grounds, epoch)
    }

    /// The same, but for whether it was heard of. `epoch`: of its heartbeat.
    fn judge_whole(&self, store: &Standing, grounds: &Grounds, epoch: Epoch) -> Result<(), Unavailable> {
        if store.fenced != Epoch::NONE && store.fenced == epoch {
            return Err(Unavailable::Fenced);
        }
        if grounds.is_broken {
            return Err(Unavailable::Quarantined);
        }
        let is_other = epoch != store.epoch && !planted(Bug::OtherEpochSoldFor);
        if is_other || store.is_settling || grounds.stands_still {
            return Err(Unavailable::CatchingUp);
        }
        if !store.online_sale {
            return Err(Unavailable::Paused);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Presence {
    /// All known stores were looked at so long ago.
    pub(crate) fn note_heard_all(&self, ago: Duration) {
        let mut health = self.health.write();
        health.swept = true;
        health.heard_since = Some(Instant::now().checked_sub(ago).expect("this machine runs for longer"));
    }
}

fn age_ms(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(head: u32) -> Reading {
        let heartbeat = Heartbeat {
            process: 1,
            epoch: 7.into(),
            head: head.into(),
            backlog: 0,
            oldest_unsent_ms: 0,
            version: String::new(),
            life_ms: 60_000,
        };
        Reading { heartbeat: Some(heartbeat), age_ms: 100, redis_now: Millis(0) }
    }

    fn at(seq: u32) -> EntryId {
        EntryId { epoch: 7.into(), seq: seq.into() }
    }

    #[test]
    fn a_store_is_current_as_of_the_look_whose_announcement_is_applied() {
        let (presence, store) = (Presence::new(Duration::from_secs(50)), StoreId::parse("s1").expect("valid"));
        let report = || presence.report(&store);
        assert!(!presence.note_applied(&store, at(1_024), &reading(5_000), Millis(1_000), true, false));
        assert_eq!(report().current_at, Millis(0));
        assert!(report().lag_ms >= 100);
        // It goes on selling: the head is never reached at once, but what was announced before is.
        assert!(!presence.note_applied(&store, at(5_001), &reading(6_000), Millis(2_000), true, true));
        assert_eq!(report().current_at, Millis(900), "the heartbeat was 100 ms old");
        assert!(presence.note_applied(&store, at(6_000), &reading(6_000), Millis(3_000), true, true));
        assert_eq!((report().current_at, report().lag_ms), (Millis(3_000), 0));
        assert!(!presence.note_applied(&store, at(6_000), &reading(6_000), Millis(4_000), false, false), "stuck");
        assert_eq!(report().current_at, Millis(3_000));
        assert!(presence.note_applied(&store, at(6_000), &reading(6_000), Millis(5_000), false, true));
        assert_eq!(report().current_at, Millis(4_900), "an idle store is as old as its heartbeat");
        let silent = Reading { age_ms: 6_000, ..reading(6_000) };
        assert!(presence.note_applied(&store, at(6_000), &silent, Millis(10_000), false, true));
        assert_eq!(report().current_at, Millis(4_900), "one without further heartbeats gets older");
    }

    #[test]
    fn a_store_of_which_nothing_comes_any_more_gets_no_purchase() {
        let connection = crate::testing::database();
        let store = crate::testing::Agent::settled("s1", &connection).store(&connection);
        let presence = Presence::new(Duration::from_secs(50));
        let wait = |presence: &Presence| {
            let mut stores = presence.stores.write();
            let standing = &mut stores.entry(store.id.clone()).or_default().standing;
            *standing = standing.and_then(|(place, at)| Some((place, at.checked_sub(STANDSTILL * 2)?)));
        };
        let judged = |head| presence.judge(&store, &reading(head));
        presence.note_applied(&store.id, at(5), &reading(9), Millis(1), true, false);
        assert_eq!(judged(9), Ok(()), "it may come any moment");
        // Under steady load there is always more, and always some of it comes.
        wait(&presence);
        presence.note_applied(&store.id, at(6), &reading(20), Millis(2), true, true);
        assert_eq!(judged(20), Ok(()));
        wait(&presence);
        presence.note_applied(&store.id, at(6), &reading(30), Millis(3), false, false);
        assert_eq!(judged(30), Err(Unavailable::CatchingUp));
        presence.note_applied(&store.id, at(30), &reading(30), Millis(4), true, true);
        assert_eq!(judged(30), Ok(()));
        // One that was idle for long is behind only since it announced something.
        wait(&presence);
        presence.note_applied(&store.id, at(30), &reading(31), Millis(5), false, true);
        assert_eq!(judged(31), Ok(()));
    }

    #[test]
    fn a_heartbeat_that_is_gone_keeps_its_age_and_counts_no_longer() {
        let (presence, store) = (Presence::new(Duration::from_secs(50)), StoreId::parse("s1").expect("valid"));
        presence.note(&store, &reading(1));
        presence.note(&store, &Reading::default());
        let report = presence.report(&store);
        assert!(report.gone && report.heartbeat_age_ms.is_some_and(|age| (100..10_000).contains(&age)), "{report:?}");
        presence.note(&store, &reading(1));
        assert!(!presence.report(&store).gone);
    }

    #[test]
    fn a_redis_that_is_silent_is_waited_for_again_once_it_was_heard() {
        let (presence, store) = (Presence::new(Duration::from_secs(50)), StoreId::parse("s1").expect("valid"));
        assert!(!presence.is_silent());
        presence.note_silent();
        assert!(presence.is_silent());
        presence.note(&store, &reading(1));
        assert!(!presence.is_silent());
        presence.health.write().silent_at = Instant::now().checked_sub(IN_VAIN);
        assert!(!presence.is_silent(), "it may have come back to an idle chain");
    }

    #[test]
    fn who_was_heard_before_redis_was_lost_has_to_be_heard_again() {
        let presence = Presence::new(Duration::from_secs(50));
        let heard = || presence.has_heard_all_for(Duration::ZERO);
        assert!(!heard());
        presence.note_redis(true);
        assert!(!heard());
        presence.note_swept();
        assert!(heard() && !presence.has_heard_all_for(Duration::from_secs(60)));
        presence.note_heard_all(Duration::from_secs(60));
        presence.note_swept();
        assert!(presence.has_heard_all_for(Duration::from_secs(60)), "the next round is no news");
        presence.note_redis(false);
        presence.note_redis(true);
        assert!(!heard() && presence.has_swept());
        presence.note_swept();
        assert!(heard() && !presence.has_heard_all_for(Duration::from_secs(60)));
        presence.note_unheard();
        assert!(!heard());
    }

    #[test]
    fn the_clock_of_redis_goes_on_while_it_is_not_read() {
        let (presence, store) = (Presence::new(Duration::from_secs(50)), StoreId::parse("s1").expect("valid"));
        presence.note(&store, &reading(1));
        assert_eq!(presence.redis_now(), None, "it was not told");
        presence.note(&store, &Reading { redis_now: Millis(7_000), ..Reading::default() });
        presence.note(&store, &Reading::default());
        let mut health = presence.health.write();
        let (_, at) = health.redis_clock.as_mut().expect("was told");
        *at = at.checked_sub(Duration::from_secs(60)).expect("this machine runs for longer");
        drop(health);
        let now = presence.redis_now().expect("was told");
        assert!((67_000..77_000).contains(&now.0), "{now:?}");
    }

    #[test]
    fn of_two_agents_one_is_gone_once_it_was_not_heard_for_a_while() {
        let (presence, store) = (Presence::new(Duration::from_secs(50)), StoreId::parse("s1").expect("valid"));
        let heartbeat = |process| {
            let mut reading = reading(1);
            reading.heartbeat.as_mut().expect("is there").process = process;
            presence.note(&store, &reading);
            presence.report(&store).two_agents
        };
        assert!(!heartbeat(1) && !heartbeat(2), "a restart");
        assert!(heartbeat(1) && heartbeat(2), "they alternate");
        let silent_for = |silence: Duration| {
            let mut stores = presence.stores.write();
            let (_, at) = stores.get_mut(&store).and_then(|known| known.other_process.as_mut()).expect("another one");
            *at = Instant::now().checked_sub(silence).expect("this machine runs for longer");
        };
        silent_for(Duration::from_secs(12));
        assert!(heartbeat(2), "an idle agent sends a heartbeat every 10 s");
        silent_for(Duration::from_secs(16));
        assert!(!heartbeat(2));
        assert!(heartbeat(1), "it comes back");
    }

    #[test]
    fn an_agent_that_goes_on_claims_nothing_any_more() {
        let (presence, store) = (Presence::new(Duration::from_secs(50)), StoreId::parse("s1").expect("valid"));
        let claim = |process, for_ms| {
            let why = "fenced".to_owned();
            presence.note_claim(
                &store,
                Some(Claim { process, epoch: 9.into(), why, items: 2, backlog: 3, for_ms, version: String::new() }),
            );
            presence.report(&store).claim
        };
        assert!(claim(1, 0).is_some());
        // Its heartbeat is 100 ms old.
        presence.note(&store, &reading(1));
        assert!(claim(1, 10).is_some(), "it sent heartbeats before it stopped");
        assert!(claim(1, 5_000).is_none(), "its heartbeat is back");
        assert!(claim(2, 5_000).is_some(), "another one");
        presence.retain(&HashSet::new());
        assert!(presence.report(&store).claim.is_none() && presence.stores.read().is_empty());
    }

    #[test]
    fn numbers_from_redis_may_be_anything() {
        use redis::Value;
        let greatest = "4611686018427387904".parse().expect("in range");
        let heartbeat = |life: i64| {
            let mut heartbeat = reading(1).heartbeat.expect("is there");
            (heartbeat.life_ms, heartbeat.oldest_unsent_ms, heartbeat.head) = (life, i64::MAX, greatest);
            Value::BulkString(serde_json::to_string(&heartbeat).expect("serialises").into_bytes())
        };
        let store = StoreId::parse("s1").expect("valid");
        let presence = Presence::new(Duration::from_secs(50));
        for (life, left) in [(i64::MIN, i64::MAX), (i64::MAX, 0)] {
            let reading = Reading::of(heartbeat(life), Value::Int(left), Millis(0));
            presence.note(&store, &reading);
            presence.note_applied(&store, at(1), &reading, Millis(1), false, true);
        }
    }
}
