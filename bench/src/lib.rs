//! How fast it is, each figure beside the smallest program on the same libraries that could do the same: its *limit*.
//!
//! Value and limit are measured in turn, so that both see the same machine; what counts is their ratio. The limit's
//! program lies in the file of the benchmark that needs it, or beside it if several do. `docs/PERFORMANCE.md` says what
//! each row means.
//!
//! Every request must be answered as expected, and at the end the stock must be what the answers add up to, at the store
//! and at central: a fast wrong answer ends a benchmark with an error.

mod backlog;
mod chain;
mod chart;
mod crowd;
mod database;
mod growth;
mod http;
mod idle;
mod load;
mod memory;
mod meter;
mod network;
mod outage;
mod paced;
mod prepared;
mod purchase;
mod read;
mod replay;
mod row;
mod sale;
mod server;
mod setup;
mod slow_network;
mod slow_thousand;
mod space;
mod stall;
mod start;
mod visible;

pub use crowd::host;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use chart::Chart;
use prepared::Prepared;
use row::Row;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Benchmark {
    /// `GET` of an item at central and at a store.
    Read,
    /// A durable sale at the till, central stopped and following.
    Sale,
    /// What a store has sold while it was cut off, drained into central.
    Backlog,
    /// From the start of a sale until central shows it.
    Visible,
    /// A purchase at central that the store confirms.
    Purchase,
    /// Real receipts through an agent a store, as fast as they go.
    Replay,
    /// Memory of the daemons with few items and with many.
    Memory,
    /// From a daemon's start until it is ready, with few items and with many.
    Start,
    /// Many stores' sales of ten minutes without central, applied when it comes back.
    Outage,
    /// What the daemons cost while nothing happens.
    Idle,
    /// What a sale, a read and an event cost with more items, a longer backlog and more stores.
    Growth,
    /// Redis's memory for a store, the databases' growth and their logs.
    Space,
    /// How long other requests wait beside work on a whole large store.
    Stall,
    /// A store far away: how soon and how much, and whether another store notices.
    SlowNetwork,
    /// A thousand such stores, all of which sell: how soon, what it costs central, and whether the others notice one that has
    /// much to send.
    SlowThousand,
    /// The receipts dealt out to ten times as many stores.
    ReplayTenfold,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Value and limit, so many times in turn.
    pairs: usize,
    /// Items of a store.
    items: u64,
    /// Load before the clock starts.
    warm_up: Duration,
    /// Load while it runs.
    time: Duration,
    /// Events of a backlog.
    backlog: u64,
    /// Requests of a caller who makes one at a time.
    calls: u64,
    /// Receipt lines of a replay, at most.
    lines: usize,
    /// Whether the project's own sample of receipts will do.
    sample: bool,
    /// Few items and many: of a store as large as stores are, and of a chain.
    chain: [u64; 2],
    /// Requests of a kind where they are counted, not timed.
    requests: u64,
    /// For memory that was freed to go back to the system.
    rest: Duration,
    /// Stores of an outage, and sales of each.
    outage: (usize, u64),
    /// For how long it is looked at what does nothing.
    idle: Duration,
    /// Items of a store, each ten times those before.
    sizes: [u64; 3],
    /// Items of a store that is worked on as a whole.
    large_store: u64,
    /// Sales that were not sent, ten times as many the second time.
    backlogs: [u64; 2],
    /// Stores of a chain, each ten times those before.
    stores: [usize; 3],
    /// Stores far away, and sales of each while the clock runs.
    distant: (usize, u64),
}

impl Effort {
    /// Figures that may be quoted.
    pub fn full() -> Self {
        Self {
            pairs: 5,
            items: 30_000,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(5),
            backlog: 200_000,
            calls: 1_000,
            lines: usize::MAX,
            sample: false,
            chain: [30_000, 1_000_000],
            requests: 10_000,
            rest: Duration::from_secs(5),
            // Of 3,000 sales a second of 1,000 stores.
            outage: (50, 1_800),
            idle: Duration::from_secs(15),
            sizes: [10_000, 100_000, 1_000_000],
            large_store: 100_000,
            backlogs: [5_000, 50_000],
            stores: [10, 100, 1_000],
            distant: (1_000, 15),
        }
    }

