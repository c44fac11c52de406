//! What the daemons cost while nothing happens: processor, disk, wake-ups. Central follows; central is away and the window
//! of its store is full; Redis is away.

use std::thread;
use std::time::{Duration, Instant};

use crate::Effort;
use crate::meter::Meter;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup};

/// Share of a core, percent.
const CPU: Reach = Reach::ValueAtMost(0.5);
const WRITTEN: Reach = Reach::ValueAtMost(0.0);
/// More than a window.
const UNSENT: u64 = 3_000;
/// For what goes on behind a change of state to end: time-outs, waits that grow, memory that is given back.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("idle: {:?} each, {} items", effort.idle, effort.items);
    let settle = SETTLE.min(effort.idle);
    let mut rows = Vec::new();
    let mut setup = Setup::one_store(effort.items)?;

    thread::sleep(settle);
    let [agent, central] = setup.meters();
    rows.extend(rest(&[("agent-followed", agent), ("central", central)], effort.idle)?);

    setup.stop_central();
    setup.sales(setup.agent(STORE)).exactly(UNSENT)?;
    setup.sold(UNSENT)?;
    thread::sleep(settle);
    rows.extend(rest(&[("agent-window-full", agent)], effort.idle)?);
    setup.start_central();
    setup.converge();

    setup.stop_redis();
    thread::sleep(settle);
    let [_, central] = setup.meters();
    rows.extend(rest(&[("agent-without-redis", agent), ("central-without-redis", central)], effort.idle)?);
    setup.start_redis();
    setup.check()?;
    Ok(rows)
}

/// Looks at processes for a while, and away meanwhile.
fn rest(processes: &[(&str, Meter)], time: Duration) -> anyhow::Result<Vec<Row>> {
    let look = |(_, meter): &(&str, Meter)| Ok((meter.cpu()?, meter.written()?, meter.sleeps()?));
    let begin = Instant::now();
    let before: Vec<_> = processes.iter().map(look).collect::<anyhow::Result<_>>()?;
    thread::sleep(time);
    let seconds = begin.elapsed().as_secs_f64();
    let mut rows = Vec::new();
    for ((name, meter), (cpu, written, sleeps)) in processes.iter().zip(before) {
        let seen = [
            ("cpu", "%", CPU, meter.cpu()?.saturating_sub(cpu).as_secs_f64() / seconds * 100.0),
            ("written", "bytes", WRITTEN, meter.written()?.saturating_sub(written) as f64),
            ("wake-ups", "1/s", Reach::Unset, meter.sleeps()?.since(&sleeps) as f64 / seconds),
        ];
        for (what, unit, reach, value) in seen {
            let mut row = Row::alone(format!("idle-{name}-{what}"), unit, reach);
            row.observe(value);
            rows.push(row);
        }
    }
    Ok(rows)
}
