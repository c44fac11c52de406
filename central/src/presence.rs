//! Who is there (P8, L13): heartbeats as last read from Redis. Only Redis's clock decides how old one is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisResult, Value};
use shared::ids::StoreId;
use shared::redis::{Beat, Keys};
use shared::time::Millis;

use crate::stores::Store;

/// Two process numbers that each came back after the other, within this time, are two agents.
const ALTERNATION: Duration = Duration::from_secs(120);

/// A store's heartbeat as read at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// The beat, if its key is there.
    pub beat: Option<Beat>,
    /// Its age by Redis's clock, ms.
    pub age_ms: i64,
    /// Redis's clock at that moment.
    pub redis_now: Millis,
}

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
    /// Stable name.
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
}

#[derive(Debug, Clone, Default)]
struct Seen {
    beat: Option<Beat>,
    /// When the beat was set, by this process's monotonic clock.
    beaten_at: Option<Instant>,
    /// The process before the present one, and when it was last seen.
    other_process: Option<(u64, Instant)>,
    two_agents: bool,
    /// Since when something is known to exist that is not applied.
    lagging_since: Option<Instant>,
    /// Why its stream cannot be followed.
    stuck: Option<(String, Instant)>,
    quarantined: Option<String>,
    /// Its command sender has stopped itself.
    commands_stopped: bool,
    /// Central's time of the last look after which everything known was applied.
    current_at: Millis,
}

/// What is known of all stores' presence; lives in memory only. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    stores: Arc<RwLock<HashMap<StoreId, Seen>>>,
    health: Arc<RwLock<Health>>,
    max_age: Duration,
}

#[derive(Debug, Default, Clone)]
struct Health {
    redis_since: Option<Instant>,
    lost_at: Option<Instant>,
    swept: bool,
}

/// What operators see of a store's presence.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// The last beat seen.
    pub beat: Option<Beat>,
    /// Its age now, ms.
    pub beat_age_ms: Option<i64>,
    /// Age of the oldest entry known to exist and not applied, ms; 0: none.
    pub lag_ms: i64,
    /// Two agents beat under one id.
    pub two_agents: bool,
    /// Why its stream has stood still, and for how long, ms.
    pub stuck: Option<(String, i64)>,
    /// Why its link is broken.
    pub quarantined: Option<String>,
    /// Central's command sender for it has stopped.
    pub commands_stopped: bool,
    /// Central's time of the last look after which everything known was applied.
    pub current_at: Millis,
}

impl Presence {
    /// Nothing seen yet. A beat older than `max_age` counts as stale.
    pub fn new(max_age: Duration) -> Self {
        Self { stores: Arc::default(), health: Arc::default(), max_age }
    }

    /// The commands that read a store's beat, for [`Presence::look_of`].
    pub fn ask(pipe: &mut Pipeline, keys: &Keys, store: &StoreId) {
        let key = keys.heartbeat(store);
        pipe.cmd("GET").arg(&key);
        pipe.cmd("PTTL").arg(&key);
    }

    /// Reads the replies to [`Presence::ask`]. A value that is no beat is as good as none.
    pub fn look_of(get: Value, pttl: Value, redis_now: Millis) -> Look {
        let text = Option::<String>::from_redis_value(get).ok().flatten();
        let beat = text.and_then(|text| serde_json::from_str::<Beat>(&text).ok());
        let left = i64::from_redis_value(pttl).unwrap_or(-2);
        match beat {
            Some(beat) if left >= 0 => {
                let age_ms = (beat.life_ms - left).max(0);
                Look { beat: Some(beat), age_ms, redis_now }
            }
            _ => Look { beat: None, age_ms: 0, redis_now },
        }
    }

