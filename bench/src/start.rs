//! From the start of a daemon that was killed until it is ready, with a large database. Limit: with a small one.

use ::tests::Daemon;

use crate::Effort;
use crate::prepared::Prepared;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup};

pub(crate) fn measure(effort: &Effort, prepared: &mut Prepared) -> anyhow::Result<Vec<Row>> {
    let [small, large] = effort.chain;
    println!("start: {large} items beside {small}");
    let mut setups = [prepared.setup(large)?, prepared.setup(small)?];
    let mut rows = Vec::new();
    for (name, daemon) in [("start-agent", Daemon::Store(STORE.to_owned())), ("start-central", Daemon::Central)] {
        let mut row = Row::new(name, "ms", "with few items", Reach::ValueAtMost(READY_MS));
        for _ in 0..effort.pairs {
            let [large, small] = setups.each_mut().map(|setup| ready_ms(setup, &daemon, effort.requests));
            row.add(large?, small?);
        }
        rows.push(row);
    }
    for setup in setups {
        setup.check()?;
    }
    Ok(rows)
}

/// A till's staff, or an orchestrator's probe, does not notice.
const READY_MS: f64 = 1_000.0;

/// Killed behind sales, so that there is a log of the database to go through.
fn ready_ms(setup: &mut Setup, daemon: &Daemon, sales: u64) -> anyhow::Result<f64> {
    setup.sales(setup.agent(STORE)).exactly(sales)?;
    setup.sold(sales)?;
    Ok(setup.restart(daemon).as_secs_f64() * 1e3)
}
