//! A thousand stores far away, each behind a way like that of `slow_network.rs`, each of which sells now and then. How soon
//! central shows their sales, what they cost central, and whether they notice one among them that fills its line.
//!
//! Central's stream of events tells when it shows a sale: one connection for all stores. What central costs is measured while
//! nobody follows the stream.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use ::tests::Daemon;
use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::Effort;
use crate::crowd::{Crowd, Store};
use crate::idle::SETTLE;
use crate::load;
use crate::meter::{Machine, Meter};
use crate::network::Network;
use crate::paced::Latencies;
use crate::row::{Reach, Row};
use crate::setup::Setup;
use crate::slow_network::WAY;

/// Items of a store: what is measured does not depend on them.
const ITEMS: u64 = 10;
/// A store sells once within so much time. With less the commits of all stores, and what the file system does for them, fill two
/// cores, and what is seen is a queue for the processor.
const EVERY: Duration = Duration::from_secs(2);
/// The store that has a lot to send.
const BACKLOGGED: &str = "s1";
/// For central to show all, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let ((stores, each), backlog) = (effort.distant, effort.backlog.div_ceil(8));
    println!("slow-thousand: {stores} stores, {each} sales each, {backlog} events of one more");
    let mut setup = Setup::start(&[])?;
    let network = Network::start(setup.redis_port(), WAY)?;
    setup.add_store_through(BACKLOGGED, ITEMS, network.port())?;
    let mut crowd = Crowd::start_through(&setup, stores, ITEMS, network.port())?;
    // It was started for this.
    let central = setup.meter(&Daemon::Central);

    let mut cost = Row::new("slow-thousand-central", "us", "no sales", Reach::Unset);
    let mut event = Row::alone("slow-thousand-event", "us", Reach::Unset);
    let mut busy = Row::alone("slow-thousand-busy", "%", Reach::Unset);
    thread::sleep(SETTLE.min(effort.idle));
    let idle = used(central, || {
        thread::sleep(effort.idle);
        Ok(())
    })?;
    let before = Machine::now()?;
    let selling = used(central, || load::run(load::play_steadily(crowd.sales(each), EVERY)).map(drop))?;
    busy.observe(Machine::now()?.busy_since(&before));
    let micros = |share: f64| share * 1e6 / stores as f64;
    cost.add(micros(selling), micros(idle));
    event.observe(micros(selling - idle) * EVERY.as_secs_f64());
    // What is shown from now on was sold from now on.
    crowd.applied(&setup)?;

    let way_ms = WAY.delay.as_secs_f64() * 1e3;
    let mut p50 = Row::new("slow-thousand-p50", "ms", "the way alone", Reach::RatioAtMost(1.5));
    let mut p99 = Row::new("slow-thousand-p99", "ms", "the way alone", Reach::Unset);
    let mut worst = Row::new("slow-thousand-worst-p50", "ms", "the way alone", Reach::Unset);
    let alone = seen(&setup, &mut crowd, each)?;
    p50.add(alone.all.quantile_ms(0.5), way_ms);
    p99.add(alone.all.quantile_ms(0.99), way_ms);
    worst.add(alone.worst_p50_ms, way_ms);

    let mut beside_p50 = Row::new("slow-thousand-beside-p50", "ms", "no backlog", Reach::Unset);
    let mut beside_p99 = Row::new("slow-thousand-beside-p99", "ms", "no backlog", Reach::RatioAtMost(2.0));
    setup.connect(BACKLOGGED, false)?;
    setup.sales_of(setup.agent(BACKLOGGED), ITEMS).exactly(backlog)?;
    let head = setup.head(BACKLOGGED)?;
    setup.connect(BACKLOGGED, true)?;
    let beside = seen(&setup, &mut crowd, each)?;
    setup.applied(BACKLOGGED, head)?;
    beside_p50.add(beside.all.quantile_ms(0.5), alone.all.quantile_ms(0.5));
    beside_p99.add(beside.all.quantile_ms(0.99), alone.all.quantile_ms(0.99));

    setup.converge();
    setup.check_stock(BACKLOGGED, ITEMS, i64::try_from(backlog)?)?;
    crowd.check(&setup)?;
    Ok(vec![p50, p99, worst, beside_p50, beside_p99, cost, event, busy])
}

/// Processor time that a process uses while something goes on, by time.
fn used(process: Meter, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (begin, before) = (Instant::now(), process.cpu()?);
    work()?;
    Ok(process.cpu()?.saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64())
}

/// From a sale's answer until central shows it.
struct Seen {
    /// Sales of all stores.
    all: Latencies,
    /// The median of the store whose median is greatest.
    worst_p50_ms: f64,
}

fn seen(setup: &Setup, crowd: &mut Crowd, each: u64) -> anyhow::Result<Seen> {
    let sales = crowd.sales(each);
    let url = format!("http://127.0.0.1:{}/v1/events/stream?type=sold", setup.central());
    let (answered, mut shown) = load::run(async {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let stream = client.get(url).send().await?.error_for_status()?;
        tokio::try_join!(load::play_steadily(sales, EVERY), follow(stream, &crowd.stores, each))
    })?;
    let (mut all, mut worst_p50_ms) = (Vec::new(), 0_f64);
    for (store, answered) in crowd.stores.iter().zip(answered) {
        let shown = shown.remove(store.id.as_str()).unwrap_or_default();
        ensure!(shown.len() == answered.len(), "{} of {} sales shown of {}", shown.len(), answered.len(), store.id);
        // A store has one till, and central shows its events in order.
        let times: Vec<Duration> =
            shown.iter().zip(answered).map(|(shown, answered)| shown.saturating_duration_since(answered)).collect();
        all.extend_from_slice(&times);
        worst_p50_ms = worst_p50_ms.max(Latencies::of(times).quantile_ms(0.5));
    }
    Ok(Seen { all: Latencies::of(all), worst_p50_ms })
}

/// An event, as central's stream tells it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    store_id: String,
}

/// When the stream tells of each sale of these stores, until it has told of so many of each.
async fn follow(
    mut stream: reqwest::Response,
    stores: &[Store],
    each: u64,
) -> anyhow::Result<HashMap<&str, Vec<Instant>>> {
    let mut shown: HashMap<&str, Vec<Instant>> = stores.iter().map(|store| (store.id.as_str(), Vec::new())).collect();
    let mut missing = each * stores.len() as u64;
    let mut bytes = Vec::new();
    while missing > 0 {
        bytes.extend_from_slice(&stream.chunk().await?.context("central ends its stream of events")?);
        let now = Instant::now();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            let Some(event) = line.strip_prefix(b"data:") else { continue };
            let Event { store_id } = serde_json::from_slice(event)?;
            if let Some(shown) = shown.get_mut(store_id.as_str()) {
                shown.push(now);
                missing = missing.saturating_sub(1);
            }
        }
    }
    Ok(shown)
}