    /// Reads one store's beat and Redis's clock now.
    pub async fn look(connection: &mut MultiplexedConnection, keys: &Keys, store: &StoreId) -> RedisResult<Look> {
        let mut pipe = Pipeline::with_capacity(3);
        Self::ask(&mut pipe, keys, store);
        pipe.cmd("TIME");
        pipe.ignore_errors();
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        let [get, pttl, time]: [Value; 3] = replies
            .try_into()
            .map_err(|_| redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "three replies expected")))?;
        let time = <(i64, i64)>::from_redis_value(time)?;
        Ok(Self::look_of(get, pttl, shared::redis::time(time)))
    }

    /// Remembers a look.
    pub fn note(&self, store: &StoreId, look: &Look) {
        let mut stores = self.stores.write();
        let seen = stores.entry(store.clone()).or_default();
        let Some(beat) = &look.beat else {
            // Gone: it left in good order, or Redis was wiped. The last beat stays, to tell its age.
            seen.beaten_at = seen.beaten_at.map(|at| at.min(Instant::now() - self.max_age - Duration::from_millis(1)));
            return;
        };
        if let Some(last) = &seen.beat
            && last.process != beat.process
        {
            let back =
                seen.other_process.is_some_and(|(process, at)| process == beat.process && at.elapsed() < ALTERNATION);
            seen.two_agents |= back;
            seen.other_process = Some((last.process, Instant::now()));
        }
        if seen.other_process.is_some_and(|(_, at)| at.elapsed() >= ALTERNATION) {
            seen.two_agents = false;
        }
        seen.beaten_at = Instant::now().checked_sub(Duration::from_millis(look.age_ms.unsigned_abs()));
        seen.beat = Some(beat.clone());
    }

    /// Remembers whether something is known to exist that is not applied, and for how long already.
    pub fn note_lag(&self, store: &StoreId, lagging_for: Option<Duration>) {
        let mut stores = self.stores.write();
        let seen = stores.entry(store.clone()).or_default();
        seen.lagging_since = match (lagging_for, seen.lagging_since) {
            (None, _) => None,
            (Some(_), Some(since)) => Some(since),
            (Some(duration), None) => Instant::now().checked_sub(duration).or(Some(Instant::now())),
        };
    }

    /// Remembers that everything known of a store was applied as of this time.
    pub fn note_current(&self, store: &StoreId, at: Millis) {
        self.stores.write().entry(store.clone()).or_default().current_at = at;
    }

    /// Remembers why a store's stream stands still, or that it does not.
    pub fn note_stuck(&self, store: &StoreId, why: Option<String>) {
        let mut stores = self.stores.write();
        let seen = stores.entry(store.clone()).or_default();
        seen.stuck = why.map(|why| {
            let since = seen.stuck.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            (why, since)
        });
    }

    /// Remembers that a store's link is broken, or whole again. Says whether that is new.
    pub fn note_quarantined(&self, store: &StoreId, why: Option<String>) -> bool {
        let mut stores = self.stores.write();
        let seen = stores.entry(store.clone()).or_default();
        let news = seen.quarantined.is_some() != why.is_some();
        seen.quarantined = why;
        news
    }

    /// Remembers whether central's command sender for a store has stopped itself.
    pub fn note_commands_stopped(&self, store: &StoreId, stopped: bool) {
        self.stores.write().entry(store.clone()).or_default().commands_stopped = stopped;
    }

    /// Redis answered, or it did not. Says whether that is new.
    pub fn note_redis(&self, reachable: bool) -> bool {
        let mut health = self.health.write();
        let news = reachable != health.redis_since.is_some();
        if reachable {
            health.redis_since.get_or_insert_with(Instant::now);
            health.lost_at = None;
        } else {
            health.redis_since = None;
            health.lost_at.get_or_insert_with(Instant::now);
        }
        news
    }

    /// All known stores have been looked at once.
    pub fn note_swept(&self) {
        self.health.write().swept = true;
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
    pub fn sight(&self, store: &StoreId) -> Sight {
        let stores = self.stores.read();
        let Some(seen) = stores.get(store) else { return Sight::default() };
        let millis = |since: Instant| i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
        Sight {
            beat: seen.beat.clone(),
            beat_age_ms: seen.beaten_at.map(millis),
            lag_ms: seen.lagging_since.map_or(0, millis),
            two_agents: seen.two_agents,
            stuck: seen.stuck.as_ref().map(|(why, since)| (why.clone(), millis(*since))),
            quarantined: seen.quarantined.clone(),
            commands_stopped: seen.commands_stopped,
            current_at: seen.current_at,
        }
    }

    /// May the store get a purchase, as far as can be told without asking Redis again? For reads.
    pub fn judge_remembered(&self, store: &Store) -> Result<(), Unavailable> {
        if !self.is_redis_reachable() {
            return Err(if self.has_swept() { Unavailable::Redis } else { Unavailable::Starting });
        }
        let sight = self.sight(&store.id);
        let look = Look {
            age_ms: sight.beat_age_ms.unwrap_or(i64::MAX),
            beat: sight.beat_age_ms.and(sight.beat.clone()),
            redis_now: Millis(0),
        };
        self.judge(store, &look)
    }

    /// May the store get a purchase, given a fresh look (P8, L13)?
    pub fn judge(&self, store: &Store, look: &Look) -> Result<(), Unavailable> {
        let sight = self.sight(&store.id);
        let Some(beat) = &look.beat else {
            let ever = sight.beat.is_some() || store.cursor.epoch > 0;
            return Err(if ever { Unavailable::Offline } else { Unavailable::NeverSeen });
        };
        if look.age_ms > i64::try_from(self.max_age.as_millis()).unwrap_or(i64::MAX) {
            return Err(Unavailable::Offline);
        }
        if store.fenced != 0 && store.fenced == beat.epoch {
            return Err(Unavailable::Fenced);
        }
        if sight.quarantined.is_some() || sight.commands_stopped {
            return Err(Unavailable::Quarantined);
        }
        if beat.epoch != store.cursor.epoch || store.is_settling() {
            return Err(Unavailable::CatchingUp);
        }
        if !store.online_sale {
            return Err(Unavailable::Paused);
        }
        Ok(())
    }
}