    /// Some minutes in all: an indication.
    pub fn quick() -> Self {
        Self {
            pairs: 3,
            items: 10_000,
            warm_up: Duration::from_millis(250),
            time: Duration::from_millis(750),
            backlog: 20_000,
            calls: 100,
            lines: 15_000,
            sample: false,
            chain: [5_000, 50_000],
            requests: 2_000,
            rest: Duration::from_secs(3),
            outage: (10, 900),
            idle: Duration::from_secs(5),
            sizes: [500, 5_000, 50_000],
            large_store: 5_000,
            backlogs: [1_000, 10_000],
            stores: [2, 20, 200],
            distant: (200, 5),
        }
    }

    /// A few seconds each: everything runs, no figure means anything.
    pub fn smoke() -> Self {
        Self {
            pairs: 1,
            items: 300,
            warm_up: Duration::from_millis(50),
            time: Duration::from_millis(200),
            backlog: 3_000,
            calls: 20,
            lines: 2_000,
            sample: true,
            chain: [100, 1_000],
            requests: 200,
            rest: Duration::ZERO,
            outage: (4, 50),
            idle: Duration::from_millis(500),
            sizes: [10, 100, 1_000],
            large_store: 1_000,
            backlogs: [100, 1_000],
            stores: [1, 3, 10],
            distant: (10, 1),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// Which benchmarks, in this order.
    pub benchmarks: Vec<Benchmark>,
    /// How much of each.
    pub effort: Effort,
    /// Folder of receipts to replay.
    pub data: PathBuf,
    /// Whether the figures are held against those to reach.
    pub judge: bool,
    /// Where the figures go as JSON; the curves go as SVG into a folder of the same name without the ending.
    pub results: PathBuf,
}

/// Measures, prints a table, writes the figures and draws the curves.
///
/// # Errors
/// A request that was not answered as expected, stock that does not add up, or a file that cannot be written. A figure
/// that was not reached is no error.
///
/// # Panics
/// Like `tests::World`, when a daemon does not start or does not do in time what it must.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Each store of many has tills, and each till a connection.
    runtime::daemon::raise_descriptors()?;
    let (mut rows, mut charts): (Vec<Row>, Vec<Chart>) = (Vec::new(), Vec::new());
    let mut prepared = Prepared::default();
    let pictures = options.results.with_extension("");
    for benchmark in &options.benchmarks {
        rows.extend(measure(*benchmark, &options.effort, &options.data, &mut prepared, &mut charts)?);
        // Should a later one fail, what these have measured is kept.
        row::save(&rows, &options.results)?;
        charts.iter().try_for_each(|chart| chart.save(&pictures))?;
    }
    row::print(&rows, options.judge);
    println!("\nthe same as JSON: {}", options.results.display());
    Ok(())
}

fn measure(
    benchmark: Benchmark,
    effort: &Effort,
    data: &Path,
    prepared: &mut Prepared,
    charts: &mut Vec<Chart>,
) -> anyhow::Result<Vec<Row>> {
    match benchmark {
        Benchmark::Read => read::measure(effort),
        Benchmark::Sale => sale::measure(effort),
        Benchmark::Backlog => backlog::measure(effort),
        Benchmark::Visible => visible::measure(effort),
        Benchmark::Purchase => purchase::measure(effort),
        Benchmark::Replay => replay::measure(effort, data),
        Benchmark::Memory => memory::measure(effort, prepared),
        Benchmark::Start => start::measure(effort, prepared),
        Benchmark::Outage => outage::measure(effort),
        Benchmark::Idle => idle::measure(effort),
        Benchmark::Growth => growth::measure(effort, prepared, charts),
        Benchmark::Space => space::measure(effort),
        Benchmark::Stall => stall::measure(effort, prepared),
        Benchmark::ReplayTenfold => replay::measure_tenfold(effort, data),
        Benchmark::SlowNetwork => slow_network::measure(effort),
        Benchmark::SlowThousand => slow_thousand::measure(effort),
    }
}
