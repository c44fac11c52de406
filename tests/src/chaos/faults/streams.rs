//! What goes wrong in Redis: restarts, lost and damaged streams, acks of long ago.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Kind, Plan};
use crate::chaos::proxy::Weather;
use crate::chaos::rig::Rig;

/// Longest wait for something to be in a state in which a fault can be told.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn redis_restarted(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
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

pub(super) fn remove_dir(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// One of the streams of the plan's store.
pub(super) fn stream(rig: &Rig, plan: &mut Plan) -> String {
    let id = &rig.ids[plan.store];
    if plan.dice.chance(700) { rig.keys.events(id) } else { rig.keys.commands(id) }
}

/// Changes, loses or punches entries that central has not read: its network is held back until there are some. What is changed
/// is marked, and has to have come to central.
pub(super) async fn damaged_stream(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    let script = match plan.kind {
        Kind::EntryCorrupted => {
            "local all = redis.call('XRANGE', KEYS[1], '-', '+') \
             if #all < 3 then return 0 end \
             redis.call('DEL', KEYS[1]) \
             for n, entry in ipairs(all) do \
               local fields = entry[2] \
               if n == 2 then for f = 1, #fields, 2 do \
                 if fields[f] == ARGV[1] then fields[f + 1] = ARGV[2] end end \
                 table.insert(fields, 'm') table.insert(fields, ARGV[3]) end \
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
    let mark = format!("mark-{}", plan.dice.roll());
    let mut seen = rig.central.proxy.look_for(mark.as_bytes());
    command.arg(script).arg(1).arg(&key).arg(field).arg(value).arg(&mark);
    let done = rig
        .wait("the stream has entries", READY_WITHIN, async || match rig.redis(&command).await {
            Ok(redis::Value::Int(1)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    rig.central.proxy.set(Weather::Clear);
    done?;
    if plan.kind == Kind::EntryCorrupted {
        let came = tokio::time::timeout(READY_WITHIN, seen.wait_for(|seen| *seen)).await;
        came.context("central had read that entry before, or the agent has mended it first")??;
    }
    Ok(key)
}

pub(super) async fn foreign_entry(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
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
pub(super) async fn ack_set_back(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
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
