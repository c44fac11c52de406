//! What people do about what needs people: copies, restores, and what these may have lost.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rusqlite::{Connection, OpenFlags};

use super::streams::copy_dir;
use super::streams::remove_dir;
use crate::Dice;
use crate::chaos::rig::{Copy, Daemon, Rig, Who, look};

/// How long people try to restore something whose other end may be down.
const RESTORE_WITHIN: Duration = Duration::from_secs(40);

pub(super) async fn status(port: u16) -> serde_json::Value {
    look(port, "/v1/status").await.unwrap_or_default()
}

/// From here on a shortage may be.
pub(super) fn fork(rig: &Rig, number: usize) {
    rig.records.lock().expect("no thread panics").history.forked_stores.insert(rig.ids[number].clone());
}

/// What this dead file has, and neither central nor the other has, may be lost.
pub(super) fn mark_lost(rig: &Rig, number: usize, dead: &Path, other: Option<&Path>) -> anyhow::Result<()> {
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

pub(in crate::chaos) fn operations(path: &Path, sql: &str) -> anyhow::Result<HashSet<String>> {
    let file = read(path)?;
    let mut statement = file.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A database of a process that may be running, or dead with its WAL not yet taken in.
pub(in crate::chaos) fn read(path: &Path) -> anyhow::Result<Connection> {
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("{} opens", path.display()))?;
    file.busy_timeout(Duration::from_secs(5))?;
    Ok(file)
}

/// `store-agent restore`, tried again until central answers, as a human would. The agent is not running.
pub(super) async fn restore(rig: &Rig, number: usize) -> anyhow::Result<()> {
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
pub(super) async fn run(program: &Path, args: &[String]) -> anyhow::Result<(bool, String)> {
    let output = tokio::process::Command::new(program).args(args).kill_on_drop(true).output();
    let Ok(output) = tokio::time::timeout(Duration::from_secs(10), output).await else {
        return Ok((false, "no end within 10 s".into()));
    };
    let output = output?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

pub(super) async fn backup(rig: &Rig, daemon: &Daemon, to: &Path) -> anyhow::Result<()> {
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
pub(in crate::chaos) async fn take_copies(rig: &Rig) {
    let mut ticks = tokio::time::interval(Duration::from_secs(6));
    let mut number = 0;
    // Redis's every other time, so that there is time to be set back by.
    let mut is_redis_due = true;
    loop {
        ticks.tick().await;
        for daemon in [&rig.stores[rig.victim], &rig.central] {
            let Some(_slot) = daemon.try_hold() else { continue };
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

pub(super) fn some_copy(rig: &Rig, of: Who, dice: &mut Dice) -> Option<PathBuf> {
    let copies = rig.copies.lock().expect("no thread panics");
    let fitting: Vec<&PathBuf> = copies.iter().filter(|copy| copy.of == of).map(|copy| &copy.path).collect();
    dice.pick(&fitting).map(|path| (*path).clone())
}

/// What people do once they see what is wrong: restore what has stopped. Says what they did.
pub(in crate::chaos) async fn look_after(rig: &Rig) -> anyhow::Result<()> {
    for (number, daemon) in rig.stores.iter().enumerate() {
        let told = status(daemon.port.number()).await;
        if told["stopped"].is_null() {
            continue;
        }
        rig.log.say(&format!("{} has stopped itself ({}): a human restores it", daemon.name, told["stopped"]));
        if number != rig.victim {
            rig.violation(format!("{} has stopped itself ({}) without a reason", daemon.name, told["stopped"]));
        }
        let mut slot = daemon.hold().await;
        if let Some(process) = slot.process.take() {
            process.kill();
        }
        let restored = restore(rig, number).await;
        rig.start_daemon(daemon, &mut slot);
        restored?;
    }
    Ok(())
}
