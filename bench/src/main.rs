//! Measures how fast it is; `cargo xtask bench` builds what it needs and runs it.

use std::path::PathBuf;

use bench::{Benchmark, Effort};
use clap::{Parser, ValueEnum};

/// The daemons' allocator, so that the limits have it, too.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Options {
    /// What to measure [default: all].
    #[arg(value_enum)]
    names: Vec<Benchmark>,
    /// Some minutes in all.
    #[arg(long, conflicts_with = "smoke")]
    quick: bool,
    /// A few seconds each; no figure means anything.
    #[arg(long)]
    smoke: bool,
    /// Folder of receipts to replay.
    #[arg(long, required_unless_present = "host")]
    data: Option<PathBuf>,
    /// File to write the figures to.
    #[arg(long, required_unless_present = "host")]
    results: Option<PathBuf>,
    /// Measure nothing, and run the agents that this file names: how a benchmark of many stores starts them.
    #[arg(long, hide = true)]
    host: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let Options { names, quick, smoke, data, results, host } = Options::parse();
    let (data, results) = match (host, data, results) {
        (Some(list), _, _) => return bench::host(&list),
        (None, Some(data), Some(results)) => (data, results),
        (None, _, _) => unreachable!("required unless agents are run"),
    };
    let (effort, note) = match (quick, smoke) {
        (_, true) => (Effort::smoke(), "smoke: everything runs, no figure means anything"),
        (true, false) => (Effort::quick(), "quick: three pairs and short runs, an indication and nothing to quote"),
        (false, false) => (Effort::full(), "five pairs each"),
    };
    println!("{note}");
    let benchmarks = if names.is_empty() { Benchmark::value_variants().to_vec() } else { names };
    bench::run(&bench::Options { benchmarks, effort, data, judge: !smoke, results })
}
