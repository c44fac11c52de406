//! A store's disk and file: full, lost, older, copied to a second agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rusqlite::Connection;

use super::Plan;
use super::people::backup;
use super::people::fork;
use super::people::mark_lost;
use super::people::restore;
use super::people::some_copy;
use super::people::status;
use super::streams::READY_WITHIN;
use crate::Process;
use crate::chaos::rig::{Daemon, Rig, Who, look};
use crate::chaos::traffic::Person;
use crate::port::Port;
use crate::unknown::record_unknown;

/// How long an agent may go on writing to a full disk: what is left of the log it has.
const FULL_WITHIN: Duration = Duration::from_secs(15);
/// How long an older file may sell before a human notices: Redis or central may be away.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// The disk is full until the agent has ended over it, and a little longer, so that it cannot start either.
pub(super) async fn disk_full(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
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
    let mut slot = daemon.hold().await;
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
pub(super) async fn unknown_event(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = &rig.stores[plan.store];
    let mut slot = daemon.hold().await;
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
pub(super) async fn second_agent(rig: &Arc<Rig>, plan: &mut Plan) -> anyhow::Result<String> {
    let number = plan.store;
    let daemon = &rig.stores[number];
    let mut slot = daemon.hold().await;
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

/// Somebody starts an agent with a known id and no file. It must be refused, and the right one go on.
pub(super) async fn empty_agent(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = &rig.stores[plan.store];
    // The right one is not restarted meanwhile.
    let _slot = daemon.hold().await;
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
pub(super) async fn older_file(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let number = plan.store;
    let daemon = &rig.stores[number];
    let old = some_copy(rig, Who::Store(number), &mut plan.dice).context("there is no copy yet")?;
    let mut slot = daemon.hold().await;
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
pub(super) async fn disk_lost(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let number = plan.store;
    let daemon = &rig.stores[number];
    let mut slot = daemon.hold().await;
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

/// Moves a database whose process is dead out of the way.
pub(super) fn set_aside(rig: &Rig, daemon: &Daemon) -> anyhow::Result<PathBuf> {
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
