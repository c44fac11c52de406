//! How much memory the daemons have once they have worked: reads and sales over 64 connections, lists, the whole stock
//! out of each, and the events of all that applied.

use std::thread;

use crate::Effort;
use crate::http;
use crate::load::Load;
use crate::prepared::Prepared;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup, product};

/// Of a store as large as stores are.
const AGENT_ITEMS: u64 = 30_000;
const AGENT_MIB: f64 = 40.0;
/// Of central, and for each item of its view.
const CENTRAL_MIB: f64 = 300.0;
const CENTRAL_ITEM_BYTES: f64 = 150.0;

pub(crate) fn measure(effort: &Effort, prepared: &mut Prepared) -> anyhow::Result<Vec<Row>> {
    println!("memory: {:?} items", effort.chain);
    let mut rows = Vec::new();
    for items in effort.chain {
        let mut setup = prepared.setup(items)?;
        work(&mut setup, effort.requests)?;
        // What was freed goes back to the system after a while.
        thread::sleep(effort.rest);
        let central = (CENTRAL_MIB + items as f64 * CENTRAL_ITEM_BYTES / f64::from(1 << 20)).round();
        let agent = if items <= AGENT_ITEMS { Reach::ValueAtMost(AGENT_MIB) } else { Reach::Unset };
        let [of_agent, of_central] = setup.meters();
        for (name, meter, reach) in [("agent", of_agent, agent), ("central", of_central, Reach::ValueAtMost(central))] {
            let memory = meter.memory()?;
            let seen = [
                ("", memory.resident, reach),
                ("-anonymous", memory.anonymous, Reach::Unset),
                ("-peak", memory.peak, Reach::Unset),
            ];
            for (what, mib, reach) in seen {
                let mut row = Row::alone(format!("memory-{name}-{items}{what}"), "MiB", reach);
                row.observe(mib);
                rows.push(row);
            }
        }
        setup.check()?;
    }
    Ok(rows)
}

/// Everything that is asked of daemons on a day, as often as it makes them grow.
fn work(setup: &mut Setup, requests: u64) -> anyhow::Result<()> {
    let items = setup.items();
    Load::new(setup.central(), move |number, request| {
        http::get(request, format_args!("/v1/inventory/{STORE}/{}", product(number, items)));
    })
    .exactly(requests)?;
    Load::new(setup.agent(STORE), move |number, request| {
        http::get(request, format_args!("/v1/inventory/{}", product(number, items)));
    })
    .exactly(requests)?;
    for port in [setup.central(), setup.agent(STORE)] {
        Load::new(port, |_, request| http::get(request, format_args!("/v1/inventory?size=100")))
            .exactly(requests / 20)?;
    }
    setup.sales(setup.agent(STORE)).exactly(requests)?;
    setup.sold(requests)?;
    setup.stock(STORE)?;
    setup.converge();
    Ok(())
}
