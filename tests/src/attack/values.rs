//! What one store's keys can hold, and a Redis that refuses or stops.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal;
use protocol::link::{Ack, Entry};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::arena::{Arena, HOSTILE, ONLINE, TILL, wait_until};
use super::probes::seconds;
use super::wire::{ask_within, request};
use crate::Dice;

/// Buyers who ask for the hostile store at once.
const CURIOUS: usize = 4;

fn key(store: &str, of: &str) -> String {
    format!("shelf:{{{store}}}:{of}")
}

/// Makes a value of so many bytes without sending them.
async fn grow(redis: &mut MultiplexedConnection, key: &str, bytes: usize) -> redis::RedisResult<()> {
    redis::pipe().del(key).ignore().cmd("SETRANGE").arg(key).arg(bytes - 1).arg("x").query_async::<()>(redis).await
}

fn buy_at(store: &str) -> Vec<u8> {
    request("POST", &format!("/v1/purchase/{store}/tea"), &[("prefer", "wait=0")], r#"{"quantity":1}"#).into_bytes()
}

/// A heartbeat that is read whenever somebody buys at its store.
pub(super) async fn heartbeat(arena: &mut Arena) -> anyhow::Result<()> {
    arena.hostile_store().await?;
    let mut redis = arena.redis().await?;
    arena.watch().await?;
    grow(&mut redis, &key(HOSTILE, "heartbeat"), arena.form.of(400, 64) << 20).await?;
    let (end, port) = (Instant::now() + arena.form.seconds(12, 4), arena.world.central_port());
    let curious = (0..CURIOUS).map(async |machine| {
        while Instant::now() < end {
            // Any answer will do; what counts is what others get meanwhile.
            let _ = ask_within(Duration::from_secs(10), machine, port, &buy_at(HOSTILE)).await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    futures_util::future::join_all(curious).await;
    let _: i64 = redis::cmd("DEL").arg(key(HOSTILE, "heartbeat")).query_async(&mut redis).await?;
    Ok(())
}

/// An acknowledgement of commands, which central's sender reads each time it looks.
pub(super) async fn ack(arena: &mut Arena) -> anyhow::Result<()> {
    arena.hostile_store().await?;
    let mut redis = arena.redis().await?;
    arena.watch().await?;
    let end = Instant::now() + arena.form.seconds(15, 4);
    grow(&mut redis, &key(HOSTILE, "commands:ack"), arena.form.of(400, 64) << 20).await?;
    let port = arena.world.central_port();
    while Instant::now() < end {
        // A command for the store makes its sender look.
        let _ = ask_within(Duration::from_secs(5), 0, port, &buy_at(HOSTILE)).await;
        sleep(Duration::from_millis(200)).await;
    }
    let _: i64 = redis::cmd("DEL").arg(key(HOSTILE, "commands:ack")).query_async(&mut redis).await?;
    Ok(())
}

async fn applied(redis: &mut MultiplexedConnection, store: &str) -> anyhow::Result<Ack> {
    let text: String = redis::cmd("GET").arg(key(store, "events:ack")).query_async(redis).await?;
    Ok(text.parse()?)
}

/// One entry in its right place, far larger than any.
pub(super) async fn entry(arena: &mut Arena) -> anyhow::Result<()> {
    arena.hostile_store().await?;
    let mut redis = arena.redis().await?;
    let cursor = applied(&mut redis, HOSTILE).await?.cursor;
    arena.watch().await?;
    let (zero, bytes) = ("0".repeat(32), vec![b'x'; arena.form.of(200, 48) << 20]);
    let mut add = redis::cmd("XADD");
    add.arg(key(HOSTILE, "events"))
        .arg(format!("{}-{}", cursor.epoch, cursor.seq.next()))
        .arg("v")
        .arg(1)
        .arg("t")
        .arg("sold");
    add.arg("i").arg("op").arg("b").arg(bytes).arg("c").arg(&zero).arg("d").arg(&zero);
    add.query_async::<()>(&mut redis).await?;
    sleep(arena.form.seconds(15, 4)).await;
    let _: i64 = redis::cmd("DEL").arg(key(HOSTILE, "events")).query_async(&mut redis).await?;
    Ok(())
}

const OF_A_STORE: [&str; 5] = ["events", "events:ack", "commands", "commands:ack", "heartbeat"];

/// Wrong types everywhere at once, put back as often as they are healed for a while.
pub(super) async fn types(arena: &mut Arena) -> anyhow::Result<()> {
    let mut redis = arena.redis().await?;
    arena.watch().await?;
    let end = Instant::now() + arena.form.seconds(8, 3);
    while Instant::now() < end {
        let mut pipe = redis::pipe();
        for of in OF_A_STORE {
            pipe.del(key(TILL, of)).ignore().hset(key(TILL, of), "not", "this").ignore();
        }
        pipe.query_async::<()>(&mut redis).await?;
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Types that change under whoever has just looked.
pub(super) async fn changing(arena: &mut Arena) -> anyhow::Result<()> {
    let mut redis = arena.redis().await?;
    let mut dice = Dice::new(arena.seed);
    arena.watch().await?;
    let (end, mut changes) = (Instant::now() + arena.form.seconds(10, 3), 0);
    while Instant::now() < end {
        let key = key(TILL, OF_A_STORE[dice.below(5) as usize]);
        let mut pipe = redis::pipe();
        pipe.del(&key).ignore();
        match dice.below(5) {
            0 => pipe.set(&key, "garbage").ignore(),
            1 => pipe.lpush(&key, "garbage").ignore(),
            2 => pipe.hset(&key, "garbage", 1).ignore(),
            3 => pipe.cmd("XADD").arg(&key).arg("*").arg("garbage").arg(1).ignore(),
            _ => &mut pipe,
        };
        pipe.query_async::<()>(&mut redis).await?;
        changes += 1;
        sleep(Duration::from_millis(2)).await;
    }
    arena.note = format!("{changes} changes");
    Ok(())
}

/// Redis lets central do everything but write the hostile store's acknowledgement.
pub(super) async fn denied(arena: &mut Arena) -> anyhow::Result<()> {
    arena.hostile_store().await?;
    let mut redis = arena.redis().await?;
    arena.watch().await?;
    let set = async |redis: &mut MultiplexedConnection, acks: &[&str]| {
        let mut rules =
            ["SETUSER", "central", "resetkeys", "%R~shelf:*", "%RW~shelf:{*}:commands"].map(str::to_owned).to_vec();
        rules.extend(acks.iter().map(|store| format!("%W~{}", key(store, "events:ack"))));
        redis::cmd("ACL").arg(&rules).query_async::<()>(redis).await
    };
    set(&mut redis, &[TILL, ONLINE]).await?;
    sleep(arena.form.seconds(10, 7)).await;
    set(&mut redis, &["*"]).await?;
    Ok(())
}

/// An entry that makes the store suspect, and heartbeats that go on and announce more of them. Nobody executes anything
/// there, so central must not take purchases for it.
pub(super) async fn suspect(arena: &mut Arena) -> anyhow::Result<()> {
    const REFUSED_WITHIN: Duration = Duration::from_secs(25);
    arena.world.add_store(HOSTILE);
    arena.world.online(HOSTILE).await;
    let tea = json!({"productId": "tea", "quantity": 1_000});
    arena.world.store(HOSTILE).post("/v1/inventory", tea).await.expect(201);
    let mut redis = arena.redis().await?;
    let port = arena.world.central_port();
    arena
        .wait("the hostile store sells", Duration::from_secs(20), async || {
            let reply = ask_within(Duration::from_secs(5), 0, port, &buy_at(HOSTILE)).await;
            let reply = reply.map_err(|error| error.to_string())?;
            if reply.status == 202 || reply.status == 200 { Ok(()) } else { Err(reply.code()) }
        })
        .await?;
    let heartbeat: String = redis::cmd("GET").arg(key(HOSTILE, "heartbeat")).query_async(&mut redis).await?;
    let mut heartbeat: Value = serde_json::from_str(&heartbeat)?;
    let daemon = crate::Daemon::Store(HOSTILE.into());
    arena.world.kill(&daemon);
    sleep(Duration::from_millis(500)).await;
    let cursor = applied(&mut redis, HOSTILE).await?.cursor;
    arena.watch().await?;
    let entry = Entry::follow(&cursor, "teleported", "op", "{}".into(), Some(Default::default()));
    let mut add = redis::cmd("XADD");
    add.arg(key(HOSTILE, "events")).arg(entry.id.to_string()).arg("v").arg(1).arg("t").arg(&entry.kind);
    add.arg("i").arg(&entry.operation).arg("b").arg(&entry.body).arg("c").arg(entry.hash.to_string());
    add.arg("d").arg(entry.digest.context("a digest")?.to_string());
    add.query_async::<()>(&mut redis).await?;
    heartbeat["head"] = json!(entry.id.seq + 5);
    heartbeat["backlog"] = json!(5);
    let (began, life) = (Instant::now(), heartbeat["lifeMs"].as_i64().context("a life")?);
    let refused = wait_until(REFUSED_WITHIN, async || {
        let mut set = redis::cmd("SET");
        set.arg(key(HOSTILE, "heartbeat")).arg(heartbeat.to_string()).arg("PX").arg(life);
        set.query_async::<()>(&mut redis).await.map_err(|error| error.to_string())?;
        let reply = ask_within(Duration::from_secs(5), 0, port, &buy_at(HOSTILE)).await;
        let reply = reply.map_err(|error| error.to_string())?;
        sleep(Duration::from_millis(250)).await;
        if reply.status == 503 { Ok(()) } else { Err(reply.status.to_string()) }
    });
    match refused.await {
        Ok(()) => arena.note = format!("refused after {:.1} s", seconds(began)),
        Err(seen) => arena.find(format!("purchases are taken for {REFUSED_WITHIN:?} and more: {seen}")),
    }
    Ok(())
}

/// Redis stops in the middle of everything: the till does not notice, central answers at once with what it has.
pub(super) async fn frozen(arena: &mut Arena) -> anyhow::Result<()> {
    arena.bounds.purchase_p99_ms = None;
    let port = arena.world.central_port();
    arena.watch().await?;
    arena.world.signal_redis(Signal::SIGSTOP);
    let end = Instant::now() + arena.form.seconds(12, 5);
    let (mut read, mut refused) = (Duration::ZERO, Duration::ZERO);
    let view = request("GET", &format!("/v1/inventory/{ONLINE}/tea"), &[], "").into_bytes();
    while Instant::now() < end {
        for (text, wanted, slowest) in [(&view, 200, &mut read), (&buy_at(ONLINE), 503, &mut refused)] {
            let asked = Instant::now();
            let reply = ask_within(Duration::from_secs(10), 0, port, text).await;
            *slowest = (*slowest).max(asked.elapsed());
            match reply {
                // The first purchases may have been taken on before Redis was seen to be gone.
                Ok(reply) if reply.status == wanted || (wanted == 503 && reply.status == 202) => {}
                Ok(reply) => arena.find(format!("with Redis stopped: {} {}", reply.status, reply.json())),
                Err(error) => arena.find(format!("with Redis stopped: {error}")),
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    arena.world.signal_redis(Signal::SIGCONT);
    arena.note = format!("read {} ms, refusal {} ms at most", read.as_millis(), refused.as_millis());
    let bound = Duration::from_millis(arena.form.of(250, 2_000));
    arena.expect(read <= bound, format!("a read took {read:?} > {bound:?} with Redis stopped"));
    // The answer of a Redis that hangs is waited for 3 s.
    let bound = Duration::from_secs(5);
    arena.expect(refused <= bound, format!("a purchase was refused after {refused:?} > {bound:?}"));
    Ok(())
}
