//! What goes wrong, and what people do about what needs people.

mod central;
mod clocks;
mod disks;
mod networks;
mod people;
mod processes;
mod streams;

pub(super) use people::{look_after, operations, read, take_copies};

use std::sync::Arc;
use std::time::Duration;

use crate::Dice;
use crate::Process;
use crate::chaos::proxy::Weather;
use crate::chaos::rig::{Rig, Who};
use central::central_older_copy;
use clocks::{clock, faketime};
use disks::{disk_full, disk_lost, empty_agent, older_file, second_agent, unknown_event};
use networks::{network, network_of_somebody};
use processes::{frozen, killed, stopped};
use streams::{ack_set_back, damaged_stream, foreign_entry, redis_restarted, stream};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        Kind::AgentFrozen => frozen(rig.daemon(store).hold().await, name, &mut plan).await,
        Kind::CentralFrozen => frozen(rig.central.hold().await, "central", &mut plan).await,
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

/// Everything runs, no clock is off, every network is clear.
pub(super) async fn end_faults(rig: &Rig) -> anyhow::Result<()> {
    for daemon in rig.daemons() {
        let _network = daemon.network.lock().await;
        daemon.proxy.set(Weather::Clear);
        let mut slot = daemon.hold().await;
        if slot.process.as_mut().is_none_or(|process| Process::ended(process).is_some()) {
            rig.start_daemon(daemon, &mut slot);
        }
    }
    rig.redis_surely(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await?;
    Ok(())
}
