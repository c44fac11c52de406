//! Central is away while many stores sell, then it comes back: from its start until it has applied all. As many sales as a
//! chain makes in ten minutes. Limit: the smallest chain with as many events.

use std::time::Instant;

use crate::Effort;
use crate::chain::Chain;
use crate::crowd::Crowd;
use crate::row::{Reach, Row};
use crate::setup::Setup;

/// Items of a store: what is measured does not depend on them.
const ITEMS: u64 = 100;

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (stores, each) = effort.outage;
    println!("outage: {stores} stores, {each} sales each");
    let mut setup = Setup::start(&[])?;
    let mut crowd = Crowd::start(&setup, stores, ITEMS)?;
    let mut chain = Chain::start(&setup, ITEMS)?;
    let events = each * stores as u64;
    let mut rate = Row::new("outage", "events/s", "smallest chain", Reach::RatioAtLeast(0.5));
    let mut time = Row::new("outage-time", "s", "smallest chain", Reach::Unset);
    for _ in 0..effort.pairs.min(3) {
        let seconds = away(&mut setup, &mut crowd, each)?;
        crowd.converge(&setup)?;
        let limit = chain.bulk(i64::try_from(events)?)?;
        rate.add(events as f64 / seconds, limit);
        time.add(seconds, events as f64 / limit);
    }
    crowd.check(&setup)?;
    Ok(vec![rate, time])
}

/// Each store sells so much while central is away; s from central's start until it has all.
pub(crate) fn away(setup: &mut Setup, crowd: &mut Crowd, each: u64) -> anyhow::Result<f64> {
    setup.stop_central();
    crowd.sell(each)?;
    let heads = crowd.heads()?;
    let begin = Instant::now();
    setup.start_central();
    crowd.acknowledged(setup, &heads)?;
    Ok(begin.elapsed().as_secs_f64())
}
