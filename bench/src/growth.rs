//! What a sale, a read and an event cost with ten times the items, the backlog and the stores: processor time of the
//! daemon, all its threads, a request or an event. It drifts less than how long one takes.

use std::time::Duration;

use ::tests::Daemon;

use crate::chain::Chain;
use crate::chart::{Chart, Series};
use crate::crowd::Crowd;
use crate::load::Load;
use crate::meter::Meter;
use crate::outage;
use crate::prepared::Prepared;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup, product};
use crate::{Effort, http};

const REACH: Reach = Reach::RatioAtMost(1.3);
const UNIT: &str = "us";
/// Items of a store where there are many stores.
const ITEMS: u64 = 10;

pub(crate) fn measure(effort: &Effort, prepared: &mut Prepared, charts: &mut Vec<Chart>) -> anyhow::Result<Vec<Row>> {
    println!("growth: {:?} items, {:?} sales unsent, {:?} stores", effort.sizes, effort.backlogs, effort.stores);
    let kinds = &["sale", "read-store", "read-central", "event", "smallest-chain"];
    let mut items = Curves::new("items", "a tenth of the items", kinds);
    let (mut setups, mut chains) = (Vec::new(), Vec::new());
    for size in effort.sizes {
        let setup = prepared.setup(size)?;
        chains.push(Chain::start(&setup, size)?);
        setups.push(setup);
    }
    for _ in 0..effort.pairs.min(3) {
        for ((setup, chain), size) in setups.iter_mut().zip(&mut chains).zip(effort.sizes) {
            let [sale, at_store, at_central, event] = by_items(setup, effort.requests)?;
            items.add(size, &[sale, at_store, at_central, event, by_items_at_best(chain, effort.requests)?]);
        }
    }
    let mut backlog = Curves::new("backlog", "a tenth of the backlog", &["sale", "event"]);
    for _ in 0..effort.pairs.min(2) {
        for size in effort.backlogs {
            backlog.add(size, &by_backlog(&mut setups[0], size, effort.requests)?);
        }
    }
    for setup in setups {
        setup.check()?;
    }
    let mut stores = Curves::new("stores", "a tenth of the stores", &["event", "start"]);
    let each = (effort.requests * 3).div_ceil(effort.stores[1] as u64);
    for size in effort.stores {
        let mut setup = Setup::start(&[])?;
        let mut crowd = Crowd::start(&setup, size, ITEMS)?;
        for _ in 0..effort.pairs.min(2) {
            let start = since_start(&mut setup, &mut crowd, 0, effort.idle)?;
            let all = since_start(&mut setup, &mut crowd, each, effort.idle)?;
            let events = micros(all.saturating_sub(start), each * size as u64);
            stores.add(size as u64, &[events, micros(start, size as u64)]);
        }
        crowd.check(&setup)?;
    }
    let all = [items, backlog, stores];
    charts.extend(all.iter().map(Curves::chart));
    Ok(all.into_iter().flat_map(Curves::rows).collect())
}

/// What central takes from its start on, which comes once each store has sold so much, for as long as it drains that: so there are as
/// many sweeps in it whatever it drains.
fn since_start(setup: &mut Setup, crowd: &mut Crowd, each: u64, time: Duration) -> anyhow::Result<Duration> {
    let seconds = outage::away(setup, crowd, each)?;
    std::thread::sleep(time.saturating_sub(Duration::from_secs_f64(seconds)));
    setup.meter(&Daemon::Central).cpu()
}

fn by_items(setup: &mut Setup, requests: u64) -> anyhow::Result<[f64; 4]> {
    let items = setup.items();
    let [agent, central] = setup.meters();
    setup.connect(STORE, false)?;
    let sales = setup.sales(setup.agent(STORE));
    let sale = cost(agent, requests, &sales)?;
    setup.sold(warm_up(requests) + requests)?;
    let at_store = Load::new(setup.agent(STORE), move |number, request| {
        http::get(request, format_args!("/v1/inventory/{}", product(number, items)));
    });
    let at_central = Load::new(setup.central(), move |number, request| {
        http::get(request, format_args!("/v1/inventory/{STORE}/{}", product(number, items)));
    });
    let (at_store, at_central) = (cost(agent, requests, &at_store)?, cost(central, requests, &at_central)?);
    let event = drained(setup, central, warm_up(requests) + requests)?;
    Ok([sale, at_store, at_central, event])
}

