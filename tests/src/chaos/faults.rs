//! What goes wrong, and what people do about what needs people.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tokio::sync::MutexGuard;

use super::proxy::Weather;
use super::rig::{Copy, Daemon, Rig, Slot, Who, look};
use super::traffic::Person;
use crate::Dice;
use crate::Process;
use crate::port::Port;
use crate::unknown::record_unknown;

/// Longest wait for something to be in a state in which a fault can be told.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// How long an agent may go on writing to a full disk: what is left of the log it has.
const FULL_WITHIN: Duration = Duration::from_secs(15);
/// How long an older file may sell before a human notices: Redis or central may be away.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);
/// How long people try to restore something whose other end may be down.
const RESTORE_WITHIN: Duration = Duration::from_secs(40);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each has a name for people")]
pub enum Kind {
    AgentKilled,
    CentralKilled,
    RedisKilledKept,
    RedisKilledEmpty,
    RedisOlderCopy,
    AgentFrozen,
    CentralFrozen,
    RedisFrozen,
    AgentStopped,
    CentralStopped,
    Flushed,
    ClientsKilled,
    OutOfMemory,
    DiskFull,
    EntryCorrupted,
    TailLost,
    HoleInStream,
    ForeignEntry,
    ForeignKey,
    AckSetBack,
    UnknownEvent,
    SecondAgent,
    EmptyAgent,
    OlderFile,
    DiskLost,
    CentralOlderCopy,
    AgentClock,
    CentralClock,
    AgentCut,
    CentralCut,
    HalfOpen,
    OneWayUp,
    OneWayDown,
    Delayed,
    Throttled,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AgentKilled,
        Self::CentralKilled,
        Self::RedisKilledKept,
        Self::RedisKilledEmpty,
        Self::RedisOlderCopy,
        Self::AgentFrozen,
        Self::CentralFrozen,
        Self::RedisFrozen,
        Self::AgentStopped,
        Self::CentralStopped,
        Self::Flushed,
        Self::ClientsKilled,
        Self::OutOfMemory,
        Self::DiskFull,
        Self::EntryCorrupted,
        Self::TailLost,
        Self::HoleInStream,
        Self::ForeignEntry,
        Self::ForeignKey,
        Self::AckSetBack,
        Self::UnknownEvent,
        Self::SecondAgent,
        Self::EmptyAgent,
        Self::OlderFile,
        Self::DiskLost,
        Self::CentralOlderCopy,
        Self::AgentClock,
        Self::CentralClock,
        Self::AgentCut,
        Self::CentralCut,
        Self::HalfOpen,
        Self::OneWayUp,
        Self::OneWayDown,
        Self::Delayed,
        Self::Throttled,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent: SIGKILL",
            Self::CentralKilled => "central: SIGKILL",
            Self::RedisKilledKept => "Redis: SIGKILL, restarted with its file",
            Self::RedisKilledEmpty => "Redis: SIGKILL, restarted empty",
            Self::RedisOlderCopy => "Redis: restarted from an older copy",
            Self::AgentFrozen => "agent: SIGSTOP",
            Self::CentralFrozen => "central: SIGSTOP",
            Self::RedisFrozen => "Redis: SIGSTOP",
            Self::AgentStopped => "agent: SIGTERM",
            Self::CentralStopped => "central: SIGTERM",
            Self::Flushed => "Redis: FLUSHALL",
            Self::ClientsKilled => "Redis: CLIENT KILL",
            Self::OutOfMemory => "Redis: out of memory, noeviction",
            Self::DiskFull => "store: disk full",
            Self::EntryCorrupted => "stream: an entry corrupted",
            Self::TailLost => "stream: last entries lost",
            Self::HoleInStream => "stream: entries lost in the middle",
            Self::ForeignEntry => "stream: foreign entry",
            Self::ForeignKey => "stream: another type of key in its place",
            Self::AckSetBack => "ack: set back, or garbage",
            Self::UnknownEvent => "store: unknown event type",
            Self::SecondAgent => "store: second agent on a copy of the file",
            Self::EmptyAgent => "store: second agent on an empty file",
            Self::OlderFile => "store: older file put back, then restored",
            Self::DiskLost => "store: disk lost, then restored",
            Self::CentralOlderCopy => "central: restored from an earlier copy",
            Self::AgentClock => "agent: clock an hour off, and set right",
            Self::CentralClock => "central: clock an hour off, and set right",
            Self::AgentCut => "network: agent cut off",
            Self::CentralCut => "network: central cut off",
            Self::HalfOpen => "network: connections half-open",
            Self::OneWayUp => "network: nothing gets to Redis",
            Self::OneWayDown => "network: nothing comes from Redis",
            Self::Delayed => "network: slow",
            Self::Throttled => "network: narrow",
        }
    }

    /// Why it cannot happen on this machine.
    pub(super) fn hindrance(self, rig: &Rig) -> Option<&'static str> {
        match self {
            Self::AgentClock | Self::CentralClock if faketime().is_none() => Some("libfaketime is not installed"),
            Self::DiskFull if rig.small_disk().is_none() => Some("only root can mount a small disk"),
            _ => None,
        }
    }
}

