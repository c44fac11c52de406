//! From the start of a sale until central shows it: a sale at the store, then a `GET` at central that waits for the sale's
//! position, one after the other. Limit: the smallest chain with one event at a time.

use anyhow::Context;

use crate::Effort;
use crate::chain::Chain;
use crate::http::{self, Caller};
use crate::paced::{Latencies, paced};
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup, product, sale};

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("visible: {} sales one at a time, {} items", effort.calls, effort.items);
    let mut setup = Setup::one_store(effort.items)?;
    let mut chain = Chain::start(&setup, effort.items)?;
    let mut p50 = Row::new("visible-p50", "ms", "smallest chain", Reach::RatioAtMost(1.5));
    let mut p99 = Row::new("visible-p99", "ms", "smallest chain", Reach::RatioAtMost(2.0));
    for _ in 0..effort.pairs {
        let seen = sell(&mut setup, effort.calls)?;
        let limit = chain.single(effort.calls)?;
        p50.add(seen.quantile_ms(0.5), limit.quantile_ms(0.5));
        p99.add(seen.quantile_ms(0.99), limit.quantile_ms(0.99));
    }
    setup.check()?;
    Ok(vec![p50, p99])
}

fn sell(setup: &mut Setup, calls: u64) -> anyhow::Result<Latencies> {
    let (load, items) = (setup.next_load(), setup.items());
    let latencies = paced(calls, until_shown(setup, STORE, items, load)?)?;
    setup.sold(calls)?;
    Ok(latencies)
}

/// A caller who sells a unit at a store and waits until central shows it. The number of a call says of which product.
pub(crate) fn until_shown(
    setup: &Setup,
    store: &'static str,
    items: u64,
    load: u64,
) -> anyhow::Result<impl FnMut(u64) -> anyhow::Result<()> + Send + use<>> {
    let (mut at_store, mut at_central) = (Caller::connect(setup.agent(store))?, Caller::connect(setup.central())?);
    let mut request = Vec::new();
    Ok(move |number| {
        let product = product(number, items);
        sale(&mut request, &product, load, number);
        let answer = at_store.call(&request, 200)?;
        let position = answer.header("shelf-position").context("a sale without a position")?;
        http::get(&mut request, format_args!("/v1/inventory/{store}/{product}?minPosition={position}"));
        at_central.call(&request, 200)?;
        Ok(())
    })
}