/// What an event costs both sides of the smallest chain together: so much of the growth is not this system's, but that of
/// any database whose pages are each written for one event alone.
fn by_items_at_best(chain: &mut Chain, events: u64) -> anyhow::Result<f64> {
    let own = Meter::of(std::process::id());
    let begin = own.cpu()?;
    chain.bulk(i64::try_from(events)?)?;
    Ok(micros(own.cpu()?.saturating_sub(begin), events))
}

/// The store is cut off and has sold so much when the sales come whose cost counts; then central gets all.
fn by_backlog(setup: &mut Setup, backlog: u64, requests: u64) -> anyhow::Result<[f64; 2]> {
    let [agent, central] = setup.meters();
    setup.connect(STORE, false)?;
    setup.sales(setup.agent(STORE)).exactly(backlog)?;
    let sales = setup.sales(setup.agent(STORE));
    let sale = cost(agent, requests, &sales)?;
    let all = backlog + warm_up(requests) + requests;
    setup.sold(all)?;
    Ok([sale, drained(setup, central, all)?])
}

/// Connects the store, which has so many events to send; what each costs central.
fn drained(setup: &Setup, central: Meter, events: u64) -> anyhow::Result<f64> {
    let head = setup.head(STORE)?;
    let begin = central.cpu()?;
    setup.connect(STORE, true)?;
    setup.applied(STORE, head)?;
    let used = central.cpu()?.saturating_sub(begin);
    setup.converge();
    Ok(micros(used, events))
}

fn warm_up(requests: u64) -> u64 {
    requests / 10
}

/// What so many requests cost a daemon, each, behind some that warm it up.
fn cost(daemon: Meter, requests: u64, load: &Load) -> anyhow::Result<f64> {
    load.exactly(warm_up(requests))?;
    let begin = daemon.cpu()?;
    load.following(warm_up(requests)).exactly(requests)?;
    Ok(micros(daemon.cpu()?.saturating_sub(begin), requests))
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// One kind of thing at one size, as often as it was measured.
struct Point {
    size: u64,
    costs: Vec<f64>,
}

/// What several kinds of things cost while one thing grows.
struct Curves {
    what: &'static str,
    limit: &'static str,
    kinds: Vec<(&'static str, Vec<Point>)>,
}

impl Curves {
    fn new(what: &'static str, limit: &'static str, kinds: &[&'static str]) -> Self {
        Self { what, limit, kinds: kinds.iter().map(|kind| (*kind, Vec::new())).collect() }
    }

    /// What each kind has cost at this size, once more.
    fn add(&mut self, size: u64, costs: &[f64]) {
        for ((kind, points), cost) in self.kinds.iter_mut().zip(costs) {
            println!("  {kind:<12} {cost:>8.1} {UNIT} with {size} {}", self.what);
            match points.iter_mut().find(|point| point.size == size) {
                Some(point) => point.costs.push(*cost),
                None => points.push(Point { size, costs: vec![*cost] }),
            }
        }
    }

    /// Each size beside the one before.
    fn rows(self) -> Vec<Row> {
        let Self { what, limit, kinds } = self;
        let row = |kind: &str, pair: &[Point]| {
            let [small, large] = pair else { unreachable!("windows of two") };
            let mut row = Row::new(format!("growth-{kind}-{what}-{}", large.size), UNIT, limit, REACH);
            large.costs.iter().zip(&small.costs).for_each(|(large, small)| row.add(*large, *small));
            row
        };
        kinds.iter().flat_map(|(kind, points)| points.windows(2).map(|pair| row(kind, pair))).collect()
    }

    fn chart(&self) -> Chart {
        let point = |point: &Point| {
            let mut costs = point.costs.clone();
            costs.sort_by(f64::total_cmp);
            (point.size as f64, costs[costs.len() / 2])
        };
        let series = |(kind, points): &(&'static str, Vec<Point>)| Series {
            name: (*kind).to_owned(),
            points: points.iter().map(point).collect(),
        };
        Chart {
            file: format!("growth-{}", self.what),
            title: format!("Processor time while {} grow", if self.what == "backlog" { "backlogs" } else { self.what }),
            x: self.what.to_owned(),
            y: "µs each".to_owned(),
            series: self.kinds.iter().map(series).collect(),
        }
    }
}