/// A fault to come: everything about it that the dice decide.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    store: usize,
    dice: Dice,
}

impl Plan {
    pub(super) fn new(kind: Kind, rig: &Rig, dice: &mut Dice) -> Self {
        let store = match kind {
            Kind::SecondAgent | Kind::OlderFile | Kind::DiskLost => rig.victim,
            Kind::DiskFull => rig.small_disk().map_or(0, |(number, _)| number),
            _ => dice.below(rig.ids.len() as u64) as usize,
        };
        Self { kind, store, dice: Dice::new(dice.roll()) }
    }

    /// Central or a store.
    fn somebody(&mut self) -> Who {
        if self.dice.chance(400) { Who::Central } else { Who::Store(self.store) }
    }

    async fn for_ms(&mut self, low: i64, high: i64) {
        tokio::time::sleep(Duration::from_millis(self.dice.between(low, high).unsigned_abs())).await;
    }
}

/// Lets a fault happen and be over. The text says what happened; an error that it could not.
pub(super) async fn inflict(rig: &Arc<Rig>, mut plan: Plan) -> anyhow::Result<String> {
    let store = Who::Store(plan.store);
    let name = &rig.stores[plan.store].name;
    match plan.kind {
        Kind::AgentKilled => killed(rig, store, &mut plan).await,
        Kind::CentralKilled => killed(rig, Who::Central, &mut plan).await,
        Kind::AgentStopped => stopped(rig, store, &mut plan).await,
        Kind::CentralStopped => stopped(rig, Who::Central, &mut plan).await,
        Kind::AgentFrozen => frozen(rig.slot(store).await, name, &mut plan).await,
        Kind::CentralFrozen => frozen(rig.slot(Who::Central).await, "central", &mut plan).await,
        Kind::RedisFrozen => frozen(rig.redis.slot.lock().await, "Redis", &mut plan).await,
        Kind::RedisKilledKept | Kind::RedisKilledEmpty | Kind::RedisOlderCopy => redis_restarted(rig, &mut plan).await,
        Kind::Flushed => {
            rig.redis_surely(&redis::cmd("FLUSHALL")).await?;
            Ok("all of it".into())
        }
        Kind::ClientsKilled => {
            rig.redis_surely(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await?;
            rig.redis_surely(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub")).await?;
            Ok("all connections".into())
        }
        Kind::OutOfMemory => {
            let _redis = rig.redis.slot.lock().await;
            rig.redis_surely(redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("noeviction")).await?;
            rig.redis_surely(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await?;
            plan.for_ms(1_500, 4_000).await;
            rig.redis_surely(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await?;
            Ok("until it was raised".into())
        }
        Kind::DiskFull => disk_full(rig, &mut plan).await,
        Kind::EntryCorrupted | Kind::TailLost | Kind::HoleInStream => damaged_stream(rig, &mut plan).await,
        Kind::ForeignEntry => foreign_entry(rig, &mut plan).await,
        Kind::ForeignKey => {
            let key = stream(rig, &mut plan);
            let mut pipe = redis::cmd("SET");
            rig.redis_surely(pipe.arg(&key).arg("not a stream")).await?;
            Ok(key)
        }
        Kind::AckSetBack => ack_set_back(rig, &mut plan).await,
        Kind::UnknownEvent => unknown_event(rig, &mut plan).await,
        Kind::SecondAgent => second_agent(rig, &mut plan).await,
        Kind::EmptyAgent => empty_agent(rig, &mut plan).await,
        Kind::OlderFile => older_file(rig, &mut plan).await,
        Kind::DiskLost => disk_lost(rig, &mut plan).await,
        Kind::CentralOlderCopy => central_older_copy(rig, &mut plan).await,
        Kind::AgentClock => clock(rig, store, &mut plan).await,
        Kind::CentralClock => clock(rig, Who::Central, &mut plan).await,
        Kind::AgentCut => network(rig, store, Weather::Cut, &mut plan).await,
        Kind::CentralCut => network(rig, Who::Central, Weather::Cut, &mut plan).await,
        Kind::HalfOpen => network_of_somebody(rig, Weather::HalfOpen, plan).await,
        Kind::OneWayUp => network_of_somebody(rig, Weather::UpHeld, plan).await,
        Kind::OneWayDown => network_of_somebody(rig, Weather::DownHeld, plan).await,
        Kind::Delayed => {
            let by = Duration::from_millis(plan.dice.between(100, 900).unsigned_abs());
            network_of_somebody(rig, Weather::Delayed(by), plan).await
        }
        Kind::Throttled => {
            let rate = plan.dice.between(2_000, 20_000).unsigned_abs();
            network_of_somebody(rig, Weather::Throttled(rate), plan).await
        }
    }
}

// --- processes ---

async fn killed(rig: &Rig, who: Who, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let mut slot = daemon.slot.lock().await;
    slot.process.take().context("it runs")?.kill();
    let away = if plan.dice.chance(500) { 0 } else { plan.dice.between(200, 2_500) };
    tokio::time::sleep(Duration::from_millis(away.unsigned_abs())).await;
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    Ok(format!("{}, {away} ms away", daemon.name))
}

async fn stopped(rig: &Rig, who: Who, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let mut slot = daemon.slot.lock().await;
    rig.terminate(daemon, &mut slot).await;
    plan.for_ms(0, 1_500).await;
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    Ok(daemon.name.clone())
}

async fn frozen(slot: MutexGuard<'_, Slot>, name: &str, plan: &mut Plan) -> anyhow::Result<String> {
    let process = slot.process.as_ref().context("it runs")?;
    // Longer or shorter than the daemons' patience with Redis, 3 s.
    let (low, high) = if plan.dice.chance(500) { (300, 2_000) } else { (3_500, 5_500) };
    process.signal(Signal::SIGSTOP);
    plan.for_ms(low, high).await;
    process.signal(Signal::SIGCONT);
    Ok(name.to_owned())
}

// --- Redis ---

async fn redis_restarted(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let log = rig.redis_dir().join("appendonlydir");
    let copy = rig.dir().join("redis-copy");
    if plan.kind == Kind::RedisOlderCopy {
        ensure!(copy.join("appendonlydir").exists(), "there is no older copy yet");
    }
    let mut slot = rig.redis.slot.lock().await;
    slot.process.take().context("Redis runs")?.kill();
    match plan.kind {
        Kind::RedisKilledEmpty => remove_dir(&log)?,
        Kind::RedisOlderCopy => {
            remove_dir(&log)?;
            copy_dir(&copy.join("appendonlydir"), &log)?;
        }
        _ => {}
    }
    plan.for_ms(0, 1_500).await;
    slot.environment.clear();
    rig.start_redis(&mut slot);
    rig.redis_surely(&redis::cmd("PING")).await?;
    Ok("SIGKILL, then started".into())
}

fn remove_dir(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// One of the streams of the plan's store.
fn stream(rig: &Rig, plan: &mut Plan) -> String {
    let id = &rig.ids[plan.store];
    if plan.dice.chance(700) { rig.keys.events(id) } else { rig.keys.commands(id) }
}

/// Changes, loses or punches entries that central has not read: its network is held back until there are some.
async fn damaged_stream(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let script = match plan.kind {
        Kind::EntryCorrupted => {
            "local all = redis.call('XRANGE', KEYS[1], '-', '+') \
             if #all < 3 then return 0 end \
             redis.call('DEL', KEYS[1]) \
             for n, entry in ipairs(all) do \
               local fields = entry[2] \
               if n == 2 then for f = 1, #fields, 2 do \
                 if fields[f] == ARGV[1] then fields[f + 1] = ARGV[2] end end end \
               redis.call('XADD', KEYS[1], entry[1], unpack(fields)) \
             end return 1"
        }
        Kind::TailLost => {
            "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 2) \
             if #last < 2 then return 0 end \
             redis.call('XDEL', KEYS[1], last[1][1], last[2][1]) return 1"
        }
        _ => {
            "local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 4) \
             if #first < 4 then return 0 end \
             redis.call('XDEL', KEYS[1], first[2][1], first[3][1]) return 1"
        }
    };
    let key = rig.keys.events(&rig.ids[plan.store]);
    let (field, value) = *plan
        .dice
        .pick(&[("b", "{\"productId\":\"product-0\",\"delta\":1000}"), ("b", "\u{fffd}"), ("c", "garbage"), ("v", "9")])
        .context("there are values")?;
    let _network = rig.central.network.lock().await;
    rig.central.proxy.set(Weather::DownHeld);
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(&key).arg(field).arg(value);
    let done = rig
        .wait("the stream has entries", READY_WITHIN, async || match rig.redis(&command).await {
            Ok(redis::Value::Int(1)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    rig.central.proxy.set(Weather::Clear);
    done.map(|()| key)
}

async fn foreign_entry(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let key = stream(rig, plan);
    // Far ahead, or as far as can be: nothing can be added behind the second.
    let id = if plan.dice.chance(700) { "9999999999999-7" } else { "18446744073709551615-18446744073709551615" };
    let mut command = redis::cmd("XADD");
    command.arg(&key).arg(id).arg("v").arg("1").arg("t").arg("sold").arg("i").arg("x").arg("b").arg("{}");
    rig.wait("the foreign entry is taken", READY_WITHIN, async || {
        rig.redis(&command).await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await?;
    Ok(format!("{id} in {key}"))
}

/// An older value of an ack comes back, as after a lost write, or one that is none.
async fn ack_set_back(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let id = &rig.ids[plan.store];
    let key = if plan.dice.chance(700) { rig.keys.events_ack(id) } else { rig.keys.commands_ack(id) };
    let old = match rig.redis_surely(redis::cmd("GET").arg(&key)).await? {
        redis::Value::BulkString(bytes) if plan.dice.chance(800) => bytes,
        _ => b"garbage".to_vec(),
    };
    plan.for_ms(500, 2_000).await;
    rig.redis_surely(redis::cmd("SET").arg(&key).arg(old.as_slice())).await?;
    Ok(key)
}

// --- the store's disk and ledger ---

/// The disk is full until the agent has ended over it, and a little longer, so that it cannot start either.
async fn disk_full(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let (number, disk) = rig.small_disk().context("there is a small disk")?;
    let daemon = &rig.stores[number];
    let filler = disk.join("filler");
    let fill = || {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(&filler)?;
        let (block, small) = (vec![0; 1 << 20], vec![0; 512]);
        while file.write_all(&block).is_ok() {}
        while file.write_all(&small).is_ok() {}
        Ok::<(), std::io::Error>(())
    };
    let mut slot = daemon.slot.lock().await;
    // Again and again: what the agent gives back is taken, too.
    let ended = rig
        .wait("the agent ends", FULL_WITHIN, async || {
            fill().map_err(|error| error.to_string())?;
            let ended = slot.process.as_mut().and_then(Process::ended);
            ended.map(|_| ()).ok_or_else(|| "it runs".to_owned())
        })
        .await;
    let mut tries = 0;
    if ended.is_ok() {
        let until = Instant::now() + Duration::from_millis(plan.dice.between(500, 2_000).unsigned_abs());
        while Instant::now() < until {
            fill()?;
            if slot.process.as_mut().is_none_or(|process| process.ended().is_some()) {
                tries += 1;
                rig.start_daemon(daemon, &mut slot);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    std::fs::remove_file(&filler)?;
    ended?;
    Ok(format!("{}, started {tries} times in vain", daemon.name))
}

/// A later version of the agent has recorded something that this central does not know.
async fn unknown_event(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = &rig.stores[plan.store];
    let mut slot = daemon.slot.lock().await;
    rig.terminate(daemon, &mut slot).await;
    let news = (|| {
        let file = Connection::open(&daemon.database)?;
        let transaction = file.unchecked_transaction()?;
        let operation = format!("news-{:x}", plan.dice.roll());
        let at = record_unknown(&transaction, "teleported", "{}", &operation, runtime::clock::now())?;
        transaction.commit()?;
        Ok::<_, rusqlite::Error>(at)
    })();
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    Ok(format!("{} at {}", daemon.name, news?))
}

/// Somebody copies the file and starts a second agent on it, whose tills sell, too. Then a human takes the second one
/// away, and restores the first if it was the one that stopped.
async fn second_agent(rig: &Arc<Rig>, plan: &mut Plan) -> anyhow::Result<String> {
    let number = plan.store;
    let daemon = &rig.stores[number];
    let mut slot = daemon.slot.lock().await;
    let file = rig.dir().join(format!("{}-twin-{:x}.db", daemon.name, plan.dice.roll()));
    backup(rig, daemon, &file).await?;
    fork(rig, number);
    let port = Port::reserve();
    let twin = rig.start_twin(number, &file, port.number());
    let name = format!("twin-{:x}", plan.dice.roll());
    let mut person = Person::new(rig, Who::Store(number), plan.dice.roll(), name).before(port.number());
    let until = Instant::now() + Duration::from_millis(plan.dice.between(2_500, 5_000).unsigned_abs());
    while Instant::now() < until {
        person.serve(number).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = status(daemon.port.number()).await;
    twin.kill();
    mark_lost(rig, number, &file, Some(&daemon.database))?;
    if told["stopped"].is_null() {
        return Ok(format!("{}, the second one was taken away", daemon.name));
    }
    slot.process.take().context("it runs")?.kill();
    restore(rig, number).await?;
    rig.start_daemon(daemon, &mut slot);
    Ok(format!("{}, the first one was {} and restored", daemon.name, told["stopped"]))
}

async fn status(port: u16) -> serde_json::Value {
    look(port, "/v1/status").await.unwrap_or_default()
}

/// Somebody starts an agent with a known id and no file. It must be refused, and the right one go on.
async fn empty_agent(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = &rig.stores[plan.store];
    // The right one is not restarted meanwhile.
    let _slot = daemon.slot.lock().await;
    let file = rig.dir().join(format!("{}-empty-{:x}.db", daemon.name, plan.dice.roll()));
    let port = Port::reserve();
    let twin = rig.start_twin(plan.store, &file, port.number());
    let refused = rig
        .wait("the empty agent is refused", READY_WITHIN, async || {
            let told = look(port.number(), "/v1/status").await?;
            if told["stopped"].is_null() { Err(told.to_string()) } else { Ok(()) }
        })
        .await;
    twin.kill();
    // Under other faults it may not have heard of it.
    Ok(format!("{}, {}", daemon.name, if refused.is_ok() { "refused" } else { "taken away before it was refused" }))
}

/// Yesterday's file comes back and sells, until it is stopped or somebody notices; then it is restored.
async fn older_file(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let number = plan.store;
    let daemon = &rig.stores[number];
    let old = some_copy(rig, Who::Store(number), &mut plan.dice).context("there is no copy yet")?;
    let mut slot = daemon.slot.lock().await;
    slot.process.take().context("it runs")?.kill();
    let result = async {
        let dead = set_aside(rig, daemon)?;
        std::fs::copy(&old, &daemon.database)?;
        fork(rig, number);
        mark_lost(rig, number, &dead, Some(&daemon.database))?;
        rig.start_daemon(daemon, &mut slot);
        let stopped = rig
            .wait("the old file is stopped", STOPPED_WITHIN, async || {
                let told = look(daemon.port.number(), "/v1/status").await?;
                if told["stopped"].is_null() { Err(told.to_string()) } else { Ok(()) }
            })
            .await;
        if let Some(process) = slot.process.take() {
            process.kill();
        }
        restore(rig, number).await?;
        Ok(format!("{}, {}", daemon.name, if stopped.is_ok() { "it stopped itself" } else { "not stopped yet" }))
    }
    .await;
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    result
}

/// The disk dies; a new machine takes over with what central knows.
async fn disk_lost(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let number = plan.store;
    let daemon = &rig.stores[number];
    let mut slot = daemon.slot.lock().await;
    slot.process.take().context("it runs")?.kill();
    let result = async {
        let dead = set_aside(rig, daemon)?;
        fork(rig, number);
        mark_lost(rig, number, &dead, None)?;
        restore(rig, number).await
    }
    .await;
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    result.map(|()| daemon.name.clone())
}

/// From here on a shortage may be.
fn fork(rig: &Rig, number: usize) {
    rig.records.lock().expect("no thread panics").history.forked_stores.insert(rig.ids[number].clone());
}

/// Moves a database whose process is dead out of the way.
fn set_aside(rig: &Rig, daemon: &Daemon) -> anyhow::Result<PathBuf> {
    let mut dead = None;
    let number = std::fs::read_dir(rig.dir())?.count();
    for suffix in ["", "-wal", "-shm"] {
        let from = PathBuf::from(format!("{}{suffix}", daemon.database.display()));
        let to = rig.dir().join(format!("{}-dead-{number}.db{suffix}", daemon.name));
        if from.exists() {
            // The victim's disk may be another one, so that renaming is not enough.
            std::fs::copy(&from, &to)?;
            std::fs::remove_file(&from)?;
        }
        dead.get_or_insert(to);
    }
    dead.context("there are suffixes")
}

/// What this dead file has, and neither central nor the other has, may be lost.
fn mark_lost(rig: &Rig, number: usize, dead: &Path, other: Option<&Path>) -> anyhow::Result<()> {
    let gone = operations(dead, "select operation_id from ledger")?;
    let store = rig.ids[number].as_str();
    let kept = match other {
        Some(path) => operations(path, "select operation_id from ledger")?,
        None => HashSet::new(),
    };
    let central =
        operations(&rig.central.database, &format!("select operation_id from event where store_id = '{store}'"))?;
    let mut records = rig.records.lock().expect("no thread panics");
    records.lost.extend(gone.into_iter().filter(|id| !kept.contains(id) && !central.contains(id)));
    Ok(())
}

pub(super) fn operations(path: &Path, sql: &str) -> anyhow::Result<HashSet<String>> {
    let file = read(path)?;
    let mut statement = file.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A database of a process that may be running, or dead with its WAL not yet taken in.
pub(super) fn read(path: &Path) -> anyhow::Result<Connection> {
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("{} opens", path.display()))?;
    file.busy_timeout(Duration::from_secs(5))?;
    Ok(file)
}

/// `store-agent restore`, tried again until central answers, as a human would. The agent is not running.
async fn restore(rig: &Rig, number: usize) -> anyhow::Result<()> {
    let daemon = &rig.stores[number];
    let mut args = vec![
        "restore".to_owned(),
        format!("--store-id={}", daemon.name),
        format!("--database-path={}", daemon.database.display()),
        format!("--redis-url={}", Rig::redis_url(daemon)),
        format!("--central=http://127.0.0.1:{}", rig.central.port.number()),
    ];
    let started = Instant::now();
    let said = loop {
        let (done, said) = run(&Rig::program(daemon.who), &args).await?;
        if done {
            break said;
        }
        if said.contains("say which state stands") {
            // A human looks: central's it is, and what only this database has is left out.
            mark_lost(rig, number, &daemon.database, None)?;
            rig.records.lock().expect("no thread panics").history.chosen.insert(rig.ids[number].clone());
            args.push("--state=central".to_owned());
        } else if started.elapsed() > RESTORE_WITHIN {
            bail!("store-agent restore of {}: {said}", daemon.name);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    rig.log.say(&format!("{} is restored: {}", daemon.name, said.lines().rev().nth(1).unwrap_or_default()));
    rig.restored.lock().expect("no thread panics")[number] += 1;
    fork(rig, number);
    let set_back = rig.central_set_back.load(Ordering::Relaxed) > 0;
    let mut records = rig.records.lock().expect("no thread panics");
    if set_back || said.contains("own state stands") {
        records.history.stores_without_entries.insert(rig.ids[number].clone());
    }
    Ok(())
}

/// Runs a tool; whether it succeeded, and what it said.
async fn run(program: &Path, args: &[String]) -> anyhow::Result<(bool, String)> {
    let output = tokio::process::Command::new(program).args(args).kill_on_drop(true).output();
    let Ok(output) = tokio::time::timeout(Duration::from_secs(10), output).await else {
        return Ok((false, "no end within 10 s".into()));
    };
    let output = output?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

// --- copies, and central ---

async fn backup(rig: &Rig, daemon: &Daemon, to: &Path) -> anyhow::Result<()> {
    let mut args = vec![
        "backup".to_owned(),
        format!("--database-path={}", daemon.database.display()),
        format!("--to={}", to.display()),
    ];
    if daemon.who != Who::Central {
        args.push(format!("--store-id={}", daemon.name));
    }
    let (done, said) = run(&Rig::program(daemon.who), &args).await?;
    if !done {
        // A half-written copy is none.
        let _ = std::fs::remove_file(to);
        bail!("backup of {}: {said}", daemon.name);
    }
    // Here it stands for a file that was copied by hand, which nothing marks as a copy.
    let schema =
        if daemon.who == Who::Central { central::storage::database::SCHEMA } else { store_agent::ledger::SCHEMA };
    runtime::sqlite::put_in_service(&rusqlite::Connection::open(to)?, schema)?;
    rig.records.lock().expect("no thread panics").totals.copies += 1;
    Ok(())
}

/// Takes copies of the victim, of central and of Redis now and then. Runs until dropped.
pub(super) async fn take_copies(rig: &Rig) {
    let mut ticks = tokio::time::interval(Duration::from_secs(6));
    let mut number = 0;
    // Redis's every other time, so that there is time to be set back by.
    let mut is_redis_due = true;
    loop {
        ticks.tick().await;
        for daemon in [&rig.stores[rig.victim], &rig.central] {
            let Ok(_slot) = daemon.slot.try_lock() else { continue };
            number += 1;
            let path = rig.dir().join(format!("{}-copy-{number}.db", daemon.name));
            match backup(rig, daemon, &path).await {
                Ok(()) => rig.copies.lock().expect("no thread panics").push(Copy { of: daemon.who, path }),
                // Its disk may be lost at the moment.
                Err(error) => rig.log.say(&format!("no copy: {error:#}")),
            }
        }
        if !is_redis_due {
            is_redis_due = true;
        } else if let Ok(_slot) = rig.redis.slot.try_lock() {
            let to = rig.dir().join("redis-copy").join("appendonlydir");
            let copied = remove_dir(&to).and_then(|()| copy_dir(&rig.redis_dir().join("appendonlydir"), &to));
            is_redis_due = copied.is_err();
            if let Err(error) = copied {
                rig.log.say(&format!("no copy of Redis: {error}"));
            }
        }
    }
}

fn some_copy(rig: &Rig, of: Who, dice: &mut Dice) -> Option<PathBuf> {
    let copies = rig.copies.lock().expect("no thread panics");
    let fitting: Vec<&PathBuf> = copies.iter().filter(|copy| copy.of == of).map(|copy| &copy.path).collect();
    dice.pick(&fitting).map(|path| (*path).clone())
}

/// Central's machine dies; it goes on from an earlier copy.
async fn central_older_copy(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    // Nobody restores the victim meanwhile: first the store, then central, as everywhere.
    let _victim = rig.slot(Who::Store(rig.victim)).await;
    let mut slot = rig.central.slot.lock().await;
    let old = some_copy(rig, Who::Central, &mut plan.dice).context("there is no copy yet")?;
    slot.process.take().context("it runs")?.kill();
    let result = async {
        allow_for_set_back(rig, &old)?;
        let args = [
            "restore".to_owned(),
            format!("--from={}", old.display()),
            format!("--database-path={}", rig.central.database.display()),
            format!("--redis-url={}", Rig::redis_url(&rig.central)),
        ];
        let (done, said) = run(&Rig::program(Who::Central), &args).await?;
        ensure!(done, "central restore: {said}");
        Ok(format!("{}", old.file_name().unwrap_or_default().display()))
    }
    .await;
    slot.environment.clear();
    rig.start_daemon(&rig.central, &mut slot);
    result
}

/// Purchases that the copy does not know as they are now may be forgotten, and of the victim, whose ledger may not
/// reach back, operations.
fn allow_for_set_back(rig: &Rig, old_path: &Path) -> anyhow::Result<()> {
    let (old, now) = (read(old_path)?, read(&rig.central.database)?);
    let row = "select status || coalesce(cancel_requested_at, '') from purchase where purchase_id = ?1";
    let mut ids = now.prepare("select purchase_id, status || coalesce(cancel_requested_at, '') from purchase")?;
    let ids: Vec<(String, String)> =
        ids.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut records = rig.records.lock().expect("no thread panics");
    for (id, present) in ids {
        let before: Option<String> = old.query_row(row, [&id], |row| row.get(0)).optional()?;
        if before.as_ref() != Some(&present) {
            records.forget(id);
        }
    }
    let store = &rig.ids[rig.victim];
    let mut kept = operations(&rig.stores[rig.victim].database, "select operation_id from ledger")?;
    let of_store = format!("select operation_id from event where store_id = '{store}'");
    kept.extend(operations(old_path, &of_store)?);
    let gone: Vec<String> = {
        let of_victim = records.history.operations.iter().filter(|operation| operation.store == *store);
        let gone = of_victim.filter(|operation| !records.names(&operation.id).any(|id| kept.contains(id)));
        gone.map(|operation| operation.id.clone()).collect()
    };
    records.lost.extend(gone);
    if rig.restored.lock().expect("no thread panics")[rig.victim] > 0 {
        records.history.stores_without_entries.insert(store.clone());
    }
    rig.central_set_back.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// What people do once they see what is wrong: restore what has stopped. Says what they did.
pub(super) async fn look_after(rig: &Rig) -> anyhow::Result<()> {
    for (number, daemon) in rig.stores.iter().enumerate() {
        let told = status(daemon.port.number()).await;
        if told["stopped"].is_null() {
            continue;
        }
        rig.log.say(&format!("{} has stopped itself ({}): a human restores it", daemon.name, told["stopped"]));
        if number != rig.victim {
            rig.violation(format!("{} has stopped itself ({}) without a reason", daemon.name, told["stopped"]));
        }
        let mut slot = daemon.slot.lock().await;
        if let Some(process) = slot.process.take() {
            process.kill();
        }
        let restored = restore(rig, number).await;
        rig.start_daemon(daemon, &mut slot);
        restored?;
    }
    Ok(())
}

// --- clocks ---

fn faketime() -> Option<PathBuf> {
    let triple = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    ["/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime", &triple]
        .iter()
        .map(|dir| Path::new(dir).join("libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

/// Environment under which a process takes its clock's error from a file.
fn under_faketime(rig: &Rig, name: &str) -> anyhow::Result<(PathBuf, Vec<(String, String)>)> {
    let library = faketime().context("libfaketime is there")?;
    let file = rig.dir().join(format!("clock-of-{name}"));
    let environment = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    Ok((file, environment.to_vec()))
}

/// A daemon starts with a clock that is an hour off; later its clock is set right while it runs.
async fn clock(rig: &Rig, who: Who, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let (file, environment) = under_faketime(rig, &daemon.name)?;
    let off = if plan.dice.chance(500) { "+1h" } else { "-1h" };
    let mut slot = daemon.slot.lock().await;
    std::fs::write(&file, off)?;
    slot.process.take().context("it runs")?.kill();
    slot.environment = environment;
    rig.start_daemon(daemon, &mut slot);
    plan.for_ms(2_000, 3_500).await;
    std::fs::write(&file, "+0")?;
    plan.for_ms(1_500, 2_500).await;
    Ok(format!("{} {off}", daemon.name))
}

// --- networks ---

async fn network(rig: &Rig, who: Who, weather: Weather, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let _network = daemon.network.lock().await;
    daemon.proxy.set(weather);
    plan.for_ms(1_500, 5_000).await;
    daemon.proxy.set(Weather::Clear);
    Ok(format!("{}, {weather:?}", daemon.name))
}

async fn network_of_somebody(rig: &Rig, weather: Weather, mut plan: Plan) -> anyhow::Result<String> {
    let who = plan.somebody();
    network(rig, who, weather, &mut plan).await
}

/// Everything runs, no clock is off, every network is clear.
pub(super) async fn end_faults(rig: &Rig) -> anyhow::Result<()> {
    for daemon in rig.daemons() {
        let _network = daemon.network.lock().await;
        daemon.proxy.set(Weather::Clear);
        let mut slot = daemon.slot.lock().await;
        if slot.process.as_mut().is_none_or(|process| Process::ended(process).is_some()) {
            rig.start_daemon(daemon, &mut slot);
        }
    }
    rig.redis_surely(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await?;
    Ok(())
}
