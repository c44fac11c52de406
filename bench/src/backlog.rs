//! A backlog drained: a store sells while it is cut off from Redis, then it is connected again, and the clock runs until
//! central has applied all. Limit: the smallest chain with as many events.

use std::time::Instant;

use crate::Effort;
use crate::chain::Chain;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup};

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("backlog: {} events, {} items", effort.backlog, effort.items);
    let mut setup = Setup::one_store(effort.items)?;
    let mut chain = Chain::start(&setup, effort.items)?;
    let mut row = Row::new("backlog", "events/s", "smallest chain", Reach::RatioAtLeast(0.6));
    for _ in 0..effort.pairs {
        setup.connect(STORE, false)?;
        setup.sales(setup.agent(STORE)).exactly(effort.backlog)?;
        setup.sold(effort.backlog)?;
        let head = setup.head(STORE)?;
        let begin = Instant::now();
        setup.connect(STORE, true)?;
        setup.applied(STORE, head)?;
        let seconds = begin.elapsed().as_secs_f64();
        setup.converge();
        row.add(effort.backlog as f64 / seconds, chain.bulk(i64::try_from(effort.backlog)?)?);
    }
    setup.check()?;
    Ok(vec![row])
}
