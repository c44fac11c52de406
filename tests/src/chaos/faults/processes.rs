//! Processes that are killed, stopped or frozen.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::sync::MutexGuard;

use super::Plan;
use crate::chaos::rig::{Rig, Slot, Who};

pub(super) async fn killed(rig: &Rig, who: Who, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let mut slot = daemon.hold().await;
    slot.process.take().context("it runs")?.kill();
    let away = if plan.dice.chance(500) { 0 } else { plan.dice.between(200, 2_500) };
    tokio::time::sleep(Duration::from_millis(away.unsigned_abs())).await;
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    Ok(format!("{}, {away} ms away", daemon.name))
}

pub(super) async fn stopped(rig: &Rig, who: Who, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let mut slot = daemon.hold().await;
    rig.terminate(daemon, &mut slot).await;
    plan.for_ms(0, 1_500).await;
    slot.environment.clear();
    rig.start_daemon(daemon, &mut slot);
    Ok(daemon.name.clone())
}

pub(super) async fn frozen(slot: MutexGuard<'_, Slot>, name: &str, plan: &mut Plan) -> anyhow::Result<String> {
    let process = slot.process.as_ref().context("it runs")?;
    // Longer or shorter than the daemons' patience with Redis, 3 s.
    let (low, high) = if plan.dice.chance(500) { (300, 2_000) } else { (3_500, 5_500) };
    process.signal(Signal::SIGSTOP);
    plan.for_ms(low, high).await;
    process.signal(Signal::SIGCONT);
    Ok(name.to_owned())
}
