//! What anybody who may write to the set of stores, or ring a bell, can do to central.

use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::ids::StoreId;
use redis::aio::MultiplexedConnection;
use runtime::redis::Keys;
use tokio::time::sleep;

use super::arena::{Arena, answer};

/// Commands of one pipeline.
const BATCH: usize = 10_000;
const SET: &str = "shelf:stores";

/// A flood of ids that are no stores, for some sweeps, and their removal.
pub(super) async fn ids(arena: &mut Arena) -> anyhow::Result<()> {
    let count = arena.form.of(100_000, 20_000);
    let mut redis = arena.redis().await?;
    arena.watch().await?;
    change_set(&mut redis, "SADD", count).await?;
    sleep(arena.form.seconds(15, 5)).await;
    change_set(&mut redis, "SREM", count).await?;
    // They are gone from Redis; whatever central made of them shows here.
    sleep(arena.form.seconds(5, 2)).await;
    let asked = Instant::now();
    let listed = answer(&arena.world.central(), "/v1/stores").await.map_err(anyhow::Error::msg)?;
    let listed = listed["items"].as_array().context("a list")?.len();
    let took = asked.elapsed();
    arena.expect(listed == 2, format!("central lists {listed} stores where there are 2"));
    arena.expect(took < Duration::from_secs(1), format!("the list of stores took {took:.1?}"));
    Ok(())
}

async fn change_set(redis: &mut MultiplexedConnection, command: &str, count: usize) -> anyhow::Result<()> {
    for batch in 0..count.div_ceil(BATCH) {
        let ids = (batch * BATCH..count.min((batch + 1) * BATCH)).map(|number| format!("nobody-{number:06}"));
        redis::cmd(command).arg(SET).arg(ids.collect::<Vec<_>>()).query_async::<()>(redis).await?;
    }
    Ok(())
}

/// Bells of ids that nobody knows, each another one.
pub(super) async fn bells(arena: &mut Arena) -> anyhow::Result<()> {
    let count = arena.form.of(1_000_000, 50_000);
    let within = arena.form.seconds(12, 4);
    let keys = Keys::new("shelf");
    let mut redis = arena.redis().await?;
    arena.watch().await?;
    let began = Instant::now();
    let mut rung = 0;
    while rung < count && began.elapsed() < within {
        let mut pipe = redis::pipe();
        for number in rung..rung + BATCH {
            let id = StoreId::parse(&format!("nobody-{number}"))?;
            pipe.cmd("PUBLISH").arg(keys.bell(&id)).arg(id.as_str()).ignore();
        }
        // Central's subscription may be cut by Redis for not reading; the bells go on.
        pipe.query_async::<()>(&mut redis).await?;
        rung += BATCH;
    }
    arena.note = format!("{:.0} bells/s", rung as f64 / began.elapsed().as_secs_f64());
    sleep(arena.form.seconds(3, 1)).await;
    Ok(())
}
