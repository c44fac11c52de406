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
mod database;
mod http;
mod load;
mod paced;
mod purchase;
mod read;
mod replay;
mod row;
mod sale;
mod server;
mod setup;
mod visible;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

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
        }
    }

    /// Two minutes in all: an indication.
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
    /// Where the figures go as JSON.
    pub results: PathBuf,
}

/// Measures, prints a table, writes the figures.
///
/// # Errors
/// A request that was not answered as expected, stock that does not add up, or a file that cannot be written. A figure
/// that was not reached is no error.
///
/// # Panics
/// Like `tests::World`, when a daemon does not start or does not do in time what it must.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for benchmark in &options.benchmarks {
        rows.extend(measure(*benchmark, &options.effort, &options.data)?);
    }
    row::print(&rows, options.judge);
    row::save(&rows, &options.results)?;
    println!("\nthe same as JSON: {}", options.results.display());
    Ok(())
}

fn measure(benchmark: Benchmark, effort: &Effort, data: &Path) -> anyhow::Result<Vec<Row>> {
    match benchmark {
        Benchmark::Read => read::measure(effort),
        Benchmark::Sale => sale::measure(effort),
        Benchmark::Backlog => backlog::measure(effort),
        Benchmark::Visible => visible::measure(effort),
        Benchmark::Purchase => purchase::measure(effort),
        Benchmark::Replay => replay::measure(effort, data),
    }
}
